"""An estimate of the bytes that a stage of shards will write, from measured sizes of images."""

from collections.abc import Mapping

from diagcot.data.readers.layouts import image_files
from diagcot.jobs import UserError
from diagcot.shards.settings import BuildSettings, Source, usable

# (studies, images, share of frontal images). MIMIC-CXR-JPG: https://physionet.org/content/mimic-cxr-jpg/;
# IU-Xray: 3,955 reports with 7,470 images (Open-I). Studies without findings or impression are counted too.
COLLECTIONS = {"mimic_cxr": (227_827, 377_110, 0.65), "iu_xray": (3_955, 7_470, 0.51)}
# Measured on 24 images of Open-I and NIH CXR-14, grey JPEG of quality 90: 3.1 kB at 112 pixels, 8.8 at 224, 33.3 at 512.
IMAGE_BYTES, PIXELS, POWER = 33_300, 512, 1.56
STUDY_BYTES = 1_500  # report, labels, boxes


def shards(settings: BuildSettings, drawn: Mapping[str, tuple[int, int]]) -> int:
    """Bytes of all shards, too many rather than too few. drawn: role of an input -> its studies and images."""
    image = IMAGE_BYTES * (settings.image_size / PIXELS) ** POWER
    total = 0.0
    for source in settings.sources:
        studies, images = _counts(source, drawn)
        total += images * image + studies * STUDY_BYTES
    return int(total)


def _counts(source: Source, drawn: Mapping[str, tuple[int, int]]) -> tuple[float, float]:
    """(studies, images) of a source. Raises UserError for a collection whose size is not known."""
    if source.input is not None and source.input in drawn:
        studies, images = drawn[source.input]
        frontal = studies / images if images else 1.0
    elif source.kind in COLLECTIONS:
        studies, images, frontal = COLLECTIONS[source.kind]
        folder = usable(source.images)
        if (
            source.kind == "iu_xray" and folder and not source.phantom_images
        ):  # perhaps only some of the images are there
            images = min(images, sum(1 for _ in image_files(folder)))
            studies = min(studies, images)
    else:
        raise UserError(f"the number of images of {source.kind} is not known")
    used = min(studies, source.max_studies or studies)
    return used, images * used / studies * (frontal if source.frontal_only else 1) if studies else 0
