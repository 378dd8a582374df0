"""Weights of made-up models for the tests of operations."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lit_vlm.interfaces.weights import DonorTensor, MergeTensors, WeightPlace


def mixed(
    base: Tensor | Sequence[float],
    donors: Sequence[Tensor | Sequence[float]],
    weights: Sequence[float] | None = None,
    densities: Sequence[float] | None = None,
    *,
    target: Tensor | Sequence[float] | None = None,
    layer: int | None = 0,
    layers: int = 4,
    seeds: Sequence[int] | None = None,
) -> MergeTensors:
    """Puts together what a merge is given for one weight; the target is the base where none is named."""
    start = torch.as_tensor(base)
    values = [torch.as_tensor(donor) for donor in donors]
    name = "lm_head.weight" if layer is None else f"model.layers.{layer}.mlp.up_proj.weight"
    return MergeTensors(
        place=WeightPlace(name, "head" if layer is None else "mlp", layer, layers),
        target=start if target is None else torch.as_tensor(target),
        donors=[
            DonorTensor(
                weight=1.0 if weights is None else weights[index],
                density=1.0 if densities is None else densities[index],
                value=value,
                delta=value - start,
                seed=index if seeds is None else seeds[index],
            )
            for index, value in enumerate(values)
        ],
    )


def random_mix(shape: tuple[int, ...] = (6, 50), count: int = 3, seed: int = 0, **settings: object) -> MergeTensors:
    """Draws a base and donors near it."""
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(shape, generator=generator)
    donors = [base + 0.1 * torch.randn(shape, generator=generator) for _ in range(count)]
    return mixed(base, donors, **settings)  # type: ignore[arg-type]


def unchanged(tensors: MergeTensors) -> list[Tensor]:
    """Copies all tensors, to be compared after a merge."""
    given = [tensors.target, *tensors.values, *tensors.deltas]
    return [tensor.clone() for tensor in given]


def same_bits(first: Tensor, second: Tensor) -> bool:
    """Tells whether two float32 tensors agree in every bit, the signs of zeros too."""
    return torch.equal(first.view(torch.int32), second.view(torch.int32))
