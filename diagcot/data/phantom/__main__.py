"""`python -m diagcot.data.phantom FOLDER --studies N`: a tree of invented patients in MIMIC-CXR-JPG's layout."""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from diagcot.data.phantom.drawing import SIZE
from diagcot.data.phantom.tree import write_tree


def main() -> int:
    """Write the tree of the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Draw phantoms in the layout of MIMIC-CXR-JPG.")
    parser.add_argument("folder", type=Path, help="an empty folder, or one that does not exist yet")
    parser.add_argument("--studies", type=int, default=1500, help="number of studies (default 1500)")
    parser.add_argument(
        "--size", type=int, default=SIZE, help=f"width and height of an image in pixels (default {SIZE})"
    )
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other patients (default 0)")
    options = parser.parse_args()
    if options.folder.is_dir() and any(options.folder.iterdir()):
        print(f"{options.folder} is not empty; name another folder", file=sys.stderr)
        return 1
    options.folder.mkdir(parents=True, exist_ok=True)
    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("phantoms", total=options.studies)

        def advance(done: int) -> bool:
            bar.update(task, completed=done)
            return True

        write_tree(options.folder, options.studies, options.seed, options.size, advance=advance)
    return 0


if __name__ == "__main__":
    sys.exit(main())
