"""Decides for each weight of a merge's target which weights of the donors go into it."""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import cast

import torch

from lit_vlm.functional.weight_coefficients import CoefficientRule, WeightCoefficient, coefficient_of
from lit_vlm.functional.weight_names import canonical_name, weight_key, weight_place
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import WeightPlace
from lit_vlm.merging.compatibility import Mismatches
from lit_vlm.merging.merge_settings import Donor, MergeSettings
from lit_vlm.merging.named_source import NamedSource
from lit_vlm.merging.tied_weights import EMBEDDING, HEAD, head_name
from lit_vlm.merging.vocabulary_rows import RowMatch, Vocabulary, match_rows

CONSTANT = "rotary_emb.inv_freq"


@dataclass(frozen=True)
class PlannedWeight:
    """What becomes of one weight of the result."""

    place: WeightPlace
    """Its name on disk in the result, and where it stands."""
    shape: tuple[int, ...]
    dtype: torch.dtype
    """In the result."""
    merged: bool
    """Whether it is computed; otherwise it is the target's own."""
    reason: str
    """Why it is kept; empty for a merged one."""
    origin: str
    """Name of the target's weight that it is or starts from: its own, but for a head that is being untied."""
    donors: tuple[int, ...] = ()
    """Which donors go in, counted from 0."""


@dataclass(frozen=True, eq=False)
class DonorModel:
    """A donor with its base."""

    index: int
    donor: Donor
    model: NamedSource
    base: NamedSource | None

    @property
    def models(self) -> list[NamedSource]:
        """The donor and, where it has one, its base."""
        return [self.model] if self.base is None else [self.model, self.base]


@dataclass(frozen=True, eq=False)
class Share:
    """What one donor brings to one weight."""

    donor: DonorModel
    weight: float
    density: float
    name: str
    """Of the donor's weight, on disk."""
    base: str | None
    """Of its base's weight, on disk."""
    rows: RowMatch | None
    """Which rows belong together; None where the whole weights do."""


