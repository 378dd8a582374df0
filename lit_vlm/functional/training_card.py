"""The README of a trained model: recipe, data, figures before and after, settings, versions, and how to repeat it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from lit_vlm import __version__
from lit_vlm.functional.card_text import cell, fenced, portable, table, yaml_text

CARD = "README.md"
REPORT = "report.json"
"""What ``BeforeAfterReport`` writes into a run's folder."""
PACKAGES = ("torch", "transformers", "peft", "lightning")
TASK = "image-text-to-text"
SHOWN = (
    "backbone.checkpoint", "backbone.revision", "backbone.dtype", "backbone.train_parts", "backbone.quantisation",
    "backbone.min_pixels", "backbone.max_pixels", "objective", "reward", "advantage", "reference", "engine",
    "group_size", "beta", "optimizer", "max_tokens",
)  # fmt: skip
"""Settings of the model that the table has, where they are given."""
OF_TRAINER = (
    "strategy", "devices", "num_nodes", "precision", "max_epochs", "max_steps", "accumulate_grad_batches",
    "gradient_clip_val",
)  # fmt: skip
NULL_MEANS_DEFAULT = ("logger", "callbacks", "use_distributed_sampler", "enable_model_summary")
"""Options of the Trainer for which lit-vlm has a default of its own, so that null is a choice."""
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class TrainedModel:
    """What a card is written of."""

    configuration: Mapping[str, Any]
    """The resolved recipe: ``about``, ``model``, ``data``, ``trainer``, ``seed_everything``."""
    kind: Literal["model", "adapter"] = "model"
    report: Mapping[str, Any] | None = None
    """What ``report.json`` says, where there is one."""
    steps: int | None = None
    """Optimizer steps it was trained for."""
    title: str | None = None
    """Heading; by default the run's name."""


def read_report(folder: Path) -> dict[str, Any] | None:
    """Reads the figures of a run; None where there are none."""
    path = folder / REPORT
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else None


def training_card(trained: TrainedModel) -> str:
    """Writes a model card in Markdown, with the fields that the hub reads before it.

    It holds no path of this machine and no secret: see ``portable``.
    """
    settings = _settings(trained.configuration)
    lines = [*_front_matter(settings, trained), "", f"# {cell(trained.title or _run_name(trained.configuration))}", ""]
    lines += [*_about(settings, trained), "", "## Data", "", *_data(settings)]
    lines += ["", "## Figures", "", *_figures(trained.report)]
    lines += ["", "## Settings", "", *table(("setting", "value"), list(_shown(settings, trained.steps)))]
    lines += ["", "## Versions", "", *table(("package", "version"), versions())]
    lines += ["", "## Repeat it", "", "`lit-vlm fit --config recipe.yaml`, where `recipe.yaml` is as below. Absolute"]
    lines += ["paths are cut to their last name: put the files beside it, or give their paths.", ""]
    lines += fenced(yaml_text(settings), "yaml")
    return "\n".join(lines) + "\n"


def versions() -> list[tuple[str, str]]:
    """Lists the versions of lit-vlm and of the libraries that training rests on."""
    found = [("lit-vlm", __version__)]
    for package in PACKAGES:
        try:
            found.append((package, version(package)))
        except PackageNotFoundError:
            found.append((package, "not installed"))
    return found


