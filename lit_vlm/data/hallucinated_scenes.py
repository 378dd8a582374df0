"""Describes drawn scenes in several sentences, some of them wrong, and tells of each in what way.

The labels are known by construction: an object that is not there, another size, colour or shape than it has, another
place than it has. A scene shows every shape at most once, so that a shape names one object.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from lit_vlm.data.embedded import EmbeddedDataModule, check_choice
from lit_vlm.data.levelled_tasks import LevelledTasks
from lit_vlm.data.scene_composition import LEVELS, Layout, Level, fill_in, spread, vary
from lit_vlm.data.scene_drawing import GRID, SHAPES, Description, SceneObject, draw_scene, place_objects
from lit_vlm.data.shape_scenes import split_of
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef, Sample, Split, assistant_message, user_message
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.interfaces.segments import HALLUCINATIONS, SEGMENT_LABELS, Hallucination

QUESTIONS = ("describe the picture.", "what do you see?", "list the objects.")
PLAIN = ("here is the picture.", "this is the picture.")
"""Sentences in which there is nothing to get wrong."""
PLACES = {"column": ("left of", "right of"), "row": ("above", "below")}
"""Words for a lower and a higher column or row."""
HALVES = {"column": ("on the left", "on the right"), "row": ("at the top", "at the bottom")}
"""Words for the half of the picture with the lower and the higher columns or rows."""


class _Mix(NamedTuple):
    """Shares of the kinds of sentences, and of those that are wrong."""

    objects: float
    """Sentences that name one object, with or without its looks."""
    places: float
    """Sentences that say where an object stands; the rest of the sentences say nothing."""
    halves: float
    """Share of these that name the half of the picture, as all do where there is one object; the others name a second
    object that it stands beside."""
    absent: float | None
    """Share of both kinds that name an object which is not there; None to name each shape at most once, whether it is
    there or not, so that the text does not tell by what it repeats."""
    bare: float
    """Share of the sentences that name objects by their shape only."""
    misdescribed: float
    """Share of the sentences that describe one object which is there, and describe it wrongly."""
    shapes: tuple[int, int] = (2, 3)
    """Fewest and most objects of a scene."""
    sentences: tuple[int, int] = (3, 5)
    """Fewest and most of a description."""


_MIXES: dict[Hallucination | None, _Mix] = {
    None: _Mix(0.45, 0.4, 0.3, 0.25, 0.2, 0.5),
    # One to three of the four shapes: on average half of what is named is there.
    "existence": _Mix(0.85, 0.0, 0.0, None, 0.4, 0.05, shapes=(1, 3)),
    "attribute": _Mix(0.9, 0.0, 0.0, None, 0.1, 0.5, shapes=(3, 4)),
    "relation": _Mix(0.05, 0.8, 0.7, 0.0, 0.4, 0.5, shapes=(1, 3), sentences=(4, 6)),
}


class Sentence(NamedTuple):
    """One sub-sentence of a description with its labels: -1 wrong, 0 nothing of the kind is said, 1 right.

    Looks and places are judged only of objects that are there.
    """

    text: str
    existence: int = 0
    attribute: int = 0
    relation: int = 0


@dataclass(frozen=True)
class HallucinatedSceneGenerator(LevelledTasks):
    """Draws scenes of coloured shapes and describes them, rightly and wrongly; every scene belongs to one split."""

    seed: int = 0
    """Names the data set: another seed gives other samples, but never moves a scene to another split."""
    subject: Hallucination | None = None
    """What most sentences can get wrong, so that its three labels are about equally frequent; None for a mixture."""
    levels: tuple[int, ...] = (1, 2)
    """Difficulties 1 to 5, drawn uniformly: from 3 on more colours, overlap, lines and noise."""
    image_size: int = 64
    """Side of the picture in pixels, at least 32."""

    name = "hallucinated_scenes"

    def __post_init__(self) -> None:
        if self.subject is not None:
            check_choice("subject", [self.subject], HALLUCINATIONS)
        check_choice("levels", self.levels, tuple(LEVELS))
        if self.image_size < 32:
            raise UserError(f"image_size is {self.image_size}; shapes need at least 32 pixels")

    @property
    def tasks(self) -> tuple[str, ...]:
        """One task: to describe."""
        return ("describe",)

    def sample(self, split: Split, index: int) -> Sample:
        """Builds one scene of the split and a description of it; ``meta.extra`` holds the labels of its sentences.

        Raises:
            UserError: There is no such split.
        """
        _, difficulty, stream = self._drawn(split, index)
        level = LEVELS[difficulty]
        mix = _MIXES[self.subject]
        layout = _layout(level, mix, stream)
        while split_of(layout) != split:
            layout = _layout(level, mix, stream)
        objects = place_objects(layout, self.image_size, level.clutter.overlap, stream)
        image = draw_scene(objects, self.image_size, level.clutter, stream)
        sentences = _sentences(objects, level, mix, stream)
        outline = self.outline(split, index)
        return replace(
            outline,
            messages=(
                user_message(stream.choice(QUESTIONS), images=1),
                assistant_message(" ".join(sentence.text for sentence in sentences)),
            ),
            images=(MediaRef(pil=image, size=image.size),),
            meta=replace(
                outline.meta,
                extra={
                    "objects": [{**item.looks._asdict(), "row": item.row, "column": item.column} for item in objects],
                    SEGMENT_LABELS: {
                        kind: [getattr(sentence, kind) for sentence in sentences] for kind in HALLUCINATIONS
                    },
                },
            ),
        )


class HallucinatedScenes(EmbeddedDataModule):
    """Serves descriptions of drawn scenes with labels of every sentence, to train models that judge sentences.

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        subject: What most sentences can get wrong: ``existence``, ``attribute`` or ``relation``; None for a mixture.
        levels: Difficulties 1 to 5, drawn uniformly.
        image_size: Side of the scene in pixels.
        seed: Names the data set.
        system_prompt: Put before every sample; None adds nothing.
        options: Sizes, batch sizes and workers, see ``EmbeddedDataModule``.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        subject: Hallucination | None = None,
        levels: Sequence[int] = (1, 2),
        image_size: int = 64,
        seed: int = 0,
        system_prompt: str | None = None,
        **options: Any,
    ) -> None:
        generator = HallucinatedSceneGenerator(seed, subject, tuple(levels), image_size)
        super().__init__([generator], encoder, system_prompt=system_prompt, **options)


