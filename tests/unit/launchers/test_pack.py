"""A run as one archive: what it holds by default and by flags, and what is refused when one is opened."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from diagcot.cli.main import main
from diagcot.jobs import Cluster, Context, Pipeline, Result, Unit, UserError
from diagcot.jobs.plans import segments
from launchers import digests, pack, unpack
from tests.unit.launchers.test_digests import RECIPE, made

GB = 10**9


def weights(unit: Unit, ctx: Context) -> Result:
    """A model as stages publish it."""
    final = ctx.output / "model"
    staged = ctx.staged(final)
    staged.mkdir()
    (staged / "config.json").write_text("{}")
    (staged / "vocabulary.txt").write_text("clear lungs\n")
    return Result({final: staged})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("here"), "one")


def names(archive: Path) -> list[str]:
    with tarfile.open(archive) as tar:
        assert all(member.isreg() and not member.uname for member in tar)
        return tar.getnames()


def test_by_default_no_text_and_no_image_leaves_the_machine(run: Path, tmp_path: Path) -> None:
    index = pack.write(run, tmp_path / "one.tar.gz")
    held = names(tmp_path / "one.tar.gz")
    assert held[-1] == "pack.json" and {"run/recipe.yaml", "run/shard/plan.json", "run/locks/cpu.txt"} < set(held)
    assert any(name.endswith("/diagcot/recipe.py") for name in held) and any("/prompts/" in name for name in held)
    assert not [name for name in held if not name.startswith("run/") and name != "pack.json"]
    assert [stage["made"] for stage in index["stages"]] == [stage.made for stage in digests.of_run(run)]
    folder = unpack.unpack(tmp_path / "one.tar.gz", tmp_path / "there", GB)
    everything = "".join(
        path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and "code" not in path.relative_to(folder).parts
    )
    assert str(run.parent.parent) not in everything and "@" not in json.dumps(digests.stored.plan(folder / "shard"))
    assert main(["plan", "--recipe", str(folder / "recipe.yaml"), "--run", "again"]) == 0
    with pytest.raises(UserError, match="exists: unpack with --into another folder"):
        unpack.unpack(tmp_path / "one.tar.gz", tmp_path / "there", GB)


def test_a_run_that_has_grown_travels_as_it_is_now(tmp_path: Path) -> None:
    made(tmp_path / "here", "one")
    joined = (
        "  - {name: asked, kind: questions, number: 0, inputs: {shards: shard}, settings: {tasks: {binary: [0, 1]}}}\n"
    )
    grown = made(tmp_path / "here", "one", RECIPE + joined)
    pack.write(grown, tmp_path / "one.tar.gz", texts=True)
    folder = unpack.unpack(tmp_path / "one.tar.gz", tmp_path / "there", GB)
    stages = [stage["name"] for stage in yaml.safe_load((folder / "recipe.yaml").read_text())["stages"]]
    assert stages == ["phantoms", "shard", "examples", "asked"]
    assert [json.dumps(grow["joined"]) for _, grow in segments.growths(folder)] == ['["asked"]']
    found = {stage.stage: stage for stage in digests.of_run(folder)}
    assert found["asked"].made == {stage.stage: stage for stage in digests.of_run(grown)}["asked"].made


def test_texts_and_models_travel_by_flags(run: Path, tmp_path: Path) -> None:
    pack.write(run, tmp_path / "texts.tar.gz", texts=True)
    assert [name for name in names(tmp_path / "texts.tar.gz") if name.startswith("shards/")] == [
        "shards/examples/00000.jsonl",
        "shards/examples/00001.jsonl",
    ]  # and no shard, which holds images
    folder = unpack.unpack(tmp_path / "texts.tar.gz", tmp_path / "there", GB)
    before, after = digests.of_run(run), digests.of_run(folder)
    assert (after[2].made, after[2].damaged) == (before[2].made, ()) and not after[1].made
    roots = {name: str(tmp_path / name) for name in ("logs", "shards", "models")}
    cluster = Cluster.model_validate(
        {"name": "here", "executor": "debug", "resource_profiles": {"cpu": {}}, "roots": roots}
    )
    pipeline = Pipeline("two", cluster, tmp_path, code=[], keep={"recipe.yaml": "name: two\nstages: []\n"})
    pipeline.stage("base", f"{__name__}:weights", [Unit("model")], "cpu", product="weights")
    pipeline.submit()
    for models, held in ((False, []), (True, ["models/base/model/config.json", "models/base/model/vocabulary.txt"])):
        archive = tmp_path / f"{models}.tar.gz"
        pack.write(pipeline.run_dir, archive, models=models)
        assert [name for name in names(archive) if name.startswith("models/")] == held
    taken = unpack.unpack(tmp_path / "True.tar.gz", tmp_path / "there", GB)
    assert [stage.made for stage in digests.of_run(taken)] == [stage.made for stage in digests.of_run(pipeline.run_dir)]


def member(name: str, content: bytes = b"x", **more: object) -> tuple[tarfile.TarInfo, bytes]:
    about = tarfile.TarInfo(name)
    about.size = len(content)
    for key, value in more.items():
        setattr(about, key, value)
    return about, content


def archive_of(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for about, content in members:
            tar.addfile(about, io.BytesIO(content))
    return path


INDEX = json.dumps({"run": "one", "files": {"run/a": "0" * 64}}).encode()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("/etc/evil")], "outside of the run's folders"),
        ([member("run/../../evil")], "outside of the run's folders"),
        ([member("elsewhere/a")], "outside of the run's folders"),
        ([member(".")], "outside of the run's folders"),
        ([member("run/a", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "is not a plain file"),
        ([member("run/a", b"", type=tarfile.LNKTYPE, linkname="run/b")], "is not a plain file"),
        ([member("run/a", b"", type=tarfile.FIFOTYPE)], "is not a plain file"),
        ([member("run/a", bytes(2000))], "holds more than 1e-06 GB"),
        ([member("run/a"), member("run/a")], "twice"),
        ([member("run/a")], "is no archive of `diagcot pack`"),
        ([member("run/a"), member("pack.json", INDEX)], "is damaged: run/a"),
        ([member("run/b"), member("pack.json", INDEX)], "is damaged: run/a"),
        (
            [member("pack.json", INDEX.replace(b'"one"', b'"../one"').replace(b'"run/a"', b'"x"'))],
            "cannot name a folder",
        ),
    ],
)
def test_an_archive_is_not_trusted(members: list[tuple[tarfile.TarInfo, bytes]], said: str, tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "evil.tar.gz", *members)
    with pytest.raises(UserError, match=said):
        unpack.unpack(archive, tmp_path / "there", 1000)
    assert not list((tmp_path / "there").rglob("*")) and sorted(path.name for path in tmp_path.iterdir()) == [
        "evil.tar.gz",
        "there",
    ]


@pytest.mark.parametrize("spoil", [lambda data: b"no archive", lambda data: data[: len(data) // 2]])
def test_what_is_no_archive_is_told(spoil: Callable[[bytes], bytes], tmp_path: Path) -> None:
    archive = archive_of(tmp_path / "a.tar.gz", member("run/a", bytes(range(256)) * 40), member("pack.json", INDEX))
    archive.write_bytes(spoil(archive.read_bytes()))
    with pytest.raises(UserError, match=r"a\.tar\.gz cannot be unpacked"):
        unpack.unpack(archive, tmp_path / "there", GB)


@pytest.mark.parametrize("name", ["output", "workspace", "stage_dir", "shards_root"])
@pytest.mark.parametrize("path", ["/home/me/thesis", "@SHARDS@/../thesis", "@MODELS@/other/.work/shard"])
def test_a_plan_in_an_archive_names_no_other_folders(run: Path, tmp_path: Path, name: str, path: str) -> None:
    def spoiled(plan: bytes) -> bytes:
        return json.dumps(json.loads(plan) | {name: path}).encode()

    said = r"run/shard/plan\.json names paths outside of the run's folders: nothing was unpacked"
    with pytest.raises(UserError, match=said):
        unpack.unpack(_changed(run, tmp_path, "run/shard/plan.json", spoiled), tmp_path / "there", GB)
    assert not list((tmp_path / "there").rglob("*"))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run/shard/plan.json", b"[" * 99_999),
        ("run/shard/plan.json", b"null"),
        ("run/shard/plan.json", b"\xe9\xff"),
        ("run/recipe.yaml", b"\xe9\xff"),
    ],
)
def test_a_file_of_an_archive_that_is_no_text_or_nested_deeply_is_named(
    run: Path, tmp_path: Path, name: str, content: bytes
) -> None:
    with pytest.raises(UserError, match=r"evil\.tar\.gz(: run/shard/plan\.json is damaged| cannot be unpacked)"):
        unpack.unpack(_changed(run, tmp_path, name, lambda _: content), tmp_path / "there", GB)
    assert not list((tmp_path / "there").rglob("*"))


def _changed(run: Path, folder: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """The archive of a run with one file changed, and its digest with it."""
    pack.write(run, folder / "good.tar.gz")
    with tarfile.open(folder / "good.tar.gz") as tar:
        contents = {one.name: tar.extractfile(one).read() for one in tar}
    contents[name] = change(contents[name])
    index = json.loads(contents.pop("pack.json"))
    index["files"][name] = hashlib.sha256(contents[name]).hexdigest()
    contents["pack.json"] = json.dumps(index).encode()
    return archive_of(folder / "evil.tar.gz", *(member(one, content) for one, content in contents.items()))
