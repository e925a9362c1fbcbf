"""How questions are put, and how the thoughts of their worked answers are: defaults that a recipe may replace.

A wording is a text with places in braces; of several for one key each question takes one by its hash. `<image>` stands
for the film, and has to come first so that more films of the study can be put before it.
"""

from collections.abc import Mapping, Sequence

TASKS = (
    "binary", "single", "multi", "open", "view", "matching", "progression", "grounding", "grounding_pixels", "fg",
    "fg_i", "fs", "ig", "ig_i",
)  # fmt: skip
"""The questions that there are; the other keys are parts of them or thoughts."""

PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "binary": ("finding", "options", "steps"),
    "single": ("options", "steps"),
    "multi": ("findings", "options", "steps"),
    "open": ("steps",),
    "view": ("options", "steps"),
    "matching": ("report", "options", "steps"),
    "progression": ("finding", "options", "steps"),
    "grounding": ("finding",),
    "grounding_pixels": ("finding", "width", "height"),
    "fg": (),
    "fg_i": ("indication",),
    "fs": ("findings",),
    "ig": (),
    "ig_i": ("indication",),
    "closed_steps": (),
    "open_steps": (),
    "present": ("finding",),
    "present_seen": ("finding", "evidence"),
    "absent": ("finding",),
    "absent_seen": ("finding", "evidence"),
    "right_set": ("findings",),
    "wrong_set": ("findings", "missing", "surplus"),
    "right_choice": ("choice",),
    "wrong_choice": ("choice",),
    "observed": ("findings",),
    "summary": ("answer",),
}
"""Key -> the places that each of its wordings has, all of them."""

IMAGES = {"progression": 2}  # images that a question shows, where it is not one

DEFAULTS: dict[str, tuple[str, ...]] = {
    "binary": (
        "<image>Does this chest X-ray show {finding}?\n{options}\n{steps}",
        "<image>Look for {finding} in this film. Is it there?\n{options}\n{steps}",
    ),
    "single": (
        "<image>Which one of these does this chest X-ray show?\n{options}\n{steps}",
        "<image>One of the options describes this film. Which?\n{options}\n{steps}",
    ),
    "multi": (
        "<image>Of {findings}: which combination does this chest X-ray show, no more and no less?\n{options}\n{steps}",
    ),
    "open": (
        "<image>Which abnormal findings does this chest X-ray show? Answer No Finding if there is none.\n{steps}",
        "<image>Name everything abnormal in this film, or No Finding.\n{steps}",
    ),
    "view": ("<image>In which projection was this chest X-ray taken?\n{options}\n{steps}",),
    "matching": ("<image>Was this report written about this film?\nReport: {report}\n{options}\n{steps}",),
    "progression": (
        "<image><image>Two chest X-rays of one patient, the earlier first. What has become of {finding}?\n"
        "{options}\n{steps}",
    ),
    "grounding": ("<image>Detect the regions of {finding} in this chest X-ray. Give each as"
                  " <box>(x1,y1),(x2,y2)</box>, 0 to 1000.",),
    "grounding_pixels": (
        "<image>This film is {width} pixels wide and {height} high. Where is {finding}? Answer [x1, y1, x2, y2].",
    ),
    "fg": ("<image>Write the findings section of the report of this chest X-ray.",),
    "fg_i": ("<image>Indication: {indication}\nWrite the findings section of the report of this chest X-ray.",),
    "fs": ("<image>Findings: {findings}\nSum them up as the impression of the report.",),
    "ig": ("<image>Write the impression of the report of this chest X-ray.",),
    "ig_i": ("<image>Indication: {indication}\nWrite the impression of the report of this chest X-ray.",),
    "closed_steps": (
        "Go through the options one by one: reason in <think></think>, then give the option's letter with ✅ or ❌ in"
        " <answer></answer>. At the end sum up in <think></think> and give the letter of the right option with ✅ in"
        " <answer></answer>.",
    ),
    "open_steps": (
        "First list what is possible, as <think></think><answer>Differential Diagnoses: [...]</answer>. Then weigh each"
        " in <think></think> and give it with ✅ or ❌ in <answer></answer>. At the end sum up in <think></think> and"
        " list what you hold to be true in <answer></answer>.",
    ),
    "present": ("I look for {finding} and see signs of it.",),
    "present_seen": ("I look for {finding}: {evidence}. So it is there.",),
    "absent": ("I look for {finding} and see no sign of it.",),
    "absent_seen": ("I look for {finding}: {evidence}. So it is not there.",),
    "right_set": ("{findings}: all of these are there, and nothing else of the list is.",),
    "wrong_set": ("{findings}: this misses {missing} and has {surplus} too many.",),
    "right_choice": ("{choice}: this is what I see.",),
    "wrong_choice": ("{choice}: this does not fit what I see.",),
    "observed": ("I look at the whole film. {findings} are worth weighing.",),
    "summary": ("All in all, the answer is {answer}.",),
}  # fmt: skip


class Wording:
    """The wordings of one recipe. Raises ValueError that names a wording with an unknown key or other places."""

    def __init__(self, own: Mapping[str, Sequence[str]] | None = None) -> None:
        for key, texts in (own or {}).items():
            if key not in PLACEHOLDERS:
                raise ValueError(f"unknown wording {key!r}; known: {', '.join(PLACEHOLDERS)}")
            if not texts:
                raise ValueError(f"wording {key!r} has no text")
            for text in texts:
                self._check(key, text)
        self._texts = {**DEFAULTS, **(own or {})}

    @staticmethod
    def _check(key: str, text: str) -> None:
        try:
            lacking = [place for place in PLACEHOLDERS[key] if f"{{{place}}}" not in text]
            text.format(**dict.fromkeys(PLACEHOLDERS[key], ""))
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"wording {key!r} has a place that is not known ({error}): {text!r}") from error
        if lacking:
            raise ValueError(f"wording {key!r} lacks {', '.join(f'{{{place}}}' for place in lacking)}: {text!r}")
        films = text.count("<image>")
        if key in TASKS and (films != IMAGES.get(key, 1) or not text.startswith("<image>")):
            raise ValueError(f"wording {key!r} must start with {IMAGES.get(key, 1)} <image> and hold no more: {text!r}")

    def text(self, key: str, chance: int, **places: object) -> str:
        """The wording of `key` that `chance` picks, its places filled."""
        texts = self._texts[key]
        return texts[chance % len(texts)].format(**places)
