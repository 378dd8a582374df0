"""Low-rank adapters: LoRA, rsLoRA and DoRA, added in place, saved in PEFT's format, loaded strictly, merged.

LoRA: Hu et al. (2021); rsLoRA: Kalajdzievski (2023); DoRA: Liu et al. (2024).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import transformers
from peft import LoraConfig, LoraModel, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.parts import part_of
from lit_vlm.models.tuning import PartModules, head_is_tied, linear_layers, require_parts

CONFIGURATION, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT writes before the names of the base model's modules."""
NAME = "default"
OPTION = "model.backbone.adapter"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AdapterSettings:
    """A low-rank adapter on the linear layers of some parts; everything else is frozen."""

    kind: Literal["lora", "rslora", "dora"] = "lora"
    """Scaled by alpha / rank, by alpha / sqrt(rank), or with learnt magnitudes."""
    rank: int = 16
    """Inner width of the adapter."""
    alpha: int = 32
    """Strength of the adapter, divided as ``kind`` says."""
    dropout: float = 0.0
    """Dropout on what the adapter reads, in [0, 1)."""
    parts: tuple[Literal["vision", "projector", "language"], ...] = ("language",)
    """Parts whose linear layers are adapted."""
    modules: str | None = None
    """Regular expression for the whole names of the linear layers to adapt, instead of ``parts``."""
    train_in_full: tuple[Literal["projector", "head"], ...] = ()
    """Parts trained in full beside the adapter, and saved with it."""
    initialisation: Literal["kaiming", "gaussian"] = "kaiming"
    """Draw of the inner matrix; the outer one is zero, so that training starts from the model as it is."""
    dtype: Literal["float32", "same"] = "float32"
    """Type of what is trained; ``same`` takes that of the model's weights."""
    load: str | None = None
    """Folder of a saved adapter to go on with. Its own settings hold; those given here must agree."""
    export: Literal["adapter", "merged"] = "adapter"
    """What an export writes: the adapter alone, or a whole model with the adapter merged into the weights."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise UserError(
                f"{OPTION} has rank {self.rank}, alpha {self.alpha}, dropout {self.dropout}; "
                "wanted are rank >= 1, alpha > 0, 0 <= dropout < 1"
            )
        if self.modules is not None:
            try:
                re.compile(self.modules)
            except re.error as fault:
                raise UserError(f"{OPTION}.modules: {self.modules!r} is no regular expression: {fault}") from fault
            if self.parts != AdapterSettings.parts:
                raise UserError(f"{OPTION} names parts {list(self.parts)} and modules; give one of the two")
        twice = set(self.parts) & set(self.train_in_full)
        if twice and self.modules is None:
            raise UserError(f"{OPTION} names {twice.pop()} in parts and in train_in_full; name it in one of the two")


def check_adapter(skeleton: nn.Module, parts: PartModules, settings: AdapterSettings) -> None:
    """Finds out whether an adapter can be added, before any weights are read.

    Args:
        skeleton: The base model, whose weights need not be in memory.
        parts: Its parts.
        settings: What is to be added.

    Raises:
        UserError: The settings fit neither the model nor the adapter to load.
    """
    _refuse_head(_wanted_layers(skeleton, parts, settings), parts)
    if settings.load is None:
        _new_configuration(skeleton, parts, settings, ())
    else:
        _saved_configuration(Path(settings.load), settings)
        read_state(Path(settings.load))


def add_adapter(
    model: Any, parts: PartModules, settings: AdapterSettings, checkpoint: str, revision: str | None
) -> None:
    """Puts an adapter into a model, and freezes the rest.

    Args:
        model: The base model; its linear layers are wrapped in place.
        parts: The parts of the base model.
        settings: What to add.
        checkpoint: What the base model was loaded from, written into the adapter's configuration.
        revision: Its branch, tag or commit.

    Raises:
        UserError: The settings fit neither the model nor the adapter to load.
    """
    wanted = _wanted_layers(model, parts, settings)
    _refuse_head(wanted, parts)
    if settings.load is None:
        configuration = _new_configuration(model, parts, settings, wanted)
    else:
        configuration = _saved_configuration(Path(settings.load), settings)
        _compare_bases(configuration.base_model_name_or_path, checkpoint, settings.load)
    configuration.base_model_name_or_path = checkpoint
    configuration.revision = revision
    try:
        inject_adapter_in_model(configuration, model, NAME)
    except (ValueError, TypeError, re.error) as fault:  # a saved configuration may hold anything
        raise UserError(f"{OPTION}: cannot be added: {str(fault).splitlines()[0]}") from fault
    adapted = adapted_layers(model)
    _refuse_head(adapted, parts)
    if settings.dtype == "float32":
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    if settings.load is not None:
        if _is_given(settings, "parts", "modules") and set(wanted) != set(adapted):
            raise UserError(
                f"{OPTION}.load: the adapter in {settings.load!r} has {len(adapted)} layers, {OPTION}.parts and "
                f"modules choose {len(wanted)}; leave those two out or choose the same"
            )
        load_state(model, read_state(Path(settings.load)), origin=settings.load)


def adapted_layers(model: nn.Module) -> list[str]:
    """Names the layers that have an adapter."""
    return [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]


def has_adapter(model: nn.Module) -> bool:
    """Tells whether an adapter was added."""
    return getattr(model, "peft_config", None) is not None


def adapter_state(model: Any, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Returns the adapter's weights, under the names that PEFT saves.

    Args:
        model: A model with an adapter.
        state: Its weights by name, those of the adapter at least; None for those in memory.
    """
    state = get_peft_model_state_dict(model, state, adapter_name=NAME, save_embedding_layers=False)
    return {f"{PREFIX}{name}": tensor for name, tensor in state.items()}


