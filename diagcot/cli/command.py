"""Runs a verb. Nothing here imports torch, vllm or transformers; each verb imports what it needs when it runs."""

import os
import sys

from diagcot.cli.options import Call
from diagcot.cli.parser import parse
from diagcot.console import terminal
from diagcot.console.commands import typed
from diagcot.extras import missing_module
from diagcot.jobs import UserError
from diagcot.jobs.slurm.commands import user
from diagcot.jobs.state import reading
from diagcot.jobs.state.processes import allow_open_files


def run(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code: 1 after a printed error, 130 after Ctrl-C, 141 if nobody reads its output."""
    try:
        with terminal.guarded():
            return _run(sys.argv[1:] if argv is None else argv)
    except KeyboardInterrupt:
        return 130


def _run(argv: list[str]) -> int:
    args = parse(argv)
    call: Call = args.call
    os.environ.setdefault("USER", user())  # often unset in containers; cluster files may name it
    allow_open_files()
    try:
        code = call(args)
        sys.stdout.flush()
        return code
    except UserError as error:
        print(f"error: {typed(str(error))}", file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        if message := missing_module(error):
            print(f"error: {message}", file=sys.stderr)
            return 1
        raise
    except BrokenPipeError:  # whoever reads the output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:
        why = terminal.fault_of_the_output() if error.filename is None else ""
        output = f"what this command prints cannot be written ({why}); see with `diagcot status` what it did"
        print(f"error: {output if why else reading.sentence(error)}", file=sys.stderr)
        return 1
