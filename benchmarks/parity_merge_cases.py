"""The merges that ``parity_merge.py`` compares, in the words of mergekit and in ours."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FILTERS = {
    "embed": "embed_tokens", "head": "lm_head", "final_norm": "model.norm", "attn": "self_attn", "mlp": ".mlp.",
    "q_proj": "q_proj", "layers.1.": "layers.1.", "*": "*",
}  # fmt: skip
"""Filters of ours, and mergekit's for the same weights."""
GRADIENT = [("embed", 0.2), ("head", 0.4), ("final_norm", 0.6), ("*", [0.0, 1.0, 0.5])]
SHARES = [("embed", 0.5), ("head", 0.6), ("final_norm", 0.7), ("*", [0.3, 0.9])]
RULES = [("embed", 0.1), ("q_proj", 0.9), ("attn", [0.3, 0.7]), ("layers.1.", 0.0), ("mlp", 0.5), ("*", 0.25)]

Coefficient = float | list[float] | list[tuple[str, Any]]


@dataclass(frozen=True)
class Case:
    """A merge in both libraries' words."""

    theirs: str
    ours: str
    weights: list[Coefficient] | None = None
    """One for each donor; None where the operation has none."""
    options: dict[str, Any] = field(default_factory=dict)
    """Of the operation, as mergekit names them."""
    renamed: dict[str, Any] = field(default_factory=dict)
    """As ours names those of them that are named otherwise."""
    densities: list[Coefficient] | None = None
    donors: int = 2
    has_base: bool = True
    kind: str = "exact"
    """``cut`` where equal magnitudes count, ``drawn`` and ``ranked`` for random masks."""
    told: str = ""


def delta_cases() -> list[Case]:
    """Operations on differences."""
    arithmetic, ties = ("task_arithmetic", "TaskArithmetic"), ("ties", "TIES")
    pair, halves = [0.7, -0.4], [0.2, 0.55]
    on, off, elected = {"normalize": True}, {"normalize": False}, {"sign_election": True}
    plain = {"normalize": False, "sign_election": False}
    found = [
        Case(*arithmetic, pair),
        Case(*arithmetic, [0.7, 0.4, 1.2], {"lambda": 0.5}, {"scale": 0.5}, donors=3),
        Case(*arithmetic, pair, on, on),
        Case(*arithmetic, [GRADIENT, 0.5], told="gradient"),
        Case(*arithmetic, [RULES, 1.0], told="rules"),
        Case(*ties, [1.0, 1.0, 0.6], densities=[0.2, 0.5, 0.8], donors=3, kind="cut"),
        Case(*ties, [0.5, 1.5], {**off, "lambda": 1.3}, {**off, "scale": 1.3}, [0.2, 0.2], kind="cut"),
        Case(*ties, [1.0, -0.5], densities=[0.3, 1.0], kind="cut"),
        Case(*ties, [RULES, GRADIENT], densities=[SHARES, 0.4], kind="cut", told="gradient and rules"),
        Case(*ties, [1.0, 0.5], {"rescale": True}, {"rescale": "l1"}, [0.3, 0.6], kind="cut", told="rescaled"),
    ]
    scaled = {"rescale": "l1"}
    bare = ({"rescale": False}, {"rescale": "none"})
    dare = {"densities": halves, "kind": "drawn"}
    for name, election in (("dare_linear", {}), ("dare_ties", elected)):
        ours = {**election, **scaled}
        found += [
            Case(name, "DARE", [1.0, 0.5], {}, ours, **dare),
            Case(name, "DARE", pair, {**on, "lambda": 0.8}, {**ours, **on, "scale": 0.8}, **dare),
            Case(name, "DARE", pair, {}, ours, [1.0, 1.0], told="density 1"),
            Case(name, "DARE", [1.0, 0.5], bare[0], {**ours, **bare[1]}, **dare, told="not rescaled"),
        ]
    for name, election in (("breadcrumbs", {}), ("breadcrumbs_ties", elected)):
        gamma = {"gamma": 0.05}
        found += [
            Case(name, "Breadcrumbs", [1.0, 0.5], gamma, {**election, **gamma}, [0.4, 0.7], kind="cut"),
            Case(name, "Breadcrumbs", pair, {}, election, [0.9, 0.995], kind="cut", told="little room for outliers"),
        ]
    for name, settings in (("della", {}), ("della_linear", plain)):
        ours = {**settings, **scaled}
        found += [
            Case(name, "DELLA", [1.0, 0.5], {}, ours, halves, kind="ranked"),
            Case(name, "DELLA", pair, {"epsilon": 0.05}, {**ours, "epsilon": 0.05}, [0.5, 0.9], kind="ranked"),
        ]
    # SCE and model stock need no weights, and find their own.
    return [
        *found,
        Case("sce", "SCE", donors=3),
        Case("sce", "SCE", None, {"select_topk": 0.3}, {"select": 0.3}, kind="cut"),
        Case("model_stock", "ModelStock", donors=3),
        Case("model_stock", "ModelStock", None, {"filter_wise": True}, {"per_row": True}),
    ]


