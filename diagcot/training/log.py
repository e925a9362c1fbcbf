"""`train.jsonl`: one line a step, without the lines of steps that are done again."""

import json
from pathlib import Path
from typing import Any


def append(log: Path, row: dict[str, Any]) -> None:
    with log.open("a", encoding="utf-8") as out:
        out.write(json.dumps(row) + "\n")


def rewind(log: Path, step: int) -> None:
    """Keep the lines up to `step`: what came after the checkpoint is done again."""
    lines = log.read_text(encoding="utf-8").splitlines() if log.is_file() else []
    kept = []
    for line in lines:
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError):
            continue  # torn by a kill
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
