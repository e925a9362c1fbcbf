"""Serve tiny models of families with the real vLLM: `python tools/serve_family.py gemma3 internvl …`.

For each family: a model of random weights is served, and its answers to prompts with one image, two images and none are drawn.
Printed is the mean |log p(training) - log p(server)| of a token, in nats, before and after other weights are loaded in place as
GRPO does; for Gemma 3 also that of a policy whose tokens see no later one. The process fails if prompts differ between
training and server. Minutes for each family on two cores.
"""

import argparse
import io
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from PIL import Image  # noqa: E402

from diagcot.jobs.testing import context  # noqa: E402
from diagcot.serving import Server, ServerSettings, serve  # noqa: E402
from diagcot.tasks.samples import ImageRef, Sample  # noqa: E402

SIZES = ((112, 112), (90, 200), (260, 120))  # width and height of images
COUNTS = (1, 2, 0)  # images of the prompts
ANSWER_TOKENS = 8


class ShadedImages:
    """Images of one shade and several sizes, which follow their row."""

    def size(self, ref: ImageRef) -> tuple[int, int]:
        """Width and height in pixels."""
        return SIZES[ref.row % len(SIZES)]

    def pixels(self, ref: ImageRef) -> Any:
        """The PIL image as a server decodes it."""
        return Image.open(io.BytesIO(self.jpeg(ref)), formats=["JPEG"]).convert("RGB")

    def jpeg(self, ref: ImageRef) -> bytes:
        """The JPEG file."""
        data = io.BytesIO()
        Image.new("RGB", self.size(ref), (40 + 60 * ref.row % 200,) * 3).save(data, "JPEG")
        return data.getvalue()


def prompts() -> list[Sample]:
    """Prompts with images in the numbers of COUNTS."""
    made = []
    for number, count in enumerate(COUNTS):
        refs = tuple(ImageRef("drawn.h5", row) for row in range(count))
        turns = (("user", "<image>" * count + "Describe the findings."), ("assistant", "The lungs are clear."))
        made.append(Sample(f"prompt/{number}", "report", f"study/{number}", refs, turns))
    return made


def gaps(server: Server, directory: Path, root: Path) -> list[float]:
    """Mean |log p(training) - log p(server)| of the server's own answers, in nats a token.

    For a family whose visual tokens see each other both ways, also that of a policy whose tokens see no later one.
    """
    import torch

    from diagcot.training.config.settings import DeepSpeedSettings
    from diagcot.training.data.collator import Collator
    from diagcot.training.losses import logprobs
    from diagcot.training.models import model
    from diagcot.training.rl import rollout
    from diagcot.training.rl.micro_batches import MicroBatcher

    samples, sampling = prompts(), rollout.Sampling(1, ANSWER_TOKENS, 1.0)
    collator = Collator(model.load_processor(directory), root, 4096, source=ShadedImages())
    batcher = MicroBatcher(collator, DeepSpeedSettings(steps=1), context(root, stage="grpo"))
    asked = rollout.requests_of(samples, batcher.images, sampling, "serve-family", batcher.banned)
    replies = dict(server.complete(asked))
    rollouts = [rollout.group_of(index, sample, replies[str(index)], 1)[0] for index, sample in enumerate(samples)]
    batcher.check(samples, rollouts)
    batch = batcher.micro_batch(samples, rollouts, [0.0] * len(rollouts))
    network, found = model.load(directory).eval(), []
    masks = {name: torch.zeros_like(batch.inputs[name]) for name in ("token_type_ids",) if name in batch.inputs}
    for inputs in (batch.inputs, batch.inputs | masks) if masks else (batch.inputs,):
        with torch.no_grad():
            _, raw = logprobs.forward(network, inputs, batch.tokens)
        found.append(float(((raw - batch.rollout).abs() * batch.mask).sum() / batch.mask.sum()))
    return found


def main() -> None:
    """See the module."""
    from diagcot.training.config.settings import ModelSettings, TinySettings
    from diagcot.training.families import FAMILIES
    from diagcot.training.models import tiny

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="+", choices=sorted(FAMILIES))
    served = ServerSettings(max_model_len=2048, max_num_seqs=8, startup_timeout_s=1200)
    sizes = TinySettings(layers=2, vocabulary=420)
    for name in parser.parse_args().families:
        with tempfile.TemporaryDirectory(prefix="family-") as folder:
            root, settings = Path(folder), ModelSettings(family=name, tiny=sizes)
            texts = [text for sample in prompts() for _, text in sample.messages] * 9
            for seed in (0, 1):
                tiny.build(settings, texts, root / str(seed), seed)
            with serve(root / "0", served, context(root)) as server:
                before = gaps(server, root / "0", root)
                server.load(root / "1")
                after = gaps(server, root / "1", root)
        first, later = (", ".join(f"{value:.1e}" for value in values) for values in (before, after))
        print(f"{name}: vLLM {version('vllm')}, {first} nats a token; {later} after other weights", flush=True)


if __name__ == "__main__":
    main()
