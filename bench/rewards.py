"""`make bench-rewards`: 32 report rewards, ours against the way of DiagCoT's release.

The released function starts a Java tokeniser and a Java METEOR for every sample (method.md 12.6). It is run as released
on a few of the 32, with pycocoevalcap itself, and its seconds for one sample are the baseline.
"""

import argparse
import multiprocessing
import os
import random
import re
import sys
import time
from typing import Any

from bench.figures import Figures
from bench.reports import answer, references
from diagcot.rewards.score import Reference
from diagcot.tasks.prompts import reasoned

SAMPLES = 32
CORPUS = 2000
_ANSWER = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)


def released(output: str, truth: str) -> float:
    """The released reward of one sample (method.md 5.3), computed by pycocoevalcap as the release does."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    found = _ANSWER.search(output)
    if found is None:
        return 0.1
    tokenizer = PTBTokenizer()
    gold = tokenizer.tokenize({0: [{"caption": truth.replace("\n", " ").strip()}]})
    ours = tokenizer.tokenize({0: [{"caption": found.group(1).replace("\n", " ").strip()}]})
    bleu = sum(Bleu(4).compute_score(gold, ours, 0)[0])
    overlap = sum(scorer.compute_score(gold, ours)[0] for scorer in (Rouge(), Cider()))
    meteor = Meteor()
    aligned = meteor.compute_score(gold, ours)[0]
    meteor.meteor_p.kill()
    form = re.fullmatch(r"<think>.*?</think>\s*<answer>.*?</answer>", output, re.DOTALL) is not None
    return 0.4 * form + 0.6 * (0.15 * (bleu + overlap) + 0.10 * aligned)


def _in_child(output: str, truth: str, sent: Any) -> None:
    from diagcot.metrics.java import java

    os.environ["PATH"] = f"{java().parent}{os.pathsep}{os.environ['PATH']}"
    sent.send(released(output, truth))


def _as_released(output: str, truth: str, deadline_s: float) -> tuple[float, float] | None:
    """(reward, seconds) in a process of its own, since pycocoevalcap may hang; None past the deadline."""
    receives, sends = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(target=_in_child, args=(output, truth, sends))
    began = time.monotonic()
    child.start()
    value = receives.recv() if receives.poll(deadline_s) else None
    took = time.monotonic() - began
    child.kill()
    child.join()
    return None if value is None else (value, took)


def main(argv: list[str]) -> int:
    """Run the benchmark. Returns the exit code."""
    options = argparse.ArgumentParser(prog="bench.rewards", description=__doc__)
    options.add_argument("--released", type=int, default=3, help="samples to score as released")
    args = options.parse_args(argv)
    figures, rng = Figures("rewards"), random.Random(0)
    texts, source = references(CORPUS)
    truths = texts[:SAMPLES]
    outputs = [reasoned(f"I look at the image. {rng.choice(texts)}", answer(truth, texts, rng)) for truth in truths]
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {source}; {SAMPLES} samples, corpus {CORPUS}",
        flush=True,
    )
    base = [_as_released(output, truth, 120) for output, truth in zip(outputs[: args.released], truths, strict=False)]
    slow = [one for one in base if one is not None]
    if not slow:
        print("the released way gave no answer: is there a Java?")
        return 1
    seconds = sum(took for _, took in slow) / len(slow)
    print(f"as released: {seconds:.2f} s a sample, over {len(slow)} samples in processes of their own", flush=True)
    _ours(figures, outputs, truths, texts, base, seconds)
    for name, row in figures.rows.items():
        print(f"{name}: {row['value']:,} {row['unit']}")
    print(f"load at the end {os.getloadavg()[0]:.1f}")
    print(figures.line())
    return 0


def _ours(
    figures: Figures,
    outputs: list[str],
    truths: list[str],
    texts: list[str],
    base: list[tuple[float, float] | None],
    seconds: float,
) -> None:
    from diagcot.rewards import registry

    began = time.monotonic()
    as_released = registry.reward("report", "released")
    clinical = registry.reward("report", "clinical", [Reference(text) for text in texts])
    figures.add(
        "ready", time.monotonic() - began, "s, METEOR's tables and the corpus read, once for a worker", seconds, goal=3
    )
    golds = [Reference(truth) for truth in truths]
    same = as_released(outputs, golds)
    worst = max(
        float(abs(score["overall"] - one[0])) for score, one in zip(same, base, strict=False) if one is not None
    )
    figures.add("difference", worst, "largest difference of a released reward", goal=1e-9)
    for name, reward in (("released", as_released), ("clinical", clinical)):
        _rate(figures, name, reward, outputs, golds, texts, seconds)


def _rate(
    figures: Figures, name: str, reward: Any, outputs: list[str], golds: list[Reference], texts: list[str], base: float
) -> None:
    """Seconds a reward once warm: every round scores new outputs, as training does; processor seconds for the rate."""
    rng, rounds = random.Random(1), 12
    reward(outputs, golds)
    wall = cpu = 0.0
    for _ in range(rounds):
        fresh = [reasoned(rng.choice(texts), answer(gold.answer, texts, rng)) for gold in golds]
        began, used = time.perf_counter(), time.process_time()
        scores = reward(fresh, golds)
        wall, cpu = wall + time.perf_counter() - began, cpu + time.process_time() - used
        assert len(scores) == len(golds)
    count = rounds * len(golds)
    figures.add(f"{name}_speedup", base / (wall / count), "times the released way", goal=2000, least=True)
    figures.add(f"{name}_rate", count / cpu, "rewards a second and core", 1 / base, 300, least=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
