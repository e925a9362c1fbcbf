"""Views of IU-Xray's images from their DICOM headers, where Kaggle's table of projections is not there.

The view position alone is no help: it is PA for 1,368 lateral images. Other fields tell the two apart. Against Kaggle's
table, all but 3 of 7,466 images get a view, and 98.9 % of these views are right.
"""

from collections.abc import Iterable, Mapping

COLUMNS = (
    "View Position", "Patient Orientation", "Postprocessing Function", "Acquisition Device Processing Code",
    "Cassette Orientation", "Exposure Time", "Exposure",
)  # fmt: skip
"""Fields of NLM's table of headers that are read."""
LATERAL, FRONTAL = "LATERAL", "FRONTAL"
_LATERAL_CODES, _FRONTAL_CODES = ("60003", "3", "4", "720F"), ("60025", "1", "2", "0200")
"""Processing codes of the devices that took the images."""
FRONTAL_MS = 11
"""Longest exposure of a frontal image, ms, where nothing else tells the views of a study apart."""
Header = Mapping[str, str]


def views(studies: Iterable[Mapping[str, Header]]) -> dict[str, str]:
    """Image -> LATERAL, PA, AP or FRONTAL; images whose view is not known are left out.

    studies: of each study, image -> its header by COLUMNS. Of two images of a study the lateral one is exposed longer, and
    where one is known, the other is of the other kind.
    """
    found: dict[str, str] = {}
    for study in studies:
        known = {image: view for image, header in study.items() if (view := _alone(header))}
        if len(study) == 2 and not known:
            known = _by_exposure(study)
        if len(study) == 2 and len(known) == 1:
            (view,) = known.values()
            known |= {image: FRONTAL if view == LATERAL else LATERAL for image in study.keys() - known}
        for image in study.keys() - known:
            if time := _exposure(study[image]):
                known[image] = FRONTAL if time <= FRONTAL_MS else LATERAL
        found |= {image: _projection(view, study[image]) for image, view in known.items()}
    return found


def _alone(header: Header) -> str:
    position, orientation = header["View Position"], header["Patient Orientation"].strip("[]'\" ")[:1]
    processing, code = header["Postprocessing Function"].upper(), header["Acquisition Device Processing Code"]
    if "LATERAL" in position or position in ("LL", "RL") or orientation in ("A", "P") or "LAT" in processing:
        return LATERAL
    if processing or code in _FRONTAL_CODES:
        return FRONTAL
    if code in _LATERAL_CODES:
        return LATERAL
    frontal = header["Cassette Orientation"] == "LANDSCAPE" or position in ("PA", "AP") or orientation in ("L", "R")
    return FRONTAL if frontal else ""


def _by_exposure(study: Mapping[str, Header]) -> dict[str, str]:
    times = sorted((time, image) for image, header in study.items() if (time := _exposure(header)))
    if len(times) < 2 or times[0][0] == times[1][0]:
        return {}
    return {times[0][1]: FRONTAL, times[1][1]: LATERAL}


def _exposure(header: Header) -> float:
    """Time of the exposure, or its amount; 0 if neither is known."""
    for name in ("Exposure Time", "Exposure"):
        try:
            if value := float(header[name]):
                return value
        except ValueError:
            continue
    return 0.0


def _projection(view: str, header: Header) -> str:
    """PA or AP of a frontal image whose header says so."""
    return header["View Position"] if view == FRONTAL and header["View Position"] in ("PA", "AP") else view
