"""What must hold for every sample, whatever it was read from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, ImagePart, Message, Sample, TextPart, VideoPart
from lit_vlm.parsing.ground_truth import true_boxes

CLIPPED_BOXES = "boxes that reach beyond the picture (clipped)"
_LARGEST = {"norm1": 1.0, "norm1000": 1000.0}


def check_sample(sample: Sample, *, needs_completion: bool) -> None:
    """Checks the indices of media, and that there is something to learn or to answer.

    Args:
        sample: The sample.
        needs_completion: Whether it must end with an assistant's turn and train at least one.

    Raises:
        UserError: A part points at no medium, a medium is never shown, or there is nothing to learn or no question;
            the turns are not in an order that chat templates write, or a text cannot be encoded.
    """
    parts = [part for message in sample.messages for part in message.content]
    for kind, media, shown in (
        ("image", sample.images, {part.index for part in parts if isinstance(part, ImagePart)}),
        ("video", sample.videos, {part.index for part in parts if isinstance(part, VideoPart)}),
    ):
        if shown != set(range(len(media))):
            raise UserError(f"the turns show the {kind}s {sorted(shown)}, and there are {len(media)}")
    if not sample.prompt or all(message.role == "system" for message in sample.prompt):
        raise UserError("there is no question before the answer; a conversation needs a user's turn")
    _check_order(sample.messages)
    if not needs_completion:
        return
    if sample.messages[-1].role != "assistant":
        raise UserError(
            f"the last turn is of role {sample.messages[-1].role!r}; training needs an assistant's turn at the end"
        )
    trained = [message for message in sample.messages if message.role == "assistant" and message.train]
    if not trained:
        raise UserError("no assistant's turn is marked for training, so there is nothing to learn")
    if not all(message.text.strip() for message in trained):
        raise UserError("an assistant's turn that is to be learnt is empty")


def _check_order(messages: Sequence[Message]) -> None:
    """Refuses what chat templates refuse or lose: a late system turn, an assistant that begins, an empty question."""
    for number, message in enumerate(messages, start=1):
        if message.role == "system" and number > 1:
            raise UserError(f"turn {number} is a system turn; only the first turn may be one, so join or move it")
        if (
            message.role == "user"
            and not message.text.strip()
            and all(isinstance(p, TextPart) for p in message.content)
        ):
            raise UserError(f"turn {number} is a user's turn without text, image or video")
        try:
            message.text.encode("utf-8")
        except UnicodeEncodeError as fault:
            raise UserError(
                f"turn {number} holds {ascii(fault.object[fault.start])}, half of a character; write its text as UTF-8"
            ) from fault
    first = next(message for message in messages if message.role != "system")
    if first.role != "user":
        raise UserError(
            f"the conversation begins with a turn of role {first.role!r}; it must begin with the user's, so leave that "
            "turn out or put a question before it"
        )


def clip_boxes(answer: Answer) -> tuple[Answer, bool]:
    """Clips boxes in relative coordinates to the picture.

    Returns:
        The answer, and whether any box was changed.

    Raises:
        UserError: A box lies outside, or has no area.
    """
    largest = _LARGEST.get(answer.coords or "")
    if answer.type != "boxes" or largest is None:
        return answer, False
    boxes: list[Any] = true_boxes(answer)
    clipped = [tuple(min(max(number, 0.0), largest) for number in box) for box in boxes]
    if clipped == boxes:
        return answer, False
    if any(box[0] >= box[2] or box[1] >= box[3] for box in clipped):
        raise UserError(f"the boxes {boxes} lie outside 0 to {largest:g}; is data.coordinates right?")
    return replace(answer, value=clipped), True
