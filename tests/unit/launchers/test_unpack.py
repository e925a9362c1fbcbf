"""An archive that was forged, or whose opening is cut off or meets another: nothing is written elsewhere, mixed, lost or left."""

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import tarfile
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diagcot.cli.main import main
from diagcot.jobs import UserError
from diagcot.jobs.execution import unpacked
from diagcot.jobs.plans import stored
from launchers import pack, unpack

GB = 10**9
PLAN = {
    "run": "one", "stage": "shard", "number": "0", "kind": "x:y", "settings": {}, "inputs": {}, "output": "@SHARDS@/one/shard",
    "workspace": "@MODELS@/one/.work/shard", "shards_root": "@SHARDS@", "seed": 1, "after": [],
    "resources": {"nodes": 1, "tasks_per_node": 1, "gpus": 0, "minutes": 1}, "tasks": 1, "units": 1,
    "stage_dir": "@LOGS@/one/shard", "startup_s": 1, "unit_s": 1, "code": "@LOGS@/one/code/0", "cluster": "unpacked",
    "created": 1, "setup": [],
}  # fmt: skip
PRODUCT = "@SHARDS@/one/shard/0.jsonl"
HONEST = {
    "run/recipe.yaml": b"name: one\nstages: []\n",
    "run/cluster.yaml": pack.cluster({}),
    "run/run.json": b'{"run": "one", "stages": ["shard"]}',
    "run/stages": b"shard\n",
    "run/code/0/diagcot/__init__.py": b"",
    "run/shard/plan.json": json.dumps(PLAN).encode(),
    "run/shard/units.jsonl": b'{"key": "0"}\n',
    "run/shard/done/0.json": json.dumps(
        {"unit": "0", "outputs": {PRODUCT: {"staged": PRODUCT, "sha256": "0"}}, "counts": {}}
    ).encode(),
    "shards/shard/0.jsonl": b"{}\n",
    "models/base/model/config.json": b"{}",
}


def archive(folder: Path, changed: dict[str, bytes | None] | None = None, index: object = None) -> Path:
    """An archive of the honest files, some of them changed, or left out where they are None."""
    files = {name: content for name, content in (HONEST | (changed or {})).items() if content is not None}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    files["pack.json"] = json.dumps({"run": "one", "files": digests} if index is None else index).encode()
    path = folder / "one.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return path


@pytest.fixture
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "there"


