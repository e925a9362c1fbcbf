"""Random images out of our shards, loose files, vlen HDF5, webdataset and MosaicML streaming; all in the page cache.

Reads are of one process, in random order, each image as the bytes of its JPEG; webdataset reads its tars in order, since
it can do nothing else. Samples come decoded, as uint8 tensors in batches, through torch's DataLoader.
"""

import io
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from isal.isal_zlib import crc32
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from bench.figures import Figures
from bench.sharding import tree
from bench.sharding.writing import QUALITY, SIZE, least, processor
from diagcot.data.pixels import Jpeg, convert
from diagcot.data.study import Image as StudyImage
from diagcot.data.study import Study
from diagcot.shards import Shard, shard_paths
from diagcot.shards.dataset import Batches, ShardDataset, ShardSampler
from diagcot.shards.writer import ShardWriter

IMAGES, SHARDS = 4000, 4
ROUNDS = 5
WORKERS, BATCH, SAMPLES = 2, 32, 3840
Read = Callable[[Sequence[int]], int]
"""Reads the images of these numbers; returns how many bytes they were."""


def measure(folder: Path, figures: Figures, peers: bool) -> None:
    """Measure, and add the figures."""
    made = [convert(raw, SIZE, QUALITY) for raw in tree.images(12)]
    # Every image has its own bytes behind its end, where decoders do not look.
    images = [
        Jpeg(m.data + k.to_bytes(4), m.width, m.height, False) for k in range(IMAGES) for m in [made[k % len(made)]]
    ]
    size = statistics.mean(len(image.data) for image in images) / 1e3
    print(f"{IMAGES} images of {images[0].width} × {images[0].height}, {size:.0f} KB each, page cache warm")
    contenders = _contenders(folder, images, peers)
    _reads(contenders, figures, images)
    _samples(contenders, images, figures)


