"""Which parts of a model train: freezing, checkpointing where gradients pass, counting."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from lit_vlm.interfaces.capabilities import PartSummary
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.parts import Part, part_of

PartModules = Mapping[Part, tuple[str, ...]]


def train_only(model: nn.Module, parts: PartModules, trained: Collection[Part]) -> None:
    """Freezes every part but those named.

    Raises:
        UserError: The model lacks a part that is named, or the head is named alone and shares the weights of the
            input embeddings.
    """
    require_parts(parts, trained, "model.backbone.train_parts")
    if "head" in trained and "language" not in trained and head_is_tied(model):
        raise UserError(
            "model.backbone.train_parts: the head of this model is its input embeddings, which belong to the language "
            "part; name language too, or leave head out"
        )
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(part_of(name, parts) in trained)


def require_parts(parts: PartModules, named: Collection[Part], option: str) -> None:
    """Checks that the model has the parts that an option names.

    Raises:
        UserError: It lacks one, or none is named.
    """
    missing = [part for part in named if part not in parts]
    if missing or not named:
        raise UserError(
            f"{option} is {list(named)}, but the parts of this model are {', '.join(parts)}; name one or more of them"
        )


def head_is_tied(model: Any) -> bool:
    """Tells whether the head's weight is that of the input embeddings."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def trained_parts(model: nn.Module, parts: PartModules) -> frozenset[Part]:
    """Returns the parts with at least one trainable parameter."""
    return frozenset(part_of(name, parts) for name, value in model.named_parameters() if value.requires_grad)


def set_training_mode(model: nn.Module, parts: PartModules, trained: Collection[Part], *, dropout: bool = True) -> None:
    """Puts trained parts into training mode and frozen ones, with their dropout, into evaluation mode.

    Args:
        model: The Hugging Face model.
        parts: The modules of each part.
        trained: The parts that train.
        dropout: Where false, all parts are in evaluation mode, so that nothing is left out at random.
    """
    if not dropout:
        model.eval()
    for name, part in _outer_first(parts):
        model.get_submodule(name).train(dropout and part in trained)
    for module in model.modules():
        # Layers checkpoint in training mode only; this flag of a frozen layer does not reach its dropout.
        if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
            module.training = True


def checkpoint_gradients(model: Any, parts: PartModules) -> None:
    """Recomputes activations in the backward pass instead of keeping them, in the parts that gradients pass.

    Those are the parts that train and, since gradients reach the projector and the vision tower only through it, a
    frozen language part in front of them; never a frozen vision tower. Layers checkpoint only in training mode, so
    neither generation nor evaluation does.

    Raises:
        UserError: The model cannot.
    """
    if not getattr(model, "supports_gradient_checkpointing", False):
        raise UserError(f"model.backbone.gradient_checkpointing: {type(model).__name__} cannot; leave it out")
    # Before transformers 5.23 this had its old name only.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    # It makes the inputs of all parts require gradients too, which only re-entrant checkpointing needs: a frozen vision
    # tower would keep all its activations.
    model.disable_input_require_grads()
    trained = trained_parts(model, parts)
    passed: set[str] = set(trained)
    if passed & {"vision", "projector"}:
        passed.add("language")
    for name, part in _outer_first(parts):
        for module in model.get_submodule(name).modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = part in passed


def summarise_parts(model: nn.Module, parts: PartModules) -> tuple[PartSummary, ...]:
    """Counts the parameters of each part, in all and trainable; shared ones count where they come first."""
    total = dict.fromkeys(parts, 0)
    trainable = dict.fromkeys(parts, 0)
    for name, parameter in model.named_parameters():
        if ".original_module." in name:
            continue  # what peft keeps of a part that is trained in full; its copy is what runs
        part = part_of(name, parts)
        total[part] += _size(parameter)
        trainable[part] += _size(parameter) if parameter.requires_grad else 0
    return tuple(PartSummary(part, total[part], trainable[part]) for part in parts)


def linear_layers(model: nn.Module) -> list[str]:
    """Names the linear layers, quantised ones included."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def _size(parameter: nn.Parameter) -> int:
    # Four-bit weights are packed; their state remembers the shape.
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else int(state.shape.numel())


def _outer_first(parts: PartModules) -> Iterator[tuple[str, Part]]:
    """Lists the modules of all parts; one that lies within another comes after it."""
    yield from sorted(((name, part) for part, names in parts.items() for name in names), key=lambda item: len(item[0]))
