"""Traces as the search writes them, for the tests of what follows it."""

from typing import Any

CLOSED = "<image>Does this chest X-ray show edema?\nA) No\nB) Yes\nGo through the options: reason in <think></think>."
OPEN = "<image>Name everything abnormal in this film, or No Finding.\nFirst list what is possible, as <think></think>."
EDEMA = "findings : there are fine lines at both bases and the vessels are wide . impression : pulmonary edema ."
REPORT = "findings : the heart is enlarged . impression : cardiomegaly ."


def trace(**values: Any) -> Any:
    """A trace of a report that was verified at once."""
    return {
        "id": "d/s1/i1",
        "task": "report",
        "form": "think",
        "study": "d/s1",
        "images": [{"shard": "test/shard/00000.h5", "row": 0}],
        "question": "<image>Analyse this chest X-ray and write a diagnostic report.",
        "reference": REPORT,
        "guide": REPORT,
        "meta": {"view": "PA"},
        "steps": [["heart", "the heart is wide"]],
        "conclusion": "cardiomegaly",
        "check": "it fits",
        "verified": True,
        "forced": False,
        "reasoning": "i look at the heart and it is wide: more than half of the chest.\nso this means cardiomegaly.",
        "answer": REPORT,
        "pairs": [],
        "verdicts": [{"step": "init", "verdict": True, "reason": "all agree."}],
        "failed": [],
        "error": None,
        "calls": 4,
        "prompt_tokens": 40,
        "completion_tokens": 20,
    } | values


def closed(**values: Any) -> Any:
    """A closed question in pairs; B is right."""
    pairs = [
        ["the lungs are full of fine lines, so no is not it", "A) ❌"],
        ["the fine lines and the wide vessels are what edema looks like", "B) ✅"],
        ["all in all it is yes", "B) ✅"],
    ]
    words = {
        "task": "binary",
        "form": "interleaved",
        "question": CLOSED,
        "reference": "B) ✅",
        "answer": "B) ✅",
        "guide": EDEMA,
    }
    return trace(**words | {"pairs": pairs, "reasoning": ""} | values)


def opened(**values: Any) -> Any:
    """An open question in pairs; edema is right."""
    pairs = [
        ["there are fine lines at both bases", "Differential Diagnoses: [Edema, Pneumothorax]"],
        ["the vessels are wide and there are fine lines", "Edema ✅"],
        ["no line of the pleura is seen", "Pneumothorax ❌"],
        ["what remains is one thing", "Edema"],
    ]
    words = {
        "task": "open",
        "form": "interleaved",
        "question": OPEN,
        "reference": "Edema",
        "answer": "Edema",
        "guide": EDEMA,
    }
    return trace(**words | {"pairs": pairs, "reasoning": ""} | values)
