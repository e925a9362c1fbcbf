"""Settings of a model server and its client."""

import re
from typing import Literal

from pydantic import Field, model_validator

from diagcot.jobs.settings import MOST_SEED, Settings


class ServerSettings(Settings):
    """One vLLM server. The pixel budget of images comes from the model directory, so training and serving agree."""

    max_model_len: int = Field(
        default=4096, ge=16, description="Maximum number of tokens of prompt and reply together, image tokens included."
    )
    max_num_seqs: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of sequences decoded at the same time. If not set: as many as the KV cache of the GPUs"
        " holds at half of max_model_len, from 16 to 256; 64 on a CPU.",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        default="auto",
        description="Data type of weights and activations. auto: the model's own on GPU; float32 on CPU, where it is twice"
        " as fast.",
    )
    gpu_memory_utilization: float = Field(
        default=0.9, gt=0, le=1, description="Share of each GPU's memory that the server may use, above 0 and up to 1."
    )
    data_parallel: int | None = Field(
        default=None,
        ge=1,
        description="Number of servers of this model in a task, each with its own GPUs. If not set: the task's GPUs divided"
        " by tensor_parallel, or one server if that is not set either.",
    )
    tensor_parallel: int | None = Field(
        default=None,
        ge=1,
        description="Number of GPUs per server. If not set: the task's GPUs divided by data_parallel. 1 is fastest for a"
        " model that fits on one GPU.",
    )
    pipeline_parallel: int = Field(
        default=1, ge=1, description="Number of nodes that one server spans, for a model that does not fit on one node."
    )
    images: int = Field(default=4, ge=0, description="Maximum number of images in one request. 0: a text-only model.")
    enforce_eager: bool | None = Field(
        default=None, description="Do not compile the model. If not set: true on CPU, where compiling does not pay off."
    )
    kv_cache_gb: int | None = Field(
        default=None,
        ge=1,
        description="Size of the KV cache in GiB, on each GPU. If not set: what gpu_memory_utilization leaves beside the"
        " weights; 1 on a CPU.",
    )
    cpu_threads: int = Field(default=1, ge=1, description="Number of OpenMP threads of the server, on CPU only.")
    quantization: str | None = Field(
        default=None,
        description="Quantisation method: that of the weights on disk (awq, gptq, ...), or one applied while loading (fp8,"
        " ...). If not set: vLLM reads it from the model directory.",
    )
    seed: int = Field(default=0, ge=0, le=MOST_SEED, description="Random seed of the server.")
    extra: tuple[str, ...] = Field(default=(), description="Further command line arguments of `vllm serve`.")

    startup_timeout_s: float = Field(default=1800, gt=0, description="Seconds until a server must be ready.")
    shutdown_timeout_s: float = Field(
        default=20, ge=0, description="Seconds that a server gets to finish its requests before it is killed."
    )
    request_timeout_s: float = Field(default=900, gt=0, description="Seconds until a reply to a request must arrive.")
    restarts: int = Field(
        default=3, ge=0, description="Maximum number of restarts of a server in a row without a reply in between."
    )
    retries: int = Field(
        default=6, ge=0, description="Maximum number of retries of a request after HTTP status 429 or 5xx."
    )
    in_flight: int | None = Field(
        default=None,
        ge=1,
        description="Maximum number of requests in flight at one server. If not set: 1.5 times max_num_seqs.",
    )

    endpoint: str | None = Field(
        default=None,
        description="Address of a running OpenAI-compatible server to use instead of starting one: http://host:port,"
        " https://host or unix:/path.",
    )
    endpoint_model: str | None = Field(default=None, description="Name by which the endpoint knows its model.")
    endpoint_sampling: Literal["neutral", "server"] = Field(
        default="neutral",
        description="Sampling parameters of a vLLM endpoint that a stage does not set. neutral: top_k, min_p and"
        " the penalties without effect, so that the model folder's generation_config.json changes nothing. server: the"
        " endpoint's own.",
    )
    api_key_env: str | None = Field(
        default=None, description="Name of the environment variable of the job that holds the endpoint's key."
    )
    data_may_leave_the_allocation: bool = Field(
        default=False,
        description="Allow an endpoint outside the job's nodes, to which reports and images would be sent. Never set it for"
        " credentialed data.",
    )

    @model_validator(mode="after")
    def _check_endpoint(self) -> "ServerSettings":
        if self.endpoint is None:
            names = ("endpoint_model", "endpoint_sampling", "api_key_env", "data_may_leave_the_allocation")
            if any(getattr(self, name) != type(self).model_fields[name].default for name in names):
                raise ValueError(f"{', '.join(names[:-1])} and {names[-1]} need `endpoint`, which is not set")
        elif not re.match(r"(https?://[^/\s]+|unix:/)", self.endpoint):
            raise ValueError("endpoint must be http://host:port, https://host or unix:/path")
        elif not self.endpoint_model:
            raise ValueError("endpoint_model is missing: set it to the name by which the endpoint knows its model")
        return self

    @property
    def sequences(self) -> int:
        """`max_num_seqs`, or the number where the memory is not known."""
        return self.max_num_seqs or 64

    @property
    def window(self) -> int:
        """Maximum number of requests in flight at one server: some more than it decodes at once, so that it is never idle."""
        return self.in_flight or max(2, self.sequences * 3 // 2)
