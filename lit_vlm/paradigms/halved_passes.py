"""Passes that are tried again at half the size where memory runs out, and stay that small for the rest of the run.

Ranks may do so by themselves only where no other waits for them in the midst of a pass.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch
from torch import Tensor

from lit_vlm.functional.memory_errors import free_memory, is_out_of_memory
from lit_vlm.functional.token_micro_batches import padded_tokens
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import RolloutEngine
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.interfaces.rollouts import Rollouts
from lit_vlm.models.generating import is_sharded
from lit_vlm.models.media_features import MediaFeatures
from lit_vlm.models.prompt_rows import select_prompts
from lit_vlm.models.vision_language_model import VisionLanguageModel
from lit_vlm.paradigms.group_sampling import join_rollouts
from lit_vlm.paradigms.policy_update import UpdateSettings

Answer = TypeVar("Answer")
PassKind = Literal["rollout", "update", "evaluation", "scoring", "training"]
UNITS: Mapping[PassKind, tuple[str, str]] = {
    "rollout": ("prompts", "data.batch_size, model.group_size or the longest completion"),
    "update": ("tokens", "model.update.micro_batch_tokens, the longest completion or the pixel budget"),
    "evaluation": ("prompts", "data.evaluation_batch_size or the longest completion"),
    "scoring": ("completions", "data.batch_size, data.evaluation_batch_size, model.max_tokens or the pixel budget"),
    "training": ("rows, pairs or groups", "data.batch_size, model.max_tokens or the pixel budget"),
}
"""What the size of a pass is counted in, and what to lower where none is small enough."""

logger = logging.getLogger(__name__)


class PassSizes:
    """The largest passes that the memory of this rank has held since one did not fit."""

    def __init__(self) -> None:
        self._most: dict[str, int] = {}

    def most(self, kind: PassKind, given: int) -> int:
        """Returns how large a pass may be, ``given`` where none of the kind has failed."""
        return min(given, self._most.get(kind, given))

    def of_update(self, settings: UpdateSettings) -> UpdateSettings:
        """Returns the settings of updates with passes that fit."""
        return replace(settings, micro_batch_tokens=self.most("update", settings.micro_batch_tokens))

    def halve(self, kind: PassKind, tried: int, error: BaseException, *, together: bool) -> None:
        """Notes that a pass was too large.

        Args:
            kind: Of the pass.
            tried: Its size.
            error: What it raised.
            together: Whether other ranks take part in the pass, so that it cannot be tried again here alone.

        Raises:
            UserError: It cannot be tried again, or is as small as it can be.
        """
        unit, lower = UNITS[kind]
        what = f"memory ran out in a pass of {kind} over {tried} {unit} ({str(error).strip().splitlines()[0]:.120})"
        if together:
            raise UserError(f"{what}; other ranks take part in it, so that it cannot be cut here alone; lower {lower}")
        if tried <= 1:
            raise UserError(f"{what}, which cannot be cut any further; lower {lower}")
        self._most[kind] = tried // 2
        logger.warning("%s; from now on it has %d at most", what, tried // 2)

    def retried(
        self, kind: PassKind, run: Callable[[], Answer], tried: Callable[[], int], *, together: bool = False
    ) -> Answer:
        """Runs something, again and again in smaller passes while memory runs out.

        Args:
            kind: Of its passes.
            run: What to run; it asks ``most`` for the size of its passes, and leaves nothing behind that is in the way.
            tried: Tells the size of the pass that failed.
            together: Whether other ranks take part.

        Raises:
            UserError: No pass is small enough.
        """
        while True:
            try:
                return run()
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self.halve(kind, tried(), error, together=together)
            # Only now is nothing held any more by the frames that the error went through.
            free_memory()

    def in_pieces(
        self, kind: PassKind, rows: int, run: Callable[[range], Answer], *, together: bool = False
    ) -> list[Answer]:
        """Runs a pass over rows, in as many pieces as it takes.

        Args:
            kind: Of the pass.
            rows: How many; of none there is one pass too.
            run: Runs over some rows.
            together: Whether other ranks take part.

        Raises:
            UserError: A single row is too much.
        """

        def pieces() -> list[Answer]:
            most = max(self.most(kind, rows), 1)
            return [run(range(start, min(start + most, rows))) for start in range(0, max(rows, 1), most)]

        return self.retried(kind, pieces, lambda: self.most(kind, rows), together=together)

    def unless_too_large(self, name: str, run: Callable[[], Answer]) -> Answer | None:
        """Runs something that can be done without; None where memory runs out in it, from then on without trying.

        Args:
            name: Of what is run.
            run: What to run.
        """
        if name in self._most:
            return None
        try:
            return run()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            self._most[name] = 0
            logger.warning("memory ran out in making %s ahead; from now on each pass makes its own", name)
        free_memory()
        return None

    def state_dict(self) -> dict[str, int]:
        """Returns the sizes as plain data."""
        return dict(self._most)

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continues with the sizes of an earlier run."""
        self._most = dict(state)


