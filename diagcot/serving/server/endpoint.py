"""A running OpenAI-compatible server that we did not start, on this allocation unless the recipe allows another place."""

import ipaddress
import os
import socket
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from diagcot.jobs import UserError
from diagcot.jobs.slurm.hostlist import hostnames
from diagcot.serving.errors import ServerError
from diagcot.serving.http import ENGINE_DEAD, Address, refuses
from diagcot.serving.settings import ServerSettings

MAX_PAUSE_S = 15


class Endpoint:
    """Takes the place of a replica. We neither start nor end it, and it serves the one model that it has."""

    generation = 0
    load_s = 0.0

    def __init__(self, settings: ServerSettings) -> None:
        """Raises UserError for an address that is not allowed, ServerError if the server does not answer as expected."""
        self.settings = settings
        self.address = address(settings)
        self.model = settings.endpoint_model or ""
        self._closed = threading.Event()
        self.vllm = self._identify()

    def _identify(self) -> bool:
        """Wait until it answers; True if it is vLLM."""
        end, pause = time.monotonic() + self.settings.startup_timeout_s, 0.2
        while True:
            try:
                with self.address.connect(10) as http:
                    rows = http.get("/v1/models").raise_for_status().json()["data"]
                    names = {str(row["id"]): row.get("owned_by") for row in rows}
                    alive = http.get("/health").status_code != ENGINE_DEAD
                if alive:
                    break
                cause = "its engine is dead (/health)"
            except httpx.HTTPStatusError as error:
                status = error.response.status_code
                if status in (401, 403):
                    raise ServerError(f"{self.settings.endpoint} refuses access: check api_key_env") from error
                if refuses(status):
                    raise ServerError(
                        f"{self.settings.endpoint} has no list of models (HTTP {status} for /v1/models): check its address"
                    ) from error
                cause = f"HTTP {status}"
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                cause = type(error).__name__
            if time.monotonic() + pause > end or self._closed.wait(pause):
                raise ServerError(
                    f"{self.settings.endpoint} was not ready within {self.settings.startup_timeout_s:.0f} s"
                    f" (startup_timeout_s): {cause}"
                )
            pause = min(2 * pause, MAX_PAUSE_S)
        if self.model not in names:
            raise ServerError(f"{self.settings.endpoint} serves {', '.join(names) or 'no model'}, not {self.model}")
        return bool(names[self.model] == "vllm")

    def revive(self, generation: int) -> None:
        """Return when it answers again. Raises ServerError if it does not within `startup_timeout_s`."""
        self._identify()

    def replied(self) -> None:
        """Nothing to do."""

    def load(self, model_dir: Path) -> None:
        """Raises UserError: we cannot change its weights."""
        raise UserError(
            f"{self.settings.endpoint} serves one model, but this stage also needs the weights of {model_dir}:"
            " remove `endpoint` from its server settings"
        )

    def metrics(self) -> bytes:
        """The text of /metrics. Raises httpx.HTTPError."""
        with self.address.connect(10) as http:
            return http.get("/metrics").raise_for_status().content

    def close(self) -> None:
        """Cancel a wait for the server."""
        self._closed.set()


def address(settings: ServerSettings) -> Address:
    """The address in `settings.endpoint`. Raises UserError if it is outside the allocation and that is not allowed."""
    endpoint = settings.endpoint or ""
    key = None
    if settings.api_key_env:
        key = os.environ.get(settings.api_key_env)
        if not key:
            raise UserError(f"{settings.api_key_env} (api_key_env) is not set in the job's environment")
    if endpoint.startswith("unix:"):
        return Address(Path(endpoint.removeprefix("unix:").removeprefix("//")), key=key)
    url = urlsplit(endpoint)
    host, tls = url.hostname or "", url.scheme == "https"
    if not settings.data_may_leave_the_allocation and not inside_allocation(host):
        raise UserError(
            f"{endpoint} is outside this job's nodes, so reports and images would leave them. This is not allowed for"
            " credentialed data. If your data may leave, set `data_may_leave_the_allocation: true` in the server settings"
        )
    # A path such as /v1 is part of OpenAI's interface; what comes before it belongs to the site.
    prefix = url.path.rstrip("/").removesuffix("/v1")
    return Address(host=host, port=url.port or (443 if tls else 80), tls=tls, prefix=prefix, key=key)


def inside_allocation(host: str, environment: dict[str, str] | None = None) -> bool:
    """True if every address of `host` belongs to this machine or to a node of the job.

    Raises UserError if the host has no address.
    """
    addresses = _addresses(host)
    if not addresses:
        raise UserError(f"{host} (endpoint) has no address: check the name")
    nodes = (os.environ if environment is None else environment).get("SLURM_JOB_NODELIST")
    names = [socket.gethostname(), *(hostnames(nodes) if nodes else [])]
    inside = {node_address for name in names for node_address in _addresses(name)}
    return all(item in inside or ipaddress.ip_address(item).is_loopback for item in addresses)


def _addresses(host: str) -> set[str]:
    try:
        rows = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(row[4][0]).split("%")[0] for row in rows}
