"""What a user says of a merge: the models that take part, with which coefficients, and how the result is written."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from lit_vlm.functional.weight_coefficients import WeightCoefficient, check_coefficient
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.interfaces.weights import ModelReference


@dataclass(frozen=True)
class Donor:
    """A model, or a saved vector, that a merge adds or mixes in."""

    model: str | ModelReference | None = None
    """Hub id or folder; with ``adapter`` a model and the PEFT adapter on it. Either this or ``vector``."""
    vector: str | None = None
    """Folder of saved differences, which need no base."""
    base: str | ModelReference | None = None
    """What the donor differs from; by default the merge's base, or for a model with an adapter, where the merge has no
    base, the model without it."""
    weight: WeightCoefficient = 1.0
    """The donor's coefficient: a number, for every weight but embedding and head; anchors over the depth; or rules."""
    density: WeightCoefficient = 1.0
    """Share of each weight's difference that is kept, in (0, 1], for operations that prune; of rules that find no
    weight, 1."""

    def __post_init__(self) -> None:
        """Refuses a donor that is neither, or both, of a model and a vector."""
        if (self.model is None) == (self.vector is None):
            raise UserError("a donor is either a model or a vector; give just one of the two")
        if self.vector is not None and self.base is not None:
            raise UserError(f"the vector {self.vector} is a difference already; leave its base out")


@dataclass(frozen=True)
class NamePair:
    """Brings names of donors to the target's, where families name the same weight otherwise."""

    donor: str
    """Regular expression that is searched in a donor's or base's name on disk."""
    target: str
    """What the part that was found becomes; ``\\1`` stands for the first group."""

    def __post_init__(self) -> None:
        """Refuses an expression that cannot be read."""
        try:
            groups = re.compile(self.donor).groups
            wanted = [int(number) for number in re.findall(r"\\(\d+)", self.target)]
        except re.error as error:
            raise UserError(f"names: {self.donor!r} is no regular expression: {error}") from error
        if any(number > groups for number in wanted):
            raise UserError(f"names: {self.target!r} speaks of a group that {self.donor!r} does not have")

    def renamed(self, name: str) -> str | None:
        """Applies the pair; None where the name does not match."""
        new, count = re.subn(self.donor, self.target, name)
        return new if count else None


@dataclass(frozen=True)
class MergeSettings:
    """Says which models become one, and how."""

    operation: Merge
    """What is computed from the weights."""
    donors: Sequence[Donor]
    """The models whose weights or differences go in."""
    target: str | ModelReference | None = None
    """The model that they go into, and that everything else is taken from; by default the base, else the first
    donor."""
    base: str | ModelReference | None = None
    """What donors differ from, unless they name a base of their own."""
    vocabulary: Literal["shared_rows", "by_token"] = "shared_rows"
    """How rows of embedding and head are matched: the same row where the same token stands there, or by the token."""
    new_tokens: list[str] = field(default_factory=list)
    """Tokens whose rows of embedding and head are taken from the donors, the mean of those that have them, whatever the
    coefficients are; such as ``<think>``."""
    tied: Literal["follow_target", "untie"] = "follow_target"
    """Whether a head that shares the embedding's weight goes on doing so, or is written as a weight of its own."""
    names: list[NamePair] = field(default_factory=list)
    """Tried in turn on each name of a donor or base; the first that matches holds."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the result's weights; by default each weight's in the target."""
    device: str = "cpu"
    """Where it is computed."""
    seed: int = 0
    """Of what operations draw at random."""
    largest_shard: str = "5GB"
    """Most that a file of the result holds, such as ``500MB``."""

    def __post_init__(self) -> None:
        """Refuses donors that the operation does not take, a merge without a target, and a device that is not there."""
        fewest, most = self.operation.donor_counts
        count = len(self.donors)
        if count < fewest or (most is not None and count > most):
            wanted = f"{fewest} or more" if most is None else f"{fewest}" if fewest == most else f"{fewest} to {most}"
            raise UserError(f"{type(self.operation).__name__} takes {wanted} donors; {count} are given")
        if self.target is None and self.base is None and self.donors[0].model is None:
            raise UserError("the first donor is a vector, so that there is nothing to add it to; name the target")
        for index, donor in enumerate(self.donors):
            check_coefficient(donor.weight, f"merge.donors[{index}].weight")
            check_coefficient(donor.density, f"merge.donors[{index}].density")
            if donor.density != 1.0 and not self.operation.prunes:
                raise UserError(
                    f"merge.donors[{index}].density is {donor.density}, but {type(self.operation).__name__} prunes "
                    "nothing; leave it out, or choose an operation that does, such as TIES or DARE"
                )
        _check_device(self.device)

    @property
    def target_reference(self) -> ModelReference:
        """The model that the result starts from."""
        chosen = self.target or self.base or self.donors[0].model
        if chosen is None:
            raise UserError("there is no target; name it")
        return model_reference(chosen)

    def base_reference(self, donor: Donor) -> ModelReference | None:
        """The model that a donor differs from; None where there is none, as for a vector."""
        if donor.vector is not None:
            return None
        chosen = donor.base or self.base
        if chosen is not None:
            return model_reference(chosen)
        model = model_reference(donor.model or "")
        return None if model.adapter is None else ModelReference(model.model, None, model.revision)


def model_reference(model: str | ModelReference) -> ModelReference:
    """Reads the short form of a reference, which is just the model's name."""
    return model if isinstance(model, ModelReference) else ModelReference(model)


def _check_device(device: str) -> None:
    try:
        torch.zeros(1, device=device).item()
    # Which of them it is depends on how torch was built.
    except (RuntimeError, AssertionError, NotImplementedError) as fault:
        raise UserError(
            f"device {device!r} cannot compute here: {str(fault).splitlines()[0]}; give one that this machine has, "
            "such as cpu"
        ) from fault
