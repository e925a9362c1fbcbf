"""Every verb on every damaged run: no traceback, the file and the way out, what is whole is still shown, nothing gets worse.

A run is made once, by the laptop's runner, from a run whose product it takes over; it has grown, and one of its stages has
failed. Then each of its files is damaged in each way, and verbs are called in this process. A sample is tried by default;
DIAGCOT_EVERY_DAMAGE=1 tries all, DIAGCOT_EVERY_DAMAGE=3/8 the third of eight parts of all.
"""

import contextlib
import io
import json
import os
import random
import shutil
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from diagcot.cli import cleaning
from diagcot.cli.main import main
from diagcot.jobs.execution import local
from tests.chains import wait_for_end
from tests.users import USER

FIRST = """\
name: first
seed: 3
stages:
  - {name: phantoms, kind: phantoms, number: 0, settings: {studies: 4, size: 32, views: [PA]}}
  - name: shard
    kind: shard
    number: 0
    inputs: {tree: phantoms}
    settings: {sources: [{kind: mimic_cxr, input: tree}], shards: 2, image_size: 32}
"""
SECOND = """\
name: second
stages:
  - {name: films, from: first/shard}
  - {name: texts, kind: questions, number: 0, inputs: {shards: films}, settings: {tasks: {binary: [0, 1]}}}
  - {name: broken, kind: 'PLACE/own_damage.py:KIND', number: 1, inputs: {shards: films}}
"""
JOINED = (
    "  - {name: examples, kind: synthetic-sft, number: 1, inputs: {shards: films}, settings: {tasks: {report: 1.0}}}\n"
)
OWN = """\
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.settings import Settings
from launchers.inputs import one_per_shard
from launchers.stage_kind import StageKind


def run(unit: Unit, ctx: Context) -> Result:
    if unit.key == "00001":
        raise ValueError("this unit fails")
    path = ctx.output / f"{unit.key}.json"
    ctx.staged(path).write_text("{}")
    return Result({path: ctx.staged(path)}, {"studies": 1})


KIND = StageKind(
    work="own_damage:run", settings=Settings, resource_profile="cpu", product="data", startup_s=1, unit_s=1,
    units=one_per_shard,
)
"""
SAMPLE = 36  # damages that are tried by default, each with every verb of a sample
Harm = Callable[[Path], object]


class Damaged:
    """The runs `first` and `second`, and a copy of their files as they were."""

    def __init__(self, root: Path) -> None:
        self.root, self.logs, self.whole = root, root / "logs", root / "whole"
        (root / "own_damage.py").write_text(OWN)
        (root / "first.yaml").write_text(FIRST)
        (root / "second.yaml").write_text(SECOND.replace("PLACE", str(root)))
        roots = ", ".join(f"{name}: {root / name}" for name in ("logs", "shards", "models"))
        for executor in ("debug", "local"):
            (root / f"{executor}.yaml").write_text(
                f"name: {executor}\nexecutor: {executor}\nparallel: 4\nmax_attempts: 2\nresource_profiles: {{cpu: {{}}}}\n"
                f"roots: {{{roots}}}\n"
            )
        self.chain = ["--recipe", f"{root}/second.yaml", "--cluster", f"{root}/local.yaml", "--run", "second"]
        first = ["--recipe", f"{root}/first.yaml", "--cluster", f"{root}/debug.yaml", "--run", "first"]
        assert main(["submit", *first]) == 0
        for joined in ("", JOINED):  # the second submission lets the run grow by a stage
            with (root / "second.yaml").open("a") as recipe:
                recipe.write(joined)
            assert main(["submit", *self.chain]) == 0
            wait_for_end(self.logs / "second", 1)
        for run in ("first", "second"):
            shutil.copytree(self.logs / run, self.whole / run, ignore=shutil.ignore_patterns("code"))

    def verbs(self) -> dict[str, list[str]]:
        """Name -> arguments. Those that change nothing come first."""
        logs = ["--logs", str(self.logs)]
        run = ["--run", "second", *logs]
        broken = [*run, "--stage", "broken"]
        return {
            "status": ["status", *run], "newest": ["status", *logs], "failures": ["failures", *run],
            "watch": ["watch", *run], "table": ["table", *run], "traces": ["traces", *run], "logs": ["logs", *run],
            "logs of a stage": ["logs", *broken], "logs of a unit": ["logs", *broken, "--unit", "00001"],
            "logs of any unit": ["logs", *run, "--unit", "00001"], "verify": ["verify", *run],
            "verify both": ["verify", *run, "--against", "first"], "compare": ["compare", "second", "first", *logs],
            "space": ["space", *logs], "space of a run": ["space", *run], "remove": ["remove", *run],
            "pack": ["pack", *run, "--out", str(self.root / "packed.tar.gz")],
            "pack a whole run": ["pack", "--run", "first", *logs, "--out", str(self.root / "packed.tar.gz")],
            "clean": ["clean"],
            "plan": ["plan", *self.chain], "dry": ["submit", *self.chain, "--dry"],
            "submit": ["submit", *self.chain], "retry": ["retry", *broken], "cancel": ["cancel", *run],
            "retry with new code": ["retry", *broken, "--code", "new"],
        }  # fmt: skip

    def files(self) -> list[Path]:
        """The files of both runs, those that a verb may read."""
        return [
            path
            for run in ("second", "first")
            for path in sorted((self.logs / run).rglob("*"))
            if path.is_file() and not {"code", "submitit"}.intersection(path.parts)
        ]

    def restore(self) -> None:
        """Undo all that was damaged or changed."""
        (self.root / "packed.tar.gz").unlink(missing_ok=True)
        for run in ("first", "second"):
            for path in (self.logs / run).iterdir():
                if path.name != "code":
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.copytree(self.whole / run, self.logs / run, dirs_exist_ok=True)

    def content(self) -> dict[Path, bytes]:
        """The files of both runs."""
        return {path: path.read_bytes() for path in self.files()}


