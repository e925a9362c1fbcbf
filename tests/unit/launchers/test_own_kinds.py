"""A kind of stage in a file of the user's own, outside of the package."""

import json
from pathlib import Path

import pytest
import yaml

from diagcot.cli.main import main
from diagcot.jobs import UserError
from launchers import pack
from launchers.chain import open_chain
from tests.unit.launchers.test_digests import RECIPE, made

OWN = """\
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.settings import Settings
from launchers.inputs import one_per_shard
from launchers.stage_kind import StageKind


class LengthSettings(Settings):
    least: int = 1


def run(unit: Unit, ctx: Context) -> Result:
    from diagcot.shards import Shard

    shard = Shard(ctx.files("shards", f"{unit.key}.h5")[0])
    path = ctx.output / f"{unit.key}.json"
    ctx.staged(path).write_text(str(len(shard)))
    return Result({path: ctx.staged(path)}, {"studies": len(shard), "least": ctx.settings["least"]})


KIND = StageKind(
    work="own_lengths:run",
    settings=LengthSettings,
    resource_profile="cpu",
    product="data",
    startup_s=1,
    unit_s=1,
    units=one_per_shard,
)
"""


def recipe(kind: str, settings: str = "{least: 2}") -> str:
    return f"{RECIPE}  - {{name: own, kind: '{kind}', number: 1, inputs: {{shards: shard}}, settings: {settings}}}\n"


def test_a_stage_of_the_users_own_runs_with_its_file_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "own_lengths.py").write_text(OWN)
    run = made(tmp_path / "here", "one", recipe(f"{tmp_path}/own_lengths.py:KIND"))
    rows = [json.loads(path.read_text()) for path in sorted((run / "own" / "done").iterdir())]
    assert sum(row["counts"]["studies"] for row in rows) == 4 and rows[0]["counts"]["least"] == 2
    (copied,) = (run / "code").glob("*/own_lengths.py")
    assert copied.read_text() == OWN
    pack.write(run, tmp_path / "one.tar.gz")
    assert main(["unpack", str(tmp_path / "one.tar.gz"), "--into", str(tmp_path / "there")]) == 0
    moved = yaml.safe_load((tmp_path / "there" / "logs" / "one" / "recipe.yaml").read_text())["stages"][-1]["kind"]
    assert Path(moved.rpartition(":")[0]).read_text() == OWN


def test_a_relative_path_begins_at_the_recipe_also_for_a_retry_with_new_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    ready = tmp_path / "ready"
    body = OWN.replace("own_lengths:", "own_again:")
    wait = f"    if not __import__('pathlib').Path({str(ready)!r}).exists():\n        raise ValueError('not ready')\n"
    (here / "own_again.py").write_text(body.replace("    from diagcot.shards", f"{wait}    from diagcot.shards"))
    with pytest.raises(ValueError, match="not ready"):
        made(here, "one", recipe("own_again.py:KIND"))
    run = here / "logs" / "one"
    stored = yaml.safe_load((run / "recipe.yaml").read_text())
    assert stored["stages"][-1]["kind"] == f"{here}/own_again.py:KIND"
    ready.touch()
    (here / "own_again.py").write_text(body)
    monkeypatch.chdir(tmp_path)
    logs = ["--logs", str(here / "logs")]
    assert main(["retry", "--run", "one", "--stage", "own", "--code", "new", *logs]) == 0
    copies = sorted(
        (path.stat().st_mtime_ns, path.read_text() == body) for path in (run / "code").glob("*/own_again.py")
    )
    assert [same for _, same in copies] == [False, True]


@pytest.mark.parametrize(
    ("name", "body", "kind", "said"),
    [
        (
            "own_broken",
            "import no_such_package",
            "KIND",
            r"x\.yaml:11: .*own_\w+\.py cannot be imported \(ModuleNotFoundError: .*fix it",
        ),
        ("own_other", OWN, "OTHER", r"x\.yaml:11: .*has no OTHER = StageKind"),
        ("own_absent", None, "KIND", r"x\.yaml:11: there is no file .*own_\w+\.py"),
    ],
)
def test_a_kind_that_cannot_be_used_is_told_with_its_place(
    name: str, body: str | None, kind: str, said: str, tmp_path: Path
) -> None:
    file = tmp_path / f"{name}.py"
    if body is not None:
        file.write_text(body)
    (tmp_path / "x.yaml").write_text(recipe(f"{file}:{kind}"))
    with pytest.raises(UserError, match=said):
        _ = open_chain(str(tmp_path / "x.yaml"), "laptop", None).plans


def test_settings_of_an_own_kind_are_checked_and_its_name_is_free(tmp_path: Path) -> None:
    (tmp_path / "own_checked.py").write_text(OWN)
    (tmp_path / "x.yaml").write_text(recipe(f"{tmp_path}/own_checked.py:KIND", "{lest: 2}"))
    with pytest.raises(UserError, match=r"x\.yaml:11: unknown key 'lest'; did you mean 'least'"):
        _ = open_chain(str(tmp_path / "x.yaml"), "laptop", None).plans
    for name in ("colorsys", "json"):  # json has been imported, colorsys perhaps not
        (tmp_path / f"{name}.py").write_text(OWN)
        (tmp_path / "x.yaml").write_text(recipe(f"{tmp_path}/{name}.py:KIND"))
        with pytest.raises(UserError, match=f"has the name of the installed module {name}: rename the file"):
            _ = open_chain(str(tmp_path / "x.yaml"), "laptop", None).plans
