"""How far a linear reward can be trusted on a sample, and a factor of the sample's loss made of it.

Legend: ``N`` feature vectors, ``d`` features, ``V`` the design matrix of a reward that is linear in them.
"""

from __future__ import annotations

import logging

import torch
from torch import Tensor

from lit_vlm.functional.batch_statistics import accumulation_dtype
from lit_vlm.interfaces.errors import UserError

logger = logging.getLogger(__name__)


def gram_matrix(features: Tensor) -> Tensor:
    """Adds up the outer products of feature vectors, ``sum phi phi^T``; what ranks and batches have adds up.

    Args:
        features: Shape ``(N, d)``; of none the matrix is zero.

    Returns:
        Shape ``(d, d)``, in float64, or float32 on devices that have no float64, without a graph.
    """
    wide = features.detach().to(accumulation_dtype(features))
    return wide.T @ wide


def design_factor(design: Tensor, ridge: float) -> Tensor:
    """Returns the lower Cholesky factor of a design matrix, to which the ridge is added where it is not definite.

    Args:
        design: ``V = sum phi phi^T + ridge I`` over what the reward was fitted on, symmetric, shape ``(d, d)``.
        ridge: Added to the diagonal, with a warning, where ``V`` is not positive definite; above 0.

    Returns:
        Shape ``(d, d)``.

    Raises:
        UserError: ``V`` is not square, or not positive definite even with the ridge.
    """
    if design.ndim != 2 or design.shape[0] != design.shape[1]:
        raise UserError(f"the design matrix of a reward has shape {tuple(design.shape)}; it must be square")
    factor: Tensor
    factor, fault = torch.linalg.cholesky_ex(design)
    if not int(fault):
        return factor
    logger.warning("the design matrix of the reward is not positive definite; %s is added to its diagonal", ridge)
    factor, fault = torch.linalg.cholesky_ex(design + ridge * torch.eye(len(design)).to(design))
    if int(fault):
        raise UserError(
            f"the design matrix of the reward is not positive definite even with {ridge} on its diagonal; give a "
            "larger ridge"
        )
    return factor


def error_bounds(features: Tensor, factor: Tensor) -> Tensor:
    """Computes ``sqrt(phi^T V^-1 phi)``, to which the error of a linear reward is proportional.

    Args:
        features: Shape ``(N, d)``.
        factor: Lower Cholesky factor of ``V``, as ``design_factor`` makes it.

    Returns:
        Shape ``(N,)``, 0 or more, without a graph.

    Raises:
        UserError: The features are not as many as the reward was fitted on.

    Example:
        >>> factor = design_factor(torch.diag(torch.tensor([4.0, 1.0])), ridge=1.0)
        >>> error_bounds(torch.tensor([[1.0, 2.0]]), factor)
        tensor([2.0616])

    Source:
        Liu et al., PrefPaint: Aligning Image Inpainting Diffusion Model with Human Preference (2024). The released
        code multiplies by a stored matrix and takes the 2-norm, which is this only where the matrix is the inverse
        square root; here it is the quadratic form.
    """
    if features.ndim != 2 or features.shape[1] != len(factor):
        raise UserError(
            f"features have shape {tuple(features.shape)}, but the reward was fitted on {len(factor)} features a "
            "sample; take both from the same model"
        )
    solved: Tensor = torch.linalg.solve_triangular(factor, features.detach().to(factor).T, upper=False)  # (d, N)
    return solved.square().sum(0).sqrt()


def uncertainty_weights(
    bounds: Tensor, *, scale: float = 0.05, offset: float = 0.7, low: float = 1.0, high: float = 2.21
) -> Tensor:
    """Turns error bounds into factors of a loss: the surer the reward, the larger.

    Args:
        bounds: As ``error_bounds`` gives them, shape ``(N,)``.
        scale: ``a``, 0 or more.
        offset: ``b``.
        low: Least factor.
        high: Largest factor.

    Returns:
        ``clip(exp(-a bound + b), low, high)``, fp32, shape ``(N,)``, without a graph.

    Example:
        >>> uncertainty_weights(torch.tensor([0.0, 5.0, 14.0]))
        tensor([2.0138, 1.5683, 1.0000])

    Source:
        PrefPaint ``train_inpainting_model.py`` and ``configs/config.yaml`` (confirmed-in-code). With a bound of 0 or
        more the default ``high`` never acts, since ``exp(0.7)`` is 2.014.
    """
    return (offset - scale * bounds.detach()).exp().clamp(low, high).float()
