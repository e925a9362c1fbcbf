"""The data: folders named by variables, and what each stage of the recipe needs."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from diagcot.jobs import UserError
from diagcot.preflight.finding import Finding, bad, good, note

if TYPE_CHECKING:
    from launchers.chain import Chain


def folders() -> Iterator[Finding]:
    """IU_XRAY_DIR (films) and MIMIC_CXR_DIR (the tree of MIMIC-CXR-JPG), where they are set."""
    from diagcot.data.readers.layouts import missing_mimic

    iu = os.environ.get("IU_XRAY_DIR")
    if iu is None:
        yield good("IU-Xray", "IU_XRAY_DIR is not set: phantoms stand in for its films")
    elif not Path(iu).is_dir():
        yield bad("IU-Xray", f"IU_XRAY_DIR={iu} is not a folder", "point it at the folder of PNG films, or unset it")
    elif next(Path(iu).rglob("*.png"), None) is None:
        yield bad("IU-Xray", f"IU_XRAY_DIR={iu} holds no PNG", "point it at the folder of PNG films (NLMCXR_png.tgz)")
    else:
        yield good("IU-Xray", f"films in {iu}")
    mimic = os.environ.get("MIMIC_CXR_DIR")
    if mimic is None:
        yield good("MIMIC-CXR", "MIMIC_CXR_DIR is not set; only recipes that name it need it")
        return
    lacking = missing_mimic(Path(mimic))
    if lacking:
        remedy = "finish the download from PhysioNet (MIMIC-CXR-JPG and the reports of MIMIC-CXR)"
        yield bad("MIMIC-CXR", f"MIMIC_CXR_DIR={mimic} lacks {'; '.join(lacking)}", remedy)
    else:
        yield good("MIMIC-CXR", f"whole tree in {mimic}")


def stages(chain: "Chain") -> Iterator[Finding]:
    """Every stage's settings, plan and own check."""
    lacking: dict[str, list[str]] = {}  # message -> stages; what one stage lacks, those after it often lack too
    for spec in chain.recipe.stages:
        try:
            chain.stage(spec.name)
            chain.resources(spec.name)
            chain.units_of(spec.name)
            chain.check(spec.name)
        except UserError as error:
            lacking.setdefault(str(error), []).append(spec.name)
    for message, names in lacking.items():
        also = f"\n(so do {', '.join(names[1:])})" if names[1:] else ""
        yield bad(f"stage {names[0]}", message + also)
    if not lacking:
        yield good("recipe", f"{chain.recipe.name}: all {len(chain.recipe.stages)} stages have what they need")
    with contextlib.suppress(UserError, ValueError):  # what is wrong with their settings is told above
        for line in chain.notes():
            yield note("recipe", line)
    if (chain.run_dir / "run.json").exists():
        yield note("run", f"{chain.run} exists: submitting goes on where it stands", "RUN=name starts another")
