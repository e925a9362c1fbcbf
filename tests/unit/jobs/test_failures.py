"""What is kept of a failure: the first cause, whatever wraps it."""

import json
from pathlib import Path

from diagcot.jobs import UserError
from diagcot.jobs.state import failures


class RemoteError(Exception):
    """As Ray's: the message is the whole remote traceback, the exception itself is `cause`."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__("ray::Worker.step()\n" + '  File "x.py", line 1, in step\n    yield fi\n' * 200)
        self.cause = cause


def test_a_wrapped_error_is_told_by_its_cause(tmp_path: Path) -> None:
    failures.write(tmp_path, "00000", "1.1", 0, "u", RemoteError(RemoteError(ValueError("the model is too large"))))
    failures.write(tmp_path, "00001", "1.1", 0, "u", UserError("set TMPDIR"))
    first, second = (json.loads(path.read_text()) for path in sorted((tmp_path / "failed").iterdir()))
    assert (first["type"], first["message"]) == ("ValueError", "the model is too large")
    assert (second["type"], second["message"], second["for_user"]) == ("UserError", "set TMPDIR", True)
