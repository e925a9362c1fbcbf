"""Loads the training libraries without start-up messages and without optional parts that training does not use."""

import contextlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from typing import Any

_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "DS_IGNORE_CUDA_DETECTION": "1",
    "DS_SKIP_CUDA_CHECK": "1",
    # It compares numbers on the device, for which the host would wait in each pass; batches are made to agree.
    "TRANSFORMERS_DISABLE_TORCH_CHECK": "1",
    "DEEPSPEED_LOG_LEVEL": "ERROR",
}
_LIBRARIES = r"(torch|torchvision|transformers|deepspeed|peft|accelerate|huggingface_hub|ray|vllm)(\.|$)"


def configure() -> None:
    """Set the environment, log levels and warning filters. Call before the first import of torch or transformers.

    Warnings that the libraries raise in their own modules are ignored; those of this project stay visible.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ[name] = value
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category, module=_LIBRARIES)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    if "transformers.generation.candidate_generator" not in sys.modules:
        import transformers

        with _reported_missing(transformers.utils, "is_sklearn_available", "is_scipy_available"):
            import transformers.generation.candidate_generator
            import transformers.loss.loss_utils
        transformers.utils.logging.disable_progress_bar()


@contextlib.contextmanager
def _reported_missing(utils: Any, *checks: str) -> Iterator[None]:
    """Let these availability checks of transformers answer False inside the block.

    Assisted generation and detection losses import scikit-learn, pandas and SciPy when those are installed. That takes
    two seconds of CPU time in every process, and training uses neither.
    """
    originals = {name: getattr(utils, name) for name in checks}
    for name in checks:
        setattr(utils, name, lambda: False)
    try:
        yield
    finally:
        for name, check in originals.items():
            setattr(utils, name, check)
