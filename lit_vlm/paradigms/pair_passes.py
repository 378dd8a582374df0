"""From batches of pairs to what an objective sees of them.

Legend: ``B`` pairs, ``C`` completions, ``T`` tokens of the longest one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lit_vlm.functional.chunked_log_probs import DEFAULT_CHUNK_TOKENS
from lit_vlm.interfaces.batches import CompletionSet, PreferenceBatch
from lit_vlm.interfaces.comparisons import PairLogProbs, PairScores
from lit_vlm.models.completion_scoring import PrefixPass
from lit_vlm.models.media_features import MediaFeatures
from lit_vlm.models.vision_language_model import VisionLanguageModel


def frozen_media(policy: VisionLanguageModel, batch: CompletionSet) -> MediaFeatures | None:
    """Encodes the media of a batch once, for all passes over it that need no gradients of vision and projector.

    Returns:
        Features without a graph; None where the model takes none.
    """
    with torch.no_grad():
        return policy.encode_media(batch.prompts)


def completion_sums(
    policy: VisionLanguageModel,
    batch: CompletionSet,
    *,
    media: MediaFeatures | None = None,
    prefix: PrefixPass = "shared",
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
) -> Tensor:
    """Adds up the log-probabilities of each completion's counted tokens, in one pass over the batch.

    Args:
        policy: The model.
        batch: ``C`` completions of prompts.
        media: Features of the prompts' media; None has them made.
        prefix: Whether the prompt is computed once for all its completions.
        chunk_tokens: Completion tokens whose logits exist at one time.

    Returns:
        In nats, fp32, shape ``(C,)``, with a graph where gradients are on.
    """
    scores = policy.score_rollouts(
        batch.prompts,
        batch.token_ids,
        batch.mask,
        batch.prompt_of,
        media=media,
        prefix=prefix,
        chunk_tokens=chunk_tokens,
    )
    return (scores.log_probs * batch.counted).sum(1)


def pair_log_probs(batch: PreferenceBatch, sums: Tensor, *, with_corrupted: bool = False) -> PairLogProbs:
    """Deals sums over completions out to the pairs.

    Args:
        batch: ``B`` pairs of ``C`` completions.
        sums: Shape ``(C,)``.
        with_corrupted: Whether the completions behind corrupted images are wanted.
    """
    return PairLogProbs(
        chosen=sums[batch.chosen],
        rejected=_at(sums, batch.rejected),
        corrupted=_at(sums, batch.corrupted) if with_corrupted else None,
    )


def pair_scores(
    batch: PreferenceBatch, policy: Tensor, reference: Tensor | None, *, with_corrupted: bool = False
) -> PairScores:
    """Puts together what an objective sees of the pairs of a batch.

    Args:
        batch: ``B`` pairs of ``C`` completions.
        policy: Sums of log-probabilities under the policy, shape ``(C,)``.
        reference: Under the reference; None where there is none.
        with_corrupted: Whether the objective asks for the completions behind corrupted images.
    """
    tokens = batch.token_counts
    return PairScores(
        policy=pair_log_probs(batch, policy, with_corrupted=with_corrupted),
        reference=None if reference is None else pair_log_probs(batch, reference, with_corrupted=with_corrupted),
        chosen_tokens=tokens[batch.chosen],
        rejected_tokens=_at(tokens, batch.rejected),
        weights=batch.weights,
        has_rejected=batch.rejected >= 0,
        has_corrupted=batch.corrupted >= 0,
    )


def _at(values: Tensor, rows: Tensor) -> Tensor:
    """Takes the values at some rows; 0 where a row is negative."""
    return values[rows.clamp(min=0)].where(rows >= 0, 0)