def moves_together(policy: VisionLanguageModel) -> bool:
    """Tells whether ranks hold pieces of the weights, which they put together in the midst of every pass."""
    return is_sharded(policy) and not policy.is_gathered


def rows_of(policy: VisionLanguageModel, encoder: SampleEncoder, batch: PromptBatch, rows: range) -> PromptBatch:
    """Takes some rows out of a batch; they are encoded again where nothing tells which pixels are theirs."""
    if len(rows) == len(batch):
        return batch
    index = torch.tensor(list(rows), device=batch.input_ids.device)
    found = select_prompts(policy.model, batch, index)
    if found is None:
        samples = batch.samples[rows.start : rows.stop]
        encoded = encoder.encode_prompts(samples) if batch.labels is None else encoder.encode(samples)
        return encoded.to(index.device)
    return replace(
        found,
        labels=None if batch.labels is None else batch.labels[index],
        weights=None if batch.weights is None else batch.weights[index],
    )


def sample_rollouts(
    sizes: PassSizes,
    engine: RolloutEngine,
    policy: VisionLanguageModel,
    encoder: SampleEncoder,
    prompts: PromptBatch,
    group_size: int,
    seeds: Sequence[int],
    media: MediaFeatures | None,
) -> Rollouts:
    """Samples completions of fewer prompts at a time where all do not fit; that changes none of them.

    Args:
        sizes: How large passes may be.
        engine: What samples.
        policy: The model.
        encoder: Turns tokens into text, and encodes prompts again whose pixels cannot be told apart.
        prompts: ``P`` left-padded prompts.
        group_size: Completions of each.
        seeds: Of each prompt.
        media: Features of all media, where they are made; pieces make their own.

    Raises:
        UserError: A single prompt is too much.
    """

    def sample(rows: range) -> Rollouts:
        piece = rows_of(policy, encoder, prompts, rows)
        own = seeds[rows.start : rows.stop]
        return engine(policy, encoder, piece, group_size, own, media=media if piece is prompts else None)

    parts = sizes.in_pieces("rollout", len(prompts), sample, together=moves_together(policy))
    return parts[0] if len(parts) == 1 else join_rollouts(prompts, parts, policy.padding_id)


def pass_tokens(
    policy: VisionLanguageModel, settings: UpdateSettings, rollouts: Rollouts, mask: Tensor, rows: Tensor
) -> int:
    """Counts the tokens of a pass over completions, padding included; 1 where it has one completion or none.

    Args:
        policy: What runs it.
        settings: How.
        rollouts: ``B`` completions.
        mask: 1 on tokens that count, shape ``(B, T)``.
        rows: Completions of the pass.
    """
    if len(rows) < 2:
        return 1
    shares_prompts = policy.shares_prompts is not False and settings.prefix == "shared"
    lengths = rollouts.prompts.attention_mask.sum(1)[rollouts.prompt_of[rows].unique()].tolist()
    return padded_tokens(lengths, mask[rows].sum(1).tolist(), shares_prompts=shares_prompts)