@pytest.fixture
def elsewhere(there: Path) -> Iterator[Path]:
    """A folder for models on another file system."""
    base = Path("/dev/shm")
    if not base.is_dir() or base.stat().st_dev == there.parent.stat().st_dev:
        pytest.skip("there is no second file system")
    folder = Path(tempfile.mkdtemp(dir=base))
    there.mkdir()
    (there / "models").symlink_to(folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def test_what_is_unpacked_is_closed_to_others_whatever_the_umask(
    there: Path, elsewhere: Path, umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    move, masks = shutil.move, list[int]()

    def moved(source: Path, target: Path) -> None:
        masks.append(os.umask(0o077))
        os.umask(masks[-1])
        move(source, target)

    monkeypatch.setattr(shutil, "move", moved)
    unpack.unpack(archive(there.parent), there, GB)
    made = [path for root in ("logs", "shards", "models") for path in (there / root).rglob("*")]
    assert len(made) > 15 and not [path for path in made if path.stat().st_mode & 0o077]
    assert not (there / "logs").stat().st_mode & 0o077 and set(masks) == {0o077}
    assert os.umask(0) == 0


def growth(**more: Any) -> bytes:
    return json.dumps({"time": 1.0, "code": "x", "stages": {}} | more).encode()


ELSEWHERE = ["../victim/shard", "..", "a/b", "", "x\0", "grown"]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        *(
            ({"run/stages": None, "run/run.json": json.dumps({"stages": ["shard", name]}).encode()}, "run/run.json")
            for name in ELSEWHERE
        ),
        *(({"run/grown/1/growth.json": growth(joined=[name])}, "run/grown/1/growth.json") for name in ELSEWHERE),
        ({"run/stages": b"shard\n..\n"}, "run/stages is damaged: it names '..'"),
        ({"run/stages": b"shard\n../victim/shard\n"}, "run/stages is damaged"),
        ({"run/run.json": b"[]"}, "run/run.json is missing, or holds what"),
        ({"run/run.json": b'{"stages": "shard"}'}, "run/run.json is missing, or holds what"),
        ({"run/grown/2/growth.json": growth()}, "run/grown/1/growth.json is damaged: it is gone"),
        ({"run/grown/1/growth.json": b"{}"}, "run/grown/1/growth.json is damaged: `time` is missing"),
        ({"run/shard/plan.json": json.dumps(PLAN | {"units": "1"}).encode()}, "`units` is not a whole number"),
        ({"run/shard/plan.json": json.dumps(PLAN | {"x" * 9_999: 1, "inputs": {"y" * 9_999: 1}}).encode()}, "is not"),
        ({"run/shard/done/0.json": HONEST["run/shard/done/0.json"].replace(b'"0"}}', b"0}}")}, "is not a text"),
        ({"run/shard/done/0.json": HONEST["run/shard/done/0.json"].replace(b"0.jsonl", rb"\u0000")}, "paths outside"),
        ({"run/shard/done/0.json": HONEST["run/shard/done/0.json"].replace(b"0.jsonl", rb"\ud800")}, "is not JSON"),
        ({"run/shard/plan.json": json.dumps(PLAN).encode() + b"\xe9" * 9_999}, "it is not JSON"),
    ],
)  # fmt: skip
def test_a_forged_file_is_refused_and_named(there: Path, changed: dict[str, bytes | None], said: str) -> None:
    with pytest.raises(UserError, match=said.replace("[", r"\[")) as error:
        unpack.unpack(archive(there.parent, changed), there, GB)
    text = str(error.value)
    assert "nothing was unpacked" in text and len(text) < 500 and ".unpack." not in text and "RUN=" not in text
    assert not list(there.rglob("*"))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_run_names_no_stage_of_another_run(tmp_path: Path, name: str) -> None:
    run, victim = tmp_path / "one", tmp_path / "victim"
    for folder in (run / "shard", victim / "shard"):
        folder.mkdir(parents=True)
        (folder / "plan.json").write_text("{}")
    (run / "run.json").write_text(json.dumps({"stages": ["shard", name]}))
    with pytest.raises(UserError, match=r"run\.json is damaged: it names .* which cannot be the name of a stage"):
        stored.stages(run)
    (run / "run.json").write_text(json.dumps({"stages": ["shard"]}))
    (run / "grown" / "1").mkdir(parents=True)
    (run / "grown" / "1" / "growth.json").write_bytes(growth(joined=[name]))
    with pytest.raises(UserError, match=r"growth\.json is damaged: it names .* which cannot be the name of a stage"):
        stored.stages(run)
    shutil.rmtree(run / "grown")
    assert stored.stages(run) == ["shard"]


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("part", ["shards", "models", "logs"])
def test_of_two_at_once_one_wins_and_nothing_is_mixed(there: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """The second is there as soon as the first has found its places free, or while it takes them."""
    (there.parent / "second").mkdir()
    lacking = {"models": "shards/shard/0.jsonl", "logs": "models/base/model/config.json"}.get(part)
    second = archive(there.parent / "second", {"run/note.md": b"second", **({lacking: None} if lacking else {})})
    free, started = unpacked._require_free, list[bool]()

    def checked(targets: dict[str, Path]) -> None:
        free(targets)
        if not started:
            started.append(True)
            unpack.unpack(second, there, GB)

    monkeypatch.setattr(unpacked, "_require_free", checked)
    with pytest.raises(UserError, match="/one exists: unpack with --into another folder"):
        unpack.unpack(archive(there.parent), there, GB)
    mixed = contents(there)
    shutil.rmtree(there)
    unpack.unpack(second, there, GB)
    alone = contents(there)
    assert {name for name in mixed if ".lease" not in name} == {name for name in alone if ".lease" not in name}
    assert mixed["logs/one/note.md"] == b"second"


@pytest.mark.parametrize("part", ["shards", "models", "logs"])
def test_a_place_that_is_taken_at_the_last_moment_stays_as_it_is(
    there: Path, monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    rename = unpacked._rename

    def renamed(*args: Any) -> None:
        (there / part / "one").mkdir()
        (there / part / "one" / "own").write_text("own")
        rename(*args)

    monkeypatch.setattr(unpacked, "_rename", renamed)
    with pytest.raises(UserError, match=f"{part}/one exists"):
        unpack.unpack(archive(there.parent), there, GB)
    assert {name: text for name, text in contents(there).items() if ".lease" not in name} == {f"{part}/one/own": b"own"}


@pytest.mark.parametrize("size", [3 << 20, -1024, 1 << 60])
@pytest.mark.parametrize(
    "kind",
    [tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE],
)
def test_a_header_is_not_read_into_memory(there: Path, kind: bytes, size: int) -> None:
    about = tarfile.TarInfo("././@LongLink")
    about.type, about.size = kind, size
    path = there.parent / "one.tar.gz"
    with gzip.open(path, "wb") as out:
        out.write(about.tobuf(tarfile.GNU_FORMAT) + b"a" * (3 << 20))
        out.write(tarfile.TarInfo("run/a.md").tobuf() + bytes(1024))
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match="has names or other headers that `diagcot pack` does not write"):
            unpack.unpack(path, there, GB)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({"size": "-2000"}, "'run/a.md' is not a plain file"),
        ({"path": "x" * 5_000}, "x…' is outside of the run's folders"),
        ({"GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}, "is not a plain file"),
        ({"GNU.sparse.size": "nine"}, "is no whole archive"),
    ],
)
def test_what_a_header_says_is_not_trusted(there: Path, headers: dict[str, str], said: str) -> None:
    path = there.parent / "one.tar.gz"
    with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
        about = tarfile.TarInfo("run/a.md")
        about.pax_headers = headers
        tar.addfile(about)
    with pytest.raises(UserError, match=said) as error:
        unpack.unpack(path, there, GB)
    assert len(str(error.value)) < 500


def killed(there: Path, at: Callable[..., bool], owner: object, name: str) -> None:
    """Unpack in a process that is killed where a function is called with arguments for which `at` holds."""
    if not (child := os.fork()):
        function = getattr(owner, name)

        def killing(*args: Any, **more: Any) -> Any:
            if at(*args):
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **more)

        setattr(owner, name, killing)
        try:
            unpack.unpack(archive(there.parent), there, GB)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


