"""Log-probabilities of chosen tokens without ever holding all logits.

Legend: ``N`` tokens, ``H`` hidden width, ``V`` vocabulary.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

DEFAULT_CHUNK_TOKENS = 1024


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

    The logits of a slice live only while the slice is worked on; the backward pass makes them again. Peak extra memory
    is ``chunk_tokens x V`` floats instead of ``N x V``.

    Args:
        hidden: Last hidden states, shape ``(N, H)``.
        weight: Output embedding, shape ``(V, H)``.
        bias: Output bias, shape ``(V,)``, or None.
        targets: Token ids in ``[0, V)``, shape ``(N,)``.
        chunk_tokens: Tokens a slice, at least 1.

    Returns:
        Log-probabilities in nats, fp32, shape ``(N,)``, differentiable in the first three arguments; and whether the
        target was the likeliest token, bool, shape ``(N,)``.

    Raises:
        ValueError: ``chunk_tokens`` is below 1.
    """
    if chunk_tokens < 1:
        raise ValueError(f"chunk_tokens is {chunk_tokens}; give at least 1")
    kind = hidden.device.type
    if torch.is_autocast_enabled(kind):
        hidden = hidden.to(torch.get_autocast_dtype(kind))
    # The forward and the backward pass must multiply in the same precision: autocast would reach the former only.
    with torch.autocast(kind, enabled=False):
        log_probs, is_top = _ChunkedLogProbs.apply(hidden, weight, bias, targets, chunk_tokens)
    return log_probs, is_top


class _ChunkedLogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, chunk_tokens: int
    ) -> tuple[Tensor, Tensor]:
        log_probs = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        normalisers = torch.empty_like(log_probs)
        is_top = torch.empty(len(targets), dtype=torch.bool, device=hidden.device)
        matrix, offset = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
        for start in range(0, len(targets), chunk_tokens):
            part = slice(start, start + chunk_tokens)
            scores = linear(hidden[part], matrix, offset).float()  # (n, V)
            normalisers[part] = scores.logsumexp(-1)
            log_probs[part] = scores.gather(-1, targets[part, None]).squeeze(-1) - normalisers[part]
            is_top[part] = scores.argmax(-1) == targets[part]
        ctx.save_for_backward(hidden, weight, bias, targets, normalisers)
        ctx.chunk_tokens = chunk_tokens
        ctx.mark_non_differentiable(is_top)
        return log_probs, is_top

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, targets, normalisers = ctx.saved_tensors
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        upstream = gradients[0]  # (N,)
        hidden_gradient = torch.empty_like(hidden) if needs_hidden else None
        # Sums over slices are kept in fp32, as one matrix product over all tokens would keep them.
        weight_gradient = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        bias_gradient = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        matrix, offset = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
        for start in range(0, len(targets), ctx.chunk_tokens):
            part = slice(start, start + ctx.chunk_tokens)
            scores = linear(hidden[part], matrix, offset).float()
            # d log p(target) / d logits = onehot(target) - softmax
            slope = (scores - normalisers[part, None]).exp_().mul_(-upstream[part, None])
            slope.scatter_add_(-1, targets[part, None], upstream[part, None])
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
            None,
            None,
        )
