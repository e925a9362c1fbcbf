"""Films that a unit has converted before it was interrupted, so that the next execution of it goes on from there."""

import zlib

from diagcot.data.pixels import Jpeg
from diagcot.jobs import Context, Unit

Bad = tuple[str, str, str]
"""A film's id, its file, and why it could not be used."""
Done = tuple[list[str], list[Jpeg], list[Bad]]
"""Ids of the films of a study that could be used, these films, and the others."""


class Partial:
    """A file of films for each execution of the unit, and a record for each study that tells where in it they are.

    `about` is a digest of all that the films depend on: what was converted with other settings is not used. Only one
    process writes to a file, and what a crashed node has lost of it is found by its checksum and converted again.
    """

    def __init__(self, ctx: Context, unit: Unit, about: str) -> None:
        self._folder, self._about = ctx.workspace, about
        self._pattern = f"{unit.key}.*.films"
        self._mine = ctx.workspace / f"{unit.key}.{ctx.attempt}.films"
        self._out = self._mine.open("ab")
        self._records = ctx.records(unit)
        self._rows = {row["id"]: row for row in self._records.rows()}

    def take(self, study: str) -> Done | None:
        """What an earlier execution made of the study, if it is whole."""
        row = self._rows.pop(self._id(study), None)
        if row is None:
            return None
        films = []
        try:
            with (self._folder / row["file"]).open("rb") as file:
                file.seek(row["at"])
                for size, crc, width, height, phantom, sha256 in row["films"]:
                    data = file.read(size)
                    if zlib.crc32(data) != crc:
                        return None
                    films.append(Jpeg(data, width, height, phantom, bytes.fromhex(sha256)))
        except FileNotFoundError:
            return None
        return row["images"], films, [(image, path, reason) for image, path, reason in row["bad"]]

    def put(self, study: str, done: Done) -> None:
        """Keep what was made of a study."""
        images, films, bad = done
        at = self._out.tell()
        self._out.write(b"".join(film.data for film in films))
        self._out.flush()
        rows = [(len(f.data), zlib.crc32(f.data), f.width, f.height, f.phantom, f.sha256.hex()) for f in films]
        row = {"id": self._id(study), "file": self._mine.name, "at": at, "films": rows, "images": images, "bad": bad}
        self._records.append(row)

    def close(self) -> None:
        self._out.close()
        self._records.close()

    def remove(self) -> None:
        """Drop all films of the unit: it is done."""
        for path in self._folder.glob(self._pattern):
            path.unlink(missing_ok=True)

    def _id(self, study: str) -> str:
        return f"{study} {self._about}"
