"""What objectives see of completions that are compared: pairs, and groups with scores.

Legend: ``B`` pairs, ``C`` completions, ``G`` groups. Log-probabilities are sums over a completion's counted tokens, in
nats, fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class PairLogProbs:
    """What one policy thinks of ``B`` pairs."""

    chosen: Tensor
    """Of the preferred completions, shape ``(B,)``."""
    rejected: Tensor
    """Of the others, shape ``(B,)``; 0 where a pair has none."""
    corrupted: Tensor | None = None
    """Of the preferred completions behind corrupted images, shape ``(B,)``; 0 where a pair has none. None where the
    objective does not ask for them."""


@dataclass
class PairScores:
    """What an objective sees of the pairs of a micro-batch."""

    policy: PairLogProbs
    """With a graph."""
    reference: PairLogProbs | None
    """Without; None where the objective needs no reference."""
    chosen_tokens: Tensor
    """Counted tokens, shape ``(B,)``."""
    rejected_tokens: Tensor
    """Likewise; 0 where a pair has no rejected completion."""
    weights: Tensor
    """Factor of each pair's loss, shape ``(B,)``."""
    has_rejected: Tensor
    """Bool, shape ``(B,)``."""
    has_corrupted: Tensor
    """Bool, shape ``(B,)``."""


@dataclass
class GroupScores:
    """What an objective sees of ``C`` completions in ``G`` groups."""

    log_probs: Tensor
    """Under the policy, with a graph, shape ``(C,)``."""
    tokens: Tensor
    """Counted tokens, shape ``(C,)``."""
    group_of: Tensor
    """Group of each completion, from 0 to ``G - 1``, shape ``(C,)``."""
    scores: Tensor
    """How good each is, shape ``(C,)``; NaN for one that is no member of its group."""
    reference: Tensor
    """Completion of each group that is to be imitated, shape ``(G,)``; -1 where there is none."""
