"""`make bench-metrics`: report metrics of one and of five models over 3,858 reports, compared with pycocoevalcap as released.

Both sides start cold, each in a process of its own: the baseline tokenises with Java, then BLEU, ROUGE-L, CIDEr and METEOR
(a Java program that first reads its tables). One baseline pass is measured and taken five times.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import Figures
from bench.reports import answer, references

ROOT = Path(__file__).resolve().parents[1]
REPORTS, MODELS = 3858, 5


def released(hyps: list[str], refs: list[str]) -> dict[str, float]:
    """One pass of pycocoevalcap as released: tokeniser, BLEU, ROUGE-L, CIDEr, METEOR."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    tokenizer = PTBTokenizer()
    gold, ours = (
        tokenizer.tokenize({number: [{"caption": text}] for number, text in enumerate(texts)}) for texts in (refs, hyps)
    )
    found = dict(zip(("bleu1", "bleu2", "bleu3", "bleu4"), Bleu(4).compute_score(gold, ours, 0)[0], strict=True))
    found["rouge_l"], found["cider"] = (float(one.compute_score(gold, ours)[0]) for one in (Rouge(), Cider()))
    meteor = Meteor()
    found["meteor"] = float(meteor.compute_score(gold, ours)[0])
    meteor.meteor_p.kill()
    return found


def suite(answers: list[list[str]], refs: list[str]) -> list[dict[str, float]]:
    """The suite's own table of all models: the same metrics, label F1, and 1,000 bootstrap draws of each."""
    from diagcot.evaluation.scores.table import table
    from diagcot.evaluation.scores.text_tools import TextTools
    from diagcot.tasks.predictions import Prediction

    rows = [
        Prediction(str(n), f"iu/{n}", "report", "iu", str(model), text, text, ref, "stop", False, [])
        for model, texts in enumerate(answers)
        for n, (text, ref) in enumerate(zip(texts, refs, strict=True))
    ]
    tools = TextTools()
    found = table(rows, [str(model) for model in range(len(answers))], tools, 1000, 0)
    if tools.missing:
        raise RuntimeError(f"a metric is missing: {tools.missing}")
    return [{name: cell["value"] for name, cell in row["scores"].items()} for row in found["rows"]]


def _side(which: str, file: Path, models: int) -> None:
    """What a child process does: read the texts, score them, and print seconds and scores."""
    texts = json.loads(file.read_text())
    began = time.monotonic()
    answers = texts["answers"][:models]
    scores = [released(answers[0], texts["references"])] if which == "released" else suite(answers, texts["references"])
    print(json.dumps({"seconds": time.monotonic() - began, "scores": scores}))


def _cold(which: str, file: Path, models: int) -> tuple[float, float, list[dict[str, float]]]:
    """Seconds, seconds of processor and scores of a process of its own; its start, imports and children count."""
    from diagcot.metrics.java import java

    environment = os.environ | {"PATH": f"{java().parent}{os.pathsep}{os.environ['PATH']}"}
    command = [sys.executable, "-m", "bench.metrics", "--side", which, "--models", str(models), "--texts", str(file)]
    began, before = time.monotonic(), _children_s()
    done = subprocess.run(command, env=environment, cwd=ROOT, stdout=subprocess.PIPE, timeout=400, check=True)
    took, used = time.monotonic() - began, _children_s() - before
    found: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    print(
        f"{which}, {models} model(s): {took:.1f} s, {found['seconds']:.1f} s of them scoring; {used:.1f} s of processor",
        flush=True,
    )
    return took, used, found["scores"]


def _children_s() -> float:
    """Seconds of processor of all processes that were started here and have ended, with theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.metrics", description=__doc__)
    options.add_argument("--side", choices=("released", "ours"), help=argparse.SUPPRESS)
    options.add_argument("--models", type=int, default=MODELS, help=argparse.SUPPRESS)
    options.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    args = options.parse_args(argv)
    if args.side:
        _side(args.side, args.texts, args.models)
        return 0
    figures, rng = Figures("metrics"), random.Random(0)
    refs, source = references(REPORTS)
    answers = [[answer(ref, refs, rng) for ref in refs] for _ in range(MODELS)]
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {REPORTS} reports of {source}, {MODELS} models")
    with tempfile.TemporaryDirectory(prefix="bench-metrics-") as folder:
        file = Path(folder) / "texts.json"
        file.write_text(json.dumps({"references": refs, "answers": answers}))
        _cold("ours", file, 1)  # compiles METEOR's alignment where nobody has; files come into the page cache
        base, _, theirs = _cold("released", file, 1)
        one, one_used, ours = _cold("ours", file, 1)
        all_models, all_used, _ = _cold("ours", file, MODELS)
    worst = max(float(abs(ours[0][name] - value)) for name, value in theirs[0].items())
    figures.add("one_model_cold", one, "s", base, 0.1, of="ratio")
    figures.add("five_models", all_models, "s", MODELS * base, 0.06, of="ratio")
    # With the same work no arrangement of it is faster than all cores busy from first to last.
    cores = os.cpu_count() or 1
    figures.add("one_model_on_full_cores", one_used / cores, "s", base, of="ratio")
    figures.add("five_models_on_full_cores", all_used / cores, "s", MODELS * base, of="ratio")
    figures.add("difference", worst, "largest difference of a score", goal=1e-9)
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    print(figures.line())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
