"""Kind: one model's greedy answers to one task on the test studies of one shard."""

import asyncio
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from diagcot.data.study import CHEXPERT_LABELS
from diagcot.evaluation.predictions import REMEDY
from diagcot.evaluation.server import TaskServer
from diagcot.evaluation.settings import CLOSED, EvaluateSettings
from diagcot.jobs import Context, Result, Unit, UserError
from diagcot.jobs.state import reading
from diagcot.serving import Client, EncodedImage, Reply, Request, Server
from diagcot.shards import Shard
from diagcot.shards.audit.seen import SeenImages, seen_in_run
from diagcot.tasks import diagnosis as tasks
from diagcot.tasks import prompts
from diagcot.tasks.identity import Ids
from diagcot.tasks.predictions import ASKED, Prediction
from diagcot.tasks.prompt_set import DEFAULT, PromptSet
from diagcot.tasks.questions.questions import question_samples
from diagcot.tasks.questions.wording import Wording
from diagcot.tasks.samples import Sample, order, read_samples


class Predictor:
    """The server of the array task, started with the first unit's model and switched to each later one."""

    def __init__(self, ctx: Context, stack: ExitStack) -> None:
        self.settings = EvaluateSettings.model_validate(ctx.settings)
        self._task_server = TaskServer(ctx, stack)
        self._ctx = ctx

    @cached_property
    def seen(self) -> SeenImages:
        """The images that the models were trained or chosen on, which are no test of them."""
        return seen_in_run(self._ctx)

    def server(self, model: Path) -> Server:
        """The server with the weights of the folder `model`."""
        return self._task_server.start(model, self.settings.server)


@contextmanager
def prepare(ctx: Context) -> Iterator[Predictor]:
    """What the units of an array task share."""
    with ExitStack() as stack:
        yield Predictor(ctx, stack)


def run(unit: Unit, shared: Predictor, ctx: Context) -> Result | None:
    """Answers of `unit.params`: model (its stage), task, source (the shards' stage), shard and max_tokens.

    A request that failed is a prediction with no text: it counts as a miss. Raises UserError if all of them failed. A test
    sample with an image that a training stage has seen is not asked, and counted (`seen_in_training`).
    """
    settings, task, texts = shared.settings, unit.params["task"], shared.settings.prompts
    shard = Shard(ctx.root("shards", unit.params["source"]) / f"{unit.params['shard']}.h5")
    asked, refused = _asked(unit, shared, shard, ctx)
    records = ctx.records(unit)
    failed: dict[str, str] = {}
    todo = [sample for sample, _ in asked.values() if sample.id not in records.ids]
    if todo and not ctx.stopping():
        model = ctx.root("models", unit.params["model"]) / "model"
        server = shared.server(model)
        words = first_tokens(model) if task == "classification" and settings.probabilities else ()

        async def answer(client: Client, sample: Sample) -> tuple[Sample, list[Reply]]:
            requests = requests_of(sample, _images(shard, sample), unit.params["max_tokens"], words, texts)
            return sample, await asyncio.gather(*map(client.chat, requests))

        for sample, replies in server.each(todo, answer, stopping=ctx.stopping):
            if error := next((reply.error for reply in replies if reply.error), None):
                failed[sample.id] = error
                continue
            finish = replies[0].finish_reasons[0] if replies[0].finish_reasons else "stop"
            said = Prediction.of(
                sample,
                unit.params["model"],
                replies[0].text,
                finish,
                asked[sample.id][1],
                probabilities(replies[1:], words),
            )
            records.append(said.row())
            ctx.progress(len(records), len(asked), model=unit.params["model"], task=task)
    if len(records) + len(failed) < len(asked):
        records.close()
        return None
    if failed and len(failed) == len(asked):
        records.close()
        raise UserError(f"the server answered none of {len(asked)} requests: {next(iter(failed.values()))}")
    nothing = [
        Prediction.of(asked[name][0], unit.params["model"], "", "error", asked[name][1]).row() for name in failed
    ]
    rows = [*records.rows(), *nothing]
    records.close()
    final = ctx.output / f"{unit.key}.jsonl"
    staged = ctx.staged(final)
    with reading.written(staged) as out:
        for row in sorted(rows, key=lambda row: row["id"]):
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    unfinished = sum(row["finish"] == "length" for row in rows)
    counts: dict[str, Any] = {"samples": len(rows), "failed": len(failed), "cut_at_max_tokens": unfinished}
    counts["needed"] = {f"samples of task {task}": len(rows)}
    return Result({final: staged}, counts | ({"seen_in_training": refused.total()} if refused else {}))


