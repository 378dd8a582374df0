"""A round's completions as one HTML page, and the page that lists all of them; data in, text out.

Everything that a model or a data set wrote is escaped; the page's own script colours, sorts and filters.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, pstdev
from typing import Any

from lit_vlm.callbacks.rollout_page_assets import INDEX_STYLE, SCRIPT, STYLE
from lit_vlm.callbacks.rollout_views import SIGNED, CompletionView, PromptView, RewardPart, RoundView, scales
from lit_vlm.functional.html_document import html_document, html_line
from lit_vlm.functional.thumbnails import thumbnails
from lit_vlm.functional.visible_text import readable_text, visible_text
from lit_vlm.parsing.answers import render_answer

INDEX_NAME = "index.html"
PICTURE_SIDE = 144
"""Pixels of a picture's longer side, at most."""
MOST_CHARACTERS = 20_000
"""Of any one text."""
NO_TEXT, END = "⋯", "∎"
"""Shown for tokens without a text of their own: within a completion, and at its end."""
NEXT_PAGE = '<span id="next" class="absent">next →</span>'
"""Stands in a page for the link to the one after it, which is not there yet."""
COLOURINGS = {
    "entropy": ("entropy", "nats; how undecided the sampling policy was before the token"),
    "log_ratio": ("log-ratio", "nats; policy in the last pass of the update over the sampling policy"),
    "kl": ("KL to the reference", "nats; estimate k3 of policy and reference"),
    "advantage": ("advantage", "how much better than expected, as the update used it"),
}
HEADLINES = {
    "reward/mean": "mean reward",
    "correct": "right",
    "kl": "KL",
    "entropy": "entropy",
    "completion_length": "tokens a completion",
    "truncated": "truncated",
}
"""Figures of a round that stand at the head of its page and in the list of pages."""


@dataclass(frozen=True)
class PageEntry:
    """What the list of pages says of one."""

    step: int
    name: str
    prompts: int
    completions: int
    figures: dict[str, float]


def page_entry(view: RoundView, name: str) -> PageEntry:
    """Summarises a page.

    Args:
        view: What it shows.
        name: Its file.
    """
    headlines = {key: view.figures[key] for key in HEADLINES if math.isfinite(view.figures.get(key, math.nan))}
    return PageEntry(view.step, name, len(view.prompts), sum(len(item.completions) for item in view.prompts), headlines)


def rollout_page(view: RoundView, previous: str | None = None) -> str:
    """Writes the page of a round.

    Args:
        view: What to show.
        previous: File name of the page before it, in the same folder.

    Raises:
        UserError: A medium of a prompt that is shown cannot be decoded.
    """
    body = [
        "<header><nav>",
        f'<a id="previous" href="{escape(previous)}">← previous</a>'
        if previous
        else '<span class="absent">← previous</span>',
        f'<a href="{INDEX_NAME}">all pages</a>',
        NEXT_PAGE,
        f"</nav><h1>Completions at step {view.step:,}</h1>",
        *_figures(view),
        "</header>",
    ]
    if view.prompts:
        body.extend(_controls(view))
        for index, prompt in enumerate(view.prompts):
            body.extend(_prompt(index, prompt))
        body.append('<p id="nothing" hidden>No completion passes the filter.</p>')
    else:
        body.append('<p class="empty">There is no completion in this round to show.</p>')
    body.append(f'<script type="application/json" id="numbers">{_json(_numbers(view.prompts))}</script>')
    return html_document(f"Completions at step {view.step:,}", body, STYLE, SCRIPT)


def link_next(page: str, name: str) -> str:
    """Puts the link to the page after it into a page, where the place for it is still empty.

    Args:
        page: A page that ``rollout_page`` wrote.
        name: File name of the next page, in the same folder.
    """
    return page.replace(NEXT_PAGE, f'<a id="next" href="{escape(name)}">next →</a>', 1)


