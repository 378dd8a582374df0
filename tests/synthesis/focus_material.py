"""A question in two steps about a picture of four quarters, and traces for it."""

from PIL import Image

from lit_vlm.functional.focus_traces import with_traces
from lit_vlm.interfaces.records import Answer, MediaRef, Sample, assistant_message, user_message

TRUE_BOX = (8.0, 8.0, 24.0, 24.0)


def focus_sample(sample_id: str = "s") -> Sample:
    images = tuple(MediaRef(pil=Image.new("RGB", (64, 64), (40 * index, 90, 200))) for index in range(2))
    return Sample(
        sample_id,
        messages=(
            user_message("which digit is in the red square?", images=1),
            assistant_message("<answer>(8, 8, 24, 24)</answer>"),
            user_message("Which digit is this?", images=1, first_image=1),
            assistant_message("<answer>7</answer>"),
        ),
        images=images,
        answer=Answer("number", "7"),
    )


def traced(*scores: tuple[float, float], sample: Sample | None = None) -> Sample:
    """A sample whose trace ``i`` looks at ``(i, i, i + 8, i + 16)``, answers ``i`` and has the given scores."""
    by_answer = {f"<answer>{place}</answer>": pair for place, pair in enumerate(scores)}
    traces = [
        (f"<answer>({place}, {place}, {place + 8}, {place + 16})</answer>", text)
        for place, text in enumerate(by_answer)
    ]
    return with_traces(
        sample or focus_sample(), traces, lambda _, box, text: by_answer[text], coords="pixel", crop_size=32
    )
