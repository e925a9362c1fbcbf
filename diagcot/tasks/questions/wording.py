"""The wording of questions and of the thoughts in their worked answers: defaults that a recipe may replace.

A wording is a text with placeholders in braces. If a key has several wordings, the rank of a question decides which one
it gets. `<image>` stands for the image, and comes first so that further images of the study can be put before it.
"""

from collections.abc import Mapping, Sequence

TASKS = (
    "binary", "single", "multi", "open", "view", "matching", "progression", "combined", "grounding", "grounding_pixels",
    "fg", "fg_i", "fs", "ig", "ig_i",
)  # fmt: skip
"""The tasks; the other keys of the wordings are parts of their questions, or thoughts."""

GIVEN = ("binary", "single", "multi", "open")
"""Tasks that the questions of a collection itself may be of."""

Share = float | tuple[float, float]
"""A share of the patients, 0 to 1, or where it begins and ends among them: (0.1, 0.3) is the fifth after the first tenth."""

PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "binary": ("finding", "options", "steps"),
    "single": ("options", "steps"),
    "multi": ("findings", "options", "steps"),
    "open": ("steps",),
    "view": ("options", "steps"),
    "matching": ("report", "options", "steps"),
    "progression": ("finding", "options", "steps"),
    "combined": ("question", "options", "steps"),
    "given": ("question", "options", "steps"),
    "given_sets": ("question", "choices", "options", "steps"),
    "given_open": ("question", "steps"),
    "larger_effusion": (),
    "heart_and_fluid": (),
    "heart_failure": (),
    "abnormal_zones": (),
    "device_side": (),
    "grounding": ("finding",),
    "grounding_pixels": ("finding", "width", "height"),
    "fg": (),
    "fg_i": ("indication",),
    "fs": ("findings",),
    "ig": (),
    "ig_i": ("indication",),
    "closed_steps": (),
    "open_steps": (),
    "given_steps": (),
    "look": ("seen",),
    "signs": ("finding",),
    "no_signs": ("finding",),
    "present": ("finding",),
    "present_seen": ("finding", "evidence"),
    "absent": ("finding",),
    "absent_seen": ("finding", "evidence"),
    "nothing_right": (),
    "nothing_wrong": ("findings",),
    "present_set": ("findings",),
    "right_set": (),
    "missing": ("findings",),
    "surplus": ("findings",),
    "seen_from": ("side",),
    "compared": ("image", "report"),
    "course": ("earlier", "later"),
    "right_choice": ("choice",),
    "wrong_choice": ("choice",),
    "summary": ("answer",),
}
"""Key -> the placeholders that each of its wordings must have."""

ASKED = (*TASKS, "given", "given_sets", "given_open")
"""The wordings that models are asked; `given` and so on ask the questions of a collection itself."""

IMAGES = {"progression": 2}  # number of images that a question shows, if it is not one