def save_adapter(model: Any, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
    """Writes the adapter in PEFT's format: ``adapter_config.json`` and ``adapter_model.safetensors``.

    Args:
        model: A model with an adapter.
        folder: Where to write; made if absent.
        state: As in ``adapter_state``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configuration = model.peft_config[NAME]
    configuration.inference_mode = True  # how PEFT writes what is loaded for use
    try:
        configuration.save_pretrained(str(folder))
    finally:
        configuration.inference_mode = False
    weights = adapter_state(model, state).items()
    held = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in weights}
    # Names of modules changed between versions of transformers; the version tells which ones these are.
    save_file(held, folder / WEIGHTS, metadata={"format": "pt", "transformers": transformers.__version__})


def read_state(folder: Path) -> dict[str, Tensor]:
    """Reads the weights of a saved adapter.

    Raises:
        UserError: There is no ``adapter_model.safetensors``, or it is damaged.
    """
    path = folder / WEIGHTS
    if not path.is_file():
        raise UserError(f"{OPTION}.load: there is no {WEIGHTS} in {str(folder)!r}; give the folder of a saved adapter")
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as fault:
        raise UserError(
            f"{OPTION}.load: {str(path)!r} is damaged or cut short: {fault}; save the adapter again"
        ) from fault


def load_state(model: Any, state: Mapping[str, Tensor], origin: str) -> None:
    """Fills the adapter of a model, each weight exactly once.

    Args:
        model: A model with an adapter.
        state: Weights under the names that PEFT saves.
        origin: Where they come from, for messages.

    Raises:
        UserError: A weight is missing, is not expected, or has another shape.
    """
    expected = adapter_state(model)
    missing = sorted(expected.keys() - state.keys())
    unexpected = sorted(state.keys() - expected.keys())
    if not missing and unexpected and all(".base_layer." in name for name in unexpected):
        raise UserError(
            f"{OPTION}.load: the adapter in {origin!r} holds weights of the base model, {unexpected[0]}, which would "
            "be passed by; save it anew with peft's save_embedding_layers=False"
        )
    if missing or unexpected:
        raise UserError(
            f"{OPTION}.load: the adapter in {origin!r} does not fit this model: {_counted('missing', missing)}; "
            f"{_counted('unexpected', unexpected)}; give the adapter's own base model, or an adapter whose modules "
            f"bear the names of transformers {transformers.__version__}"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise UserError(
                f"{OPTION}.load: {name!r} in {origin!r} has shape {tuple(tensor.shape)}, this model needs "
                f"{tuple(expected[name].shape)}; give the adapter's own base model"
            )
    set_peft_model_state_dict(
        model, {name.removeprefix(PREFIX): tensor for name, tensor in state.items()}, adapter_name=NAME
    )


def merge_adapter(base: Any, adapted: Any, state: Mapping[str, Tensor] | None = None) -> Any:
    """Merges an adapter into the weights of another, plain copy of its base model.

    Args:
        base: The base model without adapter and not quantised; changed in place.
        adapted: The model with the adapter; left as it is.
        state: As in ``adapter_state``, of ``adapted``.

    Returns:
        The base model with the adapter's changes in its weights.
    """
    tuner = LoraModel(base, adapted.peft_config, NAME)
    load_state(base, adapter_state(adapted, state), origin="the model in memory")
    merged = tuner.merge_and_unload()
    for parameter in merged.parameters():
        parameter.requires_grad_(True)
    return merged


def _new_configuration(
    model: Any, parts: PartModules, settings: AdapterSettings, layers: Collection[str]
) -> LoraConfig:
    if settings.train_in_full:
        require_parts(parts, settings.train_in_full, f"{OPTION}.train_in_full")
    if "head" in settings.train_in_full and head_is_tied(model):
        raise UserError(
            f"{OPTION}.train_in_full: the head of this model is its input embeddings and cannot train alone; "
            "leave head out"
        )
    return LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_rslora=settings.kind == "rslora",
        use_dora=settings.kind == "dora",
        target_modules=_pattern(layers, (name for name, _ in model.named_modules())),
        modules_to_save=_savable(model, [name for part in settings.train_in_full for name in parts[part]]) or None,
        init_lora_weights="gaussian" if settings.initialisation == "gaussian" else True,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _wanted_layers(model: nn.Module, parts: PartModules, settings: AdapterSettings) -> list[str]:
    """Names the linear layers that the settings choose."""
    layers = linear_layers(model)
    if settings.modules is None:
        require_parts(parts, settings.parts, f"{OPTION}.parts")
        chosen = [name for name in layers if part_of(name, parts) in settings.parts]
        for part in set(settings.parts) - {part_of(name, parts) for name in chosen}:
            raise UserError(
                f"{OPTION}.parts names {part}, which has no linear layer in this model; leave it out, or train it in "
                f"full with {OPTION}.train_in_full"
            )
        told = f"parts {list(settings.parts)}"
    else:
        chosen = [name for name in layers if re.fullmatch(settings.modules, name)]
        told = f"modules {settings.modules!r}"
    if not chosen:
        raise UserError(
            f"{OPTION}: {told} choose no linear layer of this model; it has such as "
            f"{', '.join(dict.fromkeys(map(_numbers_as_digits, layers)))}"
        )
    return chosen


def _refuse_head(layers: Iterable[str], parts: PartModules) -> None:
    # The loss reads the head's weight itself, chunk by chunk, and would pass an adapter by.
    if any(part_of(name, parts) == "head" for name in layers):
        raise UserError(f"{OPTION} adapts the head, which cannot be; name it in {OPTION}.train_in_full instead")


def _pattern(chosen: Collection[str], modules: Iterable[str]) -> str:
    """Writes a regular expression for module names, one alternative for all layers of a stack.

    Args:
        chosen: The names that it matches.
        modules: All names of the model; of these it matches no other.
    """
    others = set(modules).difference(chosen)
    alternatives: dict[str, None] = {}
    for name in chosen:
        stack = _numbers_as_digits(re.escape(name))
        matches_others = stack not in alternatives and any(re.fullmatch(stack, other) for other in others)
        alternatives[re.escape(name) if matches_others else stack] = None
    return "|".join(alternatives)


def _numbers_as_digits(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\\?\.|$)", r"\\d+", name)


def _savable(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Names modules that PEFT can copy: a list of modules cannot be, its members can."""
    found: list[str] = []
    for name in names:
        module = model.get_submodule(name)
        if isinstance(module, nn.ModuleList):
            found.extend(f"{name}.{index}" for index in range(len(module)))
        else:
            found.append(name)
    return found


def _saved_configuration(folder: Path, settings: AdapterSettings) -> LoraConfig:
    """Reads the configuration of a saved adapter.

    Raises:
        UserError: There is none, it is of another kind, or the settings given disagree with it.
    """
    path = folder / CONFIGURATION
    if not path.is_file():
        raise UserError(f"{OPTION}.load: there is no {CONFIGURATION} in {str(folder)!r}; give a saved adapter's folder")
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise UserError(f"{OPTION}.load: {str(path)!r} is no JSON: {fault}") from fault
    if not isinstance(saved, dict) or saved.get("peft_type") != "LORA":
        raise UserError(f"{OPTION}.load: {str(path)!r} does not describe a LoRA adapter; only those can be continued")
    if saved.get("init_lora_weights", True) not in (True, False, "gaussian"):
        raise UserError(
            f"{OPTION}.load: the adapter in {str(folder)!r} was begun with {saved['init_lora_weights']!r}, which "
            "changes the base weights; convert it to plain LoRA with peft first"
        )
    kind = "dora" if saved.get("use_dora") else "rslora" if saved.get("use_rslora") else "lora"
    told = {"kind": kind, "rank": saved.get("r"), "alpha": saved.get("lora_alpha")}
    for name, value in told.items():
        given = getattr(settings, name)
        if _is_given(settings, name) and given != value:
            raise UserError(
                f"{OPTION}.{name} is {given!r}, but the adapter in {str(folder)!r} has {value!r}; "
                f"leave {name} out or give {value!r}"
            )
    configuration: LoraConfig = LoraConfig.from_pretrained(str(folder))
    configuration.inference_mode = False
    configuration.lora_dropout = settings.dropout
    return configuration


def _compare_bases(trained_on: str | None, checkpoint: str, folder: str) -> None:
    # The same weights may have a hub id and several folders, so that another name is no proof of another model.
    if trained_on and Path(trained_on).name != Path(checkpoint).name:
        logger.warning(
            "the adapter in %r was trained on %r, and is now put on %r; unless the two are the same, it will do harm",
            folder,
            trained_on,
            checkpoint,
        )


def _is_given(settings: AdapterSettings, *names: str) -> bool:
    defaults = {item.name: item.default for item in fields(settings)}
    return any(getattr(settings, name) != defaults[name] for name in names)


def _counted(word: str, names: Collection[str], shown: int = 3) -> str:
    if not names:
        return f"0 {word} weights"
    first = ", ".join(list(names)[:shown])
    return f"{len(names)} {word} weights ({first}{', …' if len(names) > shown else ''})"