def _layout(level: Level, mix: _Mix, stream: random.Random) -> Layout:
    """Chooses some of the shapes, their looks and their cells."""
    shapes = stream.sample(SHAPES, stream.randint(*mix.shapes))
    return spread([fill_in(level, Description(shape=shape), stream) for shape in shapes], stream)


def _sentences(objects: Sequence[SceneObject], level: Level, mix: _Mix, stream: random.Random) -> list[Sentence]:
    unnamed = stream.sample(SHAPES, len(SHAPES)) if mix.absent is None else []
    return [_sentence(objects, level, mix, unnamed, stream) for _ in range(stream.randint(*mix.sentences))]


def _sentence(
    objects: Sequence[SceneObject], level: Level, mix: _Mix, unnamed: list[str], stream: random.Random
) -> Sentence:
    choice = stream.random()
    if choice < mix.objects and (unnamed or mix.absent is not None):
        looks, is_absent = _looks_to_name(objects, level, mix, unnamed, stream)
        return _about_object(looks, is_absent, level, mix, stream)
    if mix.objects <= choice < mix.objects + mix.places:
        return _about_places(objects, level, mix, stream)
    return Sentence(stream.choice(PLAIN))


def _looks_to_name(
    objects: Sequence[SceneObject], level: Level, mix: _Mix, unnamed: list[str], stream: random.Random
) -> tuple[Description, bool]:
    """Chooses an object to name by its true looks, or one that is absent, and tells which; takes from ``unnamed``."""
    if mix.absent is None:
        shape = unnamed.pop()
        there = [item.looks for item in objects if item.looks.shape == shape]
        return (there[0], False) if there else (fill_in(level, Description(shape=shape), stream), True)
    if stream.random() < mix.absent:
        return fill_in(level, Description(shape=_absent_shape(objects, stream)), stream), True
    return stream.choice(objects).looks, False


def _about_object(looks: Description, is_absent: bool, level: Level, mix: _Mix, stream: random.Random) -> Sentence:
    named = () if stream.random() < mix.bare else stream.choice((("size",), ("colour",), ("size", "colour")))
    is_wrong = bool(named) and not is_absent and stream.random() < mix.misdescribed
    if is_wrong:
        looks = vary(level, looks, named, stream)
    said = Description(shape=looks.shape)._replace(**{name: getattr(looks, name) for name in named}).phrase
    attribute = 0 if is_absent or not named else -1 if is_wrong else 1
    article = "an" if said[0] in "aeiou" else "a"
    return Sentence(f"there is {article} {said}.", existence=-1 if is_absent else 1, attribute=attribute)


def _about_places(objects: Sequence[SceneObject], level: Level, mix: _Mix, stream: random.Random) -> Sentence:
    first, *others = stream.sample(objects, len(objects))
    is_half = not others or stream.random() < mix.halves
    if is_half:
        axis = stream.choice(tuple(HALVES))
        words, is_lower = HALVES[axis], getattr(first, axis) <= GRID // 2
    else:
        axis = stream.choice([axis for axis in PLACES if getattr(first, axis) != getattr(others[0], axis)])
        words, is_lower = PLACES[axis], getattr(first, axis) < getattr(others[0], axis)
    # Drawn without regard to the truth, so that no text tells which words are right.
    word = stream.choice(words)
    looks = [first.looks] if is_half else [first.looks, others[0].looks]
    is_absent = stream.random() < (mix.absent or 0.0)
    if is_absent:
        absent = Description(shape=_absent_shape(objects, stream))
        looks[stream.randrange(len(looks))] = fill_in(level, absent, stream)
    is_bare = stream.random() < mix.bare
    named = [Description("", "" if is_bare else one.colour, one.shape).phrase for one in looks]
    text = f"the {named[0]} is {word}." if is_half else f"the {named[0]} is {word} the {named[1]}."
    if is_absent:
        return Sentence(text, existence=-1)
    return Sentence(text, existence=1, relation=1 if (word == words[0]) == is_lower else -1)


def _absent_shape(objects: Sequence[SceneObject], stream: random.Random) -> str:
    return stream.choice([shape for shape in SHAPES if all(item.looks.shape != shape for item in objects)])
