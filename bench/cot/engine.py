"""What the engine alone needs for the requests of a search: `python -m bench.cot.engine MODEL_DIR REQUESTS OPTION…`.

vLLM's own offline interface in one process, with the server's options: no HTTP, no client, no second process on the machine.
All requests are there from the beginning, read, tokenised and with their images processed, sample by sample, so that every
prefix that they share is in the cache and no slot is ever empty. A search cannot be as fast: it learns what to ask from the
replies. REQUESTS: bodies of POST /v1/chat/completions, one a line. Prints a JSON line.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any


def main(model_dir: str, requests: Path, options: list[str]) -> None:
    """Warm the engine up by the first requests, then time all of them from empty caches."""
    from vllm import LLM
    from vllm.engine.arg_utils import EngineArgs
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    args = make_arg_parser(FlexibleArgumentParser()).parse_args([model_dir, *options])
    args.model, args.disable_log_stats = model_dir, False
    llm = LLM.from_engine_args(EngineArgs.from_cli_args(args))
    bodies = [json.loads(line) for line in requests.read_text().splitlines()]

    def run(bodies: list[dict[str, Any]]) -> dict[str, float]:
        for reset in (llm.reset_prefix_cache, llm.reset_mm_cache, llm.llm_engine.reset_encoder_cache):
            reset()
        before = _counters(llm)
        params = [ChatCompletionRequest(**body).to_sampling_params(body["max_tokens"], {}) for body in bodies]
        began = time.monotonic()
        llm.enqueue_chat([body["messages"] for body in bodies], params, use_tqdm=False)
        ready, before_s = time.monotonic(), time.process_time()
        llm.wait_for_completion(use_tqdm=False)
        ended, after = time.monotonic(), _counters(llm)
        found = {name: after[name] - before[name] for name in after}
        used = time.process_time() - before_s
        return {"prepared_s": ready - began, "seconds": ended - ready, "cpu_s": used, "requests": len(bodies)} | found

    run(bodies[: len(bodies) // 10])
    print(json.dumps(run(bodies)))


def _counters(llm: Any) -> dict[str, float]:
    names = ("prefix_cache_queries", "prefix_cache_hits", "generation_tokens", "prompt_tokens")
    return {
        row.name.removeprefix("vllm:"): row.value
        for row in llm.get_metrics()
        if row.name.removeprefix("vllm:") in names
    }


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
