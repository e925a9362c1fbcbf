"""`vllm bench serve` over a Unix socket: `python -m bench.cot.generator SOCKET OPTION…`.

Its own code; only the connector is exchanged, since it knows no other way to a server than a port.
"""

import sys
from typing import Any

import aiohttp


class Connector(aiohttp.UnixConnector):
    """A connector to a Unix domain socket, whatever host the load generator names."""

    def __init__(self, *, limit: int, keepalive_timeout: float, **_: Any) -> None:
        super().__init__(path=sys.argv[1], limit=limit, keepalive_timeout=keepalive_timeout)


aiohttp.TCPConnector = Connector  # type: ignore[misc, assignment]

from vllm.benchmarks.serve import add_cli_args, main  # noqa: E402
from vllm.utils.argparse_utils import FlexibleArgumentParser  # noqa: E402

if __name__ == "__main__":
    parser = FlexibleArgumentParser()  # type: ignore[no-untyped-call]
    add_cli_args(parser)
    main(parser.parse_args(sys.argv[2:]))
