"""RaTEScore (Zhao et al. 2024, arXiv:2406.16845) by its own package, in a Python environment of its own.

It splits sentences with medspaCy, whose spaCy needs another NumPy than ours, so the two cannot share an environment. The
package runs as a child process that answers one pair a line.
"""

import contextlib
import json
import selectors
import subprocess
from collections.abc import Sequence
from pathlib import Path

from diagcot.jobs import SiteError
from diagcot.jobs.environment import variables

_CHILD = Path(__file__).with_name("ratescore_child.py")
_START_S, _PAIR_S = 300, 120  # patience with the start of the process, and with one pair


class RateScore:
    """Asks the package. folder: ner/ and synonyms/, the two models as downloaded, and venv/, the environment.

    Raises SiteError where the process does not start, and says why.
    """

    def __init__(self, folder: Path, device: str) -> None:
        python, models = folder / "venv/bin/python", (folder / "ner", folder / "synonyms")
        self._command = [str(python), str(_CHILD), *map(str, models), device]
        self._start()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables.child()
        )
        try:
            self._answer(_START_S)
        except RuntimeError as error:
            self.close()
            raise SiteError(f"{self._command[0]} cannot run RaTEScore: {error}") from None

    def read(self, texts: Sequence[str]) -> list[str]:
        """The texts: the package reads and compares in one."""
        return list(texts)

    def compare(self, ours: str, theirs: str) -> dict[str, float]:
        """RaTEScore, 0 to 1; 0.5 where either side has no entity, as the package has it. Raises RuntimeError.

        A process that has ended is started again, so that a pair at which it ended or was late costs that pair alone.
        """
        if self._process.poll() is not None:
            self.close()
            self._start()
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps([ours, theirs]) + "\n")
            self._process.stdin.flush()
        except OSError:
            raise RuntimeError("the process of RaTEScore has ended") from None
        return {"ratescore": float(self._answer(_PAIR_S)["score"])}

    def _answer(self, patience_s: float) -> dict[str, float]:
        assert self._process.stdout
        with selectors.DefaultSelector() as ready:
            ready.register(self._process.stdout, selectors.EVENT_READ)
            if not ready.select(patience_s):
                self.close()  # its late answer would be taken for that of the next pair
                raise RuntimeError(f"the process of RaTEScore gave no answer in {patience_s:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of RaTEScore ended with {self._process.wait()}")
        answer: dict[str, float] = json.loads(line)
        if "error" in answer:
            raise RuntimeError(f"RaTEScore failed ({answer['error']})")
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # what was not read any more
                if pipe:
                    pipe.close()
