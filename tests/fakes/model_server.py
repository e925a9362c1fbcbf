"""A model server that answers and fails by script: `python -m tests.fakes.model_server MODEL --uds PATH`.

The environment variable FAKE_SCRIPT names a JSON file:
    name            model name it answers for (default: model)
    ready_s         seconds until it listens;  die_at_start: true ends it at once with an error line
    delay_s         seconds for each reply
    die_after       requests answered by the first process before it dies (later processes live on)
    die_on, hang_on, cut_on, garble_on
                    a text; a request that holds it kills the server, is never answered, gets half a body, gets no JSON
    refuse          {"text": [status, ...]}: requests that hold the text get these statuses in turn, then an answer
    verdict         what a boolean of a JSON reply is (default true); an integer is its highest or lowest
    scores          what all integers of a JSON reply are, for each of the request's n in turn
    text            what a reply without a schema is
    replies         {"text": reply}: what a request whose first prompt holds the text is answered with
    models          {"folder": script}: what is different for the model of that folder
It appends one line to <script>.log for each process ("start") and request (its prompt's first words).
"""

import asyncio
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

PATH = Path(os.environ["FAKE_SCRIPT"])
SCRIPT: dict[str, Any] = json.loads(PATH.read_text())
SCRIPT |= SCRIPT.get("models", {}).get(Path(sys.argv[1]).parent.name, {})
LOG = PATH.with_suffix(".log")
REFUSALS = {text: list(statuses) for text, statuses in SCRIPT.get("refuse", {}).items()}
state = {"answered": 0, "running": 0, "most": 0}


def note(line: str) -> None:
    with LOG.open("a") as out:
        out.write(line + "\n")


def prompt_of(body: dict[str, Any], turn: int = -1) -> str:
    content = body["messages"][turn]["content"]
    return content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)


def instance(schema: dict[str, Any], prompt: str, key: str = "", turn: int = 0) -> Any:
    """The smallest value that a schema allows, with the reference's own sections where a report is asked for."""
    if schema["type"] == "object":
        return {name: instance(part, prompt, name, turn) for name, part in schema["properties"].items()}
    if schema["type"] == "array":
        return [instance(schema["items"], prompt, turn=turn)] * schema["minItems"]
    if schema["type"] == "boolean":
        return SCRIPT.get("verdict", True)
    if schema["type"] == "integer":
        scores = SCRIPT.get("scores", [(max if SCRIPT.get("verdict", True) else min)(schema["enum"])])
        return scores[turn % len(scores)]
    found = re.search(rf"{key} : (.*?) \.(?= impression|\n)", prompt) if key in ("findings", "impression") else None
    return found.group(1) if found else "something is seen in the film"


def completion(body: dict[str, Any]) -> dict[str, Any]:
    prompt = prompt_of(body)
    schema = body.get("structured_outputs", {}).get("json")
    told = next((reply for text, reply in SCRIPT.get("replies", {}).items() if text in prompt_of(body, 0)), None)
    plain = SCRIPT.get("text", f"i look at the film and see what is there to be seen {prompt[:8]}")
    choices = [
        {
            "index": i,
            "message": {
                "role": "assistant",
                "content": told or (json.dumps(instance(schema, prompt, turn=i)) if schema else plain),
            },
            "finish_reason": "stop",
        }
        for i in range(body.get("n", 1))
    ]
    return {"choices": choices, "usage": {"prompt_tokens": 10, "completion_tokens": 5}}


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while line := await reader.readline():
            path = line.split()[1].decode()
            length = 0
            while (header := await reader.readline()).strip():
                if header.lower().startswith(b"content-length:"):
                    length = int(header.split(b":")[1])
            body = json.loads(await reader.readexactly(length)) if length else {}
            status, payload = await answer(path, body)
            data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            promised = len(data) + (50 if status == -1 else 0)
            head = f"HTTP/1.1 {abs(status) if status != -1 else 200} X\r\ncontent-type: application/json\r\n"
            writer.write(f"{head}content-length: {promised}\r\n\r\n".encode() + data)
            await writer.drain()
            if status == -1:
                return
    except (ConnectionError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def answer(path: str, body: dict[str, Any]) -> tuple[int, Any]:
    if path == "/v1/models":
        return 200, {"data": [{"id": SCRIPT.get("name", "model")}]}
    if path == "/stats":
        return 200, state
    if path != "/v1/chat/completions":
        return 200, {}
    prompt = prompt_of(body)
    note(prompt[:40].replace("\n", " "))
    state["running"] += 1
    state["most"] = max(state["most"], state["running"])
    try:
        if SCRIPT.get("die_on", "\0") in prompt or state["answered"] >= limit:
            os._exit(1)
        if SCRIPT.get("hang_on", "\0") in prompt:
            await asyncio.sleep(3600)
        await asyncio.sleep(SCRIPT.get("delay_s", 0))
        for text, statuses in REFUSALS.items():
            if text in prompt and statuses:
                return statuses.pop(0), {"error": {"message": "refused by script"}}
        state["answered"] += 1
        if SCRIPT.get("garble_on", "\0") in prompt:
            return 200, b"<html>"
        return (-1 if SCRIPT.get("cut_on", "\0") in prompt else 200), completion(body)
    finally:
        state["running"] -= 1


async def main() -> None:
    uds = sys.argv[sys.argv.index("--uds") + 1]
    server = await asyncio.start_unix_server(serve, uds, limit=1 << 26)
    owner = os.getppid()
    async with server:
        while os.getppid() == owner:  # as the real one, it ends when its owner was killed
            await asyncio.sleep(0.5)


first = not (LOG.exists() and "start" in LOG.read_text().splitlines())
limit = SCRIPT.get("die_after", 10**9) if first else 10**9
note("start")
if SCRIPT.get("die_at_start"):
    sys.exit("ValueError: the script says so")
time.sleep(SCRIPT.get("ready_s", 0))
asyncio.run(main())
