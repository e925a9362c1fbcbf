"""Images that a unit had converted before it was interrupted, so that its next execution resumes there."""

import io

from isal.isal_zlib import crc32

from diagcot.data.pixels import Jpeg
from diagcot.jobs import Context, Unit
from diagcot.jobs.state import reading
from diagcot.shards.files import File

Bad = tuple[str, str, str]
"""The id of an image, its file, and why it could not be used."""
Converted = tuple[list[str], list[Jpeg], list[Bad]]
"""Ids of the images of a study that could be used, these images, and the others."""


class Partial:
    """A file of images for each execution of the unit, and a record for each study that says where they stand in it.

    settings_digest: a digest of all that the images depend on; what was converted with other settings is not used. Only
    one process writes to a file. What a crashed node lost of it is found by its checksum and converted again.
    """

    def __init__(self, ctx: Context, unit: Unit, settings_digest: str) -> None:
        self._folder, self._settings_digest = ctx.workspace, settings_digest
        self._pattern = f"{unit.key}.*.images"
        self._path = ctx.workspace / f"{unit.key}.{ctx.attempt}.images"
        self._out = io.BufferedWriter(reading.File(self._path, "a"))
        self._records = ctx.records(unit)
        self._rows = {row["id"]: row for row in self._records.rows()}

    def take(self, study: str) -> Converted | None:
        """What an earlier execution made of the study; None where it is missing or damaged."""
        row = self._rows.pop(self._id(study), None)
        if row is None:
            return None
        jpegs, at = [], row["at"]
        file = File(self._folder / row["file"])
        try:
            for size, crc, width, height, phantom, sha256, likeness, flags in row["jpegs"]:
                data, at = file.read(size, at), at + size
                if crc32(data) != crc:
                    return None
                digests = bytes.fromhex(sha256), bytes.fromhex(likeness)
                jpegs.append(Jpeg(data, width, height, phantom, *digests, tuple(flags)))
        except FileNotFoundError:
            return None
        return row["images"], jpegs, [(image, path, reason) for image, path, reason in row["bad"]]

    def put(self, study: str, converted: Converted) -> None:
        """Keep what was made of a study."""
        images, jpegs, bad = converted
        at = self._out.tell()
        self._out.write(b"".join(jpeg.data for jpeg in jpegs))
        self._out.flush()
        rows = [
            (len(j.data), crc32(j.data), j.width, j.height, j.phantom, j.sha256.hex(), j.likeness.hex(), j.flags)
            for j in jpegs
        ]
        row = {"id": self._id(study), "file": self._path.name, "at": at, "jpegs": rows, "images": images, "bad": bad}
        self._records.append(row)

    def close(self) -> None:
        """Close the files; what was put is kept."""
        self._out.close()
        self._records.close()

    def remove(self) -> None:
        """Remove all images of the unit, which is done."""
        for path in self._folder.glob(self._pattern):
            path.unlink(missing_ok=True)

    def _id(self, study: str) -> str:
        return f"{study} {self._settings_digest}"
