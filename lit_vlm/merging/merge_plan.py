"""Decides, before any arithmetic, what becomes of each weight of a merge's target, and reads what that takes."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path

import torch
from torch import Tensor

from lit_vlm.functional.decoder_settings import unlike_settings
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.functional.task_vectors import Pieces
from lit_vlm.functional.weight_coefficients import check_filters
from lit_vlm.functional.weight_names import weight_key, weight_place
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import DonorTensor, MergeTensors, ModelReference, SourceOpener, TensorSource
from lit_vlm.merging.compatibility import Mismatches, has_other_ancestor, listed
from lit_vlm.merging.merge_settings import MergeSettings, model_reference
from lit_vlm.merging.named_source import NamedSource
from lit_vlm.merging.new_tokens import NewRow, new_rows
from lit_vlm.merging.saved_vector import open_vector
from lit_vlm.merging.stored_weight import StoredDonor, StoredWeight
from lit_vlm.merging.tied_weights import HEAD
from lit_vlm.merging.vocabulary_rows import describe_moved, moved_tokens
from lit_vlm.merging.weight_planner import DonorModel, PlannedWeight, Share, WeightPlanner

NAMES_SHOWN = 3
"""Names of each model that a message about names that do not match shows."""


@dataclass(frozen=True, eq=False)
class MergePlan:
    """What becomes of each weight of the result; none of them is held in memory."""

    settings: MergeSettings
    target: TensorSource
    """What the result starts from; configuration, tokenizer and processor are its."""
    outputs: Sequence[PlannedWeight]
    """All weights of the result, in the target's order."""
    warnings: Sequence[str]
    """What fits, but perhaps not as it was meant."""
    sources: Mapping[str, TensorSource]
    """``target``, ``base``, ``donor 1``, ``base of donor 1`` and so on; equal references share a source."""
    donor_labels: Sequence[str]
    """What messages call each donor."""
    unties: bool
    """Whether the result has a head of its own where the target's is tied to the embedding."""
    shares: Mapping[str, Sequence[Share]] = field(repr=False)
    """What donors bring to each merged weight, by its name on disk."""
    new_rows: Mapping[str, Sequence[NewRow]] = field(default_factory=dict, repr=False)
    """Rows of embedding and head that are taken over from donors, by the weight's name on disk."""

    def tensors(self, planned: PlannedWeight) -> MergeTensors:
        """Reads all that a merged weight is computed from: float32, on the CPU, in the target's shape.

        What of it no operation asks for is not there: differences where there are no bases, and the donors' own
        weights where the operation does not need them.
        """
        target = self.target.read(planned.origin).float()
        known = {(id(self.target), planned.origin): target}
        donors = [self._donor_tensor(planned, share, target, known) for share in self.shares[planned.place.name]]
        return MergeTensors(planned.place, target, donors)

    def stored(self, planned: PlannedWeight) -> StoredWeight | MergeTensors:
        """Gives the same as ``tensors``, still to be read from the files where no rows must be moved."""
        shares = self.shares[planned.place.name]
        if any(share.rows is not None for share in shares):
            return self.tensors(planned)
        known: dict[tuple[int, str], Pieces] = {}

        def pieces(source: TensorSource, name: str) -> Pieces:
            at = (id(source), name)
            if at not in known:
                known[at] = source.pieces(name)
            return known[at]

        target = pieces(self.target, planned.origin)
        donors = [self._stored_donor(planned, share, pieces) for share in shares]
        return StoredWeight(planned.place, planned.shape, target, donors)

    def keep_rows(self, planned: PlannedWeight, merged: Tensor, target: Tensor) -> Tensor:
        """Puts the target's rows back where no donor has the token: new tokens and rows that only pad.

        Args:
            planned: The weight.
            merged: What the operation made of it, in any type; changed in place.
            target: The target's weight.

        Returns:
            ``merged``.
        """
        matches = [share.rows for share in self.shares[planned.place.name]]
        if not any(match is None for match in matches):
            kept = torch.ones(len(merged), dtype=torch.bool, device=merged.device)
            for match in matches:
                if match is not None:
                    kept[match.target.to(merged.device)] = False
            merged[kept] = target[kept.to(target.device)].to(merged)
        return merged

    def kept(self, planned: PlannedWeight) -> Pieces:
        """Gives a weight that is not merged, in the type of the target's file."""
        return self.target.pieces(planned.origin)

    def _stored_donor(
        self, planned: PlannedWeight, share: Share, pieces: Callable[[TensorSource, str], Pieces]
    ) -> StoredDonor:
        """Gives what one donor brings, as it is stored."""
        donor, base = share.donor, None
        if donor.base is not None and share.base is not None and not donor.model.is_vector:
            base = pieces(donor.base.source, share.base)
        return StoredDonor(
            weight=share.weight,
            density=share.density,
            seed=stream_seed(self.settings.seed, weight_key(planned.place.name), donor.index),
            own=pieces(donor.model.source, share.name),
            base=base,
            is_vector=donor.model.is_vector,
            needs_value=self.settings.operation.needs_values,
        )

    def _donor_tensor(
        self, planned: PlannedWeight, share: Share, target: Tensor, known: dict[tuple[int, str], Tensor]
    ) -> DonorTensor:
        """Reads what one donor brings; ``known`` are weights of the target and of bases that others share."""
        donor, rows = share.donor, share.rows
        own, is_copy = _read(donor.model.source, share.name, known)
        value: Tensor | None = None
        delta: Tensor | None = None
        if self.settings.operation.needs_values:
            value = own if rows is None else rows.value(target, own)
        if donor.model.is_vector:
            delta = own if rows is None else rows.difference(target, own, None)
        elif donor.base is not None and share.base is not None:
            at = (id(donor.base.source), share.base)
            if at not in known:
                known[at] = _read(donor.base.source, share.base, known)[0]
            if rows is not None:
                delta = rows.difference(target, own, known[at])
            else:
                delta = own.sub_(known[at]) if is_copy and value is None else own - known[at]
        seed = stream_seed(self.settings.seed, weight_key(planned.place.name), donor.index)
        return DonorTensor(share.weight, share.density, value, delta, seed)


