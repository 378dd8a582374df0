"""What the verb ``data`` found, in words and small histograms, for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from lit_vlm.command_line.data_figures import SplitFigures
from lit_vlm.command_line.token_view import TokenRun, styled_tokens
from lit_vlm.functional.distributions import Bin, Distribution
from lit_vlm.functional.visible_text import printable_text
from lit_vlm.interfaces.records import Completion, Sample, Split

MOST_NAMED = 12
"""Names of a count that are listed; the rest is summed up."""
MOST_BAD = 10
"""Bad samples that are listed; the file has all."""
BAR_WIDTH = 10
LEGEND = "trained tokens are green and stand in ⟦ ⟧, masked ones are grey, special ones underlined"


@dataclass(frozen=True)
class SampleView:
    """One sample as the model gets it."""

    split: Split
    index: int
    sample: Sample
    runs: tuple[TokenRun, ...]
    row: str = ""
    """Which of its completions, where it has several."""

    @property
    def heading(self) -> str:
        """Names the sample, its kind and its size."""
        tokens = sum(run.count for run in self.runs)
        trained = sum(run.count for run in self.runs if run.trained)
        named = printable_text(" | ".join(filter(None, (self.sample.id, self.sample.meta.category))))
        row = f", {self.row}" if self.row else ""
        return f"{self.split} sample {self.index}{row}: {named} | {tokens:,} tokens, {trained:,} trained"


@dataclass(frozen=True)
class DataReport:
    """Everything that was found, to be shown in one form or another."""

    recipe: str
    data: str
    """Class of the DataModule."""
    checkpoint: str
    max_tokens: int
    policy: str
    """What a run does with bad samples: ``error`` or ``skip``."""
    splits: tuple[SplitFigures, ...]
    absent: Mapping[Split, str]
    """Splits that there are not, with the reason."""
    overlaps: Mapping[tuple[Split, Split], int]
    """Questions with the same media seen in both of two splits."""
    shared_images: Mapping[tuple[Split, Split], int]
    """Images seen in both of two splits."""
    cards: Mapping[Split, tuple[Completion, ...]]
    """Samples for the contact sheets, with their own completions."""
    views: tuple[SampleView, ...]

    @property
    def bad(self) -> int:
        """Bad samples over all splits."""
        return sum(len(figures.bad) for figures in self.splits)

    @property
    def summary(self) -> str:
        """Names recipe, data and model in a line."""
        return f"{self.recipe}: {self.data} for {self.checkpoint}, rows of at most {self.max_tokens:,} tokens"

    def warnings(self) -> list[str]:
        """Says in a line each what the user should look at."""
        lines = [
            f"{_questions(count)} with the same media in both {first} and {second}"
            for (first, second), count in self.overlaps.items()
            if count
        ]
        lines += [
            f"{count:,} image{'' if count == 1 else 's'} in both {first} and {second}"
            for (first, second), count in self.shared_images.items()
            if count
        ]
        for figures in self.splits:
            if figures.repeated:
                lines.append(f"{figures.split} repeats {_questions(figures.repeated)} with the same media")
            checked = f"of {figures.references_checked:,} completions in {figures.split} with an answer"
            if figures.references_untagged:
                lines.append(f"{figures.references_untagged:,} {checked} do not have it where validation looks for it")
            if wrong := figures.references_checked - figures.references_right:
                lines.append(f"{wrong:,} {checked} do not agree with it")
        return lines

    def to_json(self) -> dict[str, Any]:
        """A record of plain values."""
        return {
            "recipe": self.recipe,
            "data": self.data,
            "checkpoint": self.checkpoint,
            "max_tokens": self.max_tokens,
            "bad_samples_policy": self.policy,
            "splits": {figures.split: figures.to_json() for figures in self.splits},
            "absent_splits": dict(self.absent),
            "shared_images": {f"{first}/{second}": count for (first, second), count in self.shared_images.items()},
            "overlaps": {f"{first}/{second}": count for (first, second), count in self.overlaps.items()},
            "warnings": self.warnings(),
        }


def count_lines(figures: SplitFigures) -> list[tuple[str, str]]:
    """Words the counts of a split: what is counted, and the counts."""
    evenly = "" if figures.looked_at == figures.total else f", {figures.looked_at:,} looked at, evenly spaced"
    answers = named_counts(figures.answer_types) or "none"
    lines = [
        ("samples", f"{figures.total:,}{evenly}"),
        ("usable", f"{len(figures.usable):,}, bad {len(figures.bad):,}"),
        ("tasks", named_counts(figures.tasks)),
        ("sources", named_counts(figures.sources)),
        ("difficulty", named_counts(figures.difficulties)),
        ("images a sample", named_counts(figures.images_per_sample)),
        ("videos a sample", named_counts(figures.videos_per_sample) if figures.videos_per_sample.keys() != {0} else ""),
        ("answers", f"{answers}; without {_share(figures.without_answer, figures.read)}" if figures.read else ""),
        ("mended", "; ".join(f"{count:,} x {printable_text(name)}" for name, count in figures.repairs.most_common())),
        ("max_tokens", limit_line(figures)),
    ]
    return [(name, text) for name, text in lines if text]


def limit_line(figures: SplitFigures) -> str:
    """Says how many rows are longer than the model takes, and what becomes of them."""
    if not figures.beyond_limit:
        return f"no row is longer than {figures.max_tokens:,} tokens"
    whole = figures.beyond_limit - figures.cut - figures.refused
    fates = ((figures.cut, "cut"), (figures.refused, "left out as bad"), (whole, "served whole"))
    return (
        f"{_share(figures.beyond_limit, len(figures.row_tokens))} rows are longer than {figures.max_tokens:,} tokens: "
        f"{', '.join(f'{count:,} {fate}' for count, fate in fates if count)}"
    )


def named_counts(counts: Mapping[Any, int]) -> str:
    """Lists counts with their names, commonest first, in the order of the names where these are numbers."""
    ordered = sorted(counts.items(), key=lambda item: _rank(*item))
    texts = [f"{printable_text(str(name))}: {count:,}" for name, count in ordered[:MOST_NAMED]]
    if rest := ordered[MOST_NAMED:]:
        texts.append(f"{len(rest):,} more: {sum(count for _, count in rest):,}")
    return ", ".join(texts)


def print_report(report: DataReport, console: Console) -> None:
    """Prints counts, histograms, bad samples, views and warnings."""
    console.print(Text(report.summary, "bold"))
    for figures in report.splits:
        console.print(Rule(Text(figures.split, "bold"), align="left"))
        console.print(_counts(figures))
        console.print(_lengths(figures))
        if figures.bad:
            console.print(Group(*_bad_samples(figures)))
    for split, reason in report.absent.items():
        console.print(Text(f"no {split} split: {printable_text(reason)}"))
    if report.views:
        console.print(Rule(Text("as the model gets it", "bold"), align="left"))
        console.print(Text(LEGEND, "italic"))
    for view in report.views:
        console.print(Text(view.heading, "bold"))
        console.print(Padding(styled_tokens(view.runs), (0, 0, 1, 2)))
    for line in report.warnings():
        console.print(Text(f"warning: {line}", "yellow"))


def _counts(figures: SplitFigures) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in count_lines(figures):
        table.add_row(Text(name, "bright_black"), Text(text))
    return table


def _lengths(figures: SplitFigures) -> RenderableType:
    spreads = {name: spread for name, spread in figures.token_distributions().items() if spread is not None}
    if not spreads:
        return Text("no row could be encoded", "red")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("tokens", "min", "median", "p95", "max", "in all"):
        table.add_column(heading, justify="left" if heading == "tokens" else "right", style="bright_black")
    for name, spread in spreads.items():
        numbers = (spread.minimum, spread.median, spread.percentile_95, spread.maximum, spread.total)
        table.add_row(name, *(f"{number:,.10g}" for number in numbers))
    histograms = Table.grid(padding=(0, 3))
    shown = [name for name in ("text", "image", "row") if name in spreads]
    histograms.add_row(*(_histogram(f"{name} tokens", spreads[name], _limit(figures, name)) for name in shown))
    return Group(table, histograms)


def _histogram(title: str, spread: Distribution, limit: int | None) -> Text:
    labels = [bin_label(item) for item in spread.bins]
    width = max(map(len, labels))
    most = max(item.count for item in spread.bins)
    text = Text.assemble((title, "bold"))
    for label, item in zip(labels, spread.bins, strict=True):
        bar = "█" * (max(1, round(BAR_WIDTH * item.count / most)) if item.count else 0)
        text.append(f"\n{label.rjust(width)} ", "bright_black")
        text.append(bar, "red" if limit is not None and item.low > limit else "blue")
        text.append(f" {item.count:,}")
        if limit is not None and item.low <= limit <= item.high:
            text.append(f" ◂ limit {limit:,}", "red")
    return text


def bin_label(item: Bin) -> str:
    """Writes the bounds of a bin."""
    return f"{item.low:,}" if item.low == item.high else f"{item.low:,}–{item.high:,}"


def _limit(figures: SplitFigures, name: str) -> int | None:
    return figures.max_tokens if name == "row" else None


def _bad_samples(figures: SplitFigures) -> Iterator[Text]:
    yield Text(f"bad samples: {len(figures.bad):,}", "bold red")
    for reason, count in figures.bad_reasons().items():
        yield Text(f"  {count:,} x {printable_text(reason)}")
    for row in figures.bad[:MOST_BAD]:
        yield Text(f"  {printable_text(row.origin)}: {printable_text(row.reason)}", "red")
    if len(figures.bad) > MOST_BAD:
        yield Text(f"  and {len(figures.bad) - MOST_BAD:,} more in bad_samples.jsonl", "red")


def _questions(count: int) -> str:
    return f"{count:,} question{'' if count == 1 else 's'}"


def _share(count: int, total: int) -> str:
    return f"{count:,} of {total:,} ({100 * count / total:.1f} %)"


def _rank(name: Any, count: int) -> tuple[float, Sequence[Any]]:
    if isinstance(name, int) or str(name).isdecimal():
        return (int(name), ())
    return (-count, (str(name),))