class WeightPlanner:
    """Goes through the target's weights; what does not fit and what is worth a warning is collected on the way.

    Args:
        settings: What is merged how.
        target: The model that donors go into.
        donors: The donors.
    """

    def __init__(self, settings: MergeSettings, target: NamedSource, donors: Sequence[DonorModel]) -> None:
        self.settings = settings
        self.target = target
        self.donors = donors
        self.mismatches = Mismatches()
        self.warnings: dict[str, None] = {}
        self.any_coefficient = False
        """Whether any coefficient was not 0."""
        self.unties = settings.tied == "untie" and target.is_tied
        operation = settings.operation
        self._fewest = operation.donor_counts[0]
        self._everywhere = operation.needs_values and not operation.needs_deltas
        self._matches: dict[tuple[int, int], RowMatch | None] = {}

    def places(self) -> list[WeightPlace]:
        """Where the weights of the result stand, in the target's order; an untied head comes last."""
        names = list(self.target.names.values())
        if self.unties:
            names.append(head_name(self.target.names[EMBEDDING]))
        return [weight_place(name, self.target.layers) for name in names]

    def plan(self) -> list[tuple[PlannedWeight, tuple[Share, ...]]]:
        """Plans all weights of the result, in the target's order."""
        places = self.places()
        planned = [self._planned(place) for place in places]
        known = {weight_key(place.name) for place in places}
        for donor in self.donors:
            self._look_for_homeless(donor, known)
        return planned

    def _planned(self, place: WeightPlace) -> tuple[PlannedWeight, tuple[Share, ...]]:
        key = weight_key(place.name)
        origin = place.name
        if self.unties and key == HEAD:
            origin = self.target.names[EMBEDDING]
        shape, dtype = self.target.source.shape(origin), self.target.source.dtype(origin)
        shares, reason = self._shares(place, key, shape, dtype)
        wanted = self.settings.dtype
        if wanted is not None and dtype.is_floating_point:
            dtype = cast(torch.dtype, getattr(torch, wanted))
        indices = tuple(share.donor.index for share in shares)
        return PlannedWeight(place, shape, dtype, bool(shares), reason, origin, indices), shares

    def _shares(
        self, place: WeightPlace, key: str, shape: tuple[int, ...], dtype: torch.dtype
    ) -> tuple[tuple[Share, ...], str]:
        """Returns what donors bring, or why nothing is merged."""
        weights = [self._coefficient(donor.donor.weight, place) for donor in self.donors]
        active = [index for index, weight in enumerate(weights) if weight]
        if not active:
            return (), "coefficient 0"
        self.any_coefficient = True
        if not dtype.is_floating_point or place.name.endswith(CONSTANT):
            return (), "no weight but a constant"
        if len(active) < self._fewest:
            active = list(range(len(self.donors)))
        shares: list[Share] = []
        reasons: list[str] = []
        for index in active:
            found = self._share(self.donors[index], weights[index], place, key, shape)
            if isinstance(found, str):
                reasons.append(found)
            else:
                shares.append(found)
        if len(shares) < self._fewest:
            return (), ", ".join(dict.fromkeys(reasons))
        return tuple(shares), ""

    def _coefficient(self, coefficient: WeightCoefficient, place: WeightPlace) -> float:
        return coefficient_of(coefficient, place, everywhere=self._everywhere)

    def _share(
        self, donor: DonorModel, weight: float, place: WeightPlace, key: str, shape: tuple[int, ...]
    ) -> Share | str:
        """Returns what a donor brings, or why it brings nothing, in words."""
        if key == HEAD and not self._head_fits(donor):
            return f"the head is tied in {donor.model.role} and not in its base"
        names: list[str] = []
        for model in donor.models:
            name = model.find(key)
            if name is None:
                return self._absent(model, key, place)
            names.append(name)
        if not self._shapes_fit(donor, names, place, shape):
            return f"shape of {donor.model.role}"
        rows = self._rows(donor, names, shape) if place.group in ("embed", "head") else None
        density = _density(donor.donor.density, place)
        if not 0 < density <= 1:
            self.mismatches.add(
                f"a density of {donor.model} is {density}; give one above 0 and up to 1 (weight 0 leaves a donor out)"
            )
        return Share(donor, weight, density, names[0], names[1] if len(names) > 1 else None, rows)

    def _head_fits(self, donor: DonorModel) -> bool:
        """Tells whether a donor's head may be compared with its base's, where the result has a head of its own."""
        if not donor.model.is_tied or donor.base is None or donor.base.is_tied:
            return True
        self._warn(f"the head of {donor.model} is tied to its embedding and that of {donor.base} is not: head left out")
        return False

    def _absent(self, model: NamedSource, key: str, place: WeightPlace) -> str:
        """Says why a weight that a model lacks is kept, or notes that it is missed."""
        inside = canonical_name(key) is not None
        if model.is_vector or (not inside and not model.has_outside):
            return f"not in {model.role}"
        if key == HEAD:
            self._warn(f"{model} has no head: head left out")
            return f"no head in {model.role}"
        self.mismatches.add(
            f"{model} lacks weights that {self.target} has and that a coefficient is given for"
            + (
                " (give a model of the same family, or map its names with the names option)"
                if inside
                else " (give vision and projector the coefficient 0 to keep the target's)"
            ),
            place.name,
        )
        return f"missing in {model.role}"

    def _shapes_fit(self, donor: DonorModel, names: Sequence[str], place: WeightPlace, shape: tuple[int, ...]) -> bool:
        fits = True
        for model, name in zip(donor.models, names, strict=True):
            own = model.source.shape(name)
            if own == shape or (place.group in ("embed", "head") and own[1:] == shape[1:]):
                continue
            fits = False
            self.mismatches.add(
                f"{model} has other shapes than {self.target} (give models of one size, or coefficient 0)",
                f"{place.name} {own} against {shape}",
            )
        return fits

    def _rows(self, donor: DonorModel, names: Sequence[str], shape: tuple[int, ...]) -> RowMatch | None:
        """Matches rows of embedding or head; once for each donor and number of rows."""
        at = (donor.index, shape[0])
        if at in self._matches:
            return self._matches[at]
        rows = [model.source.shape(name)[0] for model, name in zip(donor.models, names, strict=True)]
        models = [Vocabulary(str(self.target), self.target.tokens, shape[0])]
        models += [Vocabulary(str(m), m.tokens, count) for m, count in zip(donor.models, rows, strict=True)]
        self._matches[at] = None
        try:
            match = match_rows(self.settings.vocabulary, models)
        except UserError as error:
            # Listed with everything else that does not fit.
            self.mismatches.add(str(error))
            return None
        self._matches[at] = match
        if match is not None and len(match.target) < shape[0]:
            kept = shape[0] - len(match.target)
            self._warn(
                f"{kept} of {shape[0]} rows of embedding and head stay the target's: "
                f"{' and '.join(map(str, donor.models))} have no row for their tokens"
            )
        elif without := [model.label for model in models if model.tokens is None]:
            self._warn(f"rows of embedding and head are taken as they stand: no tokenizer of {' and '.join(without)}")
        return match

    def _look_for_homeless(self, donor: DonorModel, known: Set[str]) -> None:
        """Notes weights of a donor that have a coefficient and no place in the target."""
        outside: list[str] = []
        for key in donor.model.names:
            place = weight_place(key, max(self.target.layers, donor.model.layers))
            if key in known or key.endswith(CONSTANT) or not self._coefficient(donor.donor.weight, place):
                continue
            if key == HEAD:
                self._warn(f"the head of {donor.model} is left out: the target has none beside its embedding")
            elif canonical_name(key) is None and not self.target.has_outside:
                outside.append(key)
            else:
                self.mismatches.add(f"{donor.model} has weights that {self.target} has no place for", key)
        if outside:
            self._warn(f"{len(outside)} weights of {donor.model} outside the decoder are left out: the target has none")

    def _warn(self, text: str) -> None:
        self.warnings[text] = None


def _density(density: WeightCoefficient, place: WeightPlace) -> float:
    """Looks up a density: 1 where it is given by rules and none finds the weight."""
    if isinstance(density, int | float):
        return float(density)
    rules = [rule for rule in density if isinstance(rule, CoefficientRule)]
    if rules and not any(rule.finds(place) for rule in rules):
        return 1.0
    return coefficient_of(density, place, everywhere=True)
