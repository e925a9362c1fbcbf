"""`make demo`: the whole chain of a recipe on this machine, watched to its end, then its table."""

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from diagcot.jobs import local
from diagcot.jobs.errors import UserError

if TYPE_CHECKING:
    from launchers.chain import Chain


def run(chain: "Chain") -> int:
    """Returns 0 if the table was reached, 1 if a stage failed, 130 if stopped by Ctrl-C."""
    from diagcot.console.demo import ChainScreen

    if chain.cluster.executor != "local":
        raise UserError(f"the demo runs on this machine; on cluster {chain.cluster.name} use `make submit-all`")
    _fetch_reports(chain)
    started = time.monotonic()
    chain.submit("all")
    try:
        with ChainScreen(chain.run_dir):
            while local.runner_pid(chain.run_dir):
                time.sleep(0.3)
    except KeyboardInterrupt:
        print("\nstopping: running tasks park their work …", flush=True)
        local.stop(chain.run_dir)
        print("stopped. `make demo` goes on from here.")
        return 130
    ended = chain.run_dir / "runner.json"
    code = json.loads(ended.read_text())["code"] if ended.exists() else 0
    if code:
        from diagcot.console import failures

        failures.show(chain.run_dir)
        print(f"\nthe chain stopped; mend what is said above and run `make demo` again: what is done is kept ({chain.run_dir})")
        return 1
    return _show(chain.run_dir, time.monotonic() - started)


def _fetch_reports(chain: "Chain") -> None:
    """The IU-Xray reports, where the recipe reads them from data/iu_xray and they are not there yet."""
    from diagcot.data import fetch

    wanted = "data/iu_xray"
    named = [source.get("path") for spec in chain.recipe.stages for source in spec.settings.get("sources", [])]
    if wanted in named and not fetch.present(chain.root / wanted):
        fetch.fetch(chain.root / wanted)


def _show(run_dir: Path, seconds: float) -> int:
    from diagcot.console import metrics_table

    metrics_table.main([str(run_dir / "metrics.json")])
    print(f"\n{seconds / 60:.1f} minutes. Report: {run_dir / 'report.html'}   Figures: {run_dir / 'metrics.json'}")
    sys.stdout.flush()
    return 0
