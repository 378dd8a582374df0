"""Tells the memory of a paradigm's training step from a batch: which passes it makes, and under what circumstances."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from lit_vlm.functional.chunked_log_probs import DEFAULT_CHUNK_TOKENS
from lit_vlm.functional.token_micro_batches import token_micro_batches
from lit_vlm.interfaces.batches import CompletionSet, PromptBatch, TrainingBatch
from lit_vlm.interfaces.capabilities import SamplesRollouts
from lit_vlm.interfaces.memory import MemoryPlan
from lit_vlm.models.layer_sizes import ModelSizes
from lit_vlm.models.memory_plan import Circumstances, PassSize, RolloutSize, plan_memory
from lit_vlm.models.prefix_sharing import is_verified, reason_to_repeat
from lit_vlm.models.prompt_rows import GRIDS, PIXELS
from lit_vlm.paradigms.strategies import strategy_kind

CUSTOMARY_PATCH = 14
"""Side of a patch in pixels, where a configuration does not tell."""


def planned_memory(module: Any, sizes: ModelSizes, batch: TrainingBatch) -> MemoryPlan:
    """Predicts the memory of a training step of a module.

    Args:
        module: A ``PolicyModule`` whose model is loaded, with a Trainer.
        sizes: Of its model, before a strategy cut it up.
        batch: The largest that is expected.
    """
    circumstances = circumstances_of(module, sizes)
    if isinstance(batch, PromptBatch) and batch.labels is None and isinstance(module, SamplesRollouts):
        rollout = rollout_size(module, batch)
        update, passes = update_size(module, batch, rollout)
        told = (
            f"{rollout.rows:,} completions of {rollout.new_tokens:,} tokens for {rollout.prompts:,} prompts of up to "
            f"{rollout.prompt_tokens:,} tokens; {passes:,} passes of up to {update.tokens:,} tokens"
        )
        accumulates = passes > 1
    else:
        rollout, accumulates = None, circumstances.accumulates
        if isinstance(batch, PromptBatch):
            update = pass_size(module, batch)
            told = f"{len(batch):,} rows of {update.row_tokens:,} tokens, padding included"
        else:
            update = compared_size(module, batch)
            told = f"{len(batch.token_ids):,} completions, {update.tokens:,} tokens in all"
    media = f", {update.media_tokens:,} of them of images" if update.media_tokens else ""
    changed = replace(circumstances, accumulates=accumulates)
    return plan_memory(sizes, update, changed, rollout, told + media)


def circumstances_of(module: Any, sizes: ModelSizes) -> Circumstances:
    """Reads from module and Trainer what memory depends on."""
    trainer = module.trainer
    kind = strategy_kind(trainer.strategy)
    reference = getattr(module, "reference_settings", None)
    copies = reference is not None and reference.kind == "frozen_copy"
    return Circumstances(
        strategy=kind,
        ranks=trainer.world_size,
        shards=_shards(trainer.strategy),
        autocast=isinstance(trainer.precision_plugin, MixedPrecision) or "mixed" in str(trainer.precision),
        on_gpu=trainer.strategy.root_device.type == "cuda",
        accumulates=trainer.accumulate_grad_batches > 1,
        chunk_tokens=getattr(module, "chunk_tokens", DEFAULT_CHUNK_TOKENS),
        reference_bytes=sum(sizes.trained.values()) if copies else 0,
        keeps_features=isinstance(module, SamplesRollouts),
        drops_gradients=not module.automatic_optimization,
    )


def pass_size(module: Any, batch: PromptBatch) -> PassSize:
    """Measures a pass over whole rows, as supervised losses make it."""
    patches, largest = patches_of(module, batch)
    return PassSize(
        tokens=batch.input_ids.numel(),
        row_tokens=int(batch.input_ids.shape[1]),
        labels=batch.count().labels,
        patches=patches,
        largest_image=largest,
        media_tokens=_media_tokens(module, batch.input_ids),
    )


def compared_size(module: Any, batch: CompletionSet) -> PassSize:
    """Measures a pass over completions that are compared, behind their prompts."""
    lengths = batch.prompts.attention_mask.sum(1)
    return _continued(
        module, batch.prompts, lengths[batch.prompt_of], lengths, batch.mask.sum(1), int(batch.counted.sum())
    )


def rollout_size(module: Any, prompts: PromptBatch) -> RolloutSize:
    """Measures what is sampled of a batch of prompts, each completion as long as it may be."""
    return RolloutSize(
        prompts=len(prompts),
        prompt_tokens=int(prompts.input_ids.shape[1]),
        rows=len(prompts) * module.group_size,
        new_tokens=module.engine.max_new_tokens,
    )


def update_size(module: Any, prompts: PromptBatch, rollout: RolloutSize) -> tuple[PassSize, int]:
    """Measures the largest pass of an update, and counts the passes of an optimizer step.

    Returns:
        The pass, its completions as long as they may be, and the number of passes.
    """
    settings = module.update_settings
    lengths = prompts.attention_mask.sum(1)
    most = -(-len(prompts) // settings.minibatches)  # prompts of a mini-batch
    chosen = lengths.sort(descending=True).indices[:most].tolist()
    owners = [prompt for prompt in chosen for _ in range(module.group_size)]
    shares = settings.prefix == "shared" and _shares_prompts(module)
    groups = token_micro_batches(
        lengths.tolist(), [rollout.new_tokens] * len(owners), owners, settings.micro_batch_tokens, shares_prompts=shares
    )
    largest = [owners[row] for row in groups[0]]
    kept = torch.tensor(sorted(set(largest)))
    counts = torch.full((len(largest),), rollout.new_tokens)
    taken = lengths[torch.tensor(largest)]
    size = _continued(module, prompts, taken, lengths[kept], counts, len(largest) * rollout.new_tokens, shares)
    whole = size.tokens
    if len(groups) > 1:
        # Completions that are shorter, or teach nothing, leave room that others fill.
        whole = max(size.tokens, settings.micro_batch_tokens)
    share = min(1.0, len(kept) / len(prompts) * whole / size.tokens)
    return (
        replace(
            size,
            tokens=whole,
            labels=round(size.labels * whole / size.tokens),
            patches=round(size.patches * share),
            media_tokens=round(size.media_tokens * share),
            shared_keys=round(size.shared_keys * whole / size.tokens),
        ),
        len(groups),
    )


def patches_of(module: Any, batch: PromptBatch) -> tuple[int, int]:
    """Counts the tokens that the vision tower computes for a batch, and those of its largest image or video."""
    counts = [0]
    for kind, name in PIXELS.items():
        pixels = batch.visual.get(name)
        if pixels is None:
            continue
        grid = batch.visual.get(GRIDS[kind])
        if grid is not None:  # patches already, of any size of image
            counts += grid.prod(1).tolist()
            continue
        vision = getattr(module.policy.model.config, "vision_config", None)
        side = getattr(vision, "patch_size", None) or CUSTOMARY_PATCH
        side = side[0] if isinstance(side, list | tuple) else side
        counts += [(pixels.shape[-2] // side) * (pixels.shape[-1] // side)] * pixels.shape[:-3].numel()
    return sum(counts), max(counts)


def _continued(
    module: Any,
    prompts: PromptBatch,
    taken: Tensor,
    prompt_lengths: Tensor,
    lengths: Tensor,
    labels: int,
    shares: bool | None = None,
) -> PassSize:
    """A pass over completions behind their prompts, which it repeats or shares.

    Args:
        module: Whose policy makes it.
        prompts: All prompts, with their media.
        taken: Tokens of each completion's prompt.
        prompt_lengths: Tokens of each prompt that is continued.
        lengths: Tokens of each completion.
        labels: Tokens that are predicted.
        shares: Whether prompts are shared; None asks the model.
    """
    longest, new = int(taken.max()) if len(taken) else 0, int(lengths.max()) if len(lengths) else 0
    media = _media_tokens(module, prompts.input_ids)
    patches, largest = patches_of(module, prompts)
    if _shares_prompts(module) if shares is None else shares:
        tokens = int(prompt_lengths.sum()) + len(lengths) * new
        return PassSize(tokens, longest + new, labels, patches, largest, media, shared_keys=len(taken) * longest)
    return PassSize(len(lengths) * (longest + new), longest + new, labels, patches, largest, media)


def _shares_prompts(module: Any) -> bool:
    policy = module.policy
    if policy.shares_prompts is not None:
        return bool(policy.shares_prompts)
    return reason_to_repeat(policy.model) is None and is_verified(policy.model)


def _media_tokens(module: Any, input_ids: Tensor) -> int:
    ids = torch.tensor(module.encoder.media_token_ids, dtype=input_ids.dtype, device=input_ids.device)
    return int(torch.isin(input_ids, ids).sum())


def _shards(strategy: Any) -> tuple[bool, bool, bool] | None:
    """Whether DeepSpeed divides weights, gradients and optimizer state; None for other strategies."""
    if not isinstance(strategy, DeepSpeedStrategy):
        return None
    configuration = strategy.config if isinstance(strategy.config, dict) else {}
    stage = int(configuration.get("zero_optimization", {}).get("stage", 0))
    return stage >= 3, stage >= 2, stage >= 1
