"""Named numbers within bounds that callbacks may turn while a run goes on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from lit_vlm.interfaces.errors import UserError


@dataclass(frozen=True)
class Coefficient:
    """A number that a part declares, with where it may go."""

    value: float
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if not self.low <= self.value <= self.high:
            raise UserError(f"{self.value} lies outside [{self.low}, {self.high}]")


class Declares(Protocol):
    """A part of a paradigm that has coefficients."""

    def coefficients(self) -> dict[str, Coefficient]:
        """Declares them, by name."""


class Coefficients(Mapping[str, float]):
    """All coefficients of a paradigm, by name, such as ``kl`` or ``reward/format``.

    Args:
        declared: What the parts declare; names are unique over all parts.
    """

    def __init__(self, declared: Mapping[str, Coefficient]) -> None:
        self._declared = dict(declared)
        self._values = {name: coefficient.value for name, coefficient in declared.items()}

    @classmethod
    def of(cls, *parts: Declares) -> Coefficients:
        """Collects what the parts of a paradigm declare.

        Raises:
            UserError: Two of them declare the same name.
        """
        declared: dict[str, Coefficient] = {}
        for part in parts:
            own = part.coefficients()
            if both := sorted(declared.keys() & own.keys()):
                raise UserError(
                    f"{type(part).__name__} and another part of the model both weigh {', '.join(both)}; a divergence "
                    "goes into the reward or into the loss: set kl and highest_kl of model.objective to 0, or leave "
                    "KLInReward out"
                )
            declared |= own
        return cls(declared)

    def __getitem__(self, name: str) -> float:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def require(self, name: str, asker: str) -> None:
        """Checks that there is a coefficient of this name.

        Args:
            name: The coefficient.
            asker: Who wants it, for the message.

        Raises:
            UserError: There is none; the message lists those there are.
        """
        if name not in self._values:
            known = ", ".join(self._values) or "none"
            raise UserError(f"{asker} turns the coefficient {name!r}, which this module lacks; it has {known}")

    def bounds(self, name: str) -> tuple[float, float]:
        """Returns the lowest and the highest value that a coefficient may take."""
        return self._declared[name].low, self._declared[name].high

    def set(self, name: str, value: float) -> float:
        """Turns a coefficient, and returns what it is now: the value, or the bound that it would have passed.

        Raises:
            UserError: There is no such coefficient, or the value is not a number.
        """
        self.require(name, "a callback")
        if math.isnan(value):
            raise UserError(f"the coefficient {name!r} cannot be set to {value}")
        declared = self._declared[name]
        self._values[name] = min(max(value, declared.low), declared.high)
        return self._values[name]

    def state_dict(self) -> dict[str, Any]:
        """Returns the values."""
        return dict(self._values)

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Takes the values of an earlier run; names that this module lacks are an error."""
        for name, value in state.items():
            self.set(name, value)
