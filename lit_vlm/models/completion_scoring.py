"""Log-probabilities and features of completions, given their prompts. Logits are made for completion tokens only.

Legend: ``P`` prompts, ``B`` completions, ``T`` tokens of the longest completion, ``H`` hidden width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lit_vlm.functional.chunked_log_probs import DEFAULT_CHUNK_TOKENS, chunked_distributions
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.models.completion_passes import Continuations, encodings_of, naive_states, shared_states
from lit_vlm.models.media_features import MediaFeatures
from lit_vlm.models.prefix_sharing import decide_sharing
from lit_vlm.models.stand_in import in_step

if TYPE_CHECKING:
    from lit_vlm.models.vision_language_model import VisionLanguageModel

PrefixPass = Literal["shared", "naive"]
"""``shared`` computes each prompt once for all its completions, where the model can; ``naive`` once for each."""


@dataclass
class CompletionScores:
    """What a policy thinks of the tokens of ``B`` completions."""

    log_probs: Tensor
    """Log-probability of each token, fp32, in nats, shape ``(B, T)``; 0 where masked."""
    entropies: Tensor | None = None
    """Entropy of the distribution at each token, fp32, in nats, shape ``(B, T)``; 0 where masked."""


def score_rollouts(
    policy: VisionLanguageModel,
    prompts: PromptBatch,
    token_ids: Tensor,
    mask: Tensor,
    prompt_of: Tensor,
    *,
    temperature: float = 1.0,
    with_entropies: bool = False,
    media: MediaFeatures | None = None,
    prefix: PrefixPass = "shared",
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
) -> CompletionScores:
    """Scores completions under a policy, with a graph where gradients are on.

    Args:
        policy: The model.
        prompts: ``P`` left-padded prompts with their media; those that no completion continues cost nothing, but for
            families whose media cannot be told apart.
        token_ids: Right-padded completions, shape ``(B, T)``.
        mask: 1 on the tokens of each, shape ``(B, T)``.
        prompt_of: Row of ``prompts`` that each completion continues, shape ``(B,)``.
        temperature: The sampling temperature, by which the logits are divided.
        with_entropies: Whether to compute the entropies too.
        media: Features of the media of all ``prompts``, made by ``encode_media``; None makes them anew, for the prompts
            that are continued, with a graph where vision tower or projector trains.
        prefix: Which pass.
        chunk_tokens: Completion tokens whose logits exist at one time.

    Raises:
        ValueError: The completions are not right-padded, name a prompt that is not there, or the features have no
            graph where gradients should reach the vision tower or the projector.
    """
    _check(policy, prompts, token_ids, mask, prompt_of, media)
    kept = mask.any(1).nonzero().squeeze(1)
    log_probs = torch.zeros(token_ids.shape, dtype=torch.float32, device=token_ids.device)
    entropies = torch.zeros_like(log_probs) if with_entropies else None
    if not len(kept):
        return CompletionScores(log_probs + policy.pass_of_nothing(), entropies)
    longest = int(mask.sum(1).max())
    tie = _in_step(policy, prompts, prompt_of[kept], media)
    given = Continuations.of_prompts(
        policy.model, prompts, token_ids[kept, :longest], mask[kept, :longest], prompt_of[kept], media
    )
    hidden = _states(policy, given, prefix)  # (N, H)
    head: Any = policy.model.get_output_embeddings()
    found = chunked_distributions(
        hidden,
        head.weight,
        getattr(head, "bias", None),
        token_ids[mask != 0],
        temperature=temperature,
        with_entropies=with_entropies,
        chunk_tokens=chunk_tokens,
    )
    log_probs = log_probs.masked_scatter(mask != 0, found.log_probs) + tie
    if policy.training:
        log_probs = log_probs + policy.touch_unused()
    if entropies is not None and found.entropies is not None:
        entropies = entropies.masked_scatter(mask != 0, found.entropies)
    return CompletionScores(log_probs, entropies)


@torch.no_grad()
def completion_features(
    policy: VisionLanguageModel,
    prompts: PromptBatch,
    token_ids: Tensor,
    mask: Tensor,
    prompt_of: Tensor,
    *,
    media: MediaFeatures | None = None,
    prefix: PrefixPass = "shared",
) -> Tensor:
    """Sums up each completion in the last hidden state at its last token, without a graph.

    Args:
        policy: The model.
        prompts: As for ``score_rollouts``.
        token_ids: Likewise.
        mask: Likewise; a completion without tokens is summed up at the last token of its prompt.
        prompt_of: Likewise.
        media: Likewise.
        prefix: Likewise.

    Returns:
        States in fp32, shape ``(B, H)``.
    """
    _check(policy, prompts, token_ids, mask, prompt_of, media)
    if not len(mask):
        policy.pass_of_nothing()
        return torch.zeros(0, policy.hidden_width, device=mask.device)
    # Passes give the states that tokens are predicted from: one more token shows the state at the last.
    lengths = mask.sum(1)
    longest = int(lengths.max()) + 1
    padding = token_ids.new_full((len(token_ids), 1), policy.padding_id)
    longer_ids = torch.cat([token_ids, padding], 1)[:, :longest]
    longer_mask = (torch.arange(longest, device=mask.device) <= lengths[:, None]).to(mask.dtype)
    _in_step(policy, prompts, prompt_of, media)
    given = Continuations.of_prompts(policy.model, prompts, longer_ids, longer_mask, prompt_of, media)
    return _states(policy, given, prefix)[longer_mask.sum(1).cumsum(0) - 1].float()


def _in_step(
    policy: VisionLanguageModel, prompts: PromptBatch, prompt_of: Tensor, media: MediaFeatures | None
) -> Tensor | float:
    if policy.stand_in is None:
        return 0.0
    return in_step(policy, encodings_of(policy.model, prompts, prompt_of, media), has_rows=True)


def _states(policy: VisionLanguageModel, given: Continuations, prefix: PrefixPass) -> Tensor:
    if prefix == "naive":
        return naive_states(policy.model, given)
    if policy.shares_prompts is None:
        policy.shares_prompts = decide_sharing(policy, given)
    return (shared_states if policy.shares_prompts else naive_states)(policy.model, given)


def _check(
    policy: VisionLanguageModel,
    prompts: PromptBatch,
    token_ids: Tensor,
    mask: Tensor,
    prompt_of: Tensor,
    media: MediaFeatures | None,
) -> None:
    if token_ids.shape != mask.shape or prompt_of.shape != token_ids.shape[:1]:
        raise ValueError(
            f"token_ids, mask and prompt_of have shapes {tuple(token_ids.shape)}, {tuple(mask.shape)} and "
            f"{tuple(prompt_of.shape)}; wanted are (B, T), (B, T) and (B,)"
        )
    if bool((mask.diff(dim=1) > 0).any()):
        raise ValueError("the completions are not right-padded: the mask has a token behind padding")
    if bool(((prompt_of < 0) | (prompt_of >= len(prompts))).any()):
        raise ValueError(f"prompt_of names a prompt outside the {len(prompts)} of the batch")
    trains = torch.is_grad_enabled() and bool({"vision", "projector"} & policy.trained_parts)
    if media is not None and media.kinds and trains and not media.has_graph:
        raise ValueError(
            "the features of the media have no graph, but vision tower or projector trains; leave media out where "
            "gradients are wanted"
        )
