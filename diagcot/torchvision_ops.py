"""Lets a CUDA build of torchvision load next to a CPU build of torch.

The package index has torchvision as a CUDA build only. Next to a CPU build of torch its compiled operators do not load, and
`import torchvision` then fails because `torchvision::nms` does not exist. transformers' processors, peft and vLLM's
Qwen-VL models import torchvision but do not call these operators, so it is enough to declare their schemas. A `.pth` file
imports this module when the interpreter starts, so it must import nothing heavy: it only adds a hook for torchvision's import.
"""

import sys

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[object] = []  # an operator exists as long as its library


class _Hook:
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            _declare()


def _declare() -> None:
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        library.define(schema)
    _libraries.append(library)


sys.meta_path.insert(0, _Hook())  # importing the base class would take longer than all else here
