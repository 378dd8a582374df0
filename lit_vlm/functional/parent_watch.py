"""Ends a process that was started as a further rank, where the one that started it is gone."""

from __future__ import annotations

import os
import sys
import threading
import time

EXIT_STATUS = 2
SECONDS = 45.0
"""From the parent's end to this process' own; ranks that watch each other end sooner, and know more to say."""


def end_with_parent(seconds: float = SECONDS, poll: float = 1.0) -> threading.Thread | None:
    """Lets this process end some time after its parent, whatever it waits for, such as the start of other ranks.

    Args:
        seconds: How long after.
        poll: Seconds between two looks.

    Returns:
        What watches; None in a process that nobody has started as a rank.
    """
    if "LOCAL_RANK" not in os.environ:
        return None
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(poll)
        time.sleep(seconds)
        print("lit-vlm: error: the process that started this rank has died", file=sys.stderr, flush=True)
        os._exit(EXIT_STATUS)

    thread = threading.Thread(target=watch, name="parent-watch", daemon=True)
    thread.start()
    return thread
