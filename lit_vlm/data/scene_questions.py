"""Asks about scenes of coloured shapes: seven tasks, each with its question, its chain of thought and its answer.

Questions have one answer by construction: a name after "the" fits one object. Everything is lower case and in a
small fixed grammar, so that a tiny model can learn it.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lit_vlm.data.scene_composition import Layout, Level, choose_name, compose, fill_in, spread, vary
from lit_vlm.data.scene_drawing import GRID, SIZES, Description, SceneObject
from lit_vlm.interfaces.records import Answer


class UnanswerableError(ValueError):
    """Says that a question has no answer among the objects that are seen."""


@dataclass(frozen=True)
class Draft:
    """A scene that is not yet placed, and what is asked of it."""

    layout: Layout
    question: str
    solve: Callable[[Sequence[SceneObject]], tuple[str, str, Answer]]
    """Placed objects in reading order -> thought, answer in words, answer.

    Raises:
        UnanswerableError: What is asked about is not among the objects, or there more than once.
    """


def _count(level: Level, coin: float, stream: random.Random) -> Draft:
    kind = stream.choice(
        (
            Description(size=stream.choice(SIZES)),
            Description(colour=stream.choice(level.colours)),
            Description(shape=stream.choice(level.shapes)),
            Description(colour=stream.choice(level.colours), shape=stream.choice(level.shapes)),
        )
    )
    matching = int(coin * (level.objects[1] + 1))
    scene = compose(level, [fill_in(level, kind, stream) for _ in range(matching)], [kind], stream)
    question = stream.choice(("how many {}s are there?", "how many {}s do you see?", "count the {}s."))

    def solve(objects: Sequence[SceneObject]) -> tuple[str, str, Answer]:
        counted, total = _counted(objects, kind)
        return f"{counted}. so {total}.", str(total), Answer("number", str(total))

    return Draft(spread(scene, stream), question.format(kind.phrase), solve)


def _existence(level: Level, coin: float, stream: random.Random) -> Draft:
    kind = choose_name(level, stream)
    looks = fill_in(level, kind, stream)
    if coin < 0.5:
        scene = compose(level, [looks], [], stream)
    else:
        asked = ("size", "colour", "shape") if kind.size else ("colour", "shape")
        scene = compose(level, [vary(level, looks, asked, stream)], [kind], stream)
    question = stream.choice(("is there {}?", "do you see {}?", "does the picture show {}?"))

    def solve(objects: Sequence[SceneObject]) -> tuple[str, str, Answer]:
        seen = ", ".join(_short(item.looks, kind) for item in objects)
        exists = any(kind.matches(item.looks) for item in objects)
        found = f"{kind.phrase} is there" if exists else f"no {kind.phrase}"
        return _yes_or_no(f"{seen}. {found}.", exists)

    return Draft(spread(scene, stream), question.format(_an(kind.phrase)), solve)


def _compare(level: Level, coin: float, stream: random.Random) -> Draft:
    if stream.random() < 0.5:
        first, second = (Description(colour=colour) for colour in stream.sample(level.colours, 2))
    else:
        first, second = (Description(shape=shape) for shape in stream.sample(level.shapes, 2))
    is_yes_or_no = stream.random() < 0.5
    most = level.objects[1]
    # Ties are a fifth of the cases; where yes or no is asked they are part of the half that is no.
    if coin >= 0.8:
        counts = [stream.randint(1, most // 2)] * 2
    else:
        larger = stream.randint(1, most)
        counts = [larger, stream.randint(0, min(larger - 1, most - larger))]
        if coin >= (0.5 if is_yes_or_no else 0.4):
            counts.reverse()
    wanted = [
        fill_in(level, kind, stream) for kind, count in zip((first, second), counts, strict=True) for _ in range(count)
    ]
    scene = compose(level, wanted, [first, second], stream)
    if is_yes_or_no:
        question = stream.choice(("are there more {}s than {}s?", "do you see more {}s than {}s?"))
    else:
        question = stream.choice(
            ("are there more {}s, more {}s, or are they equal?", "which are more, {}s or {}s, or are they equal?")
        )

    def solve(objects: Sequence[SceneObject]) -> tuple[str, str, Answer]:
        first_listed, first_total = _counted(objects, first)
        second_listed, second_total = _counted(objects, second)
        thought = (
            f"{first.phrase}s: {first_listed}. {second.phrase}s: {second_listed}. "
            f"{first_total} {_sign(first_total, second_total)} {second_total}."
        )
        if is_yes_or_no:
            return _yes_or_no(thought, first_total > second_total)
        if first_total == second_total:
            return f"{thought} so equal.", "equal", Answer("text", "equal")
        winner = first if first_total > second_total else second
        words = f"{winner.phrase}s"
        accept = (winner.colour,) if winner.colour else (winner.phrase,)
        return f"{thought} so {words}.", words, Answer("text", words, accept=accept)

    return Draft(spread(scene, stream), question.format(first.phrase, second.phrase), solve)


def _spatial_relation(level: Level, coin: float, stream: random.Random) -> Draft:
    first = second = choose_name(level, stream)
    first_looks = second_looks = fill_in(level, first, stream)
    while first.matches(second_looks) or second.matches(first_looks):
        second = choose_name(level, stream)
        second_looks = fill_in(level, second, stream)
    scene = compose(level, [first_looks, second_looks], [first, second], stream)
    axis, words = stream.choice((("column", ("left of", "right of")), ("row", ("above", "below"))))
    is_yes_or_no = stream.random() < 0.5
    asked = stream.choice(words) if is_yes_or_no else words[0]
    is_lower = (coin < 0.5) == (asked == words[0])
    layout = spread(scene, stream)
    while not _is_ordered(layout, first, second, axis, is_lower):
        layout = spread(scene, stream)
    either = "left or right of" if axis == "column" else "above or below"
    question = stream.choice(("is the {} {} the {}?", "does the {} stand {} the {}?")).format(
        first.phrase, asked if is_yes_or_no else either, second.phrase
    )

    def solve(objects: Sequence[SceneObject]) -> tuple[str, str, Answer]:
        here, there = (int(getattr(_find(objects, kind), axis)) for kind in (first, second))
        truth = words[0] if here < there else words[1]
        thought = f"{first.phrase} {axis} {here}. {second.phrase} {axis} {there}. {here} {_sign(here, there)} {there}."
        if is_yes_or_no:
            return _yes_or_no(f"{thought} {truth}.", truth == asked)
        word = truth.removesuffix(" of")
        return f"{thought} so {word}.", word, Answer("text", word, accept=(truth,) if truth != word else ())

    return Draft(layout, question, solve)


def _is_ordered(layout: Layout, first: Description, second: Description, axis: str, is_lower: bool) -> bool:
    """Tells whether the first stands in a lower (else a higher) row or column than the second."""
    places = []
    for kind in (first, second):
        (cell,) = (cell for cell, looks in layout if kind.matches(looks))
        places.append(cell % GRID if axis == "column" else cell // GRID)
    return places[0] < places[1] if is_lower else places[0] > places[1]


def _locate_box(level: Level, coin: float, stream: random.Random) -> Draft:
    kind = choose_name(level, stream)
    scene = compose(level, [fill_in(level, kind, stream)], [kind], stream)
    question = stream.choice(("draw a box around the {}.", "box the {}.", "what is the box of the {}?"))

    def solve(objects: Sequence[SceneObject]) -> tuple[str, str, Answer]:
        item = _find(objects, kind)
        left, top, right, bottom = item.box
        thought = (
            f"{kind.phrase} in row {item.row} column {item.column}. "
            f"left {left}, top {top}, right {right}, bottom {bottom}."
        )
        return thought, str(item.box), Answer("boxes", [item.box], coords="pixel", tolerance=0.5)

    return Draft(spread(scene, stream), question.format(kind.phrase), solve)


def _locate_point(level: Level, coin: float, stream: random.Random) -> Draft:
    kind = choose_name(level, stream)
    scene = compose(level, [fill_in(level, kind, stream)], [kind], stream)
    question = stream.choice(("point at the {}.", "point to the {}.", "where is the middle of the {}?"))

    def solve(objects: Sequence[SceneObject]) -> tuple[str, str, Answer]:
        item = _find(objects, kind)
        left, top, right, bottom = item.box
        middle, height = item.centre
        thought = (
            f"{kind.phrase} in row {item.row} column {item.column}. "
            f"left {left}, right {right}, middle {middle}. top {top}, bottom {bottom}, middle {height}."
        )
        return thought, str(item.centre), Answer("point_in_box", item.box, coords="pixel")

    return Draft(spread(scene, stream), question.format(kind.phrase), solve)


def _describe(level: Level, coin: float, stream: random.Random) -> Draft:
    question = stream.choice(("describe the picture.", "what do you see?", "list the objects."))

    def solve(objects: Sequence[SceneObject]) -> tuple[str, str, Answer]:
        standing = {(item.row, item.column): item.looks.phrase for item in objects}
        # Every cell has its word, so that the n-th word of a row is about the n-th piece of the picture: a tiny model
        # learns to look from this.
        rows = [
            f"row {row}: {', '.join(standing.get((row, column), '-') for column in range(1, GRID + 1))}."
            for row in range(1, GRID + 1)
        ]
        phrases = [item.looks.phrase for item in objects]
        return " ".join(rows), ", ".join(phrases), Answer("list", phrases)

    return Draft(spread(compose(level, [], [], stream), stream), question, solve)


QUESTIONS: dict[str, Callable[[Level, float, random.Random], Draft]] = {
    "count": _count,
    "existence": _existence,
    "compare": _compare,
    "spatial_relation": _spatial_relation,
    "locate_box": _locate_box,
    "locate_point": _locate_point,
    "describe": _describe,
}
"""Task -> what draws its question, from a level, a coin in [0, 1) that decides the answer, and a stream."""


def _an(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def _short(looks: Description, kind: Description) -> str:
    """Names an object by colour and shape, and by size where that is asked for."""
    return (looks if kind.size else looks._replace(size="")).phrase


def _counted(objects: Sequence[SceneObject], kind: Description) -> tuple[str, int]:
    """Lists the matching objects with a running count."""
    found = [_short(item.looks, kind) for item in objects if kind.matches(item.looks)]
    return ", ".join(f"{name} {number}" for number, name in enumerate(found, 1)) or "none", len(found)


def _find(objects: Sequence[SceneObject], kind: Description) -> SceneObject:
    found = [item for item in objects if kind.matches(item.looks)]
    if len(found) != 1:
        raise UnanswerableError(f"{len(found)} objects are a {kind.phrase}")
    return found[0]


def _sign(first: int, second: int) -> str:
    return ">" if first > second else "<" if first < second else "="


def _yes_or_no(thought: str, truth: bool) -> tuple[str, str, Answer]:
    word = "yes" if truth else "no"
    return f"{thought} so {word}.", word, Answer("yesno", word)
