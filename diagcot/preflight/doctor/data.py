"""Checks of the data: folders named by environment variables, and what each stage of the recipe needs."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diagcot.jobs import UserError
from diagcot.preflight.checks import stage_faults
from diagcot.preflight.finding import Finding, bad, good, note

if TYPE_CHECKING:
    from launchers.chain import Chain


def folders() -> Iterator[Finding]:
    """IU_XRAY_DIR (images) and MIMIC_CXR_DIR (the tree of MIMIC-CXR-JPG), where they are set."""
    from diagcot.data.readers.layouts import missing_mimic

    iu = os.environ.get("IU_XRAY_DIR")
    if iu is None:
        yield good("IU-Xray", "IU_XRAY_DIR is not set: phantoms stand in for its images")
    elif not Path(iu).is_dir():
        yield bad("IU-Xray", f"IU_XRAY_DIR={iu} is not a folder", "set it to the folder of PNG images, or unset it")
    elif next(Path(iu).rglob("*.png"), None) is None:
        yield bad("IU-Xray", f"IU_XRAY_DIR={iu} holds no PNG", "set it to the folder of PNG images (NLMCXR_png.tgz)")
    else:
        yield good("IU-Xray", f"images in {iu}")
    mimic = os.environ.get("MIMIC_CXR_DIR")
    if mimic is None:
        yield good("MIMIC-CXR", "MIMIC_CXR_DIR is not set; only recipes that name it need it")
        return
    missing = missing_mimic(Path(mimic))
    if missing:
        remedy = "finish the download from PhysioNet (MIMIC-CXR-JPG and the reports of MIMIC-CXR)"
        yield bad("MIMIC-CXR", f"MIMIC_CXR_DIR={mimic} lacks {'; '.join(missing)}", remedy)
    else:
        yield good("MIMIC-CXR", f"complete tree in {mimic}")


def stages(chain: "Chain") -> Iterator[Finding]:
    """The settings, resources, units and own check of every stage."""
    faults = stage_faults(chain)
    for message, names in faults.items():
        others = f"\n(also stages {', '.join(names[1:])})" if names[1:] else ""
        yield bad(f"stage {names[0]}", message + others)
    if not faults:
        yield good("recipe", f"{chain.recipe.name}: all {len(chain.own)} stages have what they need")
    with contextlib.suppress(UserError, ValueError):  # wrong settings are reported above
        for line in chain.notes():
            yield note("recipe", line)
    if (chain.run_dir / "run.json").exists():
        yield note("run", f"{chain.run} exists: submitting continues it", "RUN=name starts another")
