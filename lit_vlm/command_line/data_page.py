"""What the verb ``data`` found, as one HTML page that needs no other file, no script and no network."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

from lit_vlm.command_line.data_figures import SplitFigures
from lit_vlm.command_line.data_report import (
    MOST_BAD,
    DataReport,
    SampleView,
    bin_label,
    count_lines,
)
from lit_vlm.command_line.token_view import TokenRun
from lit_vlm.functional.distributions import Distribution
from lit_vlm.functional.html_document import html_document, html_line
from lit_vlm.functional.thumbnails import thumbnails

STYLE = """
:root { --trained: #b7ecc5; --trained-ink: #0b4f23; --masked: #eef0f3; --bar: #4a86c8; }
@media (prefers-color-scheme: dark) { :root { --trained: #14522b; --trained-ink: #c9f7d7; --masked: #262c33;
  --bar: #5d9be0; } }
body { max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h2 { border-bottom: 1px solid var(--line); margin-top: 2.5rem; }
h3 { margin: 1.5rem 0 .4rem; font-size: 1rem; }
table { border-collapse: collapse; } td, th { padding: .15rem 1rem .15rem 0; text-align: left; vertical-align: top; }
th { color: var(--muted); font-weight: normal; white-space: nowrap; }
.numbers td, .numbers th { text-align: right; } .numbers th:first-child { text-align: left; }
.histograms { display: flex; flex-wrap: wrap; gap: 1rem 3rem; } .histograms table { font-size: 13px; }
.bar { display: inline-block; height: .8em; background: var(--bar); } .beyond .bar { background: var(--bad); }
.limit td, .limit th { border-bottom: 2px dashed var(--bad); }
.bad, .warning { color: var(--bad); }
.tokens { font: 13px/1.9 ui-monospace, monospace; white-space: pre-wrap; }
.token { padding: .1em 0; border-radius: 3px; margin-right: 1px; }
.trained { background: var(--trained); color: var(--trained-ink); font-weight: 600; }
.masked { background: var(--masked); color: var(--muted); }
.special { outline: 1px solid currentColor; outline-offset: -1px; } .media { font-style: italic; }
img { max-width: 128px; margin: 0 .5rem .5rem 0; image-rendering: pixelated; border: 1px solid var(--line); }
"""


def html_page(report: DataReport) -> str:
    """Writes the page; everything that comes from the data is escaped.

    Raises:
        UserError: A medium of a sample that is shown cannot be decoded.
    """
    title = f"Data of {report.recipe}"
    parts = [
        f"<h1>{html_line(title)}</h1>",
        f"<p>{html_line(report.summary)}</p>",
        *(f'<p class="warning">Warning: {html_line(line)}</p>' for line in report.warnings()),
    ]
    for figures in report.splits:
        parts.extend(_split(figures))
    parts.extend(f"<p>No {split} split: {html_line(reason)}</p>" for split, reason in report.absent.items())
    if report.views:
        parts.append("<h2>As the model gets it</h2>")
        parts.append(
            '<p><span class="token-key trained">trained</span> tokens are predicted by the loss, '
            '<span class="token-key masked">masked</span> ones are only read; '
            "special tokens are outlined, runs of a media placeholder are counted, spaces are dots. "
            "Point at a token to see its id.</p>"
        )
    for view in report.views:
        parts.extend(_view(view))
    return html_document(title, parts, STYLE)


def _split(figures: SplitFigures) -> Iterator[str]:
    yield f"<h2>{figures.split}</h2>"
    rows = "".join(
        f"<tr><th>{html_line(name)}</th><td>{html_line(text)}</td></tr>" for name, text in count_lines(figures)
    )
    yield f'<table class="counts">{rows}</table>'
    spreads = {name: spread for name, spread in figures.token_distributions().items() if spread is not None}
    if spreads:
        yield _lengths(spreads)
        yield '<div class="histograms">'
        for name, spread in spreads.items():
            yield _histogram(f"{name} tokens", spread, figures.max_tokens if name == "row" else None)
        yield "</div>"
    if figures.bad:
        yield f'<h3 class="bad">Bad samples: {len(figures.bad):,}</h3><ul class="reasons">'
        yield "".join(f"<li>{count:,} x {html_line(reason)}</li>" for reason, count in figures.bad_reasons().items())
        yield '</ul><ol class="bad-samples">'
        yield "".join(f"<li>{html_line(row.origin)}: {html_line(row.reason)}</li>" for row in figures.bad[:MOST_BAD])
        yield "</ol>"
        if len(figures.bad) > MOST_BAD:
            yield f"<p>bad_samples.jsonl has {len(figures.bad) - MOST_BAD:,} more.</p>"


def _lengths(spreads: dict[str, Distribution]) -> str:
    rows = []
    for name, spread in spreads.items():
        numbers = (spread.minimum, spread.median, spread.percentile_95, spread.maximum, spread.total)
        cells = "".join(f"<td>{number:,.10g}</td>" for number in numbers)
        rows.append(f"<tr><th>{name}</th>{cells}</tr>")
    heads = "".join(f"<th>{head}</th>" for head in ("tokens", "min", "median", "p95", "max", "in all"))
    return f'<table class="numbers"><tr>{heads}</tr>{"".join(rows)}</table>'


def _histogram(title: str, spread: Distribution, limit: int | None) -> str:
    most = max(item.count for item in spread.bins)
    rows = []
    for item in spread.bins:
        marks, note = "", ""
        if limit is not None and item.low > limit:
            marks = "beyond"
        elif limit is not None and item.high >= limit:
            marks, note = "limit", f" limit {limit:,}"
        rows.append(
            f'<tr class="{marks}"><th>{bin_label(item)}</th>'
            f'<td><span class="bar" style="width:{10 * item.count / most:.2f}em"></span> {item.count:,}{note}</td></tr>'
        )
    return f'<div><h3>{title}</h3><table class="histogram">{"".join(rows)}</table></div>'


def _view(view: SampleView) -> Iterator[str]:
    yield f"<h3>{html_line(view.heading)}</h3>"
    yield "".join(f'<img src="{address}" alt="">' for address in thumbnails(view.sample))
    yield f'<div class="tokens">{"".join(map(_token, view.runs))}</div>'


def _token(run: TokenRun) -> str:
    classes = " ".join(("token", "trained" if run.trained else "masked", run.kind))
    return (
        f'<span class="{classes}" data-id="{run.token_id}" data-count="{run.count}" title="id {run.token_id}">'
        f"{escape(run.shown)}</span>"
    )
