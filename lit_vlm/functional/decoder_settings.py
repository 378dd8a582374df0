"""Tells whether the decoders of two models compute the same function of the same weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TEXT_PARTS = ("text_config", "llm_config", "language_config")
"""Where a vision-language model's configuration describes its decoder."""

_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "rms_norm_eps": ("rms_norm_eps", "layer_norm_eps", "norm_eps"),
    "hidden_act": ("hidden_act", "hidden_activation"),
}
"""What each setting is called, the usual name first."""


def unlike_settings(target: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Lists settings of two decoders under which the same weights are different functions.

    Args:
        target: What ``config.json`` says, of a text model or of a vision-language model.
        other: Of the other model. What either leaves out is not compared.

    Returns:
        One phrase a setting, such as ``rope_theta 1000000.0 against 10000.0``, the target's value first.

    Source:
        The settings are those that a difference of weights depends on and that published relatives differ in: the base
        of the rotary positions, the epsilon of the norms and the activation. Norms of queries and keys show in the
        weights' names.
    """
    pairs = {"rope_theta": (_rotary_base(target), _rotary_base(other))}
    pairs |= {name: (_setting(target, names), _setting(other, names)) for name, names in _SETTINGS.items()}
    return [
        f"{name} {first} against {second}"
        for name, (first, second) in pairs.items()
        if first is not None and second is not None and first != second
    ]


def _parts(configuration: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The decoder's part first, then what stands around it."""
    inner = [configuration[part] for part in TEXT_PARTS if isinstance(configuration.get(part), Mapping)]
    return [*inner, configuration]


def _setting(configuration: Mapping[str, Any], names: Sequence[str]) -> Any:
    found = (part[name] for part in _parts(configuration) for name in names if part.get(name) is not None)
    return next(found, None)


def _rotary_base(configuration: Mapping[str, Any]) -> Any:
    for part in _parts(configuration):
        rotary = part.get("rope_parameters")
        if isinstance(rotary, Mapping):
            kinds = {kind: value["rope_theta"] for kind, value in rotary.items() if isinstance(value, Mapping)}
            if kinds or "rope_theta" in rotary:
                return kinds or float(rotary["rope_theta"])
        if part.get("rope_theta") is not None:
            return float(part["rope_theta"])
    return None