def _asked(
    unit: Unit, shared: Predictor, shard: Shard, ctx: Context
) -> tuple[dict[str, tuple[Sample, str]], Counter[str]]:
    """The samples of a unit with their splits, by id; and of those that training has seen, the number by reason."""
    asked: dict[str, tuple[Sample, str]] = {}
    refused: Counter[str] = Counter()
    ids, task = Ids("the sample", REMEDY), unit.params["task"]
    for split in splits(task, shared.settings):
        for sample in samples_of(shard, ctx.shards_root, task, shared.settings, split, ctx.seed):
            ids.add(sample.id, shard.path)
            if split == "test" and (
                why := next(filter(None, (shared.seen.why(shard, i.row) for i in sample.images)), "")
            ):
                refused[why] += 1
            else:
                asked[sample.id] = sample, split
    if refused:
        ctx.event("seen_in_training", unit=unit.key, samples=dict(refused), of=len(asked) + refused.total())
    return asked, refused


def splits(task: str, settings: EvaluateSettings) -> tuple[str, ...]:
    """The test split, and of classification the validate split too, where its thresholds are chosen."""
    return ("test", "validate") if task == "classification" and settings.probabilities else ("test",)


def samples_of(
    shard: Shard, shards_root: Path, task: str, settings: EvaluateSettings, split: str, seed: int
) -> list[Sample]:
    """Samples of a split of a shard in the order of their ids; of too many, the same ones for every model."""
    name = str(shard.path.relative_to(shards_root))
    if (imported := shard.path.with_suffix(".jsonl")).is_file():
        found: Iterable[Sample] = _imported(imported, task, split)
    elif task in ASKED:
        found = question_samples(shard, name, split, {task: 1.0}, Wording(settings.wording), seed, settings.views)
    elif task == "classification":
        found = tasks.classification_samples(shard, name, split, settings.views, settings.prompts, negatives=True)
    else:
        found = tasks.SAMPLES[task](shard, name, split, settings.views, settings.prompts)
    if settings.format_instruction:
        found = map(settings.prompts.instructed, found)
    samples = sorted(found, key=lambda sample: order(sample.id))
    return sorted(samples[: settings.samples_per_shard], key=lambda sample: sample.id)


def _imported(path: Path, task: str, split: str) -> Iterator[Sample]:
    """Samples of a task that a stage of kind `import` wrote beside its shard, those of the test split in a folder of theirs."""
    if task in CLOSED or task == "classification":
        what = "labels of their study" if task == "classification" else "options"
        raise UserError(f"{path}: conversations that were imported have no {what}; do not ask them {task}")
    file = path.parent / "test" / path.name if split == "test" else path
    for sample in read_samples(file) if file.is_file() else ():
        if sample.task == task and sample.meta.get("split") == split:
            yield sample


def first_tokens(model_dir: Path) -> tuple[int, int]:
    """Ids of the tokens with which the model's "Yes" and "No" begin. Raises UserError if they are the same."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    yes, no = (int(tokenizer.encode(word, add_special_tokens=False).ids[0]) for word in ("Yes", "No"))
    if yes == no:
        raise UserError(f"{model_dir}: its tokenizer begins Yes and No with the same token; set `probabilities: false`")
    return yes, no


def requests_of(
    sample: Sample, images: tuple[bytes, ...], max_tokens: int, words: tuple[int, ...] = (), texts: PromptSet = DEFAULT
) -> list[Request]:
    """What is asked about a sample: its question; and for classification, of each label, how likely Yes and No are.

    words: the first tokens of Yes and No. Their log-probabilities are those of the model's own distribution, before any
    constraint; all requests of a sample share images and wording in the prefix cache.
    """
    asked = Request(sample.id, sample.messages[:-1], images, max_tokens=max_tokens)
    return [asked] + [
        Request(
            sample.id,
            (("user", prompts.with_image_tags(texts.render("presence", label=label.lower()), len(images))),),
            images,
            max_tokens=1,
            scored_tokens=words,
        )
        for label in (CHEXPERT_LABELS if words else ())
    ]


def probabilities(replies: Sequence[Reply], words: tuple[int, ...]) -> dict[str, float]:
    """Label -> P(Yes) of Yes and No, from the replies in the order of `requests_of`."""
    if not words:
        return {}
    yes, no = words
    odds = (reply.first_token_logprob(yes) - reply.first_token_logprob(no) for reply in replies)
    return {
        label: 1 / (1 + math.exp(-max(-700.0, min(700.0, value))))
        for label, value in zip(CHEXPERT_LABELS, odds, strict=True)
    }


def _images(shard: Shard, sample: Sample) -> tuple[bytes, ...]:
    return tuple(EncodedImage(shard.jpeg(image.row)) for image in sample.images)
