"""The `diagcot` command. Ctrl-C ends it without a traceback at any time, also while modules are still being imported."""

import signal
import sys
import threading


def main(argv: list[str] | None = None) -> int:
    """Run one verb; returns its exit code, see `diagcot.cli.command.run`."""
    if threading.current_thread() is not threading.main_thread():
        from diagcot.cli import command

        return command.run(argv)
    handler = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from diagcot.cli import command

    signal.signal(signal.SIGINT, handler)
    return command.run(argv)


if __name__ == "__main__":
    sys.exit(main())
