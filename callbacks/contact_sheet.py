"""Completions as cards on one picture: images, question, what the model wrote, and whether it is right.

Pure drawing; which completions are shown is left to the callbacks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from lit_vlm.callbacks.text_layout import sans_font, set_text
from lit_vlm.functional.media import open_image, open_video
from lit_vlm.interfaces.records import Completion, Sample
from lit_vlm.parsing.answers import render_answer

Colour = tuple[int, int, int]

PAPER: Colour = (233, 236, 240)
CARD: Colour = (255, 255, 255)
INK: Colour = (28, 33, 40)
MUTED: Colour = (101, 109, 118)
RIGHT: Colour = (26, 127, 55)
WRONG: Colour = (196, 32, 44)
UNJUDGED: Colour = (87, 96, 106)

CARD_WIDTH = 400
"""Pixels of a card with one completion."""
COMPARISON_WIDTH = 540
"""Pixels of a card with two completions side by side."""
PICTURE_SIDE = 160
"""Height of pictures, and the width of a single one that leaves room for the question beside it."""
MOST_PICTURES = 4
GAP = 12
TEXT, SMALL, HEADING = 15, 13, 20


@dataclass(frozen=True)
class _Column:
    """One completion of a card."""

    heading: str
    completion: Completion | None


def draw_contact_sheet(completions: Sequence[Completion], *, columns: int = 3, title: str = "") -> Image.Image:
    """Draws one card a completion.

    Args:
        completions: What to show, in order.
        columns: Cards side by side, at least 1; fewer where there are fewer completions.
        title: A line above the cards.

    Returns:
        An RGB picture, as tall as the cards need.

    Raises:
        ValueError: ``columns`` is below 1.
        UserError: A sample's image cannot be decoded.
    """
    cards = [_draw_card(completion.sample, [_Column("", completion)], CARD_WIDTH) for completion in completions]
    return _lay_out(cards, columns, title)


def draw_comparison_sheet(
    pairs: Sequence[tuple[Completion | None, Completion]],
    *,
    headings: Sequence[tuple[str, str]] | None = None,
    columns: int = 3,
    title: str = "",
) -> Image.Image:
    """Draws one card a sample with two completions of it side by side.

    Args:
        pairs: Two completions of the same sample, the first None where it is unknown.
        headings: What stands above each pair; None for "before" and "after".
        columns: As in ``draw_contact_sheet``.
        title: A line above the cards.

    Returns:
        An RGB picture.

    Raises:
        ValueError: ``columns`` is below 1, or there are not as many headings as pairs.
        UserError: A sample's image cannot be decoded.
    """
    told = [("before", "after")] * len(pairs) if headings is None else headings
    cards = [
        _draw_card(second.sample, [_Column(left, first), _Column(right, second)], COMPARISON_WIDTH)
        for (left, right), (first, second) in zip(told, pairs, strict=True)
    ]
    return _lay_out(cards, columns, title)


def _lay_out(cards: Sequence[Image.Image], columns: int, title: str) -> Image.Image:
    if columns < 1:
        raise ValueError(f"columns is {columns}; give at least 1")
    card_width = cards[0].width if cards else CARD_WIDTH
    shown = max(1, min(columns, len(cards)))
    width = shown * (card_width + GAP) + GAP
    heading = set_text(title, HEADING, width - 2 * GAP, 2)
    top = GAP + len(heading) * _line_height(HEADING) + (GAP if heading else 0)
    rows = [cards[start : start + shown] for start in range(0, len(cards), shown)]
    height = top + sum(max(card.height for card in row) + GAP for row in rows)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    _write(draw, heading, (GAP, GAP), HEADING, INK)
    for row in rows:
        row_height = max(card.height for card in row)
        for index, card in enumerate(row):
            left = GAP + index * (card_width + GAP)
            draw.rectangle((left, top, left + card_width - 1, top + row_height - 1), fill=CARD)
            sheet.paste(card, (left, top))
        top += row_height + GAP
    return sheet


def _draw_card(sample: Sample, columns: Sequence[_Column], width: int) -> Image.Image:
    """Draws pictures and question above, one column for each completion below."""
    inner = width - 2 * GAP
    head = _draw_head(sample, inner)
    column_width = (inner - GAP * (len(columns) - 1)) // len(columns)
    bodies = [_draw_column(column, sample, column_width) for column in columns]
    height = GAP + head.height + GAP + max(body.height for body in bodies) + GAP
    card = Image.new("RGB", (width, height), CARD)
    card.paste(head, (GAP, GAP))
    for index, body in enumerate(bodies):
        card.paste(body, (GAP + index * (column_width + GAP), GAP + head.height + GAP))
    return card


def _draw_head(sample: Sample, width: int) -> Image.Image:
    pictures = _pictures(sample, width)
    # A narrow picture has the question beside it, wide ones have it below.
    beside = pictures is not None and pictures.width <= PICTURE_SIDE
    left = pictures.width + GAP if pictures is not None and beside else 0
    top = 0 if pictures is None or beside else pictures.height + GAP
    label = set_text(" | ".join(filter(None, (sample.meta.category, sample.id))), SMALL, width - left, 1)
    question = set_text(sample.question, TEXT, width - left, 7 if beside else 5)
    text_height = len(label) * _line_height(SMALL) + len(question) * _line_height(TEXT)
    head = Image.new("RGB", (width, max(top + text_height, pictures.height if pictures else 0)), CARD)
    draw = ImageDraw.Draw(head)
    if pictures is not None:
        head.paste(pictures, (0, 0))
    top = _write(draw, label, (left, top), SMALL, MUTED)
    _write(draw, question, (left, top), TEXT, INK)
    return head


def _draw_column(column: _Column, sample: Sample, width: int) -> Image.Image:
    verdict, colour = _verdict_text(column.completion, sample)
    completion = "not recorded" if column.completion is None else column.completion.text or "(nothing)"
    heading = set_text(column.heading, SMALL, width, 1)
    lines = set_text(completion, SMALL, width, 8)
    strip = set_text(verdict, TEXT, width - 2 * GAP, 2)
    strip_top = (len(heading) + len(lines)) * _line_height(SMALL) + GAP // 2
    strip_height = len(strip) * _line_height(TEXT) + GAP // 2
    body = Image.new("RGB", (width, strip_top + strip_height), CARD)
    draw = ImageDraw.Draw(body)
    top = _write(draw, heading, (0, 0), SMALL, MUTED)
    _write(draw, lines, (0, top), SMALL, INK)
    draw.rectangle((0, strip_top, width - 1, strip_top + strip_height - 1), fill=colour)
    _write(draw, strip, (GAP, strip_top + GAP // 4), TEXT, CARD)
    return body


def _verdict_text(completion: Completion | None, sample: Sample) -> tuple[str, Colour]:
    """Says it in words too: not everybody tells green from red."""
    verdict = None if completion is None else completion.verdict
    gold = _wanted(sample)
    if verdict is None or gold is None:
        return "no verdict", UNJUDGED
    if verdict.correct:
        return f"right: {gold}", RIGHT
    nothing = "no answer" if sample.critique is None else "no verdict"
    return f"wrong: {verdict.parsed if verdict.parsed is not None else nothing} | wanted: {gold}", WRONG


def _wanted(sample: Sample) -> str | None:
    """Writes the true answer, or the true verdict where a solution is judged."""
    critique = sample.critique
    if critique is None:
        return None if sample.answer is None else render_answer(sample.answer)
    return f"'{critique.verdict or ('right' if critique.first_wrong_step is None else 'wrong')}'"


def _pictures(sample: Sample, width: int) -> Image.Image | None:
    """Sets the first images and video frames of a sample side by side."""
    images = [open_image(reference) for reference in sample.images[:MOST_PICTURES]]
    for video in sample.videos:
        if len(images) < MOST_PICTURES:
            images.extend(open_video(video, MOST_PICTURES - len(images))[0])
    if not images:
        return None
    count = len(images)
    side = PICTURE_SIDE if count == 1 and images[0].width <= images[0].height * 1.2 else (width + GAP) // count - GAP
    scaled = [_scale(image, side, PICTURE_SIDE) for image in images]
    total = sum(image.width for image in scaled) + GAP * (count - 1)
    strip = Image.new("RGB", (total, max(image.height for image in scaled)), CARD)
    left = 0
    for image in scaled:
        strip.paste(image, (left, 0))
        left += image.width + GAP
    return strip


def _scale(image: Image.Image, width: int, height: int) -> Image.Image:
    """Fits an image into a box; small ones are enlarged without smoothing, so that their pixels can be told."""
    factor = min(width / image.width, height / image.height)
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    return image.resize(size, Image.Resampling.NEAREST if factor > 1 else Image.Resampling.LANCZOS)


def _write(draw: ImageDraw.ImageDraw, lines: Sequence[str], corner: tuple[int, int], size: int, colour: Colour) -> int:
    """Writes lines below each other and returns where the next would begin."""
    left, top = corner
    for line in lines:
        draw.text((left, top), line, font=sans_font(size), fill=colour)
        top += _line_height(size)
    return top


def _line_height(size: int) -> int:
    return round(1.3 * size)
