"""The model card beside the weights that a stage publishes: what they are, what made them, and how to load them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from diagcot import __version__
from diagcot.jobs import Context
from diagcot.jobs.state.files import read_json, write_text
from diagcot.training.models.pretrained import ADAPTER_CONFIG

CARD = "README.md"
_WHOLE = """\
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained(FOLDER)
processor = AutoProcessor.from_pretrained(FOLDER)"""
_ADAPTER = """\
from peft import PeftModel
from transformers import AutoModelForImageTextToText, AutoProcessor

model = PeftModel.from_pretrained(AutoModelForImageTextToText.from_pretrained(BASE), FOLDER)
processor = AutoProcessor.from_pretrained(FOLDER)"""


def write(ctx: Context, directory: Path, counts: Mapping[str, Any]) -> None:
    """Write the card of the model in `directory`, which its stage has made; it names no folder and no study."""
    adapter = (directory / ADAPTER_CONFIG).is_file()
    config = read_json(directory / "config.json") or {}
    about = {
        "architecture": ", ".join(config.get("architectures") or ()) or ("LoRA adapter" if adapter else "–"),
        "made by": f"stage `{ctx.stage}` of run `{ctx.run}`, DiagCoT-on-Slurm {__version__}",
        **{f"from (`{role}`)": ", ".join(map(_name, roots)) for role, roots in sorted(ctx.inputs.items())},
        "trained": ", ".join(ctx.settings.get("trainable") or ()) or None,
        "prompts": _prompts(ctx.settings),
        "seed": ctx.seed,
        **{name.replace("_", " "): _figure(value) for name, value in counts.items() if isinstance(value, int | float)},
    }
    rows = [f"| {name} | {value} |" for name, value in about.items() if value not in (None, "")]
    lines = [
        "---",
        f"library_name: {'peft' if adapter else 'transformers'}",
        "pipeline_tag: image-text-to-text",
        "tags: [chest-x-ray]",
        "---",
        f"# {ctx.stage} of {ctx.run}",
        "",
        "| | |",
        "|---|---|",
        *rows,
        "",
        "All settings are in the run's plan, the scores in its report and card (`logs/<run>/`).",
        "",
        "```python",
        *(_ADAPTER if adapter else _WHOLE).splitlines(),
        "```",
        "",
        "vLLM serves the folder with `vllm serve FOLDER`."
        if not adapter
        else "Stage `merge` adds it to its base, for servers.",
        "The chat template, the pixel budget and the generation configuration in the folder are those of training.",
        "",
        "For research on reading chest X-rays. **Not a medical device.** The licences of the base model and of the collections"
        " hold for these weights, too.",
    ]
    write_text(directory / CARD, "\n".join(lines) + "\n")


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _name(root: str) -> str:
    """The run and the stage of a product."""
    return f"`{'/'.join(Path(root).parts[-2:])}`"


def _prompts(settings: Mapping[str, Any]) -> str | None:
    name = settings.get("prompt_set")
    return f"prompt set `{Path(name).name}`, digest {settings.get('prompt_digest') or 'not recorded'}" if name else None
