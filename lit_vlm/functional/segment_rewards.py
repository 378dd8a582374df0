"""Rewards of sub-sentences, put on the tokens that end them.

Legend: ``S`` sub-sentences of a response, ``T`` its tokens, ``K`` kinds of hallucination.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def faithfulness(probabilities: Tensor) -> Tensor:
    """Subtracts the probability of a hallucination from that of faithfulness.

    Args:
        probabilities: Of hallucinated, nothing mentioned and faithful, shape ``(…, 3)``.

    Returns:
        Scores in [-1, 1], shape ``(…)``.
    """
    return probabilities[..., 2] - probabilities[..., 0]


def segment_token_rewards(scores: Tensor, weights: Tensor, ends: Sequence[int], length: int) -> Tensor:
    """Puts the weighted scores of each sub-sentence on the token that ends it.

    Args:
        scores: One score for each kind and sub-sentence, shape ``(K, S)``.
        weights: Factor of each kind, shape ``(K,)``.
        ends: Token that ends each sub-sentence, ``S`` of them; what ends at the same token adds up.
        length: Tokens of the response, ``T``.

    Returns:
        One reward a token, 0 where none ends, shape ``(T,)``, of the scores' type.

    Raises:
        ValueError: The numbers of scores, weights and ends do not agree, or an end lies outside the response.

    Source:
        Jing and Du, FGAIF (2024), the dense reward (reconstructed: the authors' PPO trainer is not published in
        readable form). The map from classes to scores and weights of 1 are ours.
    """
    if scores.shape != (len(weights), len(ends)):
        raise ValueError(
            f"scores have shape {tuple(scores.shape)} for {len(weights)} kinds and {len(ends)} sub-sentences"
        )
    if any(not 0 <= end < length for end in ends):
        raise ValueError(f"sub-sentences end at tokens {list(ends)} of a response of {length}")
    rewards = scores.new_zeros(length)
    places = torch.tensor(list(ends), dtype=torch.long, device=scores.device)
    return rewards.index_add(0, places, (weights.to(scores)[:, None] * scores).sum(0))


def with_kl_penalty(rewards: Tensor, log_probs: Tensor, reference_log_probs: Tensor, coefficient: float) -> Tensor:
    """Takes from each token's reward what the policy's log-probability exceeds the reference's by.

    Args:
        rewards: Of single tokens, shape ``(…, T)``.
        log_probs: Of the tokens under the policy, in nats, same shape.
        reference_log_probs: Under the reference, same shape.
        coefficient: Factor of the difference.

    Returns:
        ``rewards - coefficient * (log_probs - reference_log_probs)``.

    Source:
        Jing and Du, FGAIF (2024); the estimate k1 of Schulman, Approximating KL divergence (2020).
    """
    return rewards - coefficient * (log_probs - reference_log_probs)