def rollout_index(entries: Sequence[PageEntry]) -> str:
    """Writes the page that lists all others, the latest first."""
    columns = [key for key in HEADLINES if any(key in entry.figures for entry in entries)]
    heads = "".join(f"<th>{html_line(HEADLINES[key])}</th>" for key in columns)
    rows = []
    for entry in sorted(entries, key=lambda item: -item.step):
        cells = "".join(f"<td>{_number(entry.figures.get(key, math.nan))}</td>" for key in columns)
        rows.append(
            f'<tr><td><a href="{escape(entry.name)}">step {entry.step:,}</a></td>'
            f"<td>{entry.prompts:,}</td><td>{entry.completions:,}</td>{cells}</tr>"
        )
    table = (
        f"<table><thead><tr><th>page</th><th>prompts</th><th>completions</th>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )
    note = "<p>Figures are of the whole round on all ranks; prompts and completions are those shown.</p>"
    return html_document("Completions", ["<h1>Completions</h1>", table, note], INDEX_STYLE)


def _figures(view: RoundView) -> Iterator[str]:
    shown = [(label, view.figures[key]) for key, label in HEADLINES.items() if key in view.figures]
    if shown:
        yield '<dl class="headlines">'
        yield "".join(f"<div><dt>{html_line(label)}</dt><dd>{_number(value)}</dd></div>" for label, value in shown)
        yield "</dl>"
    completions = sum(len(prompt.completions) for prompt in view.prompts)
    notes = [f"{completions:,} completions of {len(view.prompts):,} of {view.prompts_in_all:,} prompts on rank 0"]
    if view.without_completions:
        notes.append(f"{view.without_completions:,} prompts without completions that are trained on")
    if view.left_out:
        notes.append(f"{view.left_out:,} samples left out as bad")
    yield f'<p class="notes">{html_line("; ".join(notes))}.</p>'
    if view.figures:
        rows = "".join(
            f"<tr><th>{html_line(name)}</th><td>{_number(value)}</td></tr>" for name, value in view.figures.items()
        )
        yield f"<details><summary>All figures of the round</summary><table>{rows}</table></details>"


def _controls(view: RoundView) -> Iterator[str]:
    known = scales(view.prompts)
    colourings = "".join(
        f'<option value="{name}">{label}</option>' for name, (label, _) in COLOURINGS.items() if name in known
    )
    yield '<div class="controls">'
    yield f'<label>Colour <select id="colour">{colourings}<option value="">nothing</option></select></label>'
    yield (
        '<label>Completions <select id="sort"><option value="index">as sampled</option>'
        '<option value="reward-down">best reward first</option><option value="reward-up">worst reward first</option>'
        '<option value="length-down">longest first</option><option value="length-up">shortest first</option>'
        "</select></label>"
    )
    yield (
        '<label>Prompts <select id="prompts"><option value="index">as read</option>'
        '<option value="mean-up">lowest mean reward first</option>'
        '<option value="mean-down">highest mean reward first</option>'
        '<option value="spread-down">widest spread first</option></select></label>'
    )
    yield (
        '<label>Show <select id="show"><option value="">all</option><option value="right">right</option>'
        '<option value="wrong">wrong</option><option value="unjudged">without a verdict</option>'
        '<option value="truncated">truncated</option></select></label>'
    )
    yield (
        '<span><label>Reward <input id="least" type="number" step="any" aria-label="lowest reward"></label> '
        '<label>to <input id="most" type="number" step="any" aria-label="highest reward"></label></span>'
        '<output id="count"></output>'
    )
    yield '<div class="legend" id="legend"><span id="low"></span><span id="bar"></span><span id="high"></span>'
    yield '<span id="meaning"></span></div></div>'
    yield f'<p class="key">Point at a token for its numbers. {END} ends a completion; {NO_TEXT} is a token without '
    yield "text of its own, or one that only begins a character.</p>"
    yield '<div id="tip" role="tooltip" hidden></div>'


def _prompt(index: int, prompt: PromptView) -> Iterator[str]:
    rewards = [item.reward for item in prompt.scored]
    mean, spread = (fmean(rewards), pstdev(rewards)) if rewards else (math.nan, math.nan)
    sample = prompt.sample
    pictures = "".join(f'<img src="{address}" alt="">' for address in thumbnails(sample, PICTURE_SIDE))
    yield (
        f'<section class="prompt" data-index="{index}" data-mean="{_attribute(mean)}" '
        f'data-spread="{_attribute(spread)}"><div class="question"><div class="pictures">{pictures}</div><div>'
    )
    label = " · ".join(filter(None, (sample.meta.source, sample.meta.category, sample.id)))
    yield f'<p class="label">{html_line(label[:MOST_CHARACTERS])}</p><h2>{_text(sample.question)}</h2>'
    judged = [item.completion.verdict for item in prompt.completions if item.completion.verdict is not None]
    if sample.answer is not None and sample.answer.value is not None:
        # Only what can be judged by a rule can be written as a model would.
        right = render_answer(sample.answer) if judged else str(sample.answer.value)
        yield f'<p class="answer">right answer <b>{html_line(right[:MOST_CHARACTERS])}</b></p>'
    summary = [f"{len(prompt.completions)} completions"]
    if judged:
        summary.append(f"{sum(verdict.correct for verdict in judged)} right")
    if rewards:
        summary.append(f"mean reward {_number(mean)} ± {_number(spread)}")
    if not all(item.is_informative for item in prompt.completions):
        summary.append("rewards do not differ")
    yield f'<p class="label">{html_line(" · ".join(summary))}</p>'
    yield f"<details><summary>Prompt as the model read it</summary><pre>{_text(prompt.prompt)}</pre></details>"
    yield '</div></div><div class="completions">'
    for place, item in enumerate(prompt.completions):
        yield from _completion(place, item)
    yield "</div></section>"


def _completion(place: int, item: CompletionView) -> Iterator[str]:
    verdict = item.completion.verdict
    kind, sign = (
        ("unjudged", "no verdict") if verdict is None else ("right", "✓") if verdict.correct else ("wrong", "✗")
    )
    yield (
        f'<article class="completion {kind}" data-index="{place}" data-reward="{_attribute(item.reward)}" '
        f'data-length="{len(item.token_ids)}" data-verdict="{kind}" data-truncated="{int(item.is_truncated)}">'
    )
    badges = [f'<span class="badge {kind}">{sign}{f" {kind}" if verdict else ""}</span>']
    if item.is_truncated:
        badges.append('<span class="badge cut">truncated</span>')
    if verdict is not None and not verdict.formatted:
        badges.append('<span class="badge cut">wrong form</span>')
    yield f'<div class="head"><span class="reward">{_number(item.reward, "no reward")}</span>{"".join(badges)}'
    yield f'<span class="number">{place + 1}</span></div><dl class="facts">'
    facts = [("advantage", _signed(item.advantage)), ("tokens", f"{len(item.token_ids):,}")]
    yield "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    if verdict is not None:
        answer = "none" if verdict.parsed is None else verdict.parsed[:MOST_CHARACTERS]
        yield f"<div><dt>answer</dt><dd>{html_line(answer)}</dd></div>"
    yield f'</dl><div class="tokens" dir="ltr">{"".join(_tokens(item))}</div>{_rewards(item.parts, item.details)}'
    yield "</article>"


def _tokens(item: CompletionView) -> Iterator[str]:
    last = len(item.texts) - 1
    for index, text in enumerate(item.texts):
        if not text:
            shown = END if index == last and not item.is_truncated else NO_TEXT
            yield f'<i class="silent">{shown}</i>'
            continue
        kept = visible_text(text[:MOST_CHARACTERS], space=" ")
        beyond = len(text) - MOST_CHARACTERS
        yield f"<i>{escape(kept)}{f'… ({beyond:,} more characters)' if beyond > 0 else ''}</i>"


def _rewards(parts: Iterable[RewardPart], details: Mapping[str, float]) -> str:
    rows = [
        f"<tr><th>{html_line(part.name)}</th><td>{_number(part.value)}</td><td>× {_number(part.weight)}</td></tr>"
        for part in parts
    ]
    rows += [
        f'<tr class="detail"><th>{html_line(name)}</th><td>{_number(value)}</td><td></td></tr>'
        for name, value in details.items()
        if not math.isnan(value)
    ]
    return f'<table class="parts">{"".join(rows)}</table>' if rows else ""


def _numbers(prompts: Sequence[PromptView]) -> dict[str, Any]:
    """What the script colours by: for each completion, in the page's order, the numbers of its tokens."""
    return {
        "scales": {
            name: {
                "label": COLOURINGS[name][0],
                "meaning": COLOURINGS[name][1],
                "signed": name in SIGNED,
                "bound": _short(scale.bound),
                "lowest": _short(scale.lowest),
                "highest": _short(scale.highest),
            }
            for name, scale in scales(prompts).items()
            if name in COLOURINGS
        },
        "completions": [
            {
                "ids": item.token_ids,
                **{name: [_short(number) for number in numbers] for name, numbers in item.numbers.items()},
            }
            for prompt in prompts
            for item in prompt.completions
        ],
    }


def _json(value: Any) -> str:
    """Writes JSON that can stand in a script element: without any character that markup begins with."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c").replace("&", "\\u0026")


def _short(number: float) -> float | None:
    """Four digits are enough for colours and people; None is what JSON has for NaN."""
    return float(f"{number:.4g}") if math.isfinite(number) else None


def _number(value: float, missing: str = "–") -> str:
    if math.isnan(value):
        return missing
    return f"{value:,.0f}" if abs(value) >= 1e4 else f"{value:.4g}"


def _signed(value: float) -> str:
    return _number(value) if math.isnan(value) or value == 0 else f"{value:+.3g}".replace("-", "−")


def _attribute(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.9g}"


def _text(text: str) -> str:
    return escape(readable_text(text, MOST_CHARACTERS))