def value_cases() -> list[Case]:
    """Operations on whole weights."""
    linear, slerp = ("linear", "Linear"), ("slerp", "Slerp")
    off, bare = {"normalize": False}, {"has_base": False}
    found = [
        Case(*linear, [0.7, 0.2, 0.4], donors=3, **bare),
        Case(*linear, [0.7, -0.2], off, off, **bare),
        Case(*linear, [GRADIENT, 0.3], told="gradient", **bare),
        Case(*linear, [RULES, 0.5], told="rules", **bare),
        *(Case(*slerp, None, {"t": t}, told=told) for t, told in ((0.3, ""), (GRADIENT, "gradient"), (RULES, "rules"))),
        Case("passthrough", "Passthrough", [1.7], donors=1, **bare),
        Case("passthrough", "Passthrough", [[("attn", 0.5), ("*", 1.0)]], donors=1, told="rules", **bare),
    ]
    angles = (
        ({}, {}),
        ({"nuslerp_flatten": False}, {"angle": "rows"}),
        ({"nuslerp_flatten": False, "nuslerp_row_wise": True}, {"angle": "columns"}),
    )
    for theirs, ours in angles:
        found += [
            Case("nuslerp", "NuSlerp", [0.3, 0.9], theirs, ours, **bare),
            Case("nuslerp", "NuSlerpDifferences", [0.3, 0.9], theirs, ours, told="differences"),
        ]
    return found


def in_words(coefficient: Coefficient) -> tuple[Any, Any]:
    """Writes a coefficient for mergekit and for us; a number and anchors hold for every weight."""
    rules = coefficient if isinstance(coefficient, list) and isinstance(coefficient[0], tuple) else [("*", coefficient)]
    return (
        [{"filter": FILTERS[name], "value": value} for name, value in rules],
        [{"filter": name, "value": value} for name, value in rules],
    )


def configuration(case: Case, models: list[Path], dtype: str) -> dict[str, Any]:
    """Writes mergekit's settings."""
    weight = "scale" if case.theirs == "passthrough" else "weight"
    listed = []
    for place, model in enumerate(donors_of(case, models)):
        parameters = {}
        if case.weights is not None:
            parameters[weight] = in_words(case.weights[place])[0]
        if case.densities is not None:
            parameters["density"] = in_words(case.densities[place])[0]
        listed.append({"model": str(model), "parameters": parameters})
    options = {name: in_words(value)[0] if name == "t" else value for name, value in case.options.items()}
    base = {"base_model": str(models[0])} if case.has_base else {}
    return {
        "merge_method": case.theirs, **base, "models": listed, "parameters": options, "dtype": "float32",
        "out_dtype": dtype,
    }  # fmt: skip


def recipe(case: Case, models: list[Path], seed: int) -> dict[str, Any]:
    """Writes our settings."""
    donors = []
    for place, model in enumerate(donors_of(case, models)):
        donor: dict[str, Any] = {"model": str(model)}
        if case.weights is not None:
            donor["weight"] = in_words(case.weights[place])[1]
        elif case.ours != "Slerp":
            donor["weight"] = in_words(1.0)[1]
        if case.densities is not None:
            donor["density"] = in_words(case.densities[place])[1]
        donors.append(donor)
    options = dict(case.renamed)
    if "t" in case.options:
        options["t"] = in_words(case.options["t"])[1]
    base = {"base": str(models[0])} if case.has_base and case.ours != "Slerp" else {}
    operation = {"class_path": case.ours, "init_args": options}
    return {"merge": {"operation": operation, **base, "donors": donors, "seed": seed}}


def donors_of(case: Case, models: list[Path]) -> list[Path]:
    """The checkpoints that take part, without the base; for slerp that is one of the two."""
    return models[:2] if case.ours == "Slerp" else models[1 : 1 + case.donors]
