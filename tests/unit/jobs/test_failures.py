"""What is kept of a failure: the first cause, whatever wraps it."""

import errno
import json
from pathlib import Path
from typing import Any

import pytest

from diagcot.data.errors import ImageError
from diagcot.jobs import ModelError, OwnCodeError, SiteError, UserError
from diagcot.jobs.state import failures
from diagcot.serving.errors import ServerError


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


@pytest.mark.parametrize(
    ("error", "place"),
    [
        (UserError("no such stage"), "recipe"),
        (ImageError("a.png is cut short"), "data"),
        (ModelError("config.json is missing"), "model"),
        (SiteError("no Java"), "site"),
        (OSError(errno.ENOSPC, "No space left on device"), "site"),
        (OSError(errno.EFBIG, "File too large"), "site"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "site"),
        (RuntimeError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"), "site"),
        (RuntimeError("no (os error) at all"), "ours"),
        (ServerError("the server died: CUDA out of memory"), "memory"),
        (MemoryError(), "memory"),
        (OwnCodeError("the reward returned a text"), "own code"),
        (RemoteError(ModelError("weights are missing")), "model"),
        (KeyError("x"), "ours"),
    ],
)
def test_a_failure_says_where_the_fault_lies(error: BaseException, place: str, tmp_path: Path) -> None:
    failures.write(tmp_path, "00000", "1.1", 0, "u", error)
    (row,) = failures.read(tmp_path)
    assert row["fault_in"] == place == failures.fault_of(row)


def test_an_error_in_a_file_of_the_user_is_of_their_own_code(tmp_path: Path) -> None:
    own = tmp_path / "mine.py"
    own.write_text(
        "import json\ndef step():\n    return json.loads('{')\n"
    )  # the last frame is in the standard library
    space: dict[str, Any] = {}
    exec(compile(own.read_text(), str(own), "exec"), space)
    with pytest.raises(json.JSONDecodeError) as caught:
        space["step"]()
    failures.write(tmp_path, "00000", "1.1", 0, "u", caught.value)
    assert failures.read(tmp_path)[0]["fault_in"] == "own code"
