"""Reads a checkpoint with a LoRA adapter on it, one weight at a time: ``W + s B A``.

LoRA: Hu et al. (2021), ``s = alpha / r``; rsLoRA: Kalajdzievski (2023), ``s = alpha / sqrt(r)``; DoRA: Liu et al.
(2024), whose rows have the lengths that it has learnt, ``m (W + s B A) / |W + s B A|``.

Source:
    Names and settings as PEFT 0.18 saves them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from lit_vlm.functional.safetensors_folder import SafetensorsFolder
from lit_vlm.functional.weight_names import weight_key
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import TensorSource
from lit_vlm.models.adapters import CONFIGURATION, PREFIX, WEIGHTS
from lit_vlm.models.weight_fingerprint import WRAPPERS
from lit_vlm.models.wrapped_tensors import WrappedTensors

PLAIN_INITIALISATIONS = (True, False, "gaussian")
"""The others change the base's weights too."""
KNOWN_SETTINGS = {
    *("peft_type", "peft_version", "task_type", "auto_mapping", "base_model_name_or_path", "revision"),
    *("inference_mode", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "modules_to_save", "layers_to_transform", "layers_pattern", "bias"),
    *("init_lora_weights", "megatron_core", "qalora_group_size", "ensure_weight_tying"),
}
"""What plain LoRA may set; anything else that is set makes another kind of adapter."""
MAGNITUDE = ".lora_magnitude_vector"
SHOWN = 5
MEND = "load it with peft, merge it into its base by an export with model.backbone.adapter.export merged, and give that"


class AdapterTensors(WrappedTensors):
    """The weights of a base with the changes of a LoRA, rsLoRA or DoRA adapter; changed ones are read as float32.

    Weights that the adapter holds in full (``modules_to_save``, biases) replace the base's.

    Args:
        base: The model that the adapter was trained on.
        folder: The adapter, as PEFT saves it.

    Raises:
        UserError: There is no adapter, it is no plain LoRA, or it does not fit the base.
    """

    def __init__(self, base: TensorSource, folder: Path) -> None:
        super().__init__(base)
        self._adapter = folder
        self._settings = _plain_settings(folder)
        self._files = SafetensorsFolder(folder, stem=WEIGHTS.removesuffix(".safetensors"))
        self._factors: dict[str, tuple[str, str, float]] = {}
        """Name of a weight -> names of A and B, and the scale."""
        self._magnitudes: dict[str, str] = {}
        self._replaced: dict[str, str] = {}
        self._find()

    @property
    def label(self) -> str:
        """What the recipe calls base and adapter."""
        return f"{self.inner.label} with {self._adapter}"

    def read(self, name: str) -> Tensor:
        """Reads one weight; one that the adapter changes as float32, whatever the type it is stored in."""
        if name in self._replaced:
            with self._files.opened():
                whole = self._files.read(self._replaced[name]).float()
        elif name in self._factors:
            whole = self.inner.read(name).float()
        else:
            return self.inner.read(name)
        if name in self._factors:
            inner, outer, scale = self._factors[name]
            whole.addmm_(self._files.read(outer).float(), self._files.read(inner).float(), alpha=scale)
        if name in self._magnitudes:
            whole *= (self._files.read(self._magnitudes[name]).float() / whole.norm(dim=1)).unsqueeze(1)
        return whole

    def digests(self) -> Mapping[str, str]:
        """Hashes the files of the base and of the adapter."""
        return {**self.inner.digests(), **self._files.digests()}

    @contextmanager
    def opened(self) -> Iterator[TensorSource]:
        """Keeps files of base and adapter open over many reads."""
        with self.inner.opened(), self._files.opened():
            yield self

    def _find(self) -> None:
        """Finds the weights that the adapter changes."""
        on_disk = {weight_key(name): name for name in self.inner.names}
        lost: list[str] = []
        for stored in self._files.names:
            target, factor = _meaning(stored, self._adapter)
            name = on_disk.get(weight_key(target))
            if name is None:
                lost.append(target)
            elif factor is None:
                self._replace(name, stored)
            elif factor == "A":
                self._add(name, stored, target)
            elif factor == "magnitude":
                self._measure(name, stored)
        if lost:
            others = f" and {len(lost) - SHOWN} more" if len(lost) > SHOWN else ""
            raise UserError(
                f"the adapter in {str(self._adapter)!r} changes weights that {self.inner.label} does not have: "
                f"{', '.join(sorted(set(lost))[:SHOWN])}{others}; give the adapter's own base model"
            )

    def _replace(self, name: str, stored: str) -> None:
        shape, wanted = self._files.stored(stored).shape, self.inner.shape(name)
        if shape != wanted:
            raise UserError(
                f"{stored!r} in {str(self._adapter)!r} has shape {shape}, and {self.inner.label} has {wanted}; give "
                "the adapter's own base model, or " + MEND
            )
        self._replaced[name] = stored

    def _add(self, name: str, inner: str, target: str) -> None:
        outer = inner.replace(".lora_A.", ".lora_B.")
        if outer not in self._files.names:
            raise UserError(f"the adapter in {str(self._adapter)!r} has {inner!r} without its lora_B; save it again")
        first, second = self._files.stored(inner).shape, self._files.stored(outer).shape
        whole = self.inner.shape(name)
        if len(first) != 2 or len(second) != 2 or first[0] != second[1] or (second[0], first[1]) != whole:
            raise UserError(
                f"the adapter in {str(self._adapter)!r} has factors of shapes {second} and {first} for "
                f"{target!r}, and {self.inner.label} has {whole}; give the adapter's own base model"
            )
        if self._settings.get("use_dora") and _magnitude(inner) not in self._files.names:
            raise UserError(f"the adapter in {str(self._adapter)!r} has {inner!r} without its magnitude; save it again")
        self._factors[name] = inner, outer, self._scale(target.removesuffix(".weight"), rank=first[0])

    def _measure(self, name: str, stored: str) -> None:
        shape, rows = self._files.stored(stored).shape, self.inner.shape(name)[:1]
        if shape != rows or not self._settings.get("use_dora"):
            raise UserError(
                f"{stored!r} in {str(self._adapter)!r} has shape {shape}, which is no magnitude of DoRA for "
                f"{self.inner.label}; give the adapter's own base model"
            )
        self._magnitudes[name] = stored

    def _scale(self, module: str, rank: int) -> float:
        told = _of_module(self._settings.get("rank_pattern"), module, self._settings["r"])
        if told != rank:
            raise UserError(
                f"the adapter in {str(self._adapter)!r} has rank {rank} for {module!r}, and its {CONFIGURATION} says "
                f"{told}; save it again"
            )
        alpha = float(_of_module(self._settings.get("alpha_pattern"), module, self._settings["lora_alpha"]))
        return alpha / (math.sqrt(rank) if self._settings.get("use_rslora") else rank)


