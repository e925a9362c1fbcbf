"""A run as one archive: what it holds by default and by flags, and what is refused when one is opened."""

import functools
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from diagcot.cli import cleaning
from diagcot.cli.main import main
from diagcot.jobs import Cluster, Context, Pipeline, Result, Unit, UserError
from diagcot.jobs.execution import staging
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


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_is_made_while_a_run_is_packed_stays(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    whole, link, archive = pack._files, os.link, tmp_path / "one.tar.gz"

    def slow(*args: object) -> object:
        archive.write_text("of another process")
        return whole(*args)  # type: ignore[arg-type]

    def no_links(source: Path, target: Path) -> None:
        if target == archive:
            raise OSError("no hard links here")
        link(source, target)

    monkeypatch.setattr(pack, "_files", slow)
    if not links:
        monkeypatch.setattr(os, "link", no_links)
    with pytest.raises(UserError, match="name another file with --out"):
        pack.write(run, archive)
    assert archive.read_text() == "of another process" and os.listdir(tmp_path) == ["one.tar.gz"]


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


INDEX = json.dumps({"run": "one", "files": {"run/a.md": "0" * 64}}).encode()


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([member("/etc/evil")], "outside of the run's folders"),
        ([member("run/../../evil")], "outside of the run's folders"),
        ([member("elsewhere/a")], "outside of the run's folders"),
        ([member(".")], "outside of the run's folders"),
        ([member("run/a.md", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")], "is not a plain file"),
        ([member("run/a.md", b"", type=tarfile.LNKTYPE, linkname="run/b.md")], "is not a plain file"),
        ([member("run/a.md", b"", type=tarfile.FIFOTYPE)], "is not a plain file"),
        ([member("run/a.md", bytes(2000))], "holds more than 1e-06 GB"),
        ([member("run/a.md"), member("run/a.md")], "twice"),
        ([member("run/a.md")], "is no archive of `diagcot pack`"),
        ([member("run/a.md"), member("pack.json", INDEX)], "is damaged: run/a.md"),
        ([member("run/b.md"), member("pack.json", INDEX)], "is damaged: run/a.md"),
        (
            [member("pack.json", INDEX.replace(b'"one"', b'"../one"').replace(b'"run/a.md"', b'"x"'))],
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
    archive = archive_of(tmp_path / "a.tar.gz", member("run/a.md", bytes(range(256)) * 40), member("pack.json", INDEX))
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


@pytest.mark.parametrize(
    "roots",
    [
        "{}",
        "{logs: '', shards: shards, models: models}",
        "{logs: logs, shards: logs/shards, models: models}",
        "{logs: all/logs, shards: all, models: all/models}",
        """{logs: "l'o g\\"s é", shards: "l'o g\\"s é/x", models: m}""",
    ],
)
def test_a_run_is_packed_as_it_is_called_for_and_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, roots: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.yaml").write_text(RECIPE)
    Path("here.yaml").write_text(f"name: here\nexecutor: debug\nresource_profiles: {{cpu: {{}}}}\nroots: {roots}\n")
    assert main(["submit", "--recipe", "small.yaml", "--cluster", "here.yaml", "--run", "one"]) == 0
    logs = yaml.safe_load(roots).get("logs", "logs")
    named = [] if logs == "logs" else ["--logs", logs or "."]
    assert main(["pack", "--run", "one", *named]) == 0
    assert main(["unpack", "one.tar.gz", "--into", "t'h \"ere é"]) == 0
    there = Path("t'h \"ere é").resolve()
    first = [digests.of_run(folder / "one")[0].decided_by for folder in (there / "logs", tmp_path / logs)]
    assert first[0] == first[1]
    plan = digests.stored.plan(there / "logs" / "one" / "shard")
    assert plan["output"] == str(there / "shards" / "one" / "shard")
    assert plan["inputs"] == {"tree": [str(there / "shards" / "one" / "phantoms")]}


def test_a_moved_run_is_packed(tmp_path: Path) -> None:
    made(tmp_path / "here", "one")
    (tmp_path / "here").rename(tmp_path / "moved")
    pack.write(tmp_path / "moved" / "logs" / "one", tmp_path / "one.tar.gz", texts=True)
    folder = unpack.unpack(tmp_path / "one.tar.gz", tmp_path / "there", GB)
    before, after = digests.of_run(tmp_path / "moved" / "logs" / "one"), digests.of_run(folder)
    assert (after[2].made, after[2].damaged) == (before[2].made, ()) and before[2].made


def test_a_run_with_one_folder_for_all_is_refused_when_it_is_packed(tmp_path: Path) -> None:
    roots = {name: str(tmp_path / "all") for name in ("logs", "shards", "models")}
    cluster = Cluster.model_validate(
        {"name": "here", "executor": "debug", "resource_profiles": {"cpu": {}}, "roots": roots}
    )
    pipeline = Pipeline("two", cluster, tmp_path, code=[], keep={"recipe.yaml": "name: two\nstages: []\n"})
    pipeline.stage("base", f"{__name__}:weights", [Unit("model")], "cpu", product="weights")
    pipeline.submit()
    with pytest.raises(UserError, match="Use three different folders as `roots`"):
        pack.write(pipeline.run_dir, tmp_path / "two.tar.gz")
    assert not list(tmp_path.glob("*two.tar.gz*"))


def test_only_whole_paths_get_marks() -> None:
    places = {"/a/logs": pack.LOGS, "/a": pack.SHARDS}
    for text, marked in {
        "/a/logs/one": "@LOGS@/one",
        "/a": "@SHARDS@",
        "/a/logs2": "@SHARDS@/logs2",
        "/b/a/logs": "/b/a/logs",
        "see /a/logs, (/a/x)": "see @LOGS@, (@SHARDS@/x)",
        "logs/a/b": "logs/a/b",
    }.items():
        assert pack._moved({text: [text]}, places) == {marked: [marked]}


def test_the_sizes_of_the_tasks_travel(tmp_path: Path, run: Path) -> None:
    pack.write(run, tmp_path / "one.tar.gz")
    folder = unpack.unpack(tmp_path / "one.tar.gz", tmp_path / "there", GB)
    sizes = Cluster.read(folder).resource_profiles["cpu"]
    assert sizes.minutes == Cluster.read(run).resource_profiles["cpu"].minutes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("environment", {"LD_PRELOAD": "@SHARDS@/x.so"}),
        ("executor", "slurm"),
        ("setup", ["touch /tmp/x"]),
        ("container", {"image": "x.sif"}),
        ("slurm", {"cluster": "x"}),
        ("roots", {"logs": "/etc"}),
        ("resource_profiles", {"cpu": {"extra": {"x": "y"}}}),
        ("resource_profiles", []),
    ],
)
def test_a_cluster_file_in_an_archive_is_what_is_packed(run: Path, tmp_path: Path, key: str, value: object) -> None:
    def spoiled(text: bytes) -> bytes:
        return json.dumps(json.loads(text) | {key: value}, indent=1).encode()

    with pytest.raises(UserError, match=r"run/cluster\.yaml or run/run\.json is missing, or holds what"):
        unpack.unpack(_changed(run, tmp_path, "run/cluster.yaml", spoiled), tmp_path / "there", GB)
    assert not list((tmp_path / "there").rglob("*"))


@pytest.mark.parametrize(
    "name",
    [
        "run/attempts/00001.json",
        "run/shard/attempts/00001.json",
        "run/shard/events.jsonl",
        "run/places.json",
        "run/reused.json",
        "run/runner.json",
        "run/grown/1/recipe.yaml",
        "run/.hidden",
        "run/x.so",
        "shards/examples/x.so",
        "models/.work/base/state.pt",
        "models/state.pt",
    ],
)
def test_files_that_are_not_packed_are_refused(run: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=f"{name}' is no file that `diagcot pack` writes: nothing was unpacked"):
        unpack.unpack(_changed(run, tmp_path, name, lambda _: b"{}"), tmp_path / "there", GB)
    assert not list((tmp_path / "there").rglob("*"))


@pytest.mark.parametrize(
    ("name", "limit"), [("run/shard/plan.json", 4), ("run/recipe.yaml", 4), ("run/a.json", 64), ("run/a.md", 64)]
)
def test_long_texts_are_refused_by_their_size(run: Path, tmp_path: Path, name: str, limit: int) -> None:
    with pytest.raises(UserError, match=f"{name}' is larger than {limit} MB: nothing was unpacked"):
        unpack.unpack(_changed(run, tmp_path, name, lambda _: b" " * (limit * 10**6 + 1)), tmp_path / "there", GB)


@pytest.mark.parametrize(
    "recipe",
    [
        "name: x\nstages: &s [*s]\n",
        "name: x\na: &a [x, x]\n"
        + "".join(f"{b}: &{b} [{f'*{a}, ' * 99}]\n" for a, b in zip("abc", "bcd", strict=True)),
        "name: x\n",
        "[" * 99_999,
    ],
)
def test_a_recipe_in_an_archive_is_read_before_anything_is_published(run: Path, tmp_path: Path, recipe: str) -> None:
    archive = _changed(run, tmp_path, "run/recipe.yaml", lambda _: recipe.encode())
    with pytest.raises(UserError, match=r"evil\.tar\.gz cannot be unpacked: run/recipe\.yaml") as error:
        unpack.unpack(archive, tmp_path / "there", GB)
    assert ".unpack" not in str(error.value) and not list((tmp_path / "there").rglob("*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_nothing(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    pack.write(run, tmp_path / "one.tar.gz", texts=True)
    rename = Path.rename

    def renamed(source: Path, target: Path) -> Path:
        rename(source, target)
        if target.parent.name == "shards":
            os.kill(os.getpid(), number)
        return target

    monkeypatch.setattr(Path, "rename", renamed)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a worker that ran in this process took it
    try:
        with pytest.raises((SystemExit, KeyboardInterrupt)):
            unpack.unpack(tmp_path / "one.tar.gz", tmp_path / "there", GB)
    finally:
        signal.signal(signal.SIGINT, before)
    left = {path.name for path in (tmp_path / "there").rglob("*")}
    assert left == {"logs", "shards", ".unpack.1.lease"}


GROWN = {
    "time": 1.0,
    "stages": {
        "examples": {"units": 0, "tasks": 0, "inputs": {"shards": ["/home/me/thesis"]}, "after": [], "settings": {}}
    },
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("run/examples/plan.json", {"inputs": {"shards": ["/home/me/thesis"]}}),
        ("run/examples/plan.json", {"inputs": {"shards": ["@SHARDS@/another/shard"]}}),
        ("run/examples/plan.json", {"inputs": {"shards": ["@SHARDS@/one/.."]}}),
        ("run/examples/plan.json", {"code": "/home/me/code"}),
        ("run/grown/1/growth.json", GROWN),
    ],
)
def test_a_stage_in_an_archive_reads_no_other_run(
    run: Path, tmp_path: Path, name: str, change: dict[str, object]
) -> None:
    archive = _changed(run, tmp_path, name, lambda text: json.dumps(json.loads(text or b"{}") | change).encode())
    with pytest.raises(UserError, match=f"{name} names paths outside of the run's folders: nothing was unpacked"):
        unpack.unpack(archive, tmp_path / "there", GB)
    assert not list((tmp_path / "there").rglob("*"))


def test_what_a_run_has_taken_from_another_is_told_and_not_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "here", "one")
    second = "name: two\nstages:\n  - {name: films, from: one/shard}\n" + RECIPE.splitlines(keepends=True)[-1].replace(
        "shards: shard", "shards: films"
    )
    made(tmp_path / "here", "two", second)
    monkeypatch.chdir(tmp_path)
    assert main(["pack", "--run", "two", "--logs", "here/logs"]) == 0
    assert "not in it: what other runs have made (one/shard)" in capsys.readouterr().out
    assert "run/reused.json" not in names(tmp_path / "two.tar.gz")
    folder = unpack.unpack(tmp_path / "two.tar.gz", tmp_path / "there", GB)
    assert [stage.stage for stage in digests.of_run(folder)] == ["examples"]


KILLED = """
import os, signal, sys
from pathlib import Path
from diagcot.jobs.execution import unpacked
from launchers import pack, unpack
unpacked.publish = pack._add = lambda *_: os.kill(os.getpid(), getattr(signal, sys.argv[1]))
if sys.argv[2] == "unpack":
    unpack.unpack(Path(sys.argv[3]), Path(sys.argv[4]), 10**9)
pack.write(Path(sys.argv[3]), Path(sys.argv[4]) / "two.tar.gz")
"""


@pytest.mark.parametrize("verb", ["pack", "unpack"])
def test_what_a_killed_process_has_left_is_removed_and_the_work_of_a_living_one_is_not(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    there = tmp_path / "there"
    there.mkdir()
    pack.write(run, tmp_path / "one.tar.gz")

    def start(signal_name: str) -> subprocess.Popen[bytes]:
        what = run if verb == "pack" else tmp_path / "one.tar.gz"
        return subprocess.Popen([sys.executable, "-c", KILLED, signal_name, verb, str(what), str(there)])

    def left() -> list[Path]:
        return sorted(there.glob(f".{verb}.*"))

    assert start("SIGKILL").wait(60) == -signal.SIGKILL and len(left()) == 1
    killed = left()
    stopped = start("SIGSTOP")
    try:
        os.waitpid(stopped.pid, os.WUNTRACED)
        (work,) = left()  # its own: it has removed the leftover
        assert work not in killed
        abroad = there / f".{verb}.abroad"
        abroad.mkdir()
        holder = abroad / "owner.1.lease"
        holder.write_text(json.dumps({"host": "elsewhere", "pid": 1, "born": "1", "job": ""}))
        new = there / f".{verb}.new"  # of a process that has not written its lease yet
        new.mkdir()
        assert not staging.sweep(there) and left() == sorted([work, abroad, new])
        os.utime(holder, (0, 0))  # silent for long
        os.utime(new, (0, 0))
    finally:
        stopped.kill()
        stopped.wait()
    monkeypatch.chdir(there)
    cleaning._clean_places()
    assert not left()


@functools.cache
def _packed(run: Path) -> dict[str, bytes]:
    """The files of the run's archive, without most of the code, which is hundreds of files."""
    archive = run.parent / "good.tar.gz"
    pack.write(run, archive)
    with tarfile.open(archive) as tar:
        held = {one.name: tar.extractfile(one).read() for one in tar}
    kept = {name: content for name, content in held.items() if not name.startswith("run/code/")}
    index = json.loads(kept["pack.json"])
    index["files"] = {name: digest for name, digest in index["files"].items() if name in kept}
    return kept | {"pack.json": json.dumps(index).encode()}


def _changed(run: Path, folder: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    """The archive of a run with one file changed, and its digest with it."""
    contents = dict(_packed(run))
    contents[name] = change(contents.get(name, b""))
    index = json.loads(contents.pop("pack.json"))
    index["files"][name] = hashlib.sha256(contents[name]).hexdigest()
    contents["pack.json"] = json.dumps(index).encode()
    return archive_of(folder / "evil.tar.gz", *(member(one, content) for one, content in contents.items()))


@pytest.mark.parametrize("sizes", [10**30, [], {"small": 3}])
def test_a_cluster_file_with_other_sizes_is_named(run: Path, tmp_path: Path, sizes: object) -> None:
    path = run / "cluster.yaml"
    before = path.read_text()
    row = json.loads(before)
    row.pop("resource_profiles", None)
    path.write_text(json.dumps(row | {"sizes": sizes}))
    try:
        with pytest.raises(UserError, match=r"cluster\.yaml is damaged: `sizes"):
            pack.write(run, tmp_path / "one.tar.gz")
    finally:
        path.write_text(before)
