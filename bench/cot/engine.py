"""What the engine alone needs for the requests of a search: `python -m bench.cot.engine MODEL_DIR REQUESTS WINDOW OPTION…`.

vLLM's own offline interface in one process, with the server's options: no HTTP, no client, no second process on the machine.
Measured twice, from empty caches, without the time in which requests are read, tokenised and their images processed:

* `seconds`: all requests are there from the beginning, sample by sample, so that every prefix that they share is in the cache
  and no slot is ever empty. A search cannot be as fast: it learns what to ask from the replies.
* `seconds_in_order`: WINDOW samples at a time, each of which asks its next question when the one before is answered, as a search
  does. No client can be faster on this engine.

REQUESTS: a JSON line a sample, the list of its bodies of POST /v1/chat/completions. Prints a JSON line.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Body = dict[str, Any]


def main(model_dir: str, requests: Path, window: int, options: list[str]) -> None:
    """Warm the engine up by the first samples, then time all of them."""
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([model_dir, *options])
    args.model, args.disable_log_stats = model_dir, False
    llm = LLM.from_engine_args(EngineArgs.from_cli_args(args))
    samples = [json.loads(line) for line in requests.read_text().splitlines()]
    _at_once(llm, samples[: len(samples) // 10])
    found = _at_once(llm, samples)
    print(json.dumps(found | {"seconds_in_order": _in_order(llm, samples, window)}))


def _at_once(llm: Any, samples: list[list[Body]]) -> dict[str, float]:
    _empty(llm)
    before, bodies = _counters(llm), [body for sample in samples for body in sample]
    _enqueue(llm, bodies)
    began = time.monotonic()
    llm.wait_for_completion(use_tqdm=False)
    seconds, after = time.monotonic() - began, _counters(llm)
    return {"seconds": seconds, "requests": len(bodies)} | {name: after[name] - before[name] for name in after}


def _in_order(llm: Any, samples: list[list[Body]], window: int) -> float:
    """Seconds of the engine's steps."""
    _empty(llm)
    seconds, waiting = 0.0, iter(samples)
    left: dict[str, Iterator[Body]] = {}  # id of a request in flight -> what its sample asks after it

    def ask(bodies: Iterator[Body]) -> None:
        if (body := next(bodies, None)) is not None:
            left[_enqueue(llm, [body])[0].partition("-")[0]] = bodies  # an output names the part before the dash
        elif (sample := next(waiting, None)) is not None:
            ask(iter(sample))

    for _ in range(window):
        ask(iter(()))
    while left:
        began = time.monotonic()
        outputs = llm.llm_engine.step()
        seconds += time.monotonic() - began
        for output in outputs:
            if output.finished:
                ask(left.pop(output.request_id))
    return seconds


def _enqueue(llm: Any, bodies: list[Body]) -> list[str]:
    """Ids of the requests."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    params = [ChatCompletionRequest(**body).to_sampling_params(body["max_tokens"], {}) for body in bodies]
    return list(llm.enqueue_chat([body["messages"] for body in bodies], params, use_tqdm=False))


def _empty(llm: Any) -> None:
    for reset in (llm.reset_prefix_cache, llm.reset_mm_cache, llm.llm_engine.reset_encoder_cache):
        reset()


def _counters(llm: Any) -> dict[str, float]:
    names = ("prefix_cache_queries", "prefix_cache_hits", "generation_tokens", "prompt_tokens")
    return {
        row.name.removeprefix("vllm:"): row.value
        for row in llm.get_metrics()
        if row.name.removeprefix("vllm:") in names
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
