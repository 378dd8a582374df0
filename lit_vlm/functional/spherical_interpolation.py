"""Interpolation between two tensors along the arc between their directions."""

import torch
from torch import Tensor

from lit_vlm.functional.task_vectors import inner_product, inner_products, weighted_sum, whole

_LEAST_NORM = 1e-8


def shares_on_sphere(
    first: Tensor, second: Tensor, product: Tensor, t: float, *, threshold: float = 0.9995
) -> tuple[Tensor, Tensor]:
    """Computes what two vectors are multiplied by to lie between them; see ``interpolated_on_sphere``.

    Args:
        first: Squared norm of the first, any shape, float64 where the device has it.
        second: Squared norm of the second.
        product: Their inner product.
        t: Where between them.
        threshold: Of the cosine.

    Returns:
        The shares of the first and of the second, in that shape.
    """
    if t in (0, 1):
        return torch.full_like(product, 1 - t), torch.full_like(product, t)
    one, other = (torch.where(square.sqrt() > _LEAST_NORM, square.sqrt(), 1.0) for square in (first, second))
    cosine = product / one / other
    straight = cosine.abs() > threshold
    angle = torch.where(straight, 0.0, cosine).acos()
    from_first = torch.where(straight, 1 - t, ((1 - t) * angle).sin() / angle.sin())
    return from_first, torch.where(straight, t, (t * angle).sin() / angle.sin())


def interpolated_on_sphere(
    first: Tensor, second: Tensor, t: float, *, threshold: float = 0.9995, per_row: bool = False
) -> Tensor:
    """Interpolates from one tensor to another: ``(sin((1-t) phi) first + sin(t phi) second) / sin(phi)``.

    ``phi`` is the angle between them. Where its cosine is beyond ``threshold``, either way, the straight line
    ``(1-t) first + t second`` is taken. A tensor of norm 1e-8 or less counts as at a right angle to any other.

    Args:
        first: What ``t = 0`` gives, bit for bit.
        second: What ``t = 1`` gives, the same shape.
        t: Any number; within [0, 1] the result lies between the two.
        threshold: Of the cosine, at most 1.
        per_row: Whether each vector along the last dimension has an angle of its own; otherwise the whole tensor is
            one vector.

    Example:
        >>> interpolated_on_sphere(torch.tensor([1.0, 0.0, 0.0]), torch.tensor([1.0, 1.0, 0.0]), 0.25)
        tensor([1.0616, 0.2759, 0.0000])
    """
    if t in (0, 1):
        return (second if t else first).clone()
    if per_row:
        squares = [inner_product(tensor, tensor, per_row=True) for tensor in (first, second)]
        product = inner_product(first, second, per_row=True)
    else:
        both = inner_products([first, second])
        squares, product = [both[0, 0], both[1, 1]], both[0, 1]
    from_first, from_second = shares_on_sphere(squares[0], squares[1], product, t, threshold=threshold)
    if not per_row:
        return weighted_sum([(whole(first), from_first.item()), (whole(second), from_second.item())], like=first)
    by_row = (*first.shape[:-1], 1)
    return (first * from_first.to(first).view(by_row)).addcmul_(second, from_second.to(first).view(by_row))
