"""A decoder of a few small weights, with the checkpoints that a bias reads."""

from pathlib import Path

import torch
from torch import nn

from lit_vlm.interfaces.weights import LowRankFactors, TensorSource, TrainedWeight

SHAPES = {
    "self_attn.q_proj.weight": (6, 4),
    "self_attn.q_proj.bias": (6,),
    "self_attn.o_proj.weight": (4, 6),
    "mlp.up_proj.weight": (5, 4),
    "mlp.down_proj.weight": (4, 5),
    "input_layernorm.weight": (4,),
}
MEMORY, DISK, TEXT = "model.language_model.", "model.", "model."


class HeldSource(TensorSource):
    """Weights held in memory, that counts what is read."""

    def __init__(self, tensors, label="held", configuration=None):
        self.tensors = tensors
        self._configuration = configuration or {}
        self._label = label
        self.reads = []

    @property
    def label(self):
        return self._label

    @property
    def folder(self):
        return Path(self._label)

    @property
    def configuration(self):
        return self._configuration

    @property
    def names(self):
        return list(self.tensors)

    def shape(self, name):
        return tuple(self.tensors[name].shape)

    def dtype(self, name):
        return self.tensors[name].dtype

    def read(self, name):
        self.reads.append(name)
        return self.tensors[name].clone()

    def vocabulary(self):
        return {}

    def digests(self):
        return {}


def decoder(seed, layers=2, prefix=DISK, without=(), scale=1.0):
    """Random weights of a decoder, by names on disk."""
    generator = torch.Generator().manual_seed(seed)
    weights = {
        f"{prefix}layers.{layer}.{name}": scale * torch.randn(shape, generator=generator)
        for layer in range(layers)
        for name, shape in SHAPES.items()
    }
    weights[f"{prefix}embed_tokens.weight"] = torch.randn(7, 4, generator=generator)
    return {name: value for name, value in weights.items() if not any(part in name for part in without)}


class SmallModule:
    """Trains a decoder, wholly or by adapters, beside a vision tower."""

    def __init__(self, start=None, prior=None, *, adapted=False, trains=None, others=None):
        self.start = HeldSource({**(decoder(0) if start is None else start), "visual.w": torch.ones(3)}, "start")
        self.sources = {"prior": HeldSource(decoder(1) if prior is None else prior, "prior")} | (others or {})
        generator = torch.Generator().manual_seed(9)
        self.parameters, self.factors = {}, {}
        for name, value in self.start.tensors.items():
            memory = name.replace(DISK, MEMORY, 1) if name.startswith(DISK) else f"model.{name}"
            if adapted and memory.endswith("_proj.weight"):
                rows, columns = value.shape
                self.factors[memory] = LowRankFactors(
                    nn.Parameter(torch.randn(2, columns, generator=generator)),
                    nn.Parameter(torch.randn(rows, 2, generator=generator)),
                    scale=1.5,
                )
            elif not adapted:
                # What training reached since is of no account for the direction.
                self.parameters[memory] = nn.Parameter(value + 0.1)
        if trains is not None:
            self.parameters = {name: value for name, value in self.parameters.items() if trains(name)}

    def trained_weights(self):
        return [TrainedWeight(name, tuple(value.shape), value) for name, value in self.parameters.items()] + [
            TrainedWeight(name, (len(held.outer), held.inner.shape[1]), None, held)
            for name, held in self.factors.items()
        ]

    def initial_weights(self):
        return self.start

    def open_weights(self, reference):
        return self.sources[str(reference)]

    def trainable(self):
        return [*self.parameters.values(), *(one for held in self.factors.values() for one in (held.inner, held.outer))]

    def draw_gradients(self, seed=5):
        """Gives every parameter a random gradient; returns copies."""
        generator = torch.Generator().manual_seed(seed)
        for parameter in self.trainable():
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        return [parameter.grad.clone() for parameter in self.trainable()]

    def delta(self, name, prior="prior"):
        """The direction of a weight named as in memory."""
        disk = name.replace(MEMORY, DISK, 1)
        return self.sources[prior].tensors[disk] - self.start.tensors[disk]
