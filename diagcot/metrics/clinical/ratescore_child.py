"""Runs in the environment of RaTEScore, which has nothing of ours: reads pairs [ours, theirs] as JSON lines, writes
{"score": …} for each, after a first line once the models are loaded. Nothing else is said: the package's sentence splitter
logs the words of reports.
"""

import json
import os
import sys


def main() -> None:
    """Answer pairs from standard input until it ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)

    def answer(message: dict[str, object]) -> None:
        out.write(json.dumps(message) + "\n")
        out.flush()

    try:
        from RaTEScore import RaTEScore
        from RaTEScore.utils import sentence_split

        ner, synonyms, device = sys.argv[1:]
        scorer = RaTEScore(bert_model=ner, eval_model=synonyms, use_gpu=device == "cuda")
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"[:300]})
        return
    answer({})
    for line in sys.stdin:
        ours, theirs = json.loads(line)
        try:
            # Where a text has no sentence the package stumbles; 0.5 is what it gives to texts without entities.
            some = all(sentence_split([text])[0] for text in (ours, theirs))
            answer({"score": float(scorer.compute_score([ours], [theirs])[0]) if some else 0.5})
        except Exception as error:
            answer({"error": type(error).__name__})


if __name__ == "__main__":
    main()
