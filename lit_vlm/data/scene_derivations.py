"""How the answers to questions about scenes are derived, sentence by sentence, from the scene and the sentences before.

The sentences are those of ``lit_vlm.data.scene_questions``; here they are made anew from the objects of the scene.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any

from lit_vlm.data.derivation_slots import COMPARISON, NUMBER, Derivation, Slot, sign_between
from lit_vlm.data.scene_drawing import COLOURS, GRID, SHAPES, SIZES, Description
from lit_vlm.functional.boxes import box_iou, interval_iou

Scene = Sequence[Mapping[str, Any]]
"""The objects in reading order, as ``ShapeSceneGenerator`` leaves them in ``meta.extra``."""
LEAST_OVERLAP = 0.5
"""Intersection over union, of boxes or of their extents, up to which a place is wrong."""

_NAME = rf"(?:(?:{'|'.join(SIZES)}) )?(?:{'|'.join(COLOURS)}) (?:{'|'.join(SHAPES)})"
_KIND = rf"(?:(?:{'|'.join(SIZES)}) )?(?:(?:{'|'.join(COLOURS)}) )?(?:{'|'.join(SHAPES)}|object)"
_TALLY = rf"(?:none|{_NAME} [0-9]{{1,3}}(?:, {_NAME} [0-9]{{1,3}})*)"
_COUNTED = re.compile(rf"({_NAME}) ([0-9]+)(?=,|$)")
_LISTED = re.compile(rf"(?:{_NAME}(?:, {_NAME})*)?")
_ROW = re.compile(rf"row [0-9]: ({_NAME}|-)(?:, (?:{_NAME}|-))*")
_THERE = re.compile(rf"({_KIND}) is there|no ({_KIND})")
_YES_OR_NO = re.compile(r"so (yes|no)")
_SIDES = re.compile(rf"left {NUMBER}, top {NUMBER}, right {NUMBER}, bottom {NUMBER}")
_RELATIONS = {"column": ("left of", "right of"), "row": ("above", "below")}
_ASKS_COUNT = re.compile(rf"(?:how many|count the) ({_KIND})s\b")
_ASKS_EXISTENCE = re.compile(rf"\ban? ({_KIND})\?")
_ASKS_COMPARISON = re.compile(rf"({_KIND})s(?: than|, more| or) ({_KIND})s\b")
_ASKS_PLACE = re.compile(rf"the ({_KIND})[.?]$")
_ASKS_RELATION = re.compile(
    rf"the ({_KIND}) (?:stand )?(left or right of|above or below|left of|right of|above|below) the ({_KIND})\?$"
)


def scene_derivation(task: str, question: str, scene: Scene) -> Derivation:
    """Returns how a question about a scene is answered.

    Args:
        task: The kind of the question, such as ``count``.
        question: Its words, which name the objects that it is about.
        scene: The objects.

    Raises:
        ValueError: There is no such task, or the question names no objects as this task does.
    """
    if task not in _DERIVATIONS:
        raise ValueError(f"there is no task {task!r} about scenes")
    return _DERIVATIONS[task](question, scene)


def _count(question: str, scene: Scene) -> Derivation:
    kind = _kind(_asked(_ASKS_COUNT, question)[1])
    form = re.compile(_TALLY)
    found = yield Slot(form, _tally(scene, kind), lambda said: _error_of_tally(said.group(), scene, kind))
    found = yield Slot(re.compile(rf"so {NUMBER}"), f"so {_total(found.group())}", "reasoning")
    return found[1]


def _existence(question: str, scene: Scene) -> Derivation:
    kind = _kind(_asked(_ASKS_EXISTENCE, question)[1])
    seen = yield Slot(_LISTED, ", ".join(_short(item, kind) for item in scene), "visual interpretation")
    named = [_kind(name) for name in seen.group().split(", ") if name]
    exists = any(kind.matches(name) for name in named)
    right = f"{kind.phrase} is there" if exists else f"no {kind.phrase}"
    found = yield Slot(
        _THERE, right, lambda said: _of_question((said[1] or said[2]) == kind.phrase, otherwise="reasoning")
    )
    found = yield Slot(_YES_OR_NO, f"so {'no' if found[2] else 'yes'}", "reasoning")
    return found[1]


def _compare(question: str, scene: Scene) -> Derivation:
    kinds = [_kind(phrase) for phrase in _asked(_ASKS_COMPARISON, question).groups()]
    totals = []
    for kind in kinds:
        found = yield Slot(
            re.compile(rf"({_KIND})s: ({_TALLY})"),
            f"{kind.phrase}s: {_tally(scene, kind)}",
            _error_of_named_tally(scene, kind),
        )
        totals.append(_total(found[2]))
    first, second = totals
    found = yield Slot(COMPARISON, f"{first} {sign_between(first, second)} {second}", "reasoning")
    if "equal" not in question:
        found = yield Slot(_YES_OR_NO, f"so {'yes' if found[2] == '>' else 'no'}", "reasoning")
        return found[1]
    words = {">": f"{kinds[0].phrase}s", "<": f"{kinds[1].phrase}s", "=": "equal"}[found[2]]
    found = yield Slot(re.compile(rf"so ({_KIND}s|equal)"), f"so {words}", "reasoning")
    return found[1]


def _spatial_relation(question: str, scene: Scene) -> Derivation:
    asked = _asked(_ASKS_RELATION, question)
    axis = "column" if "left" in asked[2] or "right" in asked[2] else "row"
    places = []
    for phrase in (asked[1], asked[3]):
        found = yield Slot(
            re.compile(rf"({_KIND}) (column|row) {NUMBER}"),
            f"{phrase} {axis} {_the(scene, phrase)[axis]}",
            _error_of_name(phrase, axis),
        )
        places.append(int(found[3]))
    here, there = places
    found = yield Slot(COMPARISON, f"{here} {sign_between(here, there)} {there}", "reasoning")
    words = _RELATIONS[axis]
    truth = words[0] if found[2] == "<" else words[1]
    if " or " in asked[2]:
        form = re.compile("so (left|right|above|below)")
        found = yield Slot(form, f"so {truth.removesuffix(' of')}", "reasoning")
        return found[1]
    found = yield Slot(re.compile("left of|right of|above|below"), truth, "reasoning")
    found = yield Slot(_YES_OR_NO, f"so {'yes' if found.group() == asked[2] else 'no'}", "reasoning")
    return found[1]


def _locate_box(question: str, scene: Scene) -> Derivation:
    box = (yield from _cell(question, scene))["box"]
    left, top, right, bottom = box
    found = yield Slot(
        _SIDES,
        f"left {left}, top {top}, right {right}, bottom {bottom}",
        "visual interpretation",
        lambda said: _is_in_place(_numbers(said), box),
    )
    return f"({', '.join(found.groups())})"


def _locate_point(question: str, scene: Scene) -> Derivation:
    left, top, right, bottom = (yield from _cell(question, scene))["box"]
    middle = yield from _middle(("left", "right"), (left, right))
    height = yield from _middle(("top", "bottom"), (top, bottom))
    return f"({middle}, {height})"


def _middle(names: tuple[str, str], truth: tuple[int, int]) -> Derivation:
    """An extent of an object, and its middle."""

    def is_seen(said: re.Match[str]) -> bool:
        low, high, _ = _numbers(said)
        return low < high and interval_iou((low, high), truth) > LEAST_OVERLAP

    def is_halved(said: re.Match[str]) -> bool:
        low, high, middle = _numbers(said)
        return abs(2 * middle - low - high) <= 1

    def halved(low: int, high: int) -> str:
        return f"{names[0]} {low}, {names[1]} {high}, middle {(low + high) // 2}"

    found = yield Slot(
        re.compile(rf"{names[0]} {NUMBER}, {names[1]} {NUMBER}, middle {NUMBER}"),
        halved(*truth),
        lambda said: "numerical calculation" if is_seen(said) else "visual interpretation",
        lambda said: is_seen(said) and is_halved(said),
        lambda said: halved(int(said[1]), int(said[2])) if is_seen(said) else halved(*truth),
    )
    return found[3]


def _cell(question: str, scene: Scene) -> Generator[Slot, re.Match[str], Mapping[str, Any]]:
    phrase = _asked(_ASKS_PLACE, question)[1]
    item = _the(scene, phrase)
    yield Slot(
        re.compile(rf"({_KIND}) in row [0-9] column [0-9]"),
        f"{phrase} in row {item['row']} column {item['column']}",
        _error_of_name(phrase),
    )
    return item


def _describe(question: str, scene: Scene) -> Derivation:
    standing = {(item["row"], item["column"]): _looks(item).phrase for item in scene}
    named = []
    for row in range(1, GRID + 1):
        cells = ", ".join(standing.get((row, column), "-") for column in range(1, GRID + 1))
        found = yield Slot(_ROW, f"row {row}: {cells}", "visual interpretation")
        named += [name for name in found.group().partition(": ")[2].split(", ") if name != "-"]
    return ", ".join(named)


_DERIVATIONS: dict[str, Callable[[str, Scene], Derivation]] = {
    "count": _count,
    "existence": _existence,
    "compare": _compare,
    "spatial_relation": _spatial_relation,
    "locate_box": _locate_box,
    "locate_point": _locate_point,
    "describe": _describe,
}


def _asked(form: re.Pattern[str], question: str) -> re.Match[str]:
    found = form.search(question)
    if found is None:
        raise ValueError(f"the question {question!r} does not ask as this task does")
    return found


def _kind(phrase: str) -> Description:
    words = phrase.split()
    return Description(
        next((word for word in words if word in SIZES), ""),
        next((word for word in words if word in COLOURS), ""),
        next((word for word in words if word in SHAPES), ""),
    )


def _looks(item: Mapping[str, Any]) -> Description:
    return Description(item["size"], item["colour"], item["shape"])


def _short(item: Mapping[str, Any], kind: Description) -> str:
    """Names an object by colour and shape, and by size where that is asked for."""
    looks = _looks(item)
    return (looks if kind.size else looks._replace(size="")).phrase


def _the(scene: Scene, phrase: str) -> Mapping[str, Any]:
    (item,) = (item for item in scene if _kind(phrase).matches(_looks(item)))
    return item


def _tally(scene: Scene, kind: Description) -> str:
    found = [_short(item, kind) for item in scene if kind.matches(_looks(item))]
    return ", ".join(f"{name} {number}" for number, name in enumerate(found, 1)) or "none"


def _total(tally: str) -> int:
    """The last number that was counted."""
    counted = _COUNTED.findall(tally)
    return int(counted[-1][1]) if counted else 0


def _error_of_tally(said: str, scene: Scene, kind: Description) -> str:
    names = [name for name, _ in _COUNTED.findall(said)]
    if not all(kind.matches(_kind(name)) for name in names):
        return "question understanding"
    is_seen = names == [name for name, _ in _COUNTED.findall(_tally(scene, kind))]
    return "numerical calculation" if is_seen else "visual interpretation"


def _error_of_named_tally(scene: Scene, kind: Description) -> Callable[[re.Match[str]], str]:
    def told(said: re.Match[str]) -> str:
        return _of_question(said[1] == kind.phrase, otherwise=_error_of_tally(said[2], scene, kind))

    return told


def _error_of_name(*asked: str) -> Callable[[re.Match[str]], str]:
    """What is asked about stands in the first groups; the rest is seen."""
    return lambda said: _of_question(said.groups()[: len(asked)] == asked, otherwise="visual interpretation")


def _of_question(is_what_was_asked: bool, otherwise: str) -> str:
    return otherwise if is_what_was_asked else "question understanding"


def _numbers(said: re.Match[str]) -> tuple[int, ...]:
    return tuple(map(int, said.groups()))


def _is_in_place(said: Sequence[int], box: Sequence[int]) -> bool:
    left, top, right, bottom = said
    is_box = left < right and top < bottom
    return is_box and box_iou((left, top, right, bottom), (box[0], box[1], box[2], box[3])) > LEAST_OVERLAP