def _plain_settings(folder: Path) -> dict[str, Any]:
    path = folder / CONFIGURATION
    if not path.is_file():
        raise UserError(f"there is no {CONFIGURATION} in {str(folder)!r}; give the folder of a saved adapter")
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise UserError(f"{path} is no JSON: {fault}; save the adapter again") from fault
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise UserError(f"{path} does not describe a LoRA adapter; {MEND}")
    others = {name: value for name, value in settings.items() if name not in KNOWN_SETTINGS and value}
    if others:
        told = ", ".join(f"{name} {value!r}" for name, value in sorted(others.items()))
        raise UserError(f"the adapter in {str(folder)!r} is no plain LoRA: it has {told}; {MEND}")
    if settings.get("init_lora_weights", True) not in PLAIN_INITIALISATIONS:
        raise UserError(
            f"the adapter in {str(folder)!r} was begun with {settings['init_lora_weights']!r}, which changes the "
            f"base's weights too; {MEND}"
        )
    if not all(isinstance(settings.get(name), int | float) for name in ("r", "lora_alpha")):
        raise UserError(f"{path} has no r and lora_alpha; save the adapter again")
    return settings


def _meaning(stored: str, folder: Path) -> tuple[str, str | None]:
    """Reads a name in an adapter's file: the weight in memory, and which part of its change; None for all of it."""
    name = stored.removeprefix(PREFIX)
    factor = re.fullmatch(r"(.+)\.lora_([AB])\.weight", name)
    if name != stored and name.endswith(MAGNITUDE):
        return name.removesuffix(MAGNITUDE) + ".weight", "magnitude"
    if name == stored or (factor is None and "lora_" in name):
        raise UserError(f"{stored!r} in {str(folder)!r} is no part of a plain LoRA adapter; {MEND}")
    if factor is not None:
        return f"{factor[1]}.weight", factor[2]
    return ".".join(step for step in name.split(".") if step not in (*WRAPPERS, "modules_to_save")), None


def _magnitude(inner: str) -> str:
    return inner.replace(".lora_A.weight", MAGNITUDE)


def _of_module(patterns: Mapping[str, Any] | None, module: str, otherwise: Any) -> Any:
    """Returns the first setting whose pattern is the module's name or ends it."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return otherwise