def _settings(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps what a repetition needs."""
    parts = {
        name: configuration[name] for name in ("about", "seed_everything", "model", "data") if name in configuration
    }
    trainer = {
        name: value
        for name, value in (configuration.get("trainer") or {}).items()
        if name not in ("logger", "default_root_dir", "plugins") and (value is not None or name in NULL_MEANS_DEFAULT)
    }
    settings: dict[str, Any] = portable({**parts, "trainer": trainer})
    return settings


def _front_matter(settings: Mapping[str, Any], trained: TrainedModel) -> list[str]:
    adapter = trained.kind == "adapter"
    lines = ["---", f"library_name: {'peft' if adapter else 'transformers'}", f"pipeline_tag: {TASK}"]
    base = _base(trained.configuration)
    if base is not None:
        relation = "adapter" if adapter else "finetune"
        lines += ["base_model:", f"- {json.dumps(base)}", f"base_model_relation: {relation}"]
    about = settings.get("about") or {}
    named = about.get("datasets") or []
    sets = [named] if isinstance(named, str) else list(named)
    if sets:
        lines += ["datasets:", *(f"- {json.dumps(str(name), ensure_ascii=False)}" for name in sets)]
    tags = ["lit-vlm", _tag(str(about.get("method", ""))), "lora" if adapter else ""]
    lines += ["tags:", *(f"- {json.dumps(tag)}" for tag in dict.fromkeys(tags) if tag), "---"]
    return lines


def _base(configuration: Mapping[str, Any]) -> str | None:
    """Returns the hub id of the model that was trained; None where it came from a folder or the package."""
    checkpoint = str(_backbone(configuration).get("checkpoint", ""))
    return checkpoint if HUB_ID.fullmatch(checkpoint) and not Path(checkpoint).exists() else None


def _about(settings: Mapping[str, Any], trained: TrainedModel) -> list[str]:
    about = settings.get("about") or {}
    checkpoint = _backbone(settings).get("checkpoint", "")
    what = "A LoRA adapter for" if trained.kind == "adapter" else "A model fine-tuned from"
    source = f"`{checkpoint}`" + (", the small model that ships with lit-vlm" if checkpoint == "tiny" else "")
    if _base(trained.configuration) is None and checkpoint != "tiny":
        source += " (a folder where it was trained)"
    lines = [f"{what} {source}, by lit-vlm {__version__}."]
    if about.get("summary"):
        lines.append(str(about["summary"]))
    rows = [(name, str(about[name])) for name in ("method", "paper", "fidelity") if about.get(name)]
    if rows:
        lines += ["", "## Recipe", "", *table(("", ""), rows)]
    return lines


def _data(settings: Mapping[str, Any]) -> list[str]:
    data = settings.get("data") or {}
    given = data.get("init_args") or {}
    rows = [
        ("class", _class_name(data)),
        *((name, _short(value)) for name, value in given.items() if value is not None),
    ]
    return table(("setting", "value"), rows)


def _figures(report: Mapping[str, Any] | None) -> list[str]:
    compared = (report or {}).get("comparison")
    if not compared or report is None:
        return ["This run compared nothing before and after training."]
    rows = []
    for name, pair in compared.items():
        gain = pair.get("gain_points")
        apart = {True: "apart", False: "overlap"}.get(pair.get("intervals_apart"), "")
        total = (pair.get("after") or pair.get("before") or {}).get("total")
        told = "" if gain is None else f"{gain:+.1f}"
        rows.append((name, _share(pair.get("before")), _share(pair.get("after")), told, apart, str(total or "")))
    metric = str(report.get("metric", "")).replace("_", " ")
    heading = ("task", "before", "after", "gain", "intervals", "samples")
    return [f"Held-out {metric}, in % with 95 % intervals.", "", *table(heading, rows)]


def _share(figure: Mapping[str, Any] | None) -> str:
    if not figure or not isinstance(figure.get("mean"), int | float) or not math.isfinite(figure["mean"]):
        return ""
    low, high = figure.get("low"), figure.get("high")
    bounds = "" if low is None or high is None else f" [{100 * low:.1f}, {100 * high:.1f}]"
    return f"{100 * figure['mean']:.1f}{bounds}"


def _shown(settings: Mapping[str, Any], steps: int | None) -> Iterator[tuple[str, str]]:
    model = settings.get("model") or {}
    yield "module", _class_name(model)
    given = model.get("init_args") or {}
    adapter = _backbone(settings).get("adapter")
    if adapter:
        kept = ("kind", "rank", "alpha", "dropout", "parts", "train_in_full")
        yield "adapter", _short({name: adapter[name] for name in kept if adapter.get(name)})
    for name in SHOWN:
        value: Any = given
        for step in name.split("."):
            value = value.get(step) if isinstance(value, Mapping) else None
        if value is not None:
            yield name, _short(value)
    for name in OF_TRAINER:
        value = settings["trainer"].get(name)
        if value is not None and (name, value) != ("max_steps", -1):
            yield name, _short(value)
    if steps is not None:
        yield "optimizer steps done", str(steps)
    if "seed_everything" in settings:
        yield "seed", str(settings["seed_everything"])


def _backbone(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    given = (settings.get("model") or {}).get("init_args") or {}
    backbone = given.get("backbone")
    return backbone if isinstance(backbone, Mapping) else {}


def _class_name(part: Any) -> str:
    path = part.get("class_path", "") if isinstance(part, Mapping) else part or ""
    return str(path).rsplit(".", 1)[-1]


def _short(value: Any) -> str:
    """Writes a setting in a line: a class by its name, and no setting that is null."""
    if isinstance(value, Mapping):
        if "class_path" in value:
            inner = _short(value.get("init_args") or {})
            return _class_name(value) + (f": {inner}" if inner else "")
        given = ((name, _short(item)) for name, item in value.items() if item is not None)
        return ", ".join(f"{name} {item}" for name, item in given if item)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_short, value))
    return str(value)


def _run_name(configuration: Mapping[str, Any]) -> str:
    trainer = configuration.get("trainer") or {}
    logger = trainer.get("logger") if isinstance(trainer, Mapping) else None
    named = (logger.get("init_args") or {}).get("name") if isinstance(logger, Mapping) else None
    return str(portable(named)) if named else "A model trained with lit-vlm"


def _tag(method: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", method.lower()).strip("-")[:40].strip("-")
