"""A vision tower that does not train sees each image once; what it makes of the image is kept and used again."""

from collections import OrderedDict
from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from diagcot.jobs import Context
from diagcot.training.distributed import library_setup, process_group
from diagcot.training.families import FAMILIES
from diagcot.training.models import attention
from diagcot.training.models.attention import visual_of

library_setup.configure()

import torch  # noqa: E402
from transformers.modeling_outputs import BaseModelOutputWithPooling  # noqa: E402
from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures  # noqa: E402

Key = tuple[int, ...]


def of(network: Any, settings: Any, ctx: Context) -> "FrozenTower | None":
    """The frozen tower of a stage's network, None where the tower trains, or nothing of it is to be kept or can be.

    settings: with `trainable` and `vision_cache_mb`. A collective where ZeRO-3 divides the network.
    """
    family = FAMILIES[getattr(network, "vlm", network).config.model_type]
    if "vision" in settings.trainable or not settings.vision_cache_mb or not family.keeps_features:
        return None
    return FrozenTower(network, settings.vision_cache_mb, process_group.device(ctx))


class FrozenTower:
    """The tower of a network, and the features that it makes of images, in a bounded part of host memory.

    The network is cut: its `pixel_values` are from now on the rows that `with_features` puts in their place. Where the
    mergers train, the rows are their inputs, one for each patch, and the network's pass goes on with the mergers. Where
    they are frozen too, the rows are visual tokens, and the pass begins with the language model. Further networks with the
    same frozen tower, such as a reference, are cut alike by `cut`. Where ZeRO-3 divides the network, each rank holds the tower
    whole beside it: one may miss an image where the others miss none.
    """

    def __init__(self, network: Any, memory_mb: int, device: torch.device) -> None:
        """memory_mb: MiB of host memory."""
        visual = visual_of(network)
        self._mergers_train = any(p.requires_grad for merger in _mergers(visual) for p in merger.parameters())
        self._visual, self._device = _whole(visual, device), device
        self._tower = self._visual.forward
        self._room = memory_mb * 2**20
        self._kept: OrderedDict[Key, torch.Tensor] = OrderedDict()
        self._patches = 0.0
        self.cut(network)

    @property
    def components(self) -> tuple[str, ...]:
        """The components that a pass of a cut network does not run through."""
        return ("vision",) if self._mergers_train else ("vision", "merger")

    def cut(self, network: Any) -> None:
        """Let `network` take features in place of pixels."""
        visual = visual_of(network)
        mergers = _mergers(visual)

        def forward(features: torch.Tensor, grid_thw: torch.Tensor, **_: Any) -> Any:
            parts = features.chunk(len(mergers), -1)
            if self._mergers_train:
                parts = tuple(merger(part.contiguous()) for merger, part in zip(mergers, parts, strict=True))
            if len(parts) > 1:
                return BaseModelOutputWithDeepstackFeatures(pooler_output=parts[0], deepstack_features=list(parts[1:]))
            return BaseModelOutputWithPooling(pooler_output=parts[0])

        visual.forward, visual.takes_features = forward, True

    def with_features(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """The batch with features in place of its pixels.

        batch: with `image_keys` (images, n), which are equal for equal pixels, and `image_grid_thw` (images, 3).
        """
        if "pixel_values" not in batch:
            return dict(batch)
        grids: torch.Tensor = batch["image_grid_thw"]
        keys = [tuple(key) for key in batch["image_keys"].tolist()]
        found = {key: self._kept[key] for key in keys if key in self._kept}
        first = {key: index for index, key in reversed(list(enumerate(keys))) if key not in found}
        if missing := sorted(first.values()):
            pixels = batch["pixel_values"].split(grids.prod(1).tolist())
            made = self._computed(torch.cat([pixels[index] for index in missing]), grids[missing])
            found |= {keys[index]: rows for index, rows in zip(missing, made, strict=True)}
        for key in dict.fromkeys(keys):
            self._keep(key, found[key])
        return {**batch, "pixel_values": torch.cat([found[key] for key in keys])}

    def take_patches(self) -> float:
        """Patches that the tower has computed since the last call."""
        patches, self._patches = self._patches, 0.0
        return patches

    @torch.no_grad()
    def _computed(self, pixels: torch.Tensor, grids: torch.Tensor) -> list[torch.Tensor]:
        """Features of each image in host memory, (patches or visual tokens, width)."""
        self._patches += float(len(pixels))
        inputs: dict[Any, torch.Tensor] = {}
        mergers = _mergers(self._visual)
        hooks = [
            merger.register_forward_pre_hook(lambda module, given: inputs.update({module: given[0]}))
            for merger in mergers
        ]
        given = attention.of_tower(self._visual, grids, self._device)
        windows = given.get("window_index")
        try:
            pixels = pixels.to(self._device, self._visual.dtype)
            output = self._tower(pixels, grid_thw=grids, **given)
        finally:
            for hook in hooks:
                hook.remove()
        sizes = grids.prod(1)
        if self._mergers_train:
            rows = torch.cat([inputs[merger] for merger in mergers], -1)
            rows = rows if windows is None else _in_order(rows, windows)
        else:
            deep = getattr(output, "deepstack_features", None) or ()
            rows = torch.cat([output.pooler_output, *deep], -1)
            sizes = sizes // int(self._visual.spatial_merge_size) ** 2
        return [part.clone() for part in rows.cpu().split(sizes.tolist())]

    def _keep(self, key: Key, rows: torch.Tensor) -> None:
        if key not in self._kept:
            self._room -= rows.nbytes
            self._kept[key] = rows
        self._kept.move_to_end(key)
        while self._room < 0 and len(self._kept) > 1:
            _, dropped = self._kept.popitem(last=False)
            self._room += dropped.nbytes


def _mergers(visual: Any) -> list[Any]:
    return [visual.merger, *getattr(visual, "deepstack_merger_list", ())]


def _whole(visual: Any, device: torch.device) -> Any:
    """The tower itself, or where ZeRO-3 divides it a whole copy on this rank's device. Then a collective."""
    parameters = list(visual.parameters())
    if not hasattr(parameters[0], "ds_id"):
        return visual
    import deepspeed

    own, config = visual.config._attn_implementation, deepcopy(visual.config)
    with torch.device(device):
        copy = type(visual)._from_config(config, dtype=visual.dtype, attn_implementation=attention.BY_SEQUENCE)
    copy.config._attn_implementation = own
    copy.requires_grad_(False)
    with deepspeed.zero.GatheredParameters(parameters):
        copy.load_state_dict(visual.state_dict())
    return copy.eval()


def _in_order(rows: torch.Tensor, windows: torch.Tensor) -> torch.Tensor:
    """Rows of patches (patches, width), computed window by window, in the order of their visual tokens.

    windows (tokens,): the visual token of each place.
    """
    return rows.view(len(windows), -1, rows.shape[-1])[torch.argsort(windows)].flatten(0, 1)
