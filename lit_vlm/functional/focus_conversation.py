"""Conversations in two steps: say where to look, then answer from the crop of that place.

Messages are: a system turn where there is one, a user turn with the image and the question, the assistant's box, a user
turn with the crop, the assistant's answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from PIL import Image

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import ImagePart, MediaRef, Message, Part, Sample, assistant_message


@dataclass(frozen=True)
class FocusConversation:
    """The pieces of a sample in two steps."""

    question: tuple[Message, ...]
    """What stands before the box: a system turn where there is one, and the image with the question."""
    box: Message
    """The assistant's box."""
    look: Message
    """The user's turn with the crop."""
    image: int
    """Index of the image that the box lies in."""
    crop: int
    """Index of the crop."""


def focus_conversation(sample: Sample) -> FocusConversation:
    """Takes a sample in two steps apart.

    Raises:
        BadSampleError: It has other turns, or shows another number of images in one of the user's turns.
    """
    roles = [message.role for message in sample.messages]
    first = 1 if roles[:1] == ["system"] else 0
    if roles[first : first + 3] != ["user", "assistant", "user"] or roles[first + 3 :] not in ([], ["assistant"]):
        raise BadSampleError(
            sample.meta.origin or sample.id,
            f"its turns are {', '.join(roles) or 'none'}; a focus box needs user (image, question), assistant (box), "
            "user (crop) and perhaps assistant (answer)",
        )
    question, box, look = sample.messages[: first + 1], sample.messages[first + 1], sample.messages[first + 2]
    return FocusConversation(question, box, look, _image_of(sample, question[-1]), _image_of(sample, look))


def box_step(sample: Sample) -> Sample:
    """Leaves of a sample what is read before the box is chosen."""
    pieces = focus_conversation(sample)
    return with_shown_images(replace(sample, messages=pieces.question, candidates=(), preferences=()))


def answer_step(sample: Sample, box: str, crop: Image.Image) -> Sample:
    """Makes of a sample what is read before it is answered, once a box is chosen.

    Args:
        sample: A sample in two steps.
        box: The assistant's turn, as it was written.
        crop: What the user's second turn shows.
    """
    pieces = focus_conversation(sample)
    look = Message("user", show(pieces.look.content, len(sample.images)), pieces.look.train)
    return with_shown_images(
        replace(
            sample,
            messages=(*pieces.question, assistant_message(box), look),
            images=(*sample.images, MediaRef(pil=crop, size=crop.size)),
            candidates=(),
            preferences=(),
        )
    )


def show(content: Sequence[Part], image: int) -> tuple[Part, ...]:
    """Returns a turn's parts, with every image replaced by image ``image``."""
    return tuple(ImagePart(image) if isinstance(part, ImagePart) else part for part in content)


def with_shown_images(sample: Sample) -> Sample:
    """Leaves out the images that no message or preference shows, and numbers the others anew."""
    turns = [*sample.messages]
    for preference in sample.preferences:
        turns += [*(preference.prompt or ()), *preference.chosen, *preference.rejected]
    shown = sorted({part.index for turn in turns for part in turn.content if isinstance(part, ImagePart)})
    number = {index: place for place, index in enumerate(shown)}

    def renumbered(messages: Sequence[Message]) -> tuple[Message, ...]:
        return tuple(
            replace(
                message,
                content=tuple(
                    ImagePart(number[part.index]) if isinstance(part, ImagePart) else part for part in message.content
                ),
            )
            for message in messages
        )

    return replace(
        sample,
        messages=renumbered(sample.messages),
        images=tuple(sample.images[index] for index in shown),
        preferences=tuple(
            replace(
                preference,
                prompt=None if preference.prompt is None else renumbered(preference.prompt),
                chosen=renumbered(preference.chosen),
                rejected=renumbered(preference.rejected),
            )
            for preference in sample.preferences
        ),
    )


def _image_of(sample: Sample, message: Message) -> int:
    shown = [part.index for part in message.content if isinstance(part, ImagePart)]
    if len(shown) != 1:
        raise BadSampleError(
            sample.meta.origin or sample.id,
            f"a turn of the user shows {len(shown)} images; a focus box needs one in each: the image, then the crop",
        )
    return shown[0]