def plan_merge(settings: MergeSettings, open_source: SourceOpener) -> MergePlan:
    """Plans a merge: finds each weight of the target in all donors, and refuses what does not fit.

    Only names, shapes, configurations and tokenizers are read, and one weight of each donor to see that it is not its
    base.

    Args:
        settings: What is merged how.
        open_source: Finds checkpoints.

    Raises:
        UserError: The models do not go together; the message lists all that does not match. Or nothing would be merged
            though coefficients ask for it.

    Source:
        mergekit ``plan.py`` (confirmed-in-code) for planning by name before reading. It passes over weights that do not
        match; here that is an error.
    """
    sources: dict[str, TensorSource] = {}
    target, donors = _open_models(settings, open_source, sources)
    _check_donors(settings, target, donors)
    planner = WeightPlanner(settings, target, donors)
    # A filter may speak of a head that the target has only as its embedding.
    places = [*planner.places(), weight_place(HEAD, target.layers)]
    for donor in donors:
        option = f"merge.donors[{donor.index}]"
        check_filters(donor.donor.weight, places, f"{option}.weight")
        check_filters(donor.donor.density, places, f"{option}.density")
    names: list[str] = [item.name for item in fields(settings.operation)] if is_dataclass(settings.operation) else []
    for name in names:
        setting = getattr(settings.operation, name)
        if isinstance(setting, list):
            check_filters(setting, places, f"operation.{name}")
    planned = planner.plan()
    planner.mismatches.refuse()
    shares = {weight.place.name: parts for weight, parts in planned if weight.merged}
    warnings = [*_doubts(target, donors), *planner.warnings]
    if not shares:
        warnings.append(_nothing_merged(planner, [weight for weight, _ in planned]))
    for donor in donors:
        _refuse_same(donor, shares)
    return MergePlan(
        settings=settings,
        target=target.source,
        outputs=[weight for weight, _ in planned],
        warnings=warnings,
        sources=sources,
        donor_labels=[str(donor.model) for donor in donors],
        unties=planner.unties,
        shares=shares,
        new_rows=new_rows(
            settings.new_tokens, target, [donor.model for donor in donors], [weight for weight, _ in planned]
        ),
    )


def _open_models(
    settings: MergeSettings, open_source: SourceOpener, sources: dict[str, TensorSource]
) -> tuple[NamedSource, list[DonorModel]]:
    """Opens every checkpoint once, and notes it under its role."""
    opened: dict[ModelReference, TensorSource] = {}
    target_reference = settings.target_reference

    def named(role: str, reference: ModelReference) -> NamedSource:
        if reference not in opened:
            opened[reference] = open_source(reference)
        sources[role] = opened[reference]
        return NamedSource(role, opened[reference], () if reference == target_reference else settings.names)

    target = named("target", target_reference)
    donors = []
    for index, donor in enumerate(settings.donors):
        role = f"donor {index + 1}"
        if donor.vector is not None:
            sources[role] = open_vector(Path(donor.vector))
            model, base = NamedSource(role, sources[role], settings.names), None
        else:
            model = named(role, model_reference(donor.model or ""))
            reference = settings.base_reference(donor)
            shared = donor.base is None and settings.base is not None
            base = None if reference is None else named("base" if shared else f"base of {role}", reference)
        donors.append(DonorModel(index, donor, model, base))
    return target, donors


