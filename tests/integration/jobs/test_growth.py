"""A run that grows on this machine while a task of it has failed."""

import json
from pathlib import Path
from typing import Any

from diagcot.console.state.status import snapshot
from tests import chains
from tests.grids import grid, table


def test_on_this_machine_a_run_grows_while_a_task_of_it_has_failed(tmp_path: Path) -> None:
    """Units that are open, units that are new, and an edge that is followed unit by unit."""
    flag = tmp_path / "mended"
    more: dict[str, Any] = {"settings": {"fail_until": str(flag)}}
    flow = grid(tmp_path, "local", ["a"], **more)
    flow.submit()
    chains.wait_for_end(flow.run_dir, 1)
    assert json.loads((flow.run_dir / "cells" / "summary.json").read_text())["state"] == "failed"
    flag.touch()
    flow = grid(tmp_path, "local", ["a", "b"], **more)
    flow.submit()
    chains.wait_for_end(flow.run_dir, 0)
    assert len(table(tmp_path)) == 1 + 6 * 3
    summary = json.loads((flow.run_dir / "cells" / "summary.json").read_text())
    assert (summary["state"], summary["units"], summary["attempts"]) == ("done", 6, 2)
    seen = snapshot(flow.run_dir)
    assert [stage.name for stage in seen.stages] == ["a", "b", "cells", "checks", "table"]  # as the recipe has them
    assert {stage.state for stage in seen.stages} == {"done"} and seen.stages[2].units == seen.stages[2].done == 6
