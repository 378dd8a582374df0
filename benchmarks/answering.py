"""The end of a pipe at which a benchmark's other process does what it is told; needs nothing but Python."""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any


def answer_requests(work: Callable[[dict[str, Any]], dict[str, Any] | None]) -> None:
    """Answers one line of JSON by another until the pipe is closed; what else is printed goes to standard error.

    Args:
        work: Does what a request asks for; what it returns is sent with the time it took, by the clock and of this
            process's processors.
    """
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _tell(out, {"ready": True})
    for line in sys.stdin:
        start = time.perf_counter(), time.process_time()
        found = work(json.loads(line)) or {}
        seconds, processors = time.perf_counter() - start[0], time.process_time() - start[1]
        _tell(out, {**found, "seconds": seconds, "processor_seconds": processors})


def _tell(out: Any, told: dict[str, Any]) -> None:
    out.write(json.dumps(told) + "\n")
    out.flush()
