"""docs/faults.md says what the tests of faults say, and every row that is not given up for later has a test."""

import re
from pathlib import Path

import pytest

from tests.faults import table

ROWS = table.rows()


def test_the_page_is_what_the_tests_say() -> None:
    assert table.PAGE.read_text() == table.render(ROWS), "run `python -m tests.faults.table`"


def test_names_and_numbers_agree() -> None:
    for row in ROWS:
        assert row.number in table.FAULTS, row
        assert row.test.startswith(f"test_row_{row.number:02d}_"), row
    marked = {(row.file, row.test) for row in ROWS}
    for path in (table.ROOT / "tests").rglob("test_*.py"):
        for name in re.findall(r"^(?:async )?def (test_row_\w+)", path.read_text(), re.MULTILINE):
            assert (str(path.relative_to(table.ROOT)), name) in marked, f"{path}: {name} has no mark of its row"


def test_every_row_has_a_test_or_is_known_to_lack_one() -> None:
    assert sorted(table.FAULTS) == list(range(1, len(table.FAULTS) + 1))
    tested = {row.number for row in ROWS}
    assert not tested & table.MISSING, f"take {sorted(tested & table.MISSING)} out of MISSING in tests/faults/table.py"
    assert tested | table.MISSING == set(table.FAULTS), f"no test: {sorted(set(table.FAULTS) - tested - table.MISSING)}"


@pytest.mark.parametrize(
    "mark",
    [
        '7, promise="", injected=""',
        '7, promise="", injected="", daemons="none"',
        'promise="", injected="", daemons="real"',
    ],
)
def test_a_mark_that_lacks_something_is_refused_with_its_line(tmp_path: Path, mark: str) -> None:
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(f"@pytest.mark.row({mark})\ndef test_row_07_x(): ...\n")
    with pytest.raises(ValueError, match=r"tests/test_it.py:1"):
        table.rows(tmp_path)
