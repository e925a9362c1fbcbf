"""A server that somebody else runs: any OpenAI-compatible one, on this allocation unless the recipe says otherwise."""

import ipaddress
import os
import socket
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from diagcot.jobs import UserError
from diagcot.jobs.slurm import commands as slurm
from diagcot.serving.http import Address
from diagcot.serving.server.process import ServerError
from diagcot.serving.settings import ServerSettings


class Endpoint:
    """Takes a replica's place. It is neither started nor ended by us, and serves the one model it has."""

    generation = 0
    load_s = 0.0

    def __init__(self, settings: ServerSettings) -> None:
        """Raises UserError for an address that may not be talked to, ServerError if it does not answer as it should."""
        self.settings = settings
        self.address = address(settings)
        self.model = settings.endpoint_model or ""
        self._closed = threading.Event()
        self.vllm = self._identify()

    def _identify(self) -> bool:
        """Wait until it answers; whether it is vLLM."""
        end, pause = time.monotonic() + self.settings.startup_timeout_s, 0.2
        while True:
            try:
                with self.address.connect(10) as http:
                    rows = http.get("/v1/models").raise_for_status().json()["data"]
                    names = {str(row["id"]): row.get("owned_by") for row in rows}
                break
            except httpx.HTTPStatusError as error:
                if error.response.status_code in (401, 403):
                    raise ServerError(f"{self.settings.endpoint} refuses us: check api_key_env") from error
                cause = f"HTTP {error.response.status_code}"
            except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
                cause = type(error).__name__
            if time.monotonic() + pause > end or self._closed.wait(pause):
                raise ServerError(
                    f"{self.settings.endpoint} gave no list of models within {self.settings.startup_timeout_s:.0f} s"
                    f" (startup_timeout_s): {cause}"
                )
            pause = min(2 * pause, 15)
        if self.model not in names:
            raise ServerError(f"{self.settings.endpoint} serves {', '.join(names) or 'no model'}, not {self.model}")
        return names[self.model] == "vllm"

    def revive(self, generation: int) -> None:
        """Return when it answers again. Raises ServerError if it does not within `startup_timeout_s`."""
        self._identify()

    def replied(self) -> None:
        pass

    def load(self, model_dir: Path) -> None:
        """Raises UserError: its weights are not ours to change."""
        raise UserError(
            f"{self.settings.endpoint} serves one model, and this stage asks for the weights of {model_dir} too:"
            " leave `endpoint` out of its server settings"
        )

    def metrics(self) -> bytes:
        """The text of /metrics. Raises httpx.HTTPError."""
        with self.address.connect(10) as http:
            return http.get("/metrics").raise_for_status().content

    def close(self) -> None:
        self._closed.set()


def address(settings: ServerSettings) -> Address:
    """Where `settings.endpoint` is. Raises UserError if that is outside the allocation and was not allowed."""
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
    if not settings.data_may_leave_the_allocation and not inside(host):
        raise UserError(
            f"{endpoint} is outside this job's machines, and reports and films would be sent there. Credentialed data"
            " must not be; where yours may, say `data_may_leave_the_allocation: true` in the server settings"
        )
    # A path such as /v1 is part of OpenAI's interface; what comes before it is the site's.
    prefix = url.path.rstrip("/").removesuffix("/v1")
    return Address(host=host, port=url.port or (443 if tls else 80), tls=tls, prefix=prefix, key=key)


def inside(host: str, environment: dict[str, str] | None = None) -> bool:
    """Whether every address of `host` is this machine's or one of the job's nodes'. Raises UserError for no address."""
    there = _addresses(host)
    if not there:
        raise UserError(f"{host} (endpoint) has no address: is the name right?")
    nodes = (os.environ if environment is None else environment).get("SLURM_JOB_NODELIST")
    names = [socket.gethostname(), *(slurm.hostnames(nodes) if nodes else [])]
    here = {found for name in names for found in _addresses(name)}
    return all(found in here or ipaddress.ip_address(found).is_loopback for found in there)


def _addresses(host: str) -> set[str]:
    try:
        found: Iterable[Any] = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return set()
    return {str(row[4][0]).split("%")[0] for row in found}
