"""Log-probabilities of chosen tokens without ever holding all logits.

Legend: ``N`` tokens, ``H`` hidden width, ``V`` vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

DEFAULT_CHUNK_TOKENS = 1024


@dataclass
class TokenDistributions:
    """What is kept of the distributions over the vocabulary at ``N`` tokens."""

    log_probs: Tensor
    """Log-probability of each target, fp32, in nats, shape ``(N,)``."""
    is_top: Tensor
    """Whether the target was the likeliest token, bool, shape ``(N,)``."""
    entropies: Tensor | None = None
    """Entropy of each distribution, fp32, in nats, shape ``(N,)``; where asked for."""


def token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Reads the log-probability of each target off its logits, in fp32.

    Args:
        logits: Scores, shape ``(..., V)``.
        targets: Token ids in ``[0, V)``, shape ``(...)``.

    Returns:
        Log-probabilities in nats, fp32, shape ``(...)``.

    Example:
        >>> token_log_probs(torch.zeros(1, 4), torch.tensor([2]))
        tensor([-1.3863])
    """
    scores = logits.float()
    return scores.gather(-1, targets.unsqueeze(-1)).squeeze(-1) - scores.logsumexp(-1)


def chunked_log_probs(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk_tokens: int = DEFAULT_CHUNK_TOKENS
) -> tuple[Tensor, Tensor]:
    """Computes ``token_log_probs(hidden @ weight.T + bias, targets)`` in slices of the tokens.

    See ``chunked_distributions``, at temperature 1.

    Returns:
        Log-probabilities and whether the target was the likeliest token, each of shape ``(N,)``.
    """
    distributions = chunked_distributions(hidden, weight, bias, targets, chunk_tokens=chunk_tokens)
    return distributions.log_probs, distributions.is_top


def chunked_distributions(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    targets: Tensor,
    *,
    temperature: float = 1.0,
    with_entropies: bool = False,
    chunk_tokens: int = DEFAULT_CHUNK_TOKENS,
) -> TokenDistributions:
    """Computes log-probabilities, and entropies, of ``softmax((hidden @ weight.T + bias) / temperature)`` in slices.

    The logits of a slice live only while the slice is worked on; the backward pass makes them again. Peak extra memory
    is a few times ``chunk_tokens x V`` floats instead of ``N x V``.

    Args:
        hidden: Last hidden states, shape ``(N, H)``.
        weight: Output embedding, shape ``(V, H)``.
        bias: Output bias, shape ``(V,)``, or None.
        targets: Token ids in ``[0, V)``, shape ``(N,)``.
        temperature: Divides the logits, above 0.
        with_entropies: Whether to compute entropies too.
        chunk_tokens: Tokens a slice, at least 1.

    Returns:
        Figures differentiable in the first three arguments, but for ``is_top``.

    Raises:
        ValueError: ``chunk_tokens`` is below 1, or ``temperature`` not above 0.
    """
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; give at least 1")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature is {temperature}; give a number above 0")
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    # The forward and the backward pass must multiply in the same precision: autocast would reach the former only.
    with torch.autocast(kind, enabled=False):
        log_probs, is_top, entropies = _ChunkedDistributions.apply(
            hidden, weight, bias, targets, 1 / temperature, with_entropies, chunk_tokens
        )
    return TokenDistributions(log_probs, is_top, entropies if with_entropies else None)


class _ChunkedDistributions(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        with_entropies: bool,
        chunk_tokens: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        log_probs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        normalisers = torch.empty_like(log_probs)
        entropies = torch.empty_like(log_probs) if with_entropies else log_probs.new_empty(0)
        is_top = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
        matrix, offset = _in_type_of(hidden, weight, bias)
        for start in range(0, len(targets), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            scores = linear(hidden[part], matrix, offset).float().mul_(scale)  # (n, V)
            normalisers[part] = scores.logsumexp(-1)
            log_probs[part] = scores.gather(-1, targets[part, None]).squeeze(-1) - normalisers[part]
            is_top[part] = scores.argmax(-1) == targets[part]
            if with_entropies:
                scores -= normalisers[part, None]
                entropies[part] = -(scores.exp() * scores).sum(-1)
        ctx.save_for_backward(hidden, weight, bias, targets, normalisers, entropies)
        ctx.scale, ctx.with_entropies, ctx.chunk_tokens = scale, with_entropies, chunk_tokens
        ctx.mark_non_differentiable(is_top)
        return log_probs, is_top, entropies

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalisers, entropies = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        upstream, _, upstream_entropy = gradients  # (N,)
        hidden_gradient = torch.empty_like(hidden) if needs_hidden else None
        # Sums over slices are kept in fp32, as one matrix product over all tokens would keep them.
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        matrix, offset = _in_type_of(hidden, weight, bias)
        for start in range(0, len(targets), ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            scores = linear(hidden[part], matrix, offset).float().mul_(ctx.scale)
            scores -= normalisers[part, None]
            # d log p(target) / d score = onehot(target) - p;  d entropy / d score = -p (log p + entropy)
            factor = -upstream[part, None]
            if ctx.with_entropies:
                factor = factor - upstream_entropy[part, None] * (scores + entropies[part, None])
            slope = scores.exp_().mul_(factor)
            slope.scatter_add_(-1, targets[part, None], upstream[part, None])
            slope *= ctx.scale
            slope_low = slope.to(hidden.dtype)
            if hidden_gradient is not None:
                hidden_gradient[part] = slope_low @ matrix
            if weight_gradient is not None:
                weight_gradient += slope_low.T @ hidden[part]
            if bias_gradient is not None:
                bias_gradient += slope.sum(0)
        return (
            hidden_gradient,
            None if weight_gradient is None else weight_gradient.to(weight.dtype),
            None if bias_gradient is None else bias_gradient.to(bias.dtype),
            *[None] * 4,
        )


def _in_type_of(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
    return weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