@pytest.mark.parametrize("by", ["unpack", "clean"])
@pytest.mark.parametrize("part", ["models", "logs"])
def test_parts_of_a_killed_process_are_removed_and_no_others(there: Path, by: str, part: str) -> None:
    killed(there, lambda _, target: target == there.resolve() / part / "one", Path, "rename")
    assert (there / "shards" / "one").exists() and not (there / "logs" / "one").exists()
    for name, awaited in (
        ("plain", ""),
        ("foreign", "/elsewhere/logs/foreign"),
        ("mine", str(there / "logs" / "mine")),
    ):
        (there / "shards" / name).mkdir()
        (there / "shards" / name / "own").write_text("own")
        (there / "shards" / name / unpacked.MARK).write_text(awaited)
    (there / "logs" / "mine").mkdir()
    if by == "clean":
        assert (there / "shards" / "one") in unpacked.sweep(there)
        assert not list(there.glob("*/one")) and not list(there.glob("*/.unpack.*/"))
    else:
        folder = unpack.unpack(archive(there.parent), there, GB)
        assert stored.plan(folder / "shard")["output"] == str(there / "shards" / "one" / "shard")
        assert not list(there.glob(f"*/one/{unpacked.MARK}"))
    assert all((there / "shards" / name / "own").exists() for name in ("plain", "foreign", "mine"))


def test_a_copy_to_another_file_system_that_was_killed_is_removed(there: Path, elsewhere: Path) -> None:
    killed(
        there,
        lambda _, target, *more: "config.json" in str(target) and str(target).startswith(str(there)),
        shutil,
        "copystat",
    )
    assert not (there / "models" / "one").exists() and list(elsewhere.iterdir())
    unpack.unpack(archive(there.parent), there, GB)
    assert [path.name for path in elsewhere.iterdir()] == ["one"]


def test_a_pipe_is_no_archive(there: Path) -> None:
    os.mkfifo(there.parent / "one.tar.gz")
    with pytest.raises(UserError, match=r"one\.tar\.gz is no regular file: name the archive itself"):
        unpack.unpack(there.parent / "one.tar.gz", there, GB)
    assert not there.exists()


@pytest.mark.parametrize("index", [[], {}, {"run": "one"}, {"run": ["one"], "files": {}}, {"run": "one", "files": [1]}])
def test_an_archive_without_a_whole_index_is_told(there: Path, index: object) -> None:
    with pytest.raises(UserError, match=r"is no archive of .* \(pack\.json: .*\): copy it again") as error:
        unpack.unpack(archive(there.parent, index=index), there, GB)
    assert ".unpack." not in str(error.value)


def test_what_is_in_the_way_is_named_with_what_to_do(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there.mkdir()
    (there / "logs").write_text("")
    with pytest.raises(UserError, match=r"there/logs is no folder: move it away, or unpack with --into another folder"):
        unpack.unpack(archive(there.parent), there, GB)
    (there / "logs").unlink()
    (there / "logs").mkdir()
    (there / "logs" / "one").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"there/logs/one \(a link to nothing\) exists: unpack with --into"):
        unpack.unpack(archive(there.parent), there, GB)

    def read_only(**_: Any) -> str:
        raise OSError(30, "Read-only file system", str(there / ".unpack.abcdefgh"))

    monkeypatch.setattr(tempfile, "mkdtemp", read_only)
    with pytest.raises(
        UserError, match=r"cannot be unpacked: \S*/there: Read-only file system .*: the file system"
    ) as error:
        unpack.unpack(archive(there.parent), there, GB)
    assert ".unpack." not in str(error.value)


def test_no_link_is_packed_and_a_missing_folder_is_named(
    there: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = unpack.unpack(archive(there.parent), there, GB)
    monkeypatch.setattr(pack.digests, "of_run", lambda _: [pack.digests.StageDigest("shard", "0", "0")])
    monkeypatch.chdir(there)
    assert main(["pack", "--run", "one", "--out", "nowhere/one.tar.gz"]) == 1
    said = "nowhere/one.tar.gz cannot be written: nowhere is no folder. Make it, or name another file with --out"
    assert said in capsys.readouterr().err
    (there.parent / "secret").write_text("secret")
    link = run / "y.md"
    link.symlink_to(there.parent / "secret")
    with pytest.raises(UserError, match=r"y\.md is a link, which is not packed: remove it"):
        pack.write(run, there / "again.tar.gz")
    link.unlink()
    pack.write(run, there / "again.tar.gz")
    assert not list(there.glob(".pack.*"))
