"""Loads the training libraries without their start-up chatter and without what training never uses."""

import logging
import os
import sys
import warnings
from typing import Any


def libraries() -> None:
    """Call before the first import of torch, transformers or deepspeed in a process."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("DS_IGNORE_CUDA_DETECTION", "1")
    os.environ.setdefault("DS_SKIP_CUDA_CHECK", "1")
    os.environ.setdefault("DEEPSPEED_LOG_LEVEL", "ERROR")
    for category in (FutureWarning, DeprecationWarning, UserWarning):
        warnings.filterwarnings("ignore", category=category)
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)
    if "transformers.generation" not in sys.modules:
        import transformers

        utils: Any = transformers.utils

        # Assisted generation and detection losses import scikit-learn, pandas and SciPy: three seconds for nothing.
        utils.is_sklearn_available = lambda: False
        utils.is_scipy_available = lambda: False
        utils.logging.disable_progress_bar()
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
