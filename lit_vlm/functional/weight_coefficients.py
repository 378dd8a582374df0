"""Coefficients that depend on where a weight stands: one number, anchors over the depth, or rules with filters.

Legend: ``l`` a decoder layer from 0, ``L`` decoder layers, ``n`` anchors.
"""

import difflib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import WeightGroup, WeightPlace

_GROUPS = get_args(WeightGroup)
_LAYER_RANGE = re.compile(r"layers:(?P<first>\d+)(?P<dash>-(?P<last>\d+)?)?")


@dataclass(frozen=True)
class CoefficientRule:
    """Gives the weights that a filter finds a coefficient."""

    filter: str | None
    """A group (``attn``, ``mlp``, ``norm``, ``other``, ``embed``, ``head``, ``final_norm``, ``vision``,
    ``projector``), ``layers:12-27`` with both ends counted, ``layers:12-`` up to the last, a piece of the weight's name
    on disk, or null or ``*`` for every weight, embedding and head too."""
    value: float | list[float]
    """The coefficient, or anchors that are interpolated over all of the decoder's layers."""

    def __post_init__(self) -> None:
        """Refuses filters that cannot be read and values that are no coefficients."""
        _check_value(self.value, f"the rule with filter {self.filter!r}")
        if self.filter is None or not self.filter.startswith("layers:"):
            if self.filter == "":
                raise UserError("a coefficient's filter is empty; write '*' or null for every weight")
            return
        layers = self._layers()
        if layers is None or layers[1] < layers[0]:
            raise UserError(f"filter {self.filter!r} is no range of layers; write it like 'layers:12-27'")

    def finds(self, place: WeightPlace) -> bool:
        """Tells whether the filter finds a weight."""
        if self.filter in (None, "*"):
            return True
        if self.filter in _GROUPS:
            return place.group == self.filter
        layers = self._layers()
        if layers is not None:
            return place.layer is not None and layers[0] <= place.layer <= layers[1]
        return self.filter in place.name

    def _layers(self) -> tuple[int, float] | None:
        """Returns the first and the last layer of a range; None where the filter is none."""
        found = _LAYER_RANGE.fullmatch(self.filter or "")
        if found is None:
            return None
        first = int(found["first"])
        return first, int(found["last"]) if found["last"] else math.inf if found["dash"] else first


WeightCoefficient = float | list[float] | list[CoefficientRule]
"""A number, anchors over the depth, or rules of which the first that finds a weight holds."""


def coefficient_of(coefficient: WeightCoefficient, place: WeightPlace, *, everywhere: bool = False) -> float:
    """Looks up the coefficient of one weight.

    A number holds for every weight but those of the embedding and the head, which have 0. Anchors are interpolated over
    the decoder's layers; the final norm has the last one; embedding, head, vision side and projector have 0. Of rules
    the first that finds the weight holds; what none finds has 0.

    Args:
        coefficient: The setting.
        place: Where the weight stands.
        everywhere: Whether numbers hold for embedding and head too, and anchors outside the layers: the first for what
            comes before them, the last for what comes after. For merges that mix whole weights, where 0 for all would
            leave nothing to mix.

    Raises:
        UserError: There are no anchors, or a number is not finite.

    Example:
        >>> place = WeightPlace("model.layers.2.mlp.up_proj.weight", "mlp", layer=2, layers=9)
        >>> coefficient_of([0.0, 1.0, 0.5], place)
        0.5
        >>> coefficient_of([CoefficientRule("attn", 0.3), CoefficientRule("*", 1.0)], place)
        1.0

    Source:
        mergekit ``config.py`` and ``plan.py`` (confirmed-in-code) for the three forms and the interpolation. It gives
        all weights outside the layers the first anchor; here they have 0 but the final norm, which has the last.
    """
    if isinstance(coefficient, int | float):
        _check_value(coefficient, "a coefficient")
        return float(coefficient) if everywhere or place.group not in ("embed", "head") else 0.0
    rules = [item for item in coefficient if isinstance(item, CoefficientRule)]
    if rules:
        if len(rules) < len(coefficient):
            raise UserError("a coefficient mixes numbers and rules; write either anchors or rules")
        rule = next((rule for rule in rules if rule.finds(place)), None)
        return 0.0 if rule is None else _value_at(rule.value, place, everywhere=True)
    return _value_at([item for item in coefficient if not isinstance(item, CoefficientRule)], place, everywhere)


