"""Run the tests again that failed, alone, and list them by name: a pass at the second try is a flake, not a success.

Exits 0 only if at most MOST tests needed the second try and all passed it.
"""

import json
import subprocess
import sys
from pathlib import Path

MOST = 3
CACHES = (".pytest_cache", ".pytest_cache/slurm")  # of the tests without and with a real Slurm


def main() -> int:
    """Run what failed again. Returns the exit code."""
    files = [path for cache in CACHES if (path := Path(cache, "v/cache/lastfailed")).exists()]
    tests = sorted({test for path in files for test in json.loads(path.read_text())})
    if not tests:
        print("no test failed, but the run did: see its messages above")
        return 1
    if len(tests) > MOST:
        print(f"{len(tests)} tests failed, more than the {MOST} that may run again:", *tests, sep="\n  ")
        return 1
    passed = [
        test for test in tests if not subprocess.run([sys.executable, "-m", "pytest", test], check=False).returncode
    ]
    print(f"\n{len(passed)} of {len(tests)} tests that failed next to others passed alone. Flaky, to be fixed:")
    print(*(f"  {test}" for test in passed), sep="\n")
    if broken := [test for test in tests if test not in passed]:
        print("failed twice:", *broken, sep="\n  ")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
