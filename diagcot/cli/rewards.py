"""The verb that scores replies with a reward."""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from diagcot.cli.options import Verbs
from diagcot.jobs import UserError
from diagcot.jobs.environment import own_code
from diagcot.jobs.names import near
from diagcot.jobs.state import json_text

if TYPE_CHECKING:
    from diagcot.rewards.score import Reward

STDIN = "-"


def add_verbs(verbs: Verbs) -> None:
    """Add reward."""
    parser = verbs.add("reward", "score replies with a reward and write the components as JSON lines", _reward)
    parser.add_argument(
        "file",
        metavar="FILE",
        help="file of JSON lines, - for standard input: output and answer are texts; progress, 0 to 1, and options, the "
        "texts of a closed question's options, may be added",
    )
    parser.add_argument("--name", required=True, help="name of a reward (docs/rewards.md), or path/to/file.py:function")
    parser.add_argument(
        "--mode",
        default="",
        help="mode of the reward (default: its first), or trl, trl_messages or easyr1 for a function of yours",
    )
    parser.add_argument(
        "--corpus", default="", help="text file with a training reference on each line, for the clinical report reward"
    )
    parser.add_argument("--out", default=None, type=Path, help="file to write (default: standard output)")


def _reward(args: argparse.Namespace) -> int:
    reward = _named(args.name, args.mode, args.corpus)
    out = args.out
    if out and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise UserError(f"{out} cannot be written: give --out a file in a folder that exists")
    source = "standard input" if args.file == STDIN else args.file
    count = 0
    try:
        with _lines(args.file) as lines, _written(out) as file:
            for score in _scored(reward, lines, source):
                print(json.dumps(score), file=file)
                count += 1
    except UnicodeDecodeError as error:
        raise UserError(f"{source} is not UTF-8 text (byte {error.start}): convert it first") from None
    if not count:
        raise UserError(f"{source} has no row: write one JSON object on each line")
    return 0


@contextmanager
def _lines(file: str) -> Iterator[Iterable[str]]:
    if file == STDIN:
        yield sys.stdin
        return
    try:
        with Path(file).open(encoding="utf-8-sig") as lines:
            yield lines
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"there is no file {file}: give a file of JSON lines, or - for standard input") from None


@contextmanager
def _written(out: Path | None) -> Iterator[IO[str]]:
    """Where scores go. A file gets its name when all rows are scored, so nothing is lost if one cannot be."""
    if out is None:
        yield sys.stdout
        return
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=out.absolute().parent, delete=False) as file:
        staged = Path(file.name)
        try:
            yield file
        except BaseException:
            staged.unlink()
            raise
    staged.replace(out)


def _named(name: str, mode: str, corpus: str) -> "Reward":
    from diagcot.metrics.meteor.meteor import MeteorError
    from diagcot.rewards import exported
    from diagcot.rewards.names import MODES, STYLES

    if own_code.NAME.fullmatch(name) and mode not in STYLES:
        raise UserError(f"say how {name} is called: --mode {', '.join(STYLES)}")
    if mode in STYLES and not own_code.NAME.fullmatch(name):
        raise UserError(f"--mode {mode} calls a function of yours: give --name path/to/file.py:function")
    if mode not in STYLES and name not in MODES:
        raise UserError(f"there is no reward {name!r}{near(name, MODES)}")
    if mode and mode not in STYLES and mode not in MODES[name]:
        raise UserError(f"the reward {name} has no mode {mode!r}{near(mode, MODES[name])}")
    if corpus and not Path(corpus).is_file():
        raise UserError(f"there is no file {corpus}: give --corpus a text file with a reference on each line")
    try:
        return exported.cached(name, mode, corpus)
    except UnicodeDecodeError as error:
        raise UserError(f"the file of references is not UTF-8 text (byte {error.start}): convert it first") from None
    except OSError as error:
        raise UserError(
            f"the file of references (--corpus, {exported.CORPUS}): {error.strerror}: {error.filename}"
        ) from None
    except ValueError as error:
        raise UserError(f"{error} (--corpus)") from None
    except MeteorError as error:
        raise UserError(str(error)) from None


def _scored(reward: "Reward", lines: Iterable[str], source: str) -> Iterator[dict[str, float]]:
    """The components of every row. Raises UserError that names the line for a row that cannot be scored."""
    from diagcot.rewards.score import Reference

    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _checked(line, f"{source}:{number}")
        reference = Reference(row["answer"], tuple(row.get("options", ())))
        try:
            yield from reward([row["output"]], [reference], float(row.get("progress", 0.0)))
        except ValueError as error:
            raise UserError(f"{source}:{number}: {error}") from None


def _checked(line: str, place: str) -> dict[str, Any]:
    try:
        row = json_text.parse_json(line)
    except (ValueError, RecursionError):
        raise UserError(f"{place} is not a JSON object: write one object on each line") from None
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) for name in ("output", "answer")):
        raise UserError(f"{place} needs the texts output and answer: add what is missing")
    progress, options = row.get("progress", 0.0), row.get("options", [])
    if isinstance(progress, bool) or not isinstance(progress, int | float) or not 0 <= progress <= 1:
        raise UserError(f"{place}: progress must be a number from 0 to 1")
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        raise UserError(f"{place}: options must be a list of texts")
    return row
