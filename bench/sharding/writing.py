"""How fast full-size images become training data: our stage, a plain loop, and the peers' writers around the same loop.

Seconds are of processor time, children included, which other work on the machine disturbs least; images lie in the page
cache. Our stage also reads tables and reports, digests every source, and writes studies and labels.
"""

import io
import multiprocessing
import os
import resource
import shutil
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import h5py
import numpy as np
from PIL import Image

from bench.figures import Figures
from bench.sharding import tree
from diagcot.jobs import Context, Unit
from diagcot.jobs.testing import context, run_unit
from diagcot.shards import build

MIMIC = 377_110
SIZE, QUALITY = 512, 90
Found = TypeVar("Found")
ROUNDS = 3
PATIENCE = 10  # rounds at most where the machine is busy
DECODING = "decoding alone"  # at the DCT scale: the bound of whoever leaves it to libjpeg-turbo


def measure(folder: Path, figures: Figures, peers: bool, count: int = 48) -> None:
    """Measure, and add the figures."""
    cores = os.cpu_count() or 1
    root = tree.write(folder / "tree", tree.images(12), count * cores)
    places = sorted(root.rglob("files/**/*.jpg"))
    mine = places[:count]
    size = statistics.mean(path.stat().st_size for path in mine) / 1e6
    print(f"{count} images of {tree.FULL[0]} × {tree.FULL[1]}, {size:.1f} MB each, to {SIZE} pixels, page cache warm")
    for path in mine:
        path.read_bytes()
    one = tree.write(folder / "one", tree.images(12), count)
    contenders: dict[str, Callable[[Path], None]] = {
        "ours": lambda out: _ours(out, one, 1),
        "plain loop": lambda out: plain(out, mine),
        "plain loop, thumbnail()": lambda out: plain(out, mine, thumbnail),
    }
    contenders[DECODING] = lambda out: _decoded(mine)
    if peers:
        contenders |= {"webdataset": lambda out: webdataset(out, mine), "MosaicML": lambda out: mosaic(out, mine)}
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(ROUNDS + 1):  # the first is to warm up
        for name, write in contenders.items():
            out = folder / "out"
            out.mkdir()
            seconds, _ = processor(write, out)
            shutil.rmtree(out)
            if turn:
                speeds[name].append(count / seconds)
    best = {name: max(found) for name, found in speeds.items()}
    for name, speed in best.items():
        print(f"  {name:<26} {speed:6.1f} images per second and core")
    ours = best["ours"]
    least(figures, "write_vs_plain_loop", ours, "images/s/core", best["plain loop"], 1.6)
    least(figures, "write_vs_thumbnail_loop", ours, "images/s/core", best["plain loop, thumbnail()"], 1.3)
    least(figures, "write_vs_decoding_alone", ours, "images/s/core", best[DECODING], None)
    least(
        figures,
        "decoding_alone_vs_thumbnail_loop",
        best[DECODING],
        "images/s/core",
        best["plain loop, thumbnail()"],
        None,
    )
    for name in ("webdataset", "MosaicML"):
        if name in best:
            least(figures, f"write_vs_{name.lower()}", ours, "images/s/core", best[name], 1.0)
    figures.add("mimic_core_hours", MIMIC / ours / 3600, "core hours for 377,110 images")
    _parallel(folder, root, one, count, cores, figures)


def _parallel(folder: Path, root: Path, one: Path, count: int, cores: int, figures: Figures) -> None:
    """One unit alone, then one for each core at once, by the clock: as threads of a task, and as tasks of an array.

    Of so many rounds the fastest counts, for each of the three: other work on the machine only ever makes them slower.
    """
    alone: list[float] = []
    threads: list[float] = []
    tasks: list[float] = []
    while len(alone) < ROUNDS or (len(alone) < PATIENCE and min(max(threads), max(tasks)) < 0.9 * cores * max(alone)):
        alone.append(count / _clock(lambda: _ours(folder / "out", one, 1), folder))
        threads.append(count * cores / _clock(lambda: _ours(folder / "out", root, cores), folder))
        tasks.append(count * cores / _clock(lambda: _array(folder / "out", one, cores), folder))
    single = max(alone)
    for name, found in (("threads", threads), ("tasks", tasks)):
        speed = max(found)
        print(
            f"  {cores} {name:<24} {speed:6.1f} images per second, {speed / single / cores:.0%} of {cores} × one alone"
        )
        least(figures, f"write_parallel_{name}", speed, "images/s", single * cores, 0.9)
    print(f"  load {os.getloadavg()[0]:.1f}: where others work on the cores, these two are theirs as much as ours")
    figures.add("mimic_hours_here", MIMIC / max(threads + tasks) / 3600, f"hours for 377,110 images on {cores} cores")