def _check_donors(settings: MergeSettings, target: NamedSource, donors: Sequence[DonorModel]) -> None:
    """Refuses donors that cannot be merged at all, whatever the coefficients are."""
    operation = type(settings.operation).__name__
    mismatches = Mismatches()
    for donor in donors:
        if donor.model.is_vector and settings.operation.needs_values:
            mismatches.add(f"{operation} mixes whole weights, but {donor.model} holds differences; give a model")
        if settings.operation.needs_deltas and donor.base is None and not donor.model.is_vector:
            mismatches.add(f"{operation} needs what {donor.model} differs from; give base, or the donor's own base")
        if donor.base is not None and donor.model.source is donor.base.source:
            mismatches.add(f"{donor.model} is its own base, so that it differs in nothing")
        for model in donor.models:
            if not set(model.names) & set(target.names):
                mismatches.add(
                    f"{model} and {target} have no weight in common ({_some_names(model)} against "
                    f"{_some_names(target)}); map the names with the names option"
                )
            elif model.layers != target.layers:
                mismatches.add(
                    f"{model} has {model.layers} decoder layers, {target} has {target.layers}; give models of one size"
                )
    renamable = [
        name for donor in donors for model in (donor.model, donor.base) if model for name in model.source.names
    ]
    for pair in settings.names:
        if not any(re.search(pair.donor, name) for name in renamable):
            mismatches.add(f"names: {pair.donor!r} is found in no name of a donor, such as {listed(renamable[:3])}")
    mismatches.refuse()


def _doubts(target: NamedSource, donors: Sequence[DonorModel]) -> list[str]:
    """Says what fits by name and shape and yet may not be comparable."""
    found: dict[str, None] = {}
    for donor in donors:
        for model in donor.models:
            if model.is_vector or model.source is target.source:
                continue
            unlike = unlike_settings(target.source.configuration, model.source.configuration)
            if _has_query_norm(target) != _has_query_norm(model):
                unlike.append("norms of queries and keys in one of the two only")
            if unlike:
                found[f"{target} and {model} compute differently with the same weights: {listed(unlike)}"] = None
            if moved := moved_tokens(target.tokens or {}, model.tokens or {}):
                found[f"{target} and {model} have tokens in different rows: {describe_moved(moved)}"] = None
        if donor.base is not None and has_other_ancestor(
            donor.model.source.configuration, donor.base.source.configuration, donor.base.source.label
        ):
            found[f"{donor.model} does not name {donor.base} as what it was trained from; is that its base?"] = None
    return list(found)


def _nothing_merged(planner: WeightPlanner, planned: Sequence[PlannedWeight]) -> str:
    """Says that all coefficients are 0; refuses a merge in which coefficients find nothing."""
    if not planner.any_coefficient:
        return "all coefficients are 0: the result is the target"
    reasons = {weight.reason: weight.place.name for weight in planned if weight.reason != "coefficient 0"}
    names = "; ".join(f"{donor.model} has {_some_names(donor.model)}" for donor in planner.donors)
    raise UserError(
        "nothing would be merged: "
        + ", ".join(f"{name} and others stay the target's ({reason})" for reason, name in reasons.items())
        + f"; {planner.target} has {_some_names(planner.target)}; {names}"
    )


def _refuse_same(donor: DonorModel, shares: Mapping[str, Sequence[Share]]) -> None:
    """Refuses a donor whose files are its base's; their hashes are asked for only where a weight is the same."""
    if donor.base is None:
        return
    model, base = donor.model.source, donor.base.source
    names = [(share.name, share.base) for parts in shares.values() for share in parts if share.donor is donor]
    # Norms often stay as they were; of the others the smallest is quick to read.
    name, own = min(names, key=lambda pair: _cost(model.shape(pair[0])), default=("", None))
    if own is None or model.shape(name) != base.shape(own) or not torch.equal(model.read(name), base.read(own)):
        return
    if set(model.digests().values()) == set(base.digests().values()):
        raise UserError(f"{donor.model} and {donor.base} are the same files, so that nothing would be added")


def _cost(shape: tuple[int, ...]) -> tuple[bool, int]:
    return len(shape) < 2, math.prod(shape)


def _read(source: TensorSource, name: str, known: Mapping[tuple[int, str], Tensor]) -> tuple[Tensor, bool]:
    """Reads a weight as float32, and tells whether the tensor is nobody else's."""
    if (found := known.get((id(source), name))) is not None:
        return found, False
    stored = source.read(name)
    return stored.float(), stored.dtype != torch.float32


def _has_query_norm(model: NamedSource) -> bool:
    return any(".q_norm." in key for key in model.names)


def _some_names(model: NamedSource) -> str:
    names = list(model.source.names)
    return listed(names[:NAMES_SHOWN]) + (", ..." if len(names) > NAMES_SHOWN else "")
