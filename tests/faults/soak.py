"""`make soak`: round after round on one development cluster, for a stated time, until a property does not hold.

Each round is a fresh run with a seed of its own (see `tests.faults.rounds`). A violated property ends the soak and keeps the
folder of its round. The last line is one JSON object with the totals.
"""

import argparse
import collections
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests import chains
from tests.conftest import QUICK_TO_NOTICE, TOOL, DevCluster, start

ROUND_S = 3000  # longer than all deadlines of a round together
SETTINGS: dict[str, Any] = {
    "accounting": True,
    "isolation": "net",
    "gpu_nodes": 3,
    "cpu_nodes": 2,
    "cpus": 8,
    "extra": QUICK_TO_NOTICE,
}


def play(cluster: DevCluster, folder: Path, run: str, seed: str, *numbers: int) -> dict[str, Any]:
    """Run one round as a client of the cluster; returns its row. numbers: as for `tests.faults.rounds`."""
    driver = [sys.executable, "-m", "tests.faults.rounds", str(TOOL), str(cluster.directory), str(folder), run, seed]
    command = [sys.executable, str(TOOL), "--directory", str(cluster.directory), "exec", *driver, *map(str, numbers)]
    folder.mkdir(parents=True, exist_ok=True)
    env = os.environ | {"PYTHONPATH": str(chains.ROOT), "SLURM_CONF": str(cluster.conf)}
    with (folder / "log").open("w") as log:
        # In a process group of its own, so that nothing of it is left that would bring the cluster back.
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=env, cwd=chains.ROOT, process_group=0
        )
        try:
            out, _ = process.communicate(timeout=ROUND_S)
        except subprocess.TimeoutExpired:
            return {"violation": f"the round did not end in {ROUND_S} s"}
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if not out.strip():
        return {"violation": f"the round ended with {process.returncode}: {(folder / 'log').read_text()[-2000:]}"}
    return dict(json.loads(out.splitlines()[-1]))


def _shown(row: dict[str, Any]) -> str:
    """The line of a round."""
    faults, actions = (sum(row.get(name, {}).values()) for name in ("faults", "actions"))
    needed = ", ".join(row.get("needed", ())) or "nothing"
    return (
        f"{row.get('seconds', 0):>4} s  {row.get('units', 0)} units  {row.get('records', 0)} records  {faults} faults"
        f"  {actions} actions  a person had to do: {needed}"
    )


def _table(totals: dict[str, Any]) -> Table:
    table = Table("", "number", box=None, header_style="dim")
    for name in ("minutes", "rounds", "units", "records"):
        table.add_row(name, str(totals[name]))
    for name in ("faults", "actions"):
        table.add_section()
        for kind, count in sorted(totals[name].items()):
            table.add_row(f"{name[:-1]}: {kind.replace('_', ' ')}", str(count))
    table.add_section()
    table.add_row("a person had to do", str(totals["needed"]))
    table.add_row("violations", str(totals["violations"]))
    return table


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser("soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="no round begins after so many minutes (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="seed of all rounds (default: 1)")
    parser.add_argument("--round", type=int, default=None, help="play this round alone")
    options = parser.parse_args(argv)
    if os.getuid() != 0:
        print("error: nodes with networks of their own, which can be cut, need root", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the cluster is wiped then, too
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    began, end = time.monotonic(), time.monotonic() + 60 * options.minutes
    totals: collections.Counter[str] = collections.Counter()
    kinds = {name: collections.Counter[str]() for name in ("faults", "actions")}
    cluster = start(**SETTINGS)
    number = options.round or 1
    try:
        while True:
            kept = folder / f"{number}"
            row = play(cluster, kept, f"soak-{options.seed}-{number}", f"{options.seed} {number}")
            print(f"{time.strftime('%T')}  round {number:<3} {_shown(row)}", flush=True)
            totals.update(rounds=1, units=row.get("units", 0), records=row.get("records", 0))
            totals.update(needed=len(row.get("needed", ())), violations=int(row["violation"] is not None))
            for name, counts in kinds.items():
                counts.update(row.get(name, {}))
            if row["violation"] is not None:
                shutil.copytree(cluster.directory / "log", kept / "slurm", dirs_exist_ok=True)
                _tell(row, kept, options.seed, number)
                break
            shutil.rmtree(kept)
            number += 1
            if options.round or time.monotonic() > end:
                break
    finally:
        cluster("wipe")
    whole = {"minutes": round((time.monotonic() - began) / 60, 1), "seed": options.seed, **totals, **kinds}
    Console().print(_table(whole))
    print(json.dumps(whole), flush=True)
    if not totals["violations"]:
        shutil.rmtree(folder)
    return int(totals["violations"] > 0)


def _tell(row: dict[str, Any], kept: Path, seed: int, number: int) -> None:
    """Say what does not hold, where to look, and how to repeat the round."""
    print("\n".join(f"    {line}" for line in row.get("told", ())))
    print(f"round {number} of seed {seed}: a property does not hold:\n{row['violation']}")
    print(f"its files are in {kept}; `make soak SEED={seed} ROUND={number}` plays this round alone", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
