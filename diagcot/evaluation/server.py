"""The vLLM server of an array task: started when the first unit needs it, then kept for all units."""

from contextlib import ExitStack
from pathlib import Path

from diagcot.jobs import Context
from diagcot.serving import Server, serve
from diagcot.serving.settings import ServerSettings


class TaskServer:
    """One server for all units of an array task; `stack` stops it."""

    def __init__(self, ctx: Context, stack: ExitStack) -> None:
        self._ctx, self._stack = ctx, stack
        self._server: Server | None = None
        self._model: Path | None = None

    def start(self, model: Path, settings: ServerSettings) -> Server:
        """The server with the weights of the folder `model`; one that runs already changes its weights and no settings.

        Raises ServerError or UserError if it cannot be started.
        """
        if self._server is None:
            self._server = self._stack.enter_context(serve(model, settings, self._ctx))
        elif model != self._model:
            self._server.load(model)
        self._model = model
        return self._server
