"""The pipeline that docs/jobs.md shows, as a file to run."""

import re
from pathlib import Path

from tests import chains

TEXTS = {"one": "the heart is large the lungs are clear", "two": "the lungs are large", "three": "clear"}


def pipeline(folder: Path) -> Path:
    """Writes words.py, and three texts beside it."""
    text = (chains.ROOT / "docs" / "jobs.md").read_text()
    found = next(block for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "Pipeline(" in block)
    (folder / "words.py").write_text(found)
    for name, words in TEXTS.items():
        (folder / f"{name}.txt").write_text(words)
    return folder / "words.py"
