"""Writes and reads shards where locks fail: `python -m tests.faults.locks FOLDER`, preloaded; a row for each error."""

import errno
import json
import sys
from pathlib import Path

import h5py

from diagcot.jobs.state import reading
from diagcot.shards import Shard
from diagcot.shards.verify import faults
from tests.fakes import storage
from tests.unit.shards.test_files import STUDIES, write

ERRORS = (errno.ENOLCK, reading.UNSUPPORTED, errno.EAGAIN)


def main(root: Path) -> None:
    rows = {}
    for number in ERRORS:
        storage.fault("lock", number, ".h5")
        path = write(root / f"{number}.h5")
        try:
            h5py.File(path, "r", locking=False).close()
            plain = "opened"
        except OSError:
            plain = "not opened"
        rows[number] = {
            "plain": plain,
            "faults": list(faults(path)),
            "same": Shard(path).study(0).id == STUDIES[0][0].id,
        }
    print(json.dumps(rows))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
