"""Commands as another user of this machine, for tests that run as root."""

import os
import subprocess
import sys
from pathlib import Path


def reachable(path: Path) -> bool:
    """Whether others can read the folder."""
    return all(part.stat().st_mode & 0o005 == 0o005 for part in (path, *path.parents))


# Another user, if others can read this interpreter and its packages.
USER = 65534 if reachable(Path(sys.base_prefix)) and reachable(Path(sys.prefix)) else os.geteuid()


def as_user(own: Path, command: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a shell command as USER with the home `own`; no traceback may be shown."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(own), "COLUMNS": "200"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=cwd or own, env=environment, user=USER, group=USER, extra_groups=[],
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done
