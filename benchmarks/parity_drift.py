"""Parity of the directional bias of gradients with DRIFT's published rule, and with its authors' own code.

First the rule itself: ``biased_gradient`` against the formulas written out here in float64, on random tensors of
several shapes and scales and of every cosine from -1 to 1. Then whole models, where the authors' code is given: a
Qwen2 of some layers gets gradients from one backward pass; ``DirectionalBias`` tilts them from checkpoints, the
authors' ``DeltaDirectionPrior`` by its hooks from models in memory. All modes, one and two priors, with and without
rescaling, biases, choices of layers and modules. Their repository is WikiChao/DRIFT, the file
``LLaMA-Factory/src/llamafactory/model/drift.py``.

    python benchmarks/parity_drift.py --drift_code drift.py
"""

import argparse
import contextlib
import copy
import importlib.util
import io
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from lit_vlm.functional.gradient_directions import biased_gradient
from lit_vlm.gradients.directional_bias import DirectionalBias
from lit_vlm.interfaces.weights import ModelReference, TensorSource, TrainedWeight

TOLERANCE = 1e-6
"""Of the largest entry."""
MODES = ("absolute", "gradnorm", "adaptive_cosine")
SHAPES = ((1,), (7,), (64, 3), (48, 96), (300, 1000))
COSINES = (-1.0, -0.999, -0.5, 0.0, 0.5, 0.999, 1.0)


def published(gradient: Tensor, direction: Tensor, alpha: float, mode: str) -> Tensor:
    """The rule as the paper has it, in float64."""
    g, d = gradient.double(), direction.double()
    if mode == "absolute":
        return g - alpha * d
    towards = d / d.norm() * g.norm()
    if mode == "gradnorm":
        return g - alpha * towards
    cosine = ((g * d).sum() / (g.norm() * d.norm())).clamp(-1, 1)
    return g - alpha * (1 + cosine) / 2 * towards


def at_cosine(direction: Tensor, cosine: float, generator: torch.Generator) -> Tensor:
    """Draws a gradient that has a given cosine with a direction; of one number the sign is all there is."""
    unit = direction / direction.norm()
    other = torch.randn(direction.shape, generator=generator)
    other -= (other * unit).sum() * unit
    length = other.norm()
    aside = other / length if length > 1e-3 else torch.zeros_like(other)
    return cosine * unit + (1 - cosine**2) ** 0.5 * aside


def gap(ours: Tensor, theirs: Tensor, scale: Tensor) -> float:
    """Largest difference, relative to the largest entry of gradient and result."""
    return ((ours.double() - theirs.double()).abs().max() / scale).item()


def rule_gaps(seeds: range) -> dict[str, float]:
    """Compares the rule on random tensors; largest difference by mode."""
    worst = dict.fromkeys(MODES, 0.0)
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        for shape in SHAPES:
            direction = torch.randn(shape, generator=generator)
            for cosine in COSINES:
                if shape == (1,) and abs(cosine) < 1:
                    continue
                unit = at_cosine(direction, cosine, generator)
                for length in (1e-5, 1.0, 1e4):
                    gradient = unit * length
                    for mode in MODES:
                        for alpha in (-1.0, 0.3, 1.0, 2.5):
                            wanted = published(gradient, direction, alpha, mode)
                            found = biased_gradient(gradient, direction, alpha, mode)
                            scale = max(wanted.abs().max(), gradient.double().abs().max())
                            worst[mode] = max(worst[mode], gap(found, wanted, scale))
    return worst


@dataclass(frozen=True)
class Case:
    """Settings of both, in the words of both."""

    name: str
    ours: dict[str, Any] = field(default_factory=dict)
    theirs: dict[str, Any] = field(default_factory=dict)
    two_priors: bool = False


def cases() -> list[Case]:
    """Every setting that both have."""
    found = []
    for mode in MODES:
        for rescale in (False, True):
            ours = {"mode": mode, "rescale": rescale, "alpha": 0.7}
            theirs = {"scale": mode, "normalize_delta_to_param": rescale, "alpha": 0.7}
            word = ", rescaled" if rescale else ""
            found.append(Case(f"{mode}{word}", ours, theirs))
            found.append(Case(f"{mode}{word}, two priors", ours, theirs, two_priors=True))
    plain = {"scale": "adaptive_cosine"}
    found.append(
        Case("attention alone", {"modules": ("attn",)}, {**plain, "merge_patterns": ["attn"]}),
    )
    found.append(Case("not the first 2 layers", {"skip_first_layers": 2}, {**plain, "skip_first_n": 2}))
    found.append(Case("layers 0 and 3", {"only_layers": [0, 3]}, {**plain, "only_layers": [0, 3]}))
    return found


