"""What a side of a benchmark shares with the other: taking turns over a pipe, clocks, memory, pictures, and changes."""

import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any


class Turns:
    """The other end of the pipe to ``sides.Side``; what a side prints goes to its standard error."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        self._start = self._end = (0.0, 0.0)

    def begin(self) -> None:
        """Waits for the first turn."""
        # Linux forgets the peak of the preparations on this request.
        Path("/proc/self/clear_refs").write_text("5")
        self._tell({"loaded": mebibytes("VmRSS")})
        if not self._may_go():
            raise SystemExit
        self._start = _clocks()

    def stop_clock(self) -> None:
        """Takes the time at which a step ends; what comes until the next turn does not count."""
        self._end = _clocks()

    def end(self, work: Any) -> bool:
        """Reports a step, and waits for the next turn; tells whether there is one.

        Args:
            work: A dataclass of what the step did.
        """
        seconds, processors = (end - start for start, end in zip(self._start, self._end, strict=True))
        peak = mebibytes("VmHWM")
        self._tell({"seconds": seconds, "processor_seconds": processors, "peak": peak, "work": asdict(work)})
        goes_on = self._may_go()
        self._start = _clocks()
        return goes_on

    def _tell(self, told: dict[str, Any]) -> None:
        self._out.write(json.dumps(told) + "\n")
        self._out.flush()

    def _may_go(self) -> bool:
        return sys.stdin.readline().strip() == "go"


def _clocks() -> tuple[float, float]:
    """Seconds by the clock, and those of the processors that this process used."""
    return time.perf_counter(), time.process_time()


def mebibytes(name: str) -> float:
    """Reads a figure of this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def pictures(image_tokens: int, count: int) -> list[Any]:
    """Draws images that cost exactly the tokens wanted of the bundled model, each another."""
    from PIL import Image

    # A token is 2 x 2 patches of 8 x 8 pixels.
    side = round(image_tokens**0.5) * 16
    image = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    return [image.rotate(3 * row) for row in range(count)]


def snapshot(model: Any) -> dict[str, Any]:
    """Copies a matrix of the vision tower and one of the decoder."""
    chosen = {}
    for name, value in model.named_parameters():
        for part in ("visual", "language_model"):
            if part in name and value.ndim == 2 and part not in chosen:
                chosen[part] = (name, value.detach().clone())
    return chosen


def changes_since(before: dict[str, Any], model: Any) -> dict[str, bool]:
    """Tells which of the copied matrices are different now."""
    now = dict(model.named_parameters())
    return {part: not bool((now[name] == value).all()) for part, (name, value) in before.items()}
