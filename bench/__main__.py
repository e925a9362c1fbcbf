"""`make bench`: every benchmark one after the other, and one table of their figures, `docs/benchmarks.md`.

The figures are kept in `docs/benchmarks.json`, so that the next run shows what has changed: the ratio to the baseline of the
same run where a figure has one, since machines differ, and the value otherwise. A part that is run alone replaces its own
rows. A part that fails keeps its earlier rows, and the exit code is 1.
"""

import argparse
import datetime
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
STORED, TABLE, LOGS = ROOT / "docs/benchmarks.json", ROOT / "docs/benchmarks.md", ROOT / "build/bench"
PARTS = ("rewards", "metrics", "checkpoints", "shards", "sft", "grpo", "cot", "jobs", "scale")  # short ones first
CHANGE = 0.1  # a change of this share of the earlier figure is marked
HEAD = (
    'Written by `make bench` (`make bench PARTS="rewards metrics"` for some). `ratio`: our value to that of the baseline,',
    "measured in the same run; the goal is met or missed by the ratio or by the value, as the benchmark says. `change`: of the",
    "ratio, or of the value where there is no baseline, since the commit that is named there; 10 % and more stand in bold. What",
    "was measured and how: [performance.md](performance.md).",
)
Result = dict[str, Any]


def main(argv: list[str]) -> int:
    """Run the parts. Returns 1 if one of them failed."""
    options = argparse.ArgumentParser(prog="bench", description=__doc__)
    options.add_argument("--parts", default=" ".join(PARTS), help="names, with blanks between them (default: all)")
    parts = options.parse_args(argv).parts.split()
    if unknown := [part for part in parts if part not in PARTS]:
        options.error(f"there is no benchmark {', '.join(unknown)}; there are {', '.join(PARTS)}")
    stored: dict[str, Result] = json.loads(STORED.read_text()) if STORED.exists() else {}
    failed = []
    for part in parts:
        print(f"{part} ...", end=" ", flush=True)
        found = _run(part)
        if found is None:
            failed.append(part)
            print(f"FAILED: see {(LOGS / part).with_suffix('.log').relative_to(ROOT)}")
            continue
        print(f"{found['seconds']:.0f} s")
        stored[part] = found | {
            "earlier": {key: stored[part][key] for key in ("commit", "figures")} if part in stored else None
        }
        STORED.write_text(json.dumps(stored, indent=1) + "\n")
        TABLE.write_text(table(stored))
    print(TABLE.relative_to(ROOT))
    return 1 if failed else 0


def _run(part: str) -> Result | None:
    """A part in a process of its own: its figures and the conditions, or None if it failed."""
    LOGS.mkdir(parents=True, exist_ok=True)
    log, load, began = (LOGS / part).with_suffix(".log"), os.getloadavg()[0], time.monotonic()
    with log.open("w") as said:
        command = [sys.executable, "-u", "-m", f"bench.{part}"]
        code = subprocess.run(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, check=False).returncode
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.startswith('{"bench"')]
    if code or not lines:
        return None
    return {
        "commit": _commit(),
        "date": datetime.date.today().isoformat(),
        "cores": os.cpu_count(),
        "load": [round(load, 1), round(os.getloadavg()[0], 1)],
        "seconds": round(time.monotonic() - began),
        "figures": json.loads(lines[-1])["figures"],
    }


def _commit() -> str:
    """The commit of the code, with a plus if files differ from it."""

    def said(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, check=False, capture_output=True, text=True).stdout.strip()

    changed = said("status", "--porcelain", "--untracked-files=no", "--", "diagcot", "bench", "launchers")
    return said("rev-parse", "--short=10", "HEAD") + ("+" if changed else "")


def table(stored: dict[str, Result]) -> str:
    """The page of all figures, in Markdown."""
    lines = ["# Benchmarks", "", *HEAD, ""]
    for part in (name for name in PARTS if name in stored):
        row = stored[part]
        before, after = row["load"]
        conditions = f"{row['cores']} cores, load {before} before and {after} after, {row['seconds']} s"
        lines += [
            f"## {part}",
            "",
            f"Commit {row['commit']}, {row['date']}, {conditions}.",
            "",
            "| figure | value | baseline | ratio | goal | | change |",
            "|---|---|---|---|---|---|---|",
        ]
        earlier = row.get("earlier") or {"commit": "", "figures": {}}
        lines += [_row(name, figure, earlier) for name, figure in row["figures"].items()]
        lines.append("")
    return "\n".join(lines)


def _row(name: str, figure: Result, earlier: Result) -> str:
    met = {None: "", True: "met", False: "**missed**"}[figure["met"]]
    numbers = ["" if figure[key] is None else f"{figure[key]:,.4g}" for key in ("value", "baseline", "ratio", "goal")]
    numbers[0] += f" {figure['unit']}"
    return f"| {name} | {' | '.join(numbers)} | {met} | {_change(figure, earlier['figures'].get(name), earlier['commit'])} |"


def _change(figure: Result, before: Result | None, commit: str) -> str:
    key = "ratio" if figure["ratio"] is not None else "value"
    if before is None or not before.get(key):
        return ""
    share = figure[key] / before[key] - 1
    text = f"{share:+.0%}"
    return f"{f'**{text}**' if abs(share) >= CHANGE else text} since {commit}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
