"""What is told of a server that does not answer: the first cause in its log, and a refusal at once."""

import socketserver
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from diagcot.serving import ServerError
from diagcot.serving.server.cause import first_error
from diagcot.serving.server.process import served_model

WRAPPED = """INFO starting
(EngineCore pid=7) ERROR 11-29 10:00:00 [core.py:99] EngineCore failed to start.
(EngineCore pid=7) ERROR 11-29 10:00:00 [core.py:99] Traceback (most recent call last):
(EngineCore pid=7) ERROR 11-29 10:00:00 [core.py:99]   File "x.py", line 3, in load
(EngineCore pid=7) ERROR 11-29 10:00:00 [core.py:99] {cause}
{noise}
Traceback (most recent call last):
  File "y.py", line 9, in main
RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{}}
"""


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("ValueError: max_model_len (4096) is too large", "ValueError: max_model_len (4096) is too large"),
        ("torch._inductor.exc.InductorError: CppCompileError: C++ compile error", "CppCompileError: C++ compile error"),
        (
            "ImportError: /tmp/x/a.so: failed to map segment from shared object",
            "ImportError: /tmp/x/a.so: failed to map segment from shared object",
        ),
    ],
)
def test_the_first_cause_is_told_however_much_follows(tmp_path: Path, cause: str, told: str) -> None:
    log = tmp_path / "server.log"
    log.write_text(WRAPPED.format(cause=cause, noise="a frame of another thread\n" * 4000))
    assert told in first_error(log) and first_error(log).endswith(f"(log: {log})")
    assert "See root cause" not in first_error(log)


def test_advice_about_what_might_be_refused_is_no_refusal(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    advice = "This can cause fd limit errors like `OSError: [Errno 24] Too many open files`. Consider increasing with ulimit -n"
    log.write_text(f"WARNING {advice}\n" + WRAPPED.format(cause="ValueError: no such expert", noise=""))
    assert first_error(log).startswith("ValueError: no such expert")


def test_what_the_system_refused_comes_first(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    full = "/t/x.s: Fatal error: cannot write: No space left on device"
    log.write_text(WRAPPED.format(cause=f"CppCompileError: C++ compile error\n\nOutput:\n{full}", noise="x" * 30000))
    assert first_error(log).startswith(f"{full} (CppCompileError: C++ compile error)")


def test_a_log_without_a_traceback_or_before_it_was_ready(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert "no log was written" in first_error(log)
    log.write_text("usage: x\nx: error: argument --y: invalid\n")
    assert first_error(log).startswith("x: error: argument --y: invalid")
    log.write_text("Traceback (most recent call last):\nKeyError: 'told and survived'\n")
    since = log.stat().st_size
    with log.open("a") as out:
        out.write("Traceback (most recent call last):\nMemoryError: x\n")
    assert first_error(log, since).startswith("MemoryError: x")


class Refuses(BaseHTTPRequestHandler):
    status = 401

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def address_string(self) -> str:
        return ""


@pytest.fixture
def socket_of() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="s", dir="/tmp") as folder:
        with socketserver.ThreadingUnixStreamServer(f"{folder}/s", Refuses) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            yield Path(folder) / "s"
            server.shutdown()


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_refusal_is_an_answer(socket_of: Path, monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    monkeypatch.setattr(Refuses, "status", status)
    with pytest.raises(ServerError, match=f"refuses to list its models: HTTP {status}"):
        served_model(socket_of)
    monkeypatch.setattr(Refuses, "status", 503)  # it is still starting
    assert served_model(socket_of) is None