class Loose(Dataset[Any]):
    """Images as loose files."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = [str(path) for path in paths]

    def __len__(self) -> int:
        return len(self.paths)

    def image(self, number: int) -> bytes:
        """The bytes of an image."""
        with open(self.paths[number], "rb") as file:  # noqa: PTH123  the fastest way, for the others' sake
            return file.read()

    def __getitem__(self, number: int) -> torch.Tensor:
        return decoded(self.image(number))


class Vlen(Loose):
    """Opened in each worker, as h5py needs it."""

    def __init__(self, path: Path) -> None:
        super().__init__([path])
        self.data: h5py.Dataset | None = None

    def __len__(self) -> int:
        return IMAGES

    def image(self, number: int) -> bytes:
        """The bytes of an image."""
        if self.data is None:
            self.data = h5py.File(self.paths[0], "r")["jpeg"]
        return bytes(self.data[number].tobytes())


class Mosaic(Loose):
    """Images in MosaicML streaming."""

    def __init__(self, path: Path) -> None:
        from streaming import LocalDataset

        super().__init__([])
        self.data = LocalDataset(str(path))

    def __len__(self) -> int:
        return IMAGES

    def image(self, number: int) -> bytes:
        """The bytes of an image."""
        return bytes(self.data[number]["jpeg"])


class Ours(Loose):
    """Our dataset with the same decoding."""

    def __init__(self, folder: Path) -> None:
        super().__init__([])
        self.data = ShardDataset(shard_paths(folder), transform=Shard.jpeg)

    def __len__(self) -> int:
        return len(self.data)

    def image(self, number: int) -> bytes:
        """The bytes of an image."""
        found: bytes = self.data[number]
        return found


def decoded(jpeg: bytes) -> torch.Tensor:
    """Grey pixels, uint8 [height, width]."""
    return torch.from_numpy(np.array(Image.open(io.BytesIO(jpeg))))


def _contenders(folder: Path, images: list[Jpeg], peers: bool) -> dict[str, Any]:
    """Written one after the other; the seconds are printed."""
    made: dict[str, Any] = {}
    size = sum(len(image.data) for image in images) / 1e6

    def write(name: str, work: Callable[[Path], Any]) -> None:
        place = folder / name
        place.mkdir(parents=True)
        began = time.perf_counter()
        made[name] = work(place)
        print(f"  {name:<14} written at {size / (time.perf_counter() - began):6.0f} MB/s")

    write("ours", lambda place: _write_ours(place, images))
    write("loose files", lambda place: _write_loose(place, images))
    write("vlen HDF5", lambda place: _write_vlen(place, images))
    if peers:
        write("MosaicML", lambda place: _write_mosaic(place, images))
        write("webdataset", lambda place: _write_tars(place, images))
    return made


def _write_ours(place: Path, images: list[Jpeg]) -> Ours:
    for part in range(SHARDS):
        with ShardWriter(place / f"{part:05d}.h5") as writer:
            for k in range(part, IMAGES, SHARDS):
                image = images[k]
                shown = StudyImage(f"{k}", "PA", image.width, image.height)
                report = tree.REPORT.format(k)
                writer.add(Study("bench", str(k), str(k), "train", findings=report, images=(shown,)), [image])
    return Ours(place)


def _write_loose(place: Path, images: list[Jpeg]) -> Loose:
    paths = [place / f"{k // 100:03d}" / f"{k}.jpg" for k in range(IMAGES)]
    for path, image in zip(paths, images, strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image.data)
    return Loose(paths)


def _write_vlen(place: Path, images: list[Jpeg]) -> Vlen:
    with h5py.File(place / "images.h5", "w") as file:
        data = file.create_dataset("jpeg", IMAGES, h5py.vlen_dtype(np.uint8))
        for row, image in enumerate(images):
            data[row] = np.frombuffer(image.data, np.uint8)
    return Vlen(place / "images.h5")


def _write_mosaic(place: Path, images: list[Jpeg]) -> Mosaic:
    from streaming import MDSWriter

    with MDSWriter(out=str(place / "mds"), columns={"id": "str", "jpeg": "bytes"}) as writer:
        for row, image in enumerate(images):
            writer.write({"id": str(row), "jpeg": image.data})
    return Mosaic(place / "mds")


def _write_tars(place: Path, images: list[Jpeg]) -> list[str]:
    from webdataset import TarWriter

    urls = [str(place / f"{part:05d}.tar") for part in range(SHARDS)]
    for part, url in enumerate(urls):
        with TarWriter(url) as tar:
            for k in range(part, IMAGES, SHARDS):
                tar.write({"__key__": f"{k:06d}", "jpg": images[k].data})
    return urls


def _tars(urls: list[str], decode: bool) -> Any:
    from webdataset import WebDataset

    data = WebDataset(urls, shardshuffle=False, empty_check=False).to_tuple("jpg")
    return data.map(lambda sample: decoded(sample[0]) if decode else sample[0])


def _reads(contenders: dict[str, Any], figures: Figures, images: list[Jpeg]) -> None:
    order = np.random.default_rng(0).permutation(IMAGES).tolist()

    def read(data: Any) -> int:
        each: Iterable[bytes] = _tars(data, False) if isinstance(data, list) else (data.image(k) for k in order)
        return sum(map(len, each))

    firsts = []
    for _ in range(ROUNDS):
        fresh = Ours(Path(contenders["ours"].data.shards[0].path).parent)
        firsts.append(processor(read, fresh)[0] / IMAGES)
    total, best = sum(len(image.data) for image in images), dict.fromkeys(contenders, 0.0)
    for _ in range(ROUNDS):
        for name, data in contenders.items():
            seconds, found = processor(read, data)
            if found != total:
                raise RuntimeError(f"{name} has read {found} of {total} bytes")
            best[name] = max(best[name], IMAGES / seconds)
    for name, speed in best.items():
        print(f"  {name:<14} {speed:8.0f} images read per second of processor time")
    ours = best["ours"]
    least(figures, "read_vs_vlen", ours, "reads/s", best["vlen HDF5"], 5)
    for name in ("loose files", "webdataset", "MosaicML"):
        if name in best:
            least(figures, f"read_vs_{name.lower().replace(' ', '_')}", ours, "reads/s", best[name], 1.0)
    others = max(speed for name, speed in best.items() if name != "ours")
    least(figures, "first_read_vs_best_other", 1 / min(firsts), "reads/s", others, 1.0)
    checked = min(processor(lambda: sum(crc32(image.data) for image in images))[0] for _ in range(ROUNDS)) / IMAGES
    print(
        f"  ours, the first time in a process: {1 / min(firsts):.0f}, with the CRC-32 of each image, which no other checks:"
        f" {checked * 1e6:.1f} of {min(firsts) * 1e6:.1f} µs"
    )
    figures.add("first_read_crc32", checked * 1e6, "µs a read", min(firsts) * 1e6)


def _samples(contenders: dict[str, Any], images: list[Jpeg], figures: Figures) -> None:
    """Processor time of this process and its workers, for the same number of samples."""
    torch.set_num_threads(1)
    order = np.random.default_rng(1).permutation(IMAGES)[:SAMPLES].tolist()
    jpegs = [images[k].data for k in order]
    folder = Path(contenders["ours"].data.shards[0].path).parent
    loaders = contenders | {"ours": Through(folder), "ours, torch's loader": contenders["ours"]}
    best = dict.fromkeys(loaders, 0.0)
    bound = passed = 0.0
    for _ in range(2):
        bound = max(bound, SAMPLES / processor(lambda: [decoded(jpeg) for jpeg in jpegs])[0])
        passed = max(passed, SAMPLES / processor(_load, Ready(decoded(jpegs[0])))[0])
        for name, data in loaders.items():
            seconds, found = processor(_load, data)
            if found != SAMPLES:
                raise RuntimeError(f"{name} has delivered {found} of {SAMPLES} samples")
            best[name] = max(best[name], SAMPLES / seconds)
    print(f"  {'decoding alone':<20} {bound:8.0f} samples per second of processor time: the bound for all")
    for name, speed in best.items():
        print(
            f"  {name:<20} {speed:8.0f} samples through a loader of {WORKERS} workers, {speed / bound:.2f} of the bound"
        )
    print(
        f"  torch's loader passes on {passed:.0f} such samples that are decoded already: beside decoding it can reach"
        f" {passed / (bound + passed):.2f} of the bound"
    )
    rivals = [speed for name, speed in best.items() if not name.startswith("ours")]
    least(figures, "samples_vs_decode_bound", best["ours"], "samples/s", bound, 0.85)
    least(figures, "samples_torch_loader_vs_decode_bound", best["ours, torch's loader"], "samples/s", bound, None)
    least(figures, "torch_loader_bound", passed, "ready samples/s", bound + passed, None)
    share = figures.rows["first_read_vs_best_other"]["value"]
    figures.add("samples_read_share", best["ours"] / share, "of a sample's time is reading", None, 0.05)
    least(figures, "samples_vs_best_other", best["ours"], "samples/s", max(rivals), 0.9)


def _pixels(shard: Shard, row: int) -> tuple[np.ndarray]:
    return (np.array(Image.open(io.BytesIO(shard.jpeg(row)))),)


class Through(Ours):
    """Our dataset through `Batches`, in place of torch's DataLoader alone."""

    def batches(self) -> Iterable[Any]:
        """The first SAMPLES of an order, decoded."""
        data = ShardDataset([shard.path for shard in self.data.shards], transform=_pixels)
        sampler = list(ShardSampler(len(data), seed=1))[:SAMPLES]
        return (batch for (batch,) in Batches(data, sampler, BATCH, WORKERS, multiprocessing_context="fork"))


class Ready(Loose):
    """Pixels that are there already: what passing them on takes."""

    def __init__(self, pixels: torch.Tensor) -> None:
        super().__init__([])
        self.pixels = pixels

    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, number: int) -> torch.Tensor:
        return self.pixels


def _load(data: Any) -> int:
    if isinstance(data, Through):
        return sum(len(batch) for batch in data.batches())
    options: dict[str, Any] = {"batch_size": BATCH, "num_workers": WORKERS, "multiprocessing_context": "fork"}
    if isinstance(data, list):
        each = SAMPLES // WORKERS // BATCH * BATCH  # of each worker; the last are not asked for
        loader = DataLoader(_Tars(data, each), **options)
    else:
        sampler: Iterable[int] = ShardSampler(len(data), seed=1)
        loader = DataLoader(data, sampler=list(sampler)[:SAMPLES], **options)
    return sum(len(batch) for batch in loader)


class _Tars(torch.utils.data.IterableDataset[torch.Tensor]):
    """webdataset splits the tars over the workers; each stops after `each` samples."""

    def __init__(self, urls: list[str], each: int) -> None:
        self.urls, self.each = urls, each

    def __iter__(self) -> Any:
        import itertools

        return itertools.islice(iter(_tars(self.urls, True)), self.each)
