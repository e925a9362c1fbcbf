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
"""

FORMAT = "diagcot-shard"
SCHEMA = 3
NOT_MENTIONED = -2
REPORT_TEXTS = ("findings", "impression", "indication", "comparison")
STUDY_TEXTS = ("dataset", "id", "patient", "split", *REPORT_TEXTS, "order", "age", "sex")
IMAGE_TEXTS = ("id", "view", "origin")
QUESTION_TEXTS = ("text", "image", "earlier", "reason")
QUESTION_LISTS = ("answers", "options")
LEFT_OUT_TEXTS = ("study", "image", "reason")