def least(figures: Figures, name: str, value: float, unit: str, baseline: float | None, goal: float | None) -> None:
    """A figure whose ratio, or value where it has no baseline, is to be at least `goal`."""
    figures.add(name, value, unit, baseline)
    row = figures.rows[name]
    row |= {"goal": goal, "met": None if goal is None else (row["ratio"] or value) >= goal}


def _decoded(places: Sequence[Path]) -> None:
    for path in places:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            image.draft("L", (SIZE, SIZE))
            image.load()


def _ours(out: Path, root: Path, cpus: int) -> None:
    run_unit(build, Unit("00000"), _context(out, root, cpus))


def _array(out: Path, one: Path, tasks: int) -> None:
    fork = multiprocessing.get_context("fork")
    started = [fork.Process(target=_ours, args=(out / str(n), one, 1)) for n in range(tasks)]
    for process in started:
        process.start()
    for process in started:
        process.join()
        if process.exitcode:
            raise RuntimeError("a task of the array has failed")


def _context(out: Path, root: Path, cpus: int) -> Context:
    settings = {"sources": [{"kind": "mimic_cxr", "path": str(root)}], "image_size": SIZE, "jpeg_quality": QUALITY}
    return context(out, settings, stage="shard", cpus=cpus)


def full(path: Path) -> bytes:
    """What a script does: decode all, shrink, encode."""
    image = Image.open(path).convert("L")
    scale = SIZE / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    return _encoded(image)


def thumbnail(path: Path) -> bytes:
    """What a better script does: Pillow's thumbnail() decodes at a DCT scale by itself, twice as large as needed."""
    image = Image.open(path)
    image.thumbnail((SIZE, SIZE), Image.Resampling.LANCZOS)
    return _encoded(image.convert("L"))


def _encoded(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=QUALITY)
    return out.getvalue()


def plain(out: Path, places: list[Path], convert: Callable[[Path], bytes] = full) -> None:
    """Write with a plain loop over h5py."""
    with h5py.File(out / "images.h5", "w") as file:
        data = file.create_dataset("jpeg", len(places), h5py.vlen_dtype(np.uint8))
        for row, path in enumerate(places):
            data[row] = np.frombuffer(convert(path), np.uint8)


def webdataset(out: Path, places: list[Path]) -> None:
    """Write with webdataset."""
    from webdataset import TarWriter

    with TarWriter(str(out / "images.tar")) as tar:
        for path in places:
            tar.write({"__key__": path.stem, "jpg": full(path)})


def mosaic(out: Path, places: list[Path]) -> None:
    """Write with MosaicML streaming."""
    from streaming import MDSWriter

    with MDSWriter(out=str(out / "mds"), columns={"id": "str", "jpeg": "bytes"}) as writer:
        for path in places:
            writer.write({"id": path.stem, "jpeg": full(path)})


def processor(work: Callable[..., Found], *arguments: Any) -> tuple[float, Found]:
    """Seconds of processor time that the call and its children took, and what it returned."""
    before = sum(_times())
    found = work(*arguments)
    return sum(_times()) - before, found


def _times() -> Iterator[float]:
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        used = resource.getrusage(who)
        yield used.ru_utime + used.ru_stime


def _clock(work: Callable[[], None], folder: Path) -> float:
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    shutil.rmtree(folder / "out")
    return seconds
