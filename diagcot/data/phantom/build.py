"""The kind `phantoms`: its only unit writes a tree of invented patients, `<output>/tree`."""

from collections.abc import Iterator
from contextlib import contextmanager

from diagcot.data.phantom.settings import PhantomsSettings
from diagcot.data.phantom.tree import write_tree
from diagcot.jobs import Context, Result, Unit
from diagcot.jobs.state.files import remove


@contextmanager
def prepare(ctx: Context) -> Iterator[PhantomsSettings]:
    """Read the settings; units share nothing else."""
    yield PhantomsSettings(**ctx.settings)


def run(unit: Unit, shared: PhantomsSettings, ctx: Context) -> Result | None:
    """Write the tree; an interrupted tree is deleted and drawn again, which takes seconds."""
    final = ctx.output / unit.key
    staged = ctx.staged(final)
    staged.mkdir()

    def advance(done: int) -> bool:
        ctx.progress(done, shared.studies)
        return not ctx.stopping()

    if not write_tree(staged, shared.studies, ctx.seed, shared.size, shared.views, shared.held_out, advance):
        remove(staged, ctx.output)
        return None
    return Result({final: staged}, {"studies": shared.studies, "images": shared.studies * len(shared.views)})