CHANGING = ("submit", "retry", "cancel", "retry with new code")


def harms(path: Path, rng: random.Random, most: int) -> Iterator[tuple[str, Harm]]:
    """Ways to damage a file. most: of bits that are flipped, and of values that get another type."""
    data = path.read_bytes()

    def written(new: bytes) -> Harm:
        def harm(path: Path) -> None:
            path.unlink()
            path.write_bytes(new)

        return harm

    texts = {
        "null": b"null",
        "a list": b"[]",
        "an object": b"{}",
        "words": b"a b c\n",
        "blank": b"  \n",
        "deep": b"[" * 99999,
    }
    texts |= {
        "empty": b"",
        "half": data[: len(data) // 2],
        "zeros": bytes(len(data)),
        "Latin-1": data[:-3] + b"\xe9\xff",
    }
    yield from ((name, written(text)) for name, text in texts.items())
    yield "gone", Path.unlink
    yield "a folder", lambda path: (path.unlink(), path.mkdir())
    yield "unreadable", lambda path: path.chmod(0)
    for bit in rng.sample(range(len(data) * 8), min(most, len(data) * 8)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit}", written(bytes(flipped))
    for number in range(most):
        with contextlib.suppress(ValueError):
            rows = [json.loads(data)] if path.suffix != ".jsonl" else [json.loads(line) for line in data.splitlines()]
            if changed := _of_another_type(rows, rng):
                yield f"{number}: {changed}", written("".join(json.dumps(row) + "\n" for row in rows).encode())


def _of_another_type(value: Any, rng: random.Random) -> str:
    """Give one value inside another type; returns where and which, or nothing if there is none inside."""
    places: list[tuple[Any, Any]] = []
    todo = [value]
    while todo:
        part = todo.pop()
        items = list(part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ())
        places += [(part, key) for key, _ in items if part is not value]
        todo += [item for _, item in items]
    if not places:
        return ""
    part, key = rng.choice(places)
    part[key] = rng.choice([None, [], {}, "x", -1, 7, 1.5, True, [None], {"id": []}, "\ud800", 10**30, float("nan")])
    return f"{key} is {part[key]!r}"


def call(arguments: list[str]) -> tuple[Any, str]:
    """(exit code, or the traceback of an exception; all that was printed)"""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
        try:
            code: Any = main(arguments)
        except SystemExit as end:
            code = end.code
        except BaseException:
            code = traceback.format_exc()
    return code, shown.getvalue()


@contextlib.contextmanager
def another_user(runs: Damaged, active: bool) -> Iterator[None]:
    """Root may read everything: be another user for a moment, who owns the runs."""
    if not active or os.geteuid():
        yield
        return
    for path in [runs.logs, *runs.logs.rglob("*")]:
        os.chown(path, USER, USER, follow_symlinks=False)
    os.seteuid(USER)
    try:
        yield
    finally:
        os.seteuid(0)
        for path in [runs.logs, *runs.logs.rglob("*")]:
            os.chown(path, 0, 0, follow_symlinks=False)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Damaged:
    root = tmp_path_factory.mktemp("damaged")
    for folder in (root, root.parent):
        folder.chmod(0o755)
    return Damaged(root)


def test_each_verb_bears_each_damage(runs: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(local, "start", lambda run_dir, stages, code="": started.append(stages) or 1)
    monkeypatch.setattr(cleaning, "ROOT", runs.root)
    part, _, parts = os.environ.get("DIAGCOT_EVERY_DAMAGE", "").partition("/")
    everything = bool(part)
    rng, verbs = random.Random(int(os.environ.get("DIAGCOT_SEED", "7"))), runs.verbs()
    before = {name: call(arguments) for name, arguments in verbs.items() if name not in CHANGING}
    assert not [name for name, (code, _) in before.items() if isinstance(code, str)]
    runs.restore()
    trials = [(path, *harm) for path in runs.files() for harm in harms(path, rng, 8 if everything else 2)]
    faults: list[str] = []
    for path, what, harm in trials[int(part) - 1 :: int(parts or 1)] if everything else rng.sample(trials, SAMPLE):
        harm(path)
        name = str(path.relative_to(runs.logs))
        chosen = list(verbs) if everything else ["status", "failures", *rng.sample(list(verbs)[2:-4], 3), *CHANGING[:3]]
        with another_user(runs, what == "unreadable"):
            faults += tried(runs, f"{name}, {what}", {verb: verbs[verb] for verb in chosen})
        runs.restore()
    assert not faults, "\n\n".join(faults)
    assert "2 of 3 stages done, 1 unit failed" in call(verbs["status"])[1]


def tried(runs: Damaged, where: str, verbs: dict[str, list[str]]) -> Iterator[str]:
    """What is wrong with the answers of verbs to a damage."""
    content: dict[Path, bytes] | None = runs.content() if "unreadable" not in where else None
    for verb, arguments in verbs.items():
        code, shown = call(arguments)
        if isinstance(code, str) or ("Traceback" in shown and not verb.startswith("logs")):
            yield f"{where}: {verb}: {code} {shown}"
        if verb == "status":
            others = [name for name in ("texts", "broken", "examples") if f"second/{name}/plan.json" not in where]
            if not all(name in shown for name in others) and "no run 'second'" not in shown:
                yield f"{where}: {verb} does not show what is whole: {shown}"
        if content is not None and verb not in CHANGING:
            now = runs.content()
            if changed := [path for path in {**content, **now} if content.get(path) != now.get(path)]:
                yield f"{where}: {verb} changed {changed[0]}"
                content = now


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("broken/plan.json", "is damaged: it is empty. Restore it from a copy, or start again under another RUN=name"),
        ("broken/attempts/1.json", "remove it once `squeue` shows no job of run second"),
        ("broken/failed/00000.1.1-0.r0.json", r"make logs STAGE=broken RUN=second"),
        ("broken/summary.json", "for screens and reports alone; remove it"),
        ("cluster.yaml", "`make submit-all RUN=second` writes it again"),
        ("stages", "is damaged: it lacks texts, broken. `make submit-all RUN=second` writes it again"),
        ("run.json", "Restore it from a copy"),
        ("grown/1/growth.json", "Restore it from a copy"),
        ("reused.json", "restore it from a copy, or remove it and submit the run again"),
    ],
)
def test_status_and_failures_name_the_file_and_the_way_out(runs: Damaged, name: str, remedy: str) -> None:
    path = runs.logs / "second" / name
    path.unlink()
    path.write_text("")
    for verb in ("status", "failures"):
        code, shown = call(runs.verbs()[verb])
        joined = " ".join(shown.split())
        assert code == 1 and path.name in joined.replace(" ", "") and remedy.replace(" ", "") in joined.replace(" ", "")
    runs.restore()


def test_a_damaged_manifest_does_not_end_a_stage(runs: Damaged) -> None:
    path = runs.logs / "second" / "texts" / "done" / "00000.json"
    path.unlink()
    path.write_text("")
    code, shown = call(runs.verbs()["verify"])
    assert code == 1 and "Remove it, and the unit runs again: make retry STAGE=texts RUN=second" in " ".join(
        shown.split()
    )
    runs.restore()
