"""Questions about one small place of a scene: find it, look at the crop, read the handwritten digit there."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from lit_vlm.data.embedded import EmbeddedDataModule, check_choice
from lit_vlm.data.focus_names import NAMES, Names
from lit_vlm.data.handwritten_digits import draw_digit, scans_of_split
from lit_vlm.data.levelled_tasks import LevelledTasks
from lit_vlm.data.scene_composition import LEVELS, spread
from lit_vlm.data.scene_drawing import Clutter, Description, SceneObject, draw_scene, place_objects
from lit_vlm.data.scripted_attempts import write_box
from lit_vlm.functional.boxes import Box, box_iou
from lit_vlm.functional.focus_boxes import crop_to_box
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, MediaRef, Sample, Split, assistant_message, user_message
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.parsing.answers import check_answer

SHAPES = ("circle", "square")
"""Shapes with room for a digit."""
QUESTIONS = ("which digit is written in the {}?", "What digit is in the {}?", "Read the digit in the {}.")
LOOK = "Which digit is this?"
OBJECTS = {1: 2, 2: 3, 3: 4}
"""Objects of a scene, by difficulty."""
TASKS = tuple(NAMES)
DIGIT_SHARE = 0.75
"""Side of a digit as a share of the side of its shape."""


@dataclass(frozen=True)
class FocusSceneGenerator(LevelledTasks):
    """Draws shapes with a handwritten digit in each, and asks for the digit in one of them, in two steps.

    The first answer is the box of the shape, in pixels of the picture; then the crop is shown, many times larger, and
    the second answer is the digit. Digits are scans of the split alone, and no two objects of a scene look alike. The
    task says how a question names the shape: ``looks`` (the red circle), ``cell`` (the object in row 2, column 3) or
    ``side`` (the left object).
    """

    seed: int = 0
    """Names the data set: another seed gives other scenes of the same scans."""
    levels: tuple[int, ...] = (1, 2)
    """Difficulties 1 to 3, drawn uniformly: two, three or four objects; from 2 on grain."""
    image_size: int = 64
    """Side of the picture in pixels, at least 64."""
    crop_size: int = 64
    """Longer side of the crop in pixels, as it is shown."""
    tasks: tuple[str, ...] = ("looks",)
    """Tasks to ask, drawn uniformly."""

    name = "focus_scenes"

    def __post_init__(self) -> None:
        check_choice("tasks", self.tasks, TASKS)
        for level in self.levels:
            if level not in OBJECTS:
                raise UserError(f"levels holds {level}, which there is not; choose one or more of {list(OBJECTS)}")
        if not self.levels:
            raise UserError(f"levels is empty; choose one or more of {list(OBJECTS)}")
        if self.image_size < 64:
            raise UserError(f"image_size is {self.image_size}; digits in shapes need at least 64 pixels")
        if self.crop_size < 16:
            raise UserError(f"crop_size is {self.crop_size}; give at least 16 pixels")

    def sample(self, split: Split, index: int) -> Sample:
        """Builds one scene and its question.

        Returns:
            A sample with two trained turns and two images, the scene and the crop of the true box. Its answer is the
            digit; ``meta.extra`` holds the true ``box`` and the ``objects``.

        Raises:
            UserError: There is no such split.
        """
        task, level, stream = self._drawn(split, index)
        kinds = [Description("large", colour, shape) for colour in LEVELS[level].colours for shape in SHAPES]
        names: Names = []
        while not names:  # four objects in the corners of a rectangle: none lies further to one side than all others
            layout = spread(stream.sample(kinds, OBJECTS[level]), stream)
            objects = place_objects(layout, self.image_size, 0.0, stream)
            names = NAMES[task](objects)
        digits = [stream.randrange(10) for _ in objects]
        scans = [stream.choice(scans_of_split(split)[digit]) for digit in digits]
        image = self._draw(objects, scans, LEVELS[level].clutter, stream)
        asked, name = stream.choice(names)
        box, digit = asked.box, str(digits[objects.index(asked)])
        question = stream.choice(QUESTIONS).format(name)
        crop = crop_to_box(image, box, self.crop_size)
        outline = self.outline(split, index)
        return replace(
            outline,
            messages=(
                user_message(question, images=1),
                assistant_message(write_box(box)),
                user_message(LOOK, images=1, first_image=1),
                assistant_message(f"<answer>{digit}</answer>"),
            ),
            images=tuple(MediaRef(pil=picture, size=picture.size) for picture in (image, crop)),
            answer=Answer("number", digit),
            meta=replace(
                outline.meta,
                extra={
                    "box": list(box),
                    "objects": [
                        {"looks": item.looks.phrase, "box": list(item.box), "digit": one, "scan": scan}
                        for item, one, scan in zip(objects, digits, scans, strict=True)
                    ],
                },
            ),
        )

    def _draw(
        self, objects: Sequence[SceneObject], scans: Sequence[int], clutter: Clutter, stream: random.Random
    ) -> Image.Image:
        """Draws the shapes, and the scans on them in dark ink."""
        image = draw_scene(objects, self.image_size, clutter, stream)
        for item, scan in zip(objects, scans, strict=True):
            left, top, right, _ = item.box
            side = round((right - left) * DIGIT_SHARE)
            margin = (right - left - side) // 2
            strokes = Image.new("L", image.size)
            draw_digit(strokes, scan, (left + margin, top + margin), side, stream.uniform(-10, 10), 255)
            image.paste((8, 8, 8), mask=strokes)
        return image


def judge_by_truth(sample: Sample, box: Box, text: str) -> tuple[float, float]:
    """Scores a trace by the truth: 1 for a right answer, else 0; and how well the box covers the true one (Dice).

    Args:
        sample: A sample of ``FocusSceneGenerator``.
        box: Where was looked, in pixels.
        text: What was answered.

    Returns:
        The answer's score and the box's: twice the area that both boxes share, divided by the sum of their areas. It
        is above 0.8 where the IoU is above 2/3.
    """
    if sample.answer is None:
        raise ValueError(f"{sample.id} has no answer to judge by")
    left, top, right, bottom = sample.meta.extra["box"]
    overlap = box_iou(box, (left, top, right, bottom))
    return float(check_answer(text, sample.answer).correct), 2 * overlap / (1 + overlap)


class FocusScenes(EmbeddedDataModule):
    """Serves questions about one small place of a scene, each in two steps: the box, then the digit in its crop.

    Validation as every module does it asks for the second step, behind the true box; the callback
    ``FocusBoxEvaluation`` measures both steps with the model's own boxes.

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        tasks: How questions name the shape that is meant, ``looks``, ``cell`` or ``side``, drawn uniformly.
        levels: Difficulties 1 to 3, drawn uniformly.
        image_size: Side of the scene in pixels.
        crop_size: Longer side of the crop in pixels, as it is shown.
        seed: Names the data set.
        system_prompt: Put before every sample; None adds nothing.
        options: Sizes, batch sizes and workers, see ``EmbeddedDataModule``.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        tasks: Sequence[str] = ("looks",),
        levels: Sequence[int] = (1, 2),
        image_size: int = 64,
        crop_size: int = 64,
        seed: int = 0,
        system_prompt: str | None = None,
        **options: Any,
    ) -> None:
        generator = FocusSceneGenerator(seed, tuple(levels), image_size, crop_size, tuple(tasks))
        super().__init__([generator], encoder, system_prompt=system_prompt, **options)
