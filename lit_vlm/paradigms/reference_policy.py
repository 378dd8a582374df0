"""The policy that others are measured from: the model without its adapter, a copy of an earlier state, or a file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapter_off import without_adapter
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.sharding import is_cut, local_part, part_of_whole, whole_of
from lit_vlm.models.vision_language_model import VisionLanguageModel

ReferenceKind = Literal["adapter_off", "frozen_copy", "cached"]


@dataclass(frozen=True)
class ReferenceSettings:
    """Which policy is the reference."""

    kind: ReferenceKind = "frozen_copy"
    """``adapter_off``: the model that the adapter is trained on, without further memory; ``frozen_copy``: the policy as
    it was at the start, of which the weights that train are kept a second time; ``cached``: the policy as it was at the
    start, whose log-probabilities of the data's completions are computed once ahead and kept in a file. The last is for
    completions that are known beforehand, as in preference learning."""
    sync_every: int | None = None
    """Optimizer steps after which a frozen copy follows the policy; None never."""
    mixing: float = 1.0
    """Share of the policy in the copy where it follows, in (0, 1]; the rest is the copy as it was. TRL: 0.6."""
    cache: str | None = None
    """File of ``cached``; None: ``NAME.reference_log_probs.safetensors`` beside the training records ``NAME``, or
    ``reference_log_probs.safetensors`` in ``trainer.default_root_dir`` where the data are no files. It is made where it
    does not exist."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(ReferenceKind):
            raise UserError(f"model.reference.kind is {self.kind!r}; give one of {', '.join(get_args(ReferenceKind))}")
        if self.sync_every is not None and self.sync_every < 1:
            raise UserError(f"model.reference.sync_every is {self.sync_every}; give at least 1, or null for never")
        if not 0 < self.mixing <= 1:
            raise UserError(f"model.reference.mixing is {self.mixing}; it must lie in (0, 1]")
        if self.kind != "frozen_copy" and self.sync_every is not None:
            fixed = "a model without its adapter" if self.kind == "adapter_off" else "a file"
            raise UserError(
                f"model.reference.sync_every is given, but {fixed} cannot follow the policy; set model.reference.kind "
                "to frozen_copy"
            )
        if self.cache is not None and self.kind != "cached":
            raise UserError(
                f"model.reference.cache is given, but model.reference.kind is {self.kind}; leave it out, or set kind "
                "to cached"
            )

    def check(self, has_adapter: bool) -> None:
        """Refuses to switch off an adapter where there is none.

        Raises:
            UserError: There is none.
        """
        if self.kind == "adapter_off" and not has_adapter:
            raise UserError(
                "model.reference.kind is adapter_off, but there is no model.backbone.adapter; set it to frozen_copy"
            )

    def check_on_policy(self) -> None:
        """Refuses a file, for modules whose completions are not known before they are sampled.

        Raises:
            UserError: It is one.
        """
        if self.kind == "cached":
            raise UserError(
                "model.reference.kind is cached, but this module samples its completions anew, so that no file can "
                "hold their log-probabilities; set it to frozen_copy, or to adapter_off with an adapter"
            )


def reference_for(
    settings: ReferenceSettings | None, adapter: AdapterSettings | None, *, is_needed: bool
) -> ReferenceSettings | None:
    """Chooses the reference of a paradigm that compares with the policy as it was at the start.

    Args:
        settings: What was asked for; None leaves the choice.
        adapter: That of the model.
        is_needed: Whether there must be a reference.

    Returns:
        What was asked for; else, where one is needed, the model without its adapter where that is new, and a frozen
        copy otherwise.

    Raises:
        UserError: What was asked for does not fit the model.
    """
    if settings is not None:
        settings.check(adapter is not None)
        return settings
    if not is_needed:
        return None
    return ReferenceSettings("adapter_off" if adapter is not None and adapter.load is None else "frozen_copy")


class ReferencePolicy:
    """Puts the reference in the place of a policy for a while; not for ``cached``, which needs no second policy.

    A frozen copy keeps only what trains, and is swapped in; the rest of the weights is the same in both.

    Args:
        settings: Which reference.
        policy: The policy at the start of the run, before any checkpoint is restored.
    """

    def __init__(self, settings: ReferenceSettings, policy: VisionLanguageModel) -> None:
        self.settings = settings
        self._policy = policy
        self._copy: dict[str, Tensor] = {}
        """What this rank holds of the weights that train."""
        self._gathered: dict[str, Tensor] | None = None
        """All of them, while the policy's lie open on every rank."""
        if settings.kind == "frozen_copy":
            self._copy = {name: local_part(value.detach()).clone() for name, value in self._trained()}

    @property
    def shares_vision(self) -> bool:
        """Whether vision tower and projector, and so their features, are the policy's own."""
        return not {"vision", "projector"} & self._policy.trained_parts

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Opens a context, without gradients and in evaluation mode, in which the policy is the reference."""
        with self._policy.evaluating():
            if self.settings.kind == "adapter_off":
                with without_adapter(self._policy.model):
                    yield
                return
            self._swap()
            try:
                yield
            finally:
                self._swap()

    def follow(self, step: int) -> bool:
        """Moves a frozen copy towards the policy, where it is time; tells whether it did.

        Args:
            step: Optimizer steps taken.
        """
        every = self.settings.sync_every
        if every is None or step == 0 or step % every:
            return False
        with torch.no_grad():
            for name, value in self._trained():
                # A copy on another device is from before the strategy moved the model.
                own = local_part(value.detach())
                self._copy[name] = self._copy[name].to(value.device).lerp_(own, self.settings.mixing)
        return True

    def gather(self) -> None:
        """Puts a copy that is cut up together on every rank, for the time that the policy is; before it, on all ranks.

        Only then may some ranks install the reference and others not.
        """
        if self._copy and is_cut(self._policy):
            self._gathered = {name: whole_of(self._copy[name], value) for name, value in self._trained()}

    def release(self) -> None:
        """Lets go of what ``gather`` put together."""
        self._gathered = None

    def state_dict(self) -> dict[str, Tensor]:
        """Returns the copy where it has followed the policy; otherwise the start of the run gives it again.

        All ranks must ask together.
        """
        if self.settings.sync_every is None:
            return {}
        return {name: whole_of(self._copy[name], value).cpu() for name, value in self._trained()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Takes the copy of an earlier run.

        Raises:
            UserError: It holds other weights than this run trains.
        """
        if self.settings.sync_every is None:
            return
        if state.keys() != self._copy.keys():
            raise UserError(
                "the checkpoint holds a reference of other weights than this run trains; resume with the same "
                "model.reference and model.backbone"
            )
        self._copy = {name: part_of_whole(state[name], value).clone() for name, value in self._trained()}

    def _trained(self) -> Iterator[tuple[str, torch.nn.Parameter]]:
        return ((name, value) for name, value in self._policy.named_parameters() if value.requires_grad)

    def _swap(self) -> None:
        if self._policy.is_gathered and self._gathered is None:
            raise RuntimeError("the reference is to be installed in a gathered policy, but was not gathered itself")
        kept = self._copy if self._gathered is None else self._gathered
        for name, value in self._trained():
            # All that takes memory goes first: a swap that stopped half way would mix the two.
            if not isinstance(value, DTensor):
                kept[name] = kept[name].to(value.device, value.dtype)
        for name, value in self._trained():
            if isinstance(value, DTensor):
                # What is computed with is read from this memory.
                own = local_part(value.detach())
                before = own.clone()
                own.copy_(kept[name])
                kept[name] = before
            else:
                value.data, kept[name] = kept[name], value.data
