"""The three diagnostic tasks of DiagCoT, as samples of a shard: report, classification and grounding.

Source: DiagCoT, arXiv:2509.06409, and the data files of github.com/TMLSIAT/DiagCoT-main. A prompt set has the wording of
the prompts, `diagcot.tasks.prompts` the layout of the answers.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from diagcot.data import seeded
from diagcot.data.reports import transforms
from diagcot.data.study import CHEXPERT_LABELS, Image, pairs
from diagcot.tasks import prompts
from diagcot.tasks.languages import other_languages
from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.samples import Sample
from diagcot.tasks.views import ViewPolicy, study_views

if TYPE_CHECKING:
    from diagcot.shards.reader import Shard

GROUNDED = ("Cardiomegaly", "Lung Opacity", "Pleural Effusion", "Pneumothorax", "Support Devices")
"""The labels that grounding asks for by default."""


def report_samples(
    shard: "Shard", ref_name: str, split: str, views: ViewPolicy = "image", texts: PromptSet = DEFAULT
) -> Iterator[Sample]:
    """Images with the whole report of their study. `ref_name`: the shard's path under the shards root.

    The prompt set decides what else of the study the model is given, if it is known: indication, comparison, age, sex, and
    the images of the patient's earlier study, before the others. Studies whose reports are not in English give no sample.
    """
    without_headings, foreign = _without_headings(shard), other_languages(shard)
    priors = _priors(shard, split, views) if texts.about.earlier_study else {}
    for view in study_views(shard, split, views):
        study = view.study
        if study.dataset in foreign:
            continue
        if study.dataset in without_headings:
            answer = study.findings
        else:
            answer = prompts.report_answer(study.findings, study.impression)
        if answer:
            earlier = priors.get(study.key, ())
            known = {name: " ".join(getattr(study, name).split()) for name in GIVEN}
            prompt = texts.render("report", images=len(view.images), earlier=len(earlier), **known)
            shown = replace(view, images=(*earlier, *view.images))
            yield shown.sample("report", ref_name, prompt, answer, labels=study.labels)


GIVEN = ("indication", "comparison", "age", "sex")
"""What a prompt of the report task may tell of a study."""


def _priors(shard: "Shard", split: str, views: ViewPolicy) -> dict[str, tuple[tuple[Image, int], ...]]:
    """Key of a study -> the images of the study before it, with their rows; of these one frontal image, if a sample shows one."""
    whole = {view.study.key: view for view in study_views(shard, split, "study")}
    found = {}
    for prior, current in pairs(view.study for view in whole.values()):
        images = whole[prior.key].images
        first = next((shown for shown in images if shown[0].frontal), images[0])
        found[current.key] = images if views == "study" else (first,)
    return found


def classification_samples(
    shard: "Shard",
    ref_name: str,
    split: str,
    views: ViewPolicy = "image",
    texts: PromptSet = DEFAULT,
    *,
    negatives: bool = False,
) -> Iterator[Sample]:
    """The labels that are present, in CheXpert's order.

    A study without a present label teaches nothing and gives no sample, unless `negatives` asks for those of which labels are
    known to be absent: they are the hard negatives of an evaluation, such as images with a finding that is no CheXpert label.
    """
    prompt = texts.render("classification", labels=CHEXPERT_LABELS)
    for view in study_views(shard, split, views):
        labels = view.study.labels
        present = [name for name, value in labels.items() if value == 1]
        if present or (negatives and 0 in labels.values()):
            answer = prompts.classification_answer(present, texts.about.answers)
            yield view.sample("classification", ref_name, prompt, answer, "classification", labels=labels)


def grounding_samples(
    shard: "Shard",
    ref_name: str,
    split: str,
    labels: Sequence[str] = GROUNDED,
    negatives: float = 1.0,
    texts: PromptSet = DEFAULT,
) -> Iterator[Sample]:
    """One sample for each frontal image and each of `labels`, where the boxes of the image are known.

    negatives: how many images that do not show a label are asked for it, for each image of the shard that does (0 or
    more). Those with the lowest ranks are taken. An image without any box may be a negative if it is a phantom, or if
    the label is known to be absent.
    """
    images = [(view, image, row) for view in study_views(shard, split) for image, row in view.images if image.frontal]
    chosen: set[tuple[str, int]] = set()
    for label in labels:
        positives = {row for _, image, row in images if any(box.label == label for box in image.boxes)}
        candidates = sorted(
            (seeded.rank(image.id, label, separator=":"), row)
            for view, image, row in images
            if row not in positives and (image.phantom or image.boxes or view.study.labels.get(label) == 0)
        )
        chosen |= {(label, row) for row in positives}
        chosen |= {(label, row) for _, row in candidates[: round(len(positives) * negatives)]}
    asked = {label: texts.render("grounding", label=label.lower()) for label in labels}
    for view, image, row in images:
        for label in labels:
            if (label, row) in chosen:
                name = label.lower()
                boxes = [box for box in image.boxes if box.label == label]
                meta = {"label": label, "boxes": [[b.x1, b.y1, b.x2, b.y2] for b in boxes]}
                answer = prompts.grounding_answer(name, boxes, texts.about.answers)
                yield view.sample("grounding", ref_name, asked[label], answer, label, **meta)


SAMPLES: dict[str, Callable[["Shard", str, str, ViewPolicy, PromptSet], Iterator[Sample]]] = {
    "report": report_samples,
    "classification": classification_samples,
    "grounding": lambda shard, ref_name, split, views, texts: grounding_samples(shard, ref_name, split, texts=texts),
}
"""Task -> its samples. Boxes belong to one image, so grounding ignores the policy of views."""


def _without_headings(shard: "Shard") -> frozenset[str]:
    """Data sets of the shard whose transforms leave the findings alone, without headings."""
    return frozenset(s["dataset"] for s in shard.sources if transforms.findings_alone(s.get("transforms") or []))
