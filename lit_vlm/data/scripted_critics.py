"""Critics of embedded solutions that see, miss and imagine flaws by chance, and what is true of each of their remarks.

Stand-ins for several teachers of different quality, the same on every machine: the truth about the steps is known, so
their remarks can be judged without a model.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from lit_vlm.interfaces.critiques import CritiqueUnit, StepLabel
from lit_vlm.parsing.critique_units import FATAL_SEVERITY
from lit_vlm.parsing.meta_critiques import UnitLabel

_LAST_DIGIT = re.compile(r"[0-9](?=[^0-9]*$)")
_UNNAMED = "unnamed"


@dataclass(frozen=True)
class ScriptedCritic:
    """How often a critic errs, each a probability in [0, 1], and how it words a flaw."""

    name: str
    misses: float
    """That a wrong step is passed over."""
    is_vague: float
    """That nothing is suggested for a wrong step that is seen."""
    imagines: float
    """That a flaw is found in a solution where there is none."""
    wording: str
    """Names the kind of the error at ``{}``."""

    def remarks(self, steps: Sequence[StepLabel], stream: random.Random) -> list[tuple[CritiqueUnit, UnitLabel]]:
        """Criticises a solution.

        Args:
            steps: Its steps as they are labelled truly, with what should stand in the place of wrong ones.
            stream: Source of the choices.

        Returns:
            The remarks in the order of the steps, each with what a meta-critic that knows the truth says of it.
        """
        found: list[tuple[int, CritiqueUnit, UnitLabel]] = []
        for number, step in enumerate(steps, 1):
            if step.correct or stream.random() < self.misses:
                continue
            vague = stream.random() < self.is_vague
            flaw = "something is wrong" if vague else self.wording.format(step.error_type or _UNNAMED)
            suggestion = "" if vague else step.explanation
            unit = CritiqueUnit(f"step {number}", flaw, FATAL_SEVERITY, suggestion)
            found.append((number, unit, "missing detail" if vague else "correct"))
        right = [number for number, step in enumerate(steps, 1) if step.correct]
        if right and stream.random() < self.imagines:
            number = stream.choice(right)
            flaw = self.wording.format("numerical calculation")
            unit = CritiqueUnit(f"step {number}", flaw, FATAL_SEVERITY, _altered(steps[number - 1].text))
            found.append((number, unit, "wrong"))
        return [(unit, label) for _, unit, label in sorted(found, key=lambda entry: entry[0])]


CRITICS = (
    ScriptedCritic("careful", misses=0.1, is_vague=0.1, imagines=0.05, wording="{} error"),
    ScriptedCritic("hasty", misses=0.5, is_vague=0.3, imagines=0.1, wording="an error of {}"),
    ScriptedCritic("fault_finding", misses=0.2, is_vague=0.1, imagines=0.6, wording="{} error here"),
)
"""One that is nearly always right, one that overlooks much, one that finds fault with what is right."""


def _altered(step: str) -> str:
    """Makes a right step wrong by its last digit; one without a digit stays as it is."""
    return _LAST_DIGIT.sub(lambda digit: str((int(digit[0]) + 1) % 10), step)
