"""Rewards in a child process that can be ended: a reward may loop where nothing inside its process can stop it.

The child is `python -m diagcot.training.reward_models.child <descriptor>`. Messages are pickled through a pair of sockets, so
that a reward may print.
"""

import math
import pickle
import signal
import socket
import subprocess
import sys
import traceback
import weakref
from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from typing import Any

from diagcot.jobs.environment import code, variables
from diagcot.rewards.score import Reference, Score
from diagcot.training.config.reward_settings import RewardSettings
from diagcot.training.reward_models.plain import Output, PlainRewards

_START_S = 600  # until a child has loaded its rewards
_GRACE_S = 5  # after a deadline, until a child ends itself because nobody did


class LateError(RuntimeError):
    """A child gave no answer before its deadline and was ended."""


class DeadError(RuntimeError):
    """A child ended before it answered. The message says how, as `signal SIGKILL` or `exit code 1`."""


class RewardChild:
    """The rewards of a worker in a child process, which is started when it is first needed and again after it has ended.

    One thread at a time may call it.
    """

    def __init__(self, table: Mapping[str, RewardSettings], corpus: Mapping[str, Sequence[Reference]]) -> None:
        self._table, self._corpus = table, {key: corpus[key] for key in table}
        self._connection: Connection | None = None

    def start(self) -> None:
        """Start the child, unless it runs. Raises what loading the rewards raised, and RuntimeError if it does not start."""
        if self._connection is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env=variables.child("OMP_NUM_THREADS", **variables.OWN_CODE),  # as Ray shares the CPUs out
            )
        self._connection = Connection(ours.detach())
        self._end = weakref.finalize(self, _end, self._process, self._connection)
        try:
            self._ask((self._table, self._corpus), _START_S)
        except (LateError, DeadError) as error:
            raise RuntimeError(f"the process of the rewards did not start ({error}); see its worker's log") from None
        except Exception:
            self.close()
            raise

    def score(self, key: str, outputs: Sequence[Output], progress: float, limit_s: float) -> list[Score]:
        """Scores of outputs of one reward. Raises what the reward raised, LateError after `limit_s` seconds, DeadError."""
        self.start()
        scores: list[Score] = self._ask((key, outputs, progress, limit_s), limit_s)
        return scores

    def close(self) -> None:
        """End the child."""
        if self._connection is not None:
            self._connection = None
            self._end()

    def _ask(self, message: Any, limit_s: float) -> Any:
        assert self._connection
        try:
            self._connection.send(message)
            if not self._connection.poll(limit_s):
                self.close()
                raise LateError(f"no answer in {limit_s:g} s")
            answer, error = self._connection.recv()
        except (EOFError, OSError):
            how = self._ended()
            self.close()
            raise DeadError(f"signal {signal.Signals(-how).name}" if how < 0 else f"exit code {how}") from None
        if isinstance(error, Exception):
            raise error
        return answer

    def _ended(self) -> int:
        try:
            return self._process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:  # it has closed its side and runs on
            return -signal.SIGKILL


def _end(process: "subprocess.Popen[bytes]", connection: Connection) -> None:
    process.kill()
    process.wait()
    connection.close()


def _serve(connection: Connection) -> None:
    """Answer (result, error) to each message until the parent closes its side."""
    code.require_own()
    rewards: PlainRewards | None = None
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        try:
            if rewards is None:
                rewards, answer = PlainRewards(*message), None
                rewards.warm_up()
            else:
                key, outputs, progress, limit_s = message
                signal.alarm(math.ceil(limit_s + _GRACE_S))  # ends this process, should its parent have died
                answer = rewards.score(key, outputs, progress)
                signal.alarm(0)
        except Exception as error:
            signal.alarm(0)
            connection.send((None, _sendable(error)))
        else:
            connection.send((answer, None))


def _sendable(error: Exception) -> Exception:
    """The error with the lines that raised it, or one that says the same where it cannot be sent."""
    error.add_note("in the process of the reward:\n" + "".join(traceback.format_tb(error.__traceback__)))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


if __name__ == "__main__":
    _serve(Connection(int(sys.argv[1])))
