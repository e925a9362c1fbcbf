"""The HDF5 layout of a shard: one blob of JPEGs with offsets, columns for everything else.

    images/jpeg       uint8 [bytes]     all images, one after the other, contiguous on disk
    images/offset     int64 [images + 1] image i is jpeg[offset[i]:offset[i + 1]]
    images/crc32      uint32 [images]   checksum of each image's bytes
    images/sha256     uint8 [images, 32] digest of the file that the image was made from
    images/likeness   uint8 [images, 32] perceptual digest (`diagcot.data.likeness`); zeros for a phantom
    images/study      int32 [images]    row of its study
    images/width, height  uint16 [images] pixels in the shard (a JPEG has at most 65,535 a side)
    images/phantom    bool [images]
    images/id, view, origin  text; origin: collection/id in the collection that the image was taken from, or empty
    studies/first     int32 [studies + 1]  study i has the images first[i] to first[i + 1] - 1
    studies/labels    int8 [studies, 14]   1 present, 0 absent, -1 uncertain, -2 not mentioned; names in its attribute
    studies/dataset, id, patient, split, findings, impression, indication, comparison, order, age, sex, tags   text;
                      shards of earlier versions have no age and sex
    boxes/image       int32 [boxes]     row of its image
    boxes/corners     float64 [boxes, 4]   x1, y1, x2, y2 as fractions of width and height
    boxes/label, phrase   text
    questions/study   int32 [questions]  row of its study; the group is there if a collection of the shard asks questions itself
    questions/text, image, earlier, reason   text; image and earlier: the ids of an image and of an earlier study, or empty
    questions/answers, options   text; one a line
    left_out/study, image, reason   text   images that could not be used, and why; study is the key of the study

A text column is a group of `text` uint8 (UTF-8, one after the other) and `offset` uint32 [rows + 1]; tags are joined
by "|".
Every data set but the blob carries its own CRC-32 as the attribute `crc32`.
Attributes of the file: format, schema, code (version and digest of the code that wrote it), and what the builder adds:
part, parts, image_size, jpeg_quality, seed, sources, transform, libraries, accounts (the last four JSON). accounts: what
was read of each source, what is in the shard and what was left out (`diagcot.shards.audit.accounting`).

What else a file holds is not read.
"""

from typing import NamedTuple

from diagcot.data.study import CHEXPERT_LABELS

FORMAT = "diagcot-shard"
SCHEMA = 3
NOT_MENTIONED = -2
REPORT_TEXTS = ("findings", "impression", "indication", "comparison")
STUDY_TEXTS = ("dataset", "id", "patient", "split", *REPORT_TEXTS, "order", "age", "sex")
IMAGE_TEXTS = ("id", "view", "origin")
QUESTION_TEXTS = ("text", "image", "earlier", "reason")
QUESTION_LISTS = ("answers", "options")
LEFT_OUT_TEXTS = ("study", "image", "reason")
BOX_TEXTS = ("label", "phrase")
TEXTS = {
    "images": IMAGE_TEXTS,
    "studies": (*STUDY_TEXTS, "tags"),
    "boxes": BOX_TEXTS,
    "questions": (*QUESTION_TEXTS, *QUESTION_LISTS),
    "left_out": LEFT_OUT_TEXTS,
}
"""The text columns of each group."""
MAY_LACK = ("questions", "studies/age", "studies/sex")
"""Groups that a shard may lack."""
ATTRIBUTES: dict[str, type] = {
    "format": str,
    "schema": int,
    "code": str,
    "part": int,
    "parts": int,
    "image_size": int,
    "jpeg_quality": int,
    "seed": int,
    "sources": str,
    "transform": str,
    "libraries": str,
    "accounts": str,
}
"""The attributes of the file, each one whole number or one text; it must have the first three."""


class Column(NamedTuple):
    """What a column of numbers holds."""

    dtype: str  # of numpy
    of: str  # what it has a row for: images, studies, boxes, ...
    width: int = 0  # values in a row; 0: a column of one dimension
    more: int = 0  # rows beside: 1 for places, the last of which is an end
    allowed: tuple[int, int | str] | None = None  # the least and the greatest value; "images": the last row of images


NUMBERS = {
    "images/offset": Column("int64", "images", more=1),
    "images/crc32": Column("uint32", "images"),
    "images/sha256": Column("uint8", "images", width=32),
    "images/likeness": Column("uint8", "images", width=32),
    "studies/first": Column("int32", "studies", more=1),
    "studies/labels": Column("int8", "studies", width=len(CHEXPERT_LABELS), allowed=(NOT_MENTIONED, 1)),
    "images/study": Column("int32", "images", allowed=(0, "studies")),
    "images/width": Column("uint16", "images"),
    "images/height": Column("uint16", "images"),
    "images/phantom": Column("bool", "images", allowed=(0, 1)),
    "boxes/image": Column("int32", "boxes", allowed=(0, "images")),
    "boxes/corners": Column("float64", "boxes", width=4, allowed=(0, 1)),
    "questions/study": Column("int32", "questions", allowed=(0, "studies")),
}
"""The columns of numbers. The first one of each kind of row decides how many rows there are."""
