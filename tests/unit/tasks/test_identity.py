"""Files of rows that a stage has written: what is damaged is named with file and line, and an id that is there twice."""

import json
from pathlib import Path

import pytest

from diagcot.jobs import UserError
from diagcot.tasks import identity


@pytest.mark.parametrize(
    "line", [b"", b"null", b"[]", b"{}", b'{"id": 7}', b'{"id": "b"', b"\xe9", b"[" * 99_999, b'{"id": null}']
)
def test_a_damaged_row_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"id": "a"}\n' + line + b"\n")
    with pytest.raises(UserError, match=r"rows\.jsonl:2 is damaged: it is no object with id; run its stage again"):
        identity.by_id(path, "the trace", "mend it")


def test_rows_are_found_by_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"id": name, "n": number}) + "\n" for number, name in enumerate("ab")))
    assert identity.by_id(path, "the trace", "mend it") == {"a": {"id": "a", "n": 0}, "b": {"id": "b", "n": 1}}
    path.write_text('{"id": "a"}\n' * 2)
    with pytest.raises(UserError, match=r"the trace a is twice in .*rows\.jsonl: mend it"):
        identity.by_id(path, "the trace", "mend it")