class Held(TensorSource):
    """A model in memory, as a checkpoint."""

    def __init__(self, model: Qwen2ForCausalLM) -> None:
        self._weights = model.state_dict()
        self._configuration = model.config.to_dict()

    label = "model"
    folder = Path()

    @property
    def configuration(self) -> Mapping[str, Any]:
        return self._configuration

    @property
    def names(self) -> Sequence[str]:
        return list(self._weights)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._weights[name].shape)

    def dtype(self, name: str) -> torch.dtype:
        return self._weights[name].dtype

    def read(self, name: str) -> Tensor:
        return self._weights[name].clone()

    def vocabulary(self) -> Mapping[str, int]:
        return {}

    def digests(self) -> Mapping[str, str]:
        return {}


@dataclass
class Trained:
    """What the bias asks of a module."""

    model: Qwen2ForCausalLM
    others: dict[str, Held]

    def trained_weights(self) -> list[TrainedWeight]:
        return [TrainedWeight(name, tuple(value.shape), value) for name, value in self.model.named_parameters()]

    def initial_weights(self) -> TensorSource:
        return Held(self.model)

    def open_weights(self, reference: ModelReference) -> TensorSource:
        return self.others[reference.model]


def models(seed: int) -> list[Qwen2ForCausalLM]:
    """Draws the model that trains and two priors, each somewhat different."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        hidden_size=48, intermediate_size=96, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=97, max_position_embeddings=64,
    )  # fmt: skip
    first = Qwen2ForCausalLM(config)
    found = [first, copy.deepcopy(first), copy.deepcopy(first)]
    for model in found:
        for value in model.parameters():
            value.data.add_(0.01 * torch.randn_like(value))
    return found


def gradients(model: Qwen2ForCausalLM, seed: int) -> dict[str, Tensor]:
    """Runs one backward pass, and returns the gradients."""
    ids = torch.randint(97, (3, 16), generator=torch.Generator().manual_seed(seed))
    model.zero_grad()
    model(input_ids=ids, labels=ids).loss.backward()
    return {name: value.grad.clone() for name, value in model.named_parameters()}


def model_gap(case: Case, authors: ModuleType, seed: int) -> tuple[float, int]:
    """Compares gradients of a whole model; returns the largest difference, and how many weights were tilted."""
    model, first, second = models(seed)
    plain = gradients(model, seed)
    with contextlib.redirect_stdout(io.StringIO()):
        priors = {"prior1_model": first, "prior2_model": second} if case.two_priors else {"prior1_model": first}
        attached = authors.attach_delta_prior(model, **priors, **case.theirs)
        theirs = gradients(model, seed)
        attached.detach()
    again = gradients(model, seed)
    if any(not torch.equal(plain[name], again[name]) for name in plain):
        raise SystemExit("gradients differ from pass to pass, so that nothing can be compared")
    names = {"prior": "second", "base": "first"} if case.two_priors else {"prior": "first"}
    bias = DirectionalBias(**names, **case.ours)
    tilt = bias.attach(Trained(model, {"first": Held(first), "second": Held(second)}))
    tilt({})
    changed = {name for name in plain if not torch.equal(plain[name], theirs[name])}
    if changed != set(tilt.acts_on) or not changed:
        raise SystemExit(f"{case.name}: other weights are tilted: {sorted(changed ^ set(tilt.acts_on))[:5]}")
    ours = {name: value.grad for name, value in model.named_parameters()}
    worst = 0.0
    for name, value in theirs.items():
        scale = max(value.abs().max(), plain[name].abs().max()).double()
        worst = max(worst, gap(ours[name], value, scale))
    return worst, len(changed)


def load(path: str) -> ModuleType:
    """Runs the authors' file as a module."""
    spec = importlib.util.spec_from_file_location("drift_of_its_authors", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--drift_code", help="the authors' drift.py; without it only the rule is compared")
    options = parser.parse_args()
    logging.getLogger("lit_vlm").setLevel(logging.ERROR)
    seeds = range(options.seeds)
    print(f"torch {torch.__version__}, {len(seeds)} seeds; largest difference, relative to the largest entry")
    print("\n| published rule, random tensors | largest difference |\n| --- | --- |")
    found = rule_gaps(seeds)
    for mode, worst in found.items():
        print(f"| {mode} | {worst:.1e} |", flush=True)
    if options.drift_code:
        authors = load(options.drift_code)
        print("\n| authors' code, whole models | weights tilted | largest difference |\n| --- | --- | --- |")
        for case in cases():
            gaps, counts = zip(*(model_gap(case, authors, seed) for seed in seeds), strict=True)
            found[case.name + " "] = max(gaps)
            print(f"| {case.name} | {counts[0]} | {max(gaps):.1e} |", flush=True)
    failed = [name for name, worst in found.items() if not worst <= TOLERANCE]
    print(f"\nlargest of all: {max(found.values()):.1e}, at most {TOLERANCE:.0e} wanted")
    if failed:
        print(f"DIFFERS: {', '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
