"""Rows of Parquet files, a few at a time: a file that is small and unpacks to gigabytes is refused before it fills memory."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diagcot.data.errors import DataError
from diagcot.jobs.state import reading

PLENTY, DENSEST = 256 << 20, 100
"""Bytes that are always read, and how many times the size of its file rows may have: texts reach 20, images 1."""
_BATCH_BYTES, _BATCH_ROWS = 64 << 20, 256
_ROW = 8  # bytes that a row counts at least, so that a billion empty rows are many, too


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file. Raises DataError that names it, if it is not whole, or no Parquet file, or a bomb."""
    import pyarrow as pa
    from pyarrow import parquet

    most, read = max(PLENTY, DENSEST * reading.patient(path, path.stat).st_size), 0
    try:
        with reading.patient(path, lambda: io.BufferedReader(reading.PatientFile(path), 1 << 16)) as source:
            file = parquet.ParquetFile(source)
            groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
            chunks = [group.column(at).total_uncompressed_size for group in groups for at in range(group.num_columns)]
            if sum(chunks) + _ROW * file.metadata.num_rows > most:
                raise _bomb(path, most)
            # Each row of a column may repeat its largest value, which is stored once.
            count = max(1, min(_BATCH_ROWS, _BATCH_BYTES // max([1, *chunks])))
            for stored in file.iter_batches(batch_size=count, use_threads=False):
                batch = pa.record_batch([_plain(column) for column in stored.columns], names=stored.schema.names)
                read += batch.nbytes + _ROW * batch.num_rows
                if read > most:
                    raise _bomb(path, most)
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError) as error:
        reading.check_storage(path, error)
        # The message of the library may show what a cell holds.
        raise DataError(f"{path} is no whole Parquet file ({type(error).__name__}); write it again") from None


def _plain(column: Any) -> Any:
    """A column whose values are not shared, so that its size is that of its rows."""
    import pyarrow as pa

    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _bomb(path: Path, most: int) -> DataError:
    return DataError(
        f"{path}: its rows have over {most >> 20} MB, over {DENSEST} times the size of the file, which no data set has: they were"
        " not read. Write it again, in several files"
    )