def check_coefficient(coefficient: WeightCoefficient, option: str) -> None:
    """Refuses a setting that could not be looked up for some weight.

    Args:
        coefficient: The setting.
        option: What the user knows the setting as, for the message.

    Raises:
        UserError: There are no anchors, a number is not finite, or anchors and rules are mixed.
    """
    if isinstance(coefficient, int | float):
        _check_value(coefficient, option)
        return
    anchors = [item for item in coefficient if not isinstance(item, CoefficientRule)]
    if anchors and len(anchors) < len(coefficient):
        raise UserError(f"{option} mixes numbers and rules; write either anchors or rules")
    if anchors or not coefficient:
        _check_value(anchors, option)  # rules have checked their own


def check_filters(coefficient: WeightCoefficient, places: Iterable[WeightPlace], option: str) -> None:
    """Refuses rules that find no weight, which would leave a merge without effect.

    Args:
        coefficient: The setting.
        places: All weights of the model.
        option: What the user knows the setting as, for the message.

    Raises:
        UserError: A filter finds nothing; the message has names close to it.
    """
    if isinstance(coefficient, int | float):
        return
    rules = [item for item in coefficient if isinstance(item, CoefficientRule)]
    known = list(places)
    for rule in rules:
        if not any(rule.finds(place) for place in known):
            raise UserError(f"{option}: filter {rule.filter!r} finds no weight; {_instead(str(rule.filter), known)}")


def interpolated(anchors: Sequence[float], layer: int, layers: int) -> float:
    """Interpolates anchors, spread evenly over the depth, at one layer.

    Args:
        anchors: ``n`` values, at least 1; the first is layer 0's, the last the last layer's.
        layer: ``l``.
        layers: ``L``; where it is 1 the last anchor holds.

    Example:
        >>> [interpolated([0.0, 1.0, 0.5], layer, 9) for layer in range(9)]
        [0.0, 0.25, 0.5, 0.75, 1.0, 0.875, 0.75, 0.625, 0.5]
    """
    depth = layer / (layers - 1) if layers > 1 else 1.0
    position = depth * (len(anchors) - 1)
    below = min(math.floor(position), len(anchors) - 1)
    above = min(below + 1, len(anchors) - 1)
    share = position - below
    return (1 - share) * anchors[below] + share * anchors[above]


def _value_at(value: float | list[float], place: WeightPlace, everywhere: bool) -> float:
    _check_value(value, "a coefficient")
    if isinstance(value, int | float):
        return float(value)
    if place.layer is not None:
        return interpolated(value, place.layer, place.layers)
    if place.group == "final_norm":
        return float(value[-1])
    if not everywhere:
        return 0.0
    return float(value[-1] if place.group == "head" else value[0])


def _check_value(value: float | list[float], what: str) -> None:
    numbers = [value] if isinstance(value, int | float) else value
    if not numbers:
        raise UserError(f"{what} has an empty list; give at least one number")
    if not all(math.isfinite(number) for number in numbers):
        raise UserError(f"{what} is {value}; coefficients must be finite")


def _instead(wanted: str, places: Sequence[WeightPlace]) -> str:
    if wanted.startswith("layers:"):
        layers = max((place.layers for place in places), default=0)
        return f"the decoder has layers 0 to {layers - 1}" if layers else "there are no decoder layers"
    pieces = {piece for place in places for piece in place.name.split(".") if not piece.isdigit()}
    names = sorted(pieces | {place.group for place in places} | {place.name for place in places})
    close = difflib.get_close_matches(wanted, names, n=4, cutoff=0.4)
    if close:
        return f"did you mean {', '.join(close)}?"
    return f"groups of this model are {', '.join(sorted({place.group for place in places}))}"
