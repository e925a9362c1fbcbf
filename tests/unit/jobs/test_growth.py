"""Runs that grow: packing, what may be added and what is refused, what runs then, on this machine."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diagcot.jobs import Plan, UserError, pipeline
from diagcot.jobs.plans import plan as plans
from diagcot.jobs.plans import segments, stored
from diagcot.jobs.plans.plan import read
from diagcot.jobs.plans.segments import Segment
from diagcot.jobs.plans.units import Units
from diagcot.jobs.state import ledger, runner
from tests import chains
from tests.grids import grid, table


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 300), st.floats(0.01, 1), st.integers(1, 90)), min_size=1, max_size=6))
def test_whatever_comes_later_tasks_and_units_keep_their_places(grown: list[tuple[int, float, int]]) -> None:
    cut: list[Segment] = []
    before: list[tuple[int, int]] = []
    for units, seconds, minutes in grown:
        cut.append(Segment(units, plans.pack(units, 1, seconds * 60, minutes)))
        tasks, count = sum(part.tasks for part in cut), sum(part.units for part in cut)
        bounds = [segments.bounds(cut, task_index) for task_index in range(tasks)]
        assert bounds[: len(before)] == before
        assert [index for first, last in bounds for index in range(first, last)] == list(range(count))
        assert [segments.task_of(cut, index) for index in range(count)] == [
            task_index for task_index, (first, last) in enumerate(bounds) for _ in range(first, last)
        ]
        for past in (segments.bounds, segments.task_of):
            with pytest.raises(IndexError):
                past(cut, max(tasks, count))
        before = bounds


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=4))
def test_screens_and_jobs_read_the_same_units_of_each_task(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]]
) -> None:
    root = tmp_path_factory.mktemp("run")
    keys = [[f"{n}-{k}" for k in range(units)] for n, (units, _) in enumerate(sizes)]
    first, *later = [min(units, tasks) for units, tasks in sizes]
    made = plans.write(chains.plan(root, "s", 1, units=Units(keys[0]), tasks=first))
    for number, tasks in enumerate(later, 1):
        folder = made.path.parent / "grown" / str(number)
        folder.mkdir(parents=True)
        (folder / "s.jsonl").write_text("".join(json.dumps({"key": key}) + "\n" for key in keys[number]))
        more = {"units": len(keys[number]), "tasks": tasks, "inputs": {}, "after": [], "settings": {}}
        (folder / "growth.json").write_text(json.dumps({"time": 0, "stages": {"s": more}}))
    found, listing = read(made.path), stored.task_lines(made.path, stored.plan(made.path))
    assert found.keys == [key for some in keys for key in some] == [unit.key for unit in found.units[:]]
    for task_index in range(found.tasks):
        assert [f"{key}.json".encode() for key in found.keys_of(task_index)] == listing.manifests(task_index)
        assert listing.last[task_index] == listing.manifests(task_index)[-1]
    assert [stored.unit_index(made.path, key) for key in found.keys] == list(range(len(found.keys)))
    assert stored.first_keys(made.path, 3) == found.keys[:3]


def stages(root: Path) -> dict[str, Plan]:
    folder = root / "logs" / root.name
    return {name: read(folder / name) for name in (folder / "stages").read_text().split()}


def tree(root: Path) -> dict[str, tuple[bytes, int]]:
    """Content and inode of each file."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and not path.name.endswith(".lease"))
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_ino) for path in files}


