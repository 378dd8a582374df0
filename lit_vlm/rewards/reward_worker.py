"""The process that a ``RewardPool`` asks: reads completions, writes their rewards.

Run as a script; the package is imported only after the import path of the asking process is known. Lines in: the import
path as JSON, the pickled reward, then pickled questions ``(seconds, completions, context)``; lines out: a pickled pair
of an output and what was raised, one of them None, first for loading the reward. Pickles are written in base64. Both
ends are the same user's processes on one machine; nothing from a file or a network is unpickled.
"""

import base64
import json
import os
import pickle
import signal
import sys
from typing import Any


def serve() -> None:
    """Answers until standard input ends."""
    questions, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    # A reward that prints or reads must not touch the messages.
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    # The default action ends the process even inside C code, where no Python handler runs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    sys.path[:] = json.loads(questions.readline())
    reward: Any = None
    reply: tuple[Any, str | None] = (None, None)
    try:
        import torch

        torch.set_num_threads(1)
        reward = unpacked(questions.readline())
    except Exception as error:
        reply = (None, described(error))
    _send(replies, reply)
    for line in questions:
        seconds, completions, context = unpacked(line)
        # The parent kills at `seconds`; this is for a parent that died meanwhile.
        signal.setitimer(signal.ITIMER_REAL, seconds + 1.0)
        try:
            reply = (reward(completions, context), None)
        except Exception as error:
            reply = (None, described(error))
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        _send(replies, reply)


def packed(value: Any) -> bytes:
    """Writes a value as one line without its end."""
    return base64.b64encode(pickle.dumps(value))


def unpacked(line: bytes) -> Any:
    """Reads what ``packed`` wrote."""
    return pickle.loads(base64.b64decode(line))


def described(error: Exception) -> str:
    """Says in a line what was raised."""
    return f"raised {type(error).__name__}: {error}"


def _send(replies: Any, reply: tuple[Any, str | None]) -> None:
    replies.write(packed(reply) + b"\n")
    replies.flush()


if __name__ == "__main__":
    serve()
