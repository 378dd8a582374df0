import pytest

from lit_vlm.functional.chat_payload import SentPictures
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import MediaRef, Sample, assistant_message, user_message
from lit_vlm.paradigms.sample_carrier import SampleCarrier

CARRIER = SampleCarrier(SentPictures())


def asked(text="2 + 2?", image=None):
    images = () if image is None else (image,)
    return Sample("s", (user_message(text, images=len(images)), assistant_message("4")), images)


def test_samples_are_carried_as_they_are():
    samples = (asked(), asked("2 + 3?"))
    batch = CARRIER.encode_evaluation(samples).to("cpu")
    assert batch.prompts.samples == batch.complete.samples == samples
    assert len(batch) == 2
    assert batch.complete.count().labels == 0


def test_a_picture_that_cannot_be_read_is_named_before_anything_is_asked():
    with pytest.raises(BadSampleError, match="s: cannot decode"):
        CARRIER.encode_prompts([asked(), asked(image=MediaRef(bytes=b"nonsense"))])


def test_prompts_are_described_for_people():
    assert CARRIER.describe_prompt(asked()) == "user: 2 + 2?"


@pytest.mark.parametrize(
    "ask",
    [
        lambda: CARRIER.encode([asked()]),
        lambda: CARRIER.encode_pairs([asked()]),
        lambda: CARRIER.encode_groups([asked()]),
        lambda: CARRIER.count_tokens(asked()),
        lambda: CARRIER.count_prompt_tokens(asked()),
        lambda: CARRIER.count_comparison_tokens(asked()),
        lambda: CARRIER.tokenise("4"),
        lambda: CARRIER.decode([4]),
    ],
)
def test_whatever_needs_tokens_is_refused(ask):
    with pytest.raises(UserError, match="tokenizer is not known here.*use predict"):
        ask()
