"""The process that ``math_equivalence`` asks: reads pairs of formulas, writes whether they are equal.

Run as a script and never imported by the package. It imports nothing of the package, so that it starts without torch.
One JSON object a line: ``{"prediction": str, "gold": str, "seconds": float}`` in, ``true`` or ``false`` out, after a
first line ``"ready"``.
"""

import contextlib
import json
import os
import resource
import signal
import sys
from typing import Any

MEMORY_BYTES = 2 * 2**30
"""Address space of the process: ``9^{9^9}`` must meet this wall before the machine's."""


def serve() -> None:
    """Answers until standard input ends."""
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    # What libraries print must not look like a reply.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    # The default action ends the process even inside a long multiplication, where no Python handler runs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Refused on systems that do not limit address space; the wall clock still holds there.
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))
    equal = _load_comparison()
    print(json.dumps("ready"), file=replies)
    for line in sys.stdin:
        request = json.loads(line)
        # The parent kills at `seconds`; this is for a parent that died meanwhile.
        signal.setitimer(signal.ITIMER_REAL, request["seconds"] + 1.0)
        reply = equal(request["prediction"], request["gold"])
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        print(json.dumps(reply), file=replies)


def _load_comparison() -> Any:
    from math_verify import LatexExtractionConfig, parse, verify

    def formula(text: str) -> Any:
        # As one formula between dollars. In free text the parser would pick one number of many, so that "5 or 6" is 6.
        return parse(f"${text}$", [LatexExtractionConfig()], fallback_mode="no_fallback", parsing_timeout=None)

    def equal(prediction: str, gold: str) -> bool:
        return bool(verify(formula(gold), formula(prediction), timeout_seconds=None))

    return equal


if __name__ == "__main__":
    serve()
