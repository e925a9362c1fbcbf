"""Settings of a server: what vLLM is started with, and how long we are patient with it."""

import re
from typing import Literal

from pydantic import Field, model_validator

from diagcot.jobs.settings import Settings


class ServerSettings(Settings):
    """One vLLM server. The pixel budget of images is the model directory's own, so training and serving agree."""

    max_model_len: int = Field(default=4096, ge=16)  # tokens of prompt and reply together, image tokens included
    max_num_seqs: int = Field(default=64, ge=1)  # sequences decoded at once
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = (
        "auto"  # auto: on GPU the model's own; on CPU float32, twice as fast there
    )
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    # Servers of one model, each with its own GPUs, and GPUs of each. None: what the other leaves of the task's GPUs; with
    # neither given, one server over all of them. A model that fits on one GPU is served fastest with tensor_parallel 1.
    data_parallel: int | None = Field(default=None, ge=1)
    tensor_parallel: int | None = Field(default=None, ge=1)
    pipeline_parallel: int = Field(default=1, ge=1)  # nodes that one server spans, for a model that no node can hold
    images: int = Field(default=4, ge=0)  # at most this many in a request
    enforce_eager: bool | None = None  # None: on CPU only, where compiling costs more than it gains
    kv_cache_gb: int = Field(default=1, ge=1)  # CPU only; on GPU gpu_memory_utilization decides
    cpu_threads: int = Field(default=1, ge=1)  # CPU only: OpenMP threads of the engine
    quantization: str | None = None  # of the weights on disk (awq, gptq …), or while loading (fp8 …)
    seed: int = 0
    extra: tuple[str, ...] = ()  # further arguments of `vllm serve`

    startup_timeout_s: float = Field(default=1800, gt=0)
    shutdown_timeout_s: float = Field(default=20, ge=0)
    request_timeout_s: float = Field(default=900, gt=0)
    restarts: int = Field(default=3, ge=0)  # in a row, with no reply in between
    retries: int = Field(default=6, ge=0)  # of one request after 429 or 5xx
    in_flight: int | None = Field(default=None, ge=1)  # most requests in flight at a server; None: 1.5 x max_num_seqs

    # An OpenAI-compatible server that runs already, instead of one of our own: http://host:port or unix:/path, the name of
    # its model, and the environment variable that holds its key. Other machines than the job's own must be allowed.
    endpoint: str | None = None
    endpoint_model: str | None = None
    api_key_env: str | None = None
    data_may_leave_the_allocation: bool = False

    @model_validator(mode="after")
    def _endpoint(self) -> "ServerSettings":
        if self.endpoint is None:
            if self.endpoint_model or self.api_key_env or self.data_may_leave_the_allocation:
                raise ValueError("endpoint_model, api_key_env and data_may_leave_the_allocation belong to `endpoint`")
        elif not re.match(r"(https?://[^/\s]+|unix:/)", self.endpoint):
            raise ValueError("endpoint is http://host:port, https://host or unix:/path")
        elif not self.endpoint_model:
            raise ValueError("endpoint_model is missing: the name by which the endpoint knows its model")
        return self

    @property
    def window(self) -> int:
        """Most requests in flight at one server: some more than it decodes at once, so that it never waits for us."""
        return self.in_flight or max(2, self.max_num_seqs * 3 // 2)