DEFAULTS: dict[str, tuple[str, ...]] = {
    "binary": (
        "<image>Does this chest X-ray show {finding}?\n{options}\n{steps}",
        "<image>Look for {finding} in this chest X-ray. Is it present?\n{options}\n{steps}",
    ),
    "single": (
        "<image>Which one of these options does this chest X-ray show?\n{options}\n{steps}",
        "<image>One of the options describes this chest X-ray. Which one is it?\n{options}\n{steps}",
    ),
    "multi": (
        "<image>Exactly which of these findings does this chest X-ray show: {findings}?\n{options}\n{steps}",
    ),
    "open": (
        "<image>Which abnormal findings does this chest X-ray show? Answer No Finding if there are none.\n{steps}",
        "<image>Name all abnormal findings in this chest X-ray. Answer No Finding if there are none.\n{steps}",
    ),
    "view": ("<image>In which projection was this chest X-ray taken?\n{options}\n{steps}",),
    "matching": ("<image>Does this report describe this chest X-ray?\nReport: {report}\n{options}\n{steps}",),
    "progression": (
        "<image><image>Two chest X-rays of the same patient, the earlier one first. How has {finding} changed?\n"
        "{options}\n{steps}",
    ),
    "combined": ("<image>{question}\n{options}\n{steps}",),
    "given": ("<image>{question}\n{options}\n{steps}",),
    "given_sets": ("<image>{question}\nOf these: {choices}.\n{options}\n{steps}",),
    "given_open": ("<image>{question}\n{steps}",),
    "larger_effusion": ("Which side has the larger pleural effusion?",),
    "heart_and_fluid": ("Is the heart enlarged, and is there pleural fluid on both sides?",),
    "heart_failure": ("Does the image fit heart failure: an enlarged heart together with edema or pleural effusion?",),
    "abnormal_zones": ("How many of the six lung zones show an opacity, a nodule or atelectasis?",),
    "device_side": ("Is the device on the side of the pneumothorax?",),
    "grounding": ("<image>Detect the regions of {finding} in this chest X-ray. Give each as"
                  " <box>(x1,y1),(x2,y2)</box>, 0 to 1000.",),
    "grounding_pixels": (
        "<image>This image is {width} pixels wide and {height} pixels high. Where is {finding}? Answer [x1, y1, x2, y2].",
    ),
    "fg": ("<image>Write the findings section of the report of this chest X-ray.",),
    "fg_i": ("<image>Indication: {indication}\nWrite the findings section of the report of this chest X-ray.",),
    "fs": ("<image>Findings: {findings}\nSummarise them as the impression of the report.",),
    "ig": ("<image>Write the impression of the report of this chest X-ray.",),
    "ig_i": ("<image>Indication: {indication}\nWrite the impression of the report of this chest X-ray.",),
    "closed_steps": (
        "First look at the image. Then judge the options one by one, those that say no last: reason in <think></think> and"
        " give the letter with ✅ or ❌ in <answer></answer>. At the end, summarise in <think></think> and give the letter"
        " of the correct option with ✅ in <answer></answer>.",
    ),
    "open_steps": (
        "First look at the image and list the possible findings, as <think></think><answer>Differential Diagnoses: [...]"
        "</answer>. Then judge each in <think></think> and give it with ✅ or ❌ in <answer></answer>. At the end, summarise"
        " in <think></think>"
        " and list the findings that are present in <answer></answer>.",
    ),
    "given_steps": (
        "Reason in <think></think>, then answer in <answer></answer>. Separate several answers by commas.",
    ),
    "look": ("I look at the image. {seen}",),
    "signs": ("I see {finding}.",),
    "no_signs": ("I see no {finding}.",),
    "present": ("I see {finding}, so it is present.",),
    "present_seen": ("{evidence}, so {finding} is present.",),
    "absent": ("I see no {finding}, so it is absent.",),
    "absent_seen": ("{evidence}, so {finding} is absent.",),
    "nothing_right": ("None of these findings is present, so No Finding is right.",),
    "nothing_wrong": ("I found {findings}, so No Finding is wrong.",),
    "present_set": ("So the image shows {findings}.",),
    "right_set": ("The set names exactly what I see.",),
    "missing": ("It lacks {findings}.",),
    "surplus": ("I do not see {findings}.",),
    "seen_from": ("The chest is seen from the {side}.",),
    "compared": ("The image shows {image}. The report states {report}.",),
    "course": ("Earlier image: {earlier}. Later image: {later}.",),
    "right_choice": ("{choice} fits what I see.",),
    "wrong_choice": ("{choice} does not fit what I see.",),
    "summary": ("In summary, the answer is {answer}.",),
}  # fmt: skip


class Wording:
    """The wordings of one recipe: the defaults, and those that the recipe replaces.

    Raises ValueError that names a wording with an unknown key, or with missing or unknown placeholders.
    """

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
            missing = [name for name in PLACEHOLDERS[key] if f"{{{name}}}" not in text]
            text.format(**dict.fromkeys(PLACEHOLDERS[key], ""))
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"wording {key!r} has an unknown placeholder ({error}): {text!r}") from error
        if missing:
            raise ValueError(f"wording {key!r} lacks {', '.join(f'{{{name}}}' for name in missing)}: {text!r}")
        images = text.count("<image>")
        if key in ASKED and (images != IMAGES.get(key, 1) or not text.startswith("<image>")):
            raise ValueError(
                f"wording {key!r} must start with {IMAGES.get(key, 1)} <image> and contain no more: {text!r}"
            )

    def text(self, key: str, pick: int, **values: object) -> str:
        """The wording of `key` that `pick` selects, with the values of its placeholders."""
        texts = self._texts[key]
        return texts[pick % len(texts)].format(**values)
