"""Run the tests again that failed, alone, and list them by name: a pass at the second try is a flake, not a success.

Exits 0 only if at most MOST tests needed the second try and all passed it.
"""

import json
import subprocess
import sys
from pathlib import Path

MOST = 10  # more is no flake but a fault
FAILED = Path(".pytest_cache/v/cache/lastfailed")


def main() -> int:
    """Run what failed again. Returns the exit code."""
    tests = sorted(json.loads(FAILED.read_text())) if FAILED.exists() else []
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
