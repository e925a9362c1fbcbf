"""Lets a CUDA build of torchvision load next to a CPU build of torch.

The package index carries torchvision only as a CUDA build. Beside a CPU torch its compiled operators do not load, and
`import torchvision` then fails on `torchvision::nms does not exist`, which takes transformers' processors, peft and
vLLM's Qwen-VL models with it. None of them calls those operators; declaring their schemas is enough. A `.pth` file
imports this module at interpreter start, so it must stay light: it only leaves a hook for torchvision's import.
"""

import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library = None


class _Hook:
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare()


def _declare() -> None:
    global _library  # noqa: PLW0603  the operators live as long as it does
    import torch

    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        _library.define(schema)


sys.meta_path.insert(0, _Hook())  # type: ignore[arg-type]  # the base class would take longer to import than all else here
