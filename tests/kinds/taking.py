"""A kind for tests of storage: writes a megabyte in the place that its setting `place` names."""

import tempfile

import numpy as np
from safetensors.numpy import save_file

from diagcot.jobs import Context, Result, Unit

SIZE = 1 << 20


def run(unit: Unit, ctx: Context) -> Result:
    """Write to the log, a temporary file, a product, or a file of weights."""
    final = ctx.output / unit.key
    staged = ctx.staged(final)
    match ctx.settings["place"]:
        case "log":
            for _ in range(SIZE >> 10):
                print("x" * 1023, flush=True)
        case "tmp":
            with tempfile.NamedTemporaryFile() as file:
                file.write(bytes(SIZE))
        case "weights":
            save_file({"a": np.zeros(SIZE, np.uint8)}, staged)
            return Result({final: staged})
    staged.write_bytes(bytes(SIZE if ctx.settings["place"] == "product" else 1))
    return Result({final: staged})
