"""Lets two trainers in processes of their own take steps by turns, and compares times and memory."""

import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SIDES = ("TRL", "ours")
WARM_UP = 3
MISSING = """TRL is not there; it is needed for this benchmark only. Put it in a folder of its own:

    uv pip install --target TRL_FOLDER --no-deps trl==1.16.0
    PYTHONPATH=TRL_FOLDER python benchmarks/{}"""
COLUMNS = (
    "TRL s", "ours s", "TRL / ours (quartiles)", "of processor time", "growth, MiB, TRL / ours", "peak, MiB",
)  # fmt: skip


class Side:
    """A trainer in a process of its own, which waits between its steps.

    Args:
        script: What it runs, with ``--side`` and what is told.
        name: One of ``SIDES``.
        told: What else the side is told.
        threads: Of its processor.
    """

    def __init__(self, script: str, name: str, told: dict[str, Any], threads: int) -> None:
        self.name = name
        self.steps: list[dict[str, Any]] = []
        self._faults = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, script, "--side", json.dumps({"name": name, **told})],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._faults,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
        )
        self.loaded = self._hear()["loaded"]

    def step(self) -> None:
        """Lets it take a step."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.steps.append(self._hear())

    def end(self) -> None:
        """Ends it."""
        self._process.kill()
        self._process.wait()
        self._faults.close()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._faults.seek(0)
            raise SystemExit(f"the side of {self.name} ended:\n{self._faults.read()}")
        return dict(json.loads(line))


def refuse_different_work(sides: Sequence[Side], expected: dict[str, Any]) -> None:
    """Ends the benchmark where a side did other work than expected in its last step.

    Args:
        sides: Both.
        expected: What is wanted; where it says nothing of the prompts' tokens, as many as on the first side.
    """
    wanted = {**expected, "prompt_tokens": sides[0].steps[-1]["work"]["prompt_tokens"]}
    for side in sides:
        if side.steps[-1]["work"] != wanted:
            raise SystemExit(f"{side.name} did {side.steps[-1]['work']}; wanted is {wanted}")


def refuse_without_trl(script: str) -> None:
    """Ends the benchmark where there is no TRL, and says how to get it."""
    if importlib.util.find_spec("trl") is None:
        name = Path(script).name
        print(MISSING.format(name), file=sys.stderr)
        sys.exit(2)


@dataclass(frozen=True)
class Outcome:
    """What the turns showed."""

    columns: tuple[str, ...]
    """As ``COLUMNS`` names them."""
    ratio: float
    """Median over the rounds of their seconds over ours."""
    growth: tuple[float, float]
    """Of memory from when the models were loaded to the peak, in MiB: theirs and ours."""

    def is_good(self, wanted: float) -> bool:
        """Tells whether ours is as fast as is wanted, in no more memory."""
        return self.ratio >= wanted and self.growth[1] <= self.growth[0]


def take_turns(
    script: str, told: dict[str, Any], threads: int, rounds: int, check: Callable[[Sequence[Side]], None]
) -> Outcome:
    """Lets both sides take steps by turns, the first one changing from round to round.

    Args:
        script: What runs a side.
        told: What both sides are told.
        threads: Of each.
        rounds: Steps that count, after some that warm up.
        check: Ends the benchmark where the sides did different work in their last step.
    """
    sides = [Side(script, name, told, threads) for name in SIDES]
    try:
        for place in range(WARM_UP + rounds):
            for side in sides if place % 2 else sides[::-1]:
                side.step()
            check(sides)
    finally:
        for side in sides:
            side.end()
    theirs, ours = (side.steps[WARM_UP:] for side in sides)
    columns = [f"{statistics.median(step['seconds'] for step in steps):.3f}" for steps in (theirs, ours)]
    medians = []
    for clock in ("seconds", "processor_seconds"):
        ratios = [their[clock] / own[clock] for their, own in zip(theirs, ours, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        columns.append(f"{median:.2f} ({low:.2f}-{high:.2f})")
        medians.append(median)
    grown = (sides[0].steps[-1]["peak"] - sides[0].loaded, sides[1].steps[-1]["peak"] - sides[1].loaded)
    columns.append(" / ".join(f"{value:.0f}" for value in grown))
    columns.append(" / ".join(f"{side.steps[-1]['peak']:.0f}" for side in sides))
    return Outcome(tuple(columns), medians[0], grown)
