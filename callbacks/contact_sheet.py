"""Draws completions as a sheet of cards: picture, question, completion, answer, verdict."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.records import Completion

CARD_WIDTH, PICTURE_HEIGHT, LINE_HEIGHT, MARGIN = 300, 128, 15, 8
RIGHT, WRONG, UNJUDGED, INK, PAPER, FRAME = (
    (22, 120, 60),
    (190, 30, 30),
    (110, 110, 110),
    (30, 30, 30),
    (255, 255, 255),
    (205, 205, 205),
)
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Line:
    """One line of a card."""

    text: str
    colour: Colour = INK


def verdict_colour(completion: Completion) -> Colour:
    """Green for right, red for wrong, grey where nothing can be compared."""
    if completion.verdict is None:
        return UNJUDGED
    return RIGHT if completion.verdict.correct else WRONG


def completion_lines(completion: Completion, label: str = "", longest: int = 4) -> list[Line]:
    """Wraps a completion to the width of a card, cut to ``longest`` lines, in the colour of its verdict."""
    text = " ".join(f"{label}{completion.text}".split()) or f"{label}(empty)"
    wrapped = textwrap.wrap(text, 46, max_lines=longest, placeholder=" …", break_long_words=True)
    return [Line(line, verdict_colour(completion)) for line in wrapped]


def draw_contact_sheet(rows: Sequence[Sequence[tuple[str, Completion]]], columns: int = 4) -> Image.Image:
    """Draws one card per sample.

    Args:
        rows: For each card the completions of one sample with a label each, such as before and after training.
        columns: Cards side by side, at least 1.

    Returns:
        An RGB image; as tall as its cards need.
    """
    cards = [_draw_card(row) for row in rows if row]
    if not cards:
        return Image.new("RGB", (CARD_WIDTH, LINE_HEIGHT), PAPER)
    columns = min(columns, len(cards))
    height = max(card.height for card in cards)
    sheet = Image.new("RGB", (columns * CARD_WIDTH, -(-len(cards) // columns) * height), PAPER)
    for index, card in enumerate(cards):
        sheet.paste(card, (index % columns * CARD_WIDTH, index // columns * height))
    return sheet


def _draw_card(row: Sequence[tuple[str, Completion]]) -> Image.Image:
    sample = row[0][1].sample
    lines = [Line(text) for text in textwrap.wrap(sample.question, 46, max_lines=5, placeholder=" …")]
    for label, completion in row:
        lines += completion_lines(completion, label)
    if sample.answer is not None:
        lines += [Line(text) for text in textwrap.wrap(f"answer: {sample.answer.value}", 46, max_lines=3)]
    picture = _picture(row[0][1])
    top = MARGIN + (picture.height + MARGIN if picture else 0)
    card = Image.new("RGB", (CARD_WIDTH, top + len(lines) * LINE_HEIGHT + MARGIN), PAPER)
    draw = ImageDraw.Draw(card)
    draw.rectangle((2, 2, CARD_WIDTH - 3, card.height - 3), outline=FRAME)
    if picture:
        card.paste(picture, (MARGIN, MARGIN))
    font = ImageFont.load_default(11)
    for index, line in enumerate(lines):
        draw.text((MARGIN, top + index * LINE_HEIGHT), line.text, fill=line.colour, font=font)
    return card


def _picture(completion: Completion) -> Image.Image | None:
    """Shows a sample's images side by side, small ones enlarged without smoothing."""
    images = [open_image(reference) for reference in completion.sample.images]
    if not images:
        return None
    width = (CARD_WIDTH - 2 * MARGIN) // len(images)
    strip = Image.new("RGB", (CARD_WIDTH - 2 * MARGIN, PICTURE_HEIGHT), PAPER)
    for index, image in enumerate(images):
        scale = min(width / image.width, PICTURE_HEIGHT / image.height)
        size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
        filtering = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
        strip.paste(image.resize(size, filtering), (index * width, 0))
    return strip