def test_only_what_is_new_is_run_and_the_table_is_made_anew(tmp_path: Path) -> None:
    grid(tmp_path, "debug", ["a", "b"]).submit()
    first, before = table(tmp_path), tree(tmp_path)
    flow = grid(tmp_path, "debug", ["a", "new", "b"])
    assert flow.growth().joined == ("new",) and {n: len(a.units) for n, a in flow.growth().additions.items()} == {
        "cells": 3, "checks": 3, "table": 1,
    }  # fmt: skip
    assert tree(tmp_path) == before  # to ask changes nothing
    told = {row.stage: (row.state, row.tasks) for row in flow.submit()}
    assert told == {
        "a": ("complete", 0), "new": ("done", 1), "b": ("complete", 0), "cells": ("done", 2),
        "checks": ("done", 2), "table": ("done", 1),
    }  # fmt: skip
    after, made = tree(tmp_path), stages(tmp_path)
    assert made["cells"].keys == ["a.0", "a.1", "a.2", "b.0", "b.1", "b.2", "new.0", "new.1", "new.2"]
    assert [segment[:2] for segment in made["cells"].segments] == [(6, 3), (3, 2)] and made["cells"].packed_like(
        made["checks"]
    )
    assert [Path(root).name for root in made["cells"].inputs["models"]] == ["a", "new", "b"]
    same = [name for name in before if "/cells/" in name or "/checks/" in name]
    same = [name for name in same if not name.endswith(("summary.json", "events.jsonl"))]
    assert len(same) > 30 and {name: after.get(name) for name in same} == {name: before[name] for name in same}
    rows = table(tmp_path)
    assert rows[0] != first[0] and sorted([*first[1:], *[row for row in rows if row.startswith("new.")]]) == sorted(
        rows[1:]
    )
    assert all(not plan.missing() for plan in made.values())
    (growth,) = [content for _, content in segments.growths(flow.run_dir)]
    assert growth["joined"] == ["new"] and growth["code"] == flow.code.name and set(growth["stages"]) == {
        "cells", "checks", "table",
    }  # fmt: skip
    assert (flow.run_dir / "recipe.yaml").read_text() == "a b\n"
    assert (flow.run_dir / "grown" / "1" / "recipe.yaml").read_text() == "a new b\n"
    assert {row.state for row in grid(tmp_path, "debug", ["a", "new", "b"]).submit()} == {"complete"}
    assert len(segments.growths(flow.run_dir)) == 1
    grid(tmp_path, "debug", ["a", "new", "b"], shards=4).submit()  # and once more, in the other dimension
    assert stages(tmp_path)["cells"].keys[9:] == ["a.3", "new.3", "b.3"] and len(table(tmp_path)) == 1 + 12 * 3


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that no test changes."""
    root = tmp_path_factory.mktemp("finished")
    grid(root, "debug", ["a", "b"]).submit()
    return root


@pytest.mark.parametrize(
    ("models", "more", "said"),
    [
        (["b"], {}, "stages that are not planned now: a"),
        (["b", "a", "c"], {}, "inputs.models: a, b in the run, b, a, c now"),
        (["a", "b", "c"], {"shards": 2}, "unit a.2: in the run, absent now"),
        (["a", "b", "c"], {"tokens": 2}, 'unit a.0: {"tokens": 1} in the run, {"tokens": 2} now'),
        (["a", "b", "c"], {"settings": {"records": 4}}, "settings.records: 3 in the run, 4 now"),
        (["a", "b", "c"], {"grows": ""}, "inputs|units"),
    ],
    ids=["stage gone", "order", "unit gone", "parameters", "settings", "a follower that cannot grow"],
)
def test_what_is_not_only_more_is_refused_and_changes_nothing(
    finished: Path, models: list[str], more: dict[str, Any], said: str
) -> None:
    before = tree(finished)
    with pytest.raises(UserError) as error:
        grid(finished, "debug", models, **more).submit()
    assert any(part in str(error.value) for part in said.split("|")) and "RUN=" in str(error.value)
    assert tree(finished) == before


def test_a_stage_that_cannot_grow_holds_back_what_it_was_made_from(tmp_path: Path) -> None:
    def made(count: int) -> Any:
        on = chains.cluster("debug", roots={name: str(tmp_path / name) for name in ("logs", "shards", "models")})
        flow = pipeline.Pipeline("run", on, tmp_path)
        first = flow.stage("first", "tests.kinds.count", [f"{k}" for k in range(count)], "small", grows="units")
        flow.stage("second", "tests.kinds.count", ["all"], "small", after=[first])
        return flow

    made(2).submit()
    with pytest.raises(UserError, match="stage first would grow, but stage second was made from what it had"):
        made(3).submit()


def test_a_table_is_made_again_with_settings_that_it_had_before_others(tmp_path: Path) -> None:
    def flow(records: int) -> Any:
        on = chains.cluster("debug", roots={name: str(tmp_path / name) for name in ("logs", "shards", "models")})
        made = pipeline.Pipeline(tmp_path.name, on, tmp_path)
        cells = made.stage("cells", "tests.kinds.count", ["a"], "small")
        made.stage(
            "table", "tests.kinds.gather", [f"table.{records}"], "small", settings={"records": records},
            inputs={"cells": [cells]}, grows="anew", selector_settings=["records"],
        )  # fmt: skip
        return made

    for records, key in ((1, "table.1"), (2, "table.2"), (1, "table.1+2"), (2, "table.2+2"), (1, "table.1+3")):
        flow(records).submit()
        assert table(tmp_path)[0] == key
        assert not flow(records).growth()  # the same settings once more: nothing is made again
    found = stages(tmp_path)["table"]
    assert found.settings == {"records": 1} and not found.missing()
    assert [json.loads((found.path / "done" / f"{key}.json").read_text()).get("superseded") for key in found.keys] == [
        "table.2", "table.1+2", "table.2+2", "table.1+3", None,
    ]  # fmt: skip


def test_a_unit_whose_place_another_took_is_neither_run_nor_published(tmp_path: Path) -> None:
    flow = grid(tmp_path, "debug", ["a"])
    flow.submit({"a", "cells", "checks"})
    old = stages(tmp_path)["table"]
    grid(tmp_path, "debug", ["a", "b"]).write()
    made = stages(tmp_path)["table"]
    assert made.open_tasks() == [1] and made.missing() == made.keys[1:]
    made.output.mkdir(parents=True, exist_ok=True)
    late = made.output / ".late"
    late.write_text("of an execution that somebody forgot")
    final = made.output / "table.txt"
    assert not ledger.publish(made.path, old.keys[0], {final: late}, {}, {}) and not late.exists()
    grid(tmp_path, "debug", ["a", "b"]).submit()
    assert table(tmp_path)[0] == made.keys[1] and len(table(tmp_path)) == 1 + 6 * 3
    summary = json.loads((made.path / "summary.json").read_text())
    assert (summary["state"], summary["units"], summary["counts"]) == ("done", 2, {"cells": 6})


def test_a_run_that_is_worked_on_grows_later(tmp_path: Path) -> None:
    run_dir = grid(tmp_path, "local", ["a"]).write()[0].path.parent
    held = runner.lock(run_dir)
    assert held is not None
    before = tree(tmp_path)
    with pytest.raises(UserError, match=r"cannot grow now: it is being worked on.*make cancel"):
        grid(tmp_path, "local", ["a", "b"]).submit()
    assert tree(tmp_path) == before
    held.close()
    assert grid(tmp_path, "local", ["a", "b"]).write()[-1].tasks == 2
