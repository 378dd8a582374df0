import json
import math
from dataclasses import fields, replace
from decimal import Decimal
from fractions import Fraction

import numpy
import pytest
from PIL import Image

from lit_vlm.functional.media import open_image
from lit_vlm.functional.media_store import MediaStore
from lit_vlm.functional.sample_json import media_hash, sample_from_json, sample_to_json
from lit_vlm.interfaces.critiques import Critique, CritiqueUnit, StepLabel
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import (
    Answer,
    Candidate,
    ImagePart,
    MediaRef,
    Message,
    Preference,
    Sample,
    SampleMeta,
    TextPart,
    VideoPart,
    VideoRef,
    assistant_message,
    user_message,
)

CRITIQUE = Critique(
    question="1 + 1?",
    response="3",
    text="Conclusion: wrong [END]",
    verdict="wrong",
    score=0.25,
    steps=(StepLabel("1 + 1 = 3", False, "numerical calculation", "it is 2"),),
    units=(CritiqueUnit("1", "the sum", 2.0, "add again"),),
)
FULL = Sample(
    id="ü/1",
    messages=(
        Message("system", (TextPart("be brief"),)),
        Message("user", (ImagePart(0), VideoPart(0), TextPart("what?\n"))),
        assistant_message("2"),
    ),
    answer=Answer("boxes", [(1.0, 2.0, 3.0, 4.5)], ("a",), ("b",), "norm1", 0.5, "iou", "boxed"),
    meta=SampleMeta("set", "train", "sum", 2, "a.jsonl, line 3", {"t": (1, 2), "d": {"x": [None, True]}}),
    candidates=(
        Candidate((assistant_message("3"),), {"correct": 0.0}, "m", CRITIQUE, (1, 2), (-0.5, -1.0), (0.1, 0.2)),
    ),
    preferences=(Preference((assistant_message("2"),), (), (user_message("again"),), 0.5),),
    critique=CRITIQUE,
    weight=0.5,
)


@pytest.fixture
def store(tmp_path):
    return MediaStore(tmp_path / "media")


def there_and_back(sample, store):
    return sample_from_json(json.loads(json.dumps(sample_to_json(sample, store), allow_nan=False)), store)


def test_every_field_comes_back_equal(store):
    untouched = {
        field.name for field in fields(Sample) if getattr(FULL, field.name) == getattr(Sample("", ()), field.name)
    }
    assert untouched == {"images", "videos"}  # they come back as references to the store: see below
    assert there_and_back(FULL, store) == FULL


def test_fields_at_their_default_are_not_written(store):
    assert sample_to_json(Sample("a", ()), store) == {
        "!record": "Sample",
        "id": "a",
        "messages": {"!tuple": []},
    }


@pytest.mark.parametrize(
    "value",
    [
        None, "7", 7, 7.5, True, Fraction(1, 3), Decimal("0.10"), b"\x00\xff", math.inf, -math.inf,
        [(0.1, 0.2)], (1, [2]), {"a": "knight"}, {"!tuple": 1}, {1: "a", (2, 3): "b"}, {1, 2}, frozenset({"a"}),
    ],
)  # fmt: skip
def test_ground_truths_of_any_kind_keep_value_and_type(store, value):
    back = there_and_back(Sample("a", (), answer=Answer("open", value)), store).answer.value
    assert back == value
    assert type(back) is type(value)


def test_not_a_number_comes_back(store):
    assert math.isnan(there_and_back(Sample("a", (), answer=Answer("number", math.nan)), store).answer.value)


def test_numbers_of_libraries_become_plain_ones(store):
    back = there_and_back(Sample("a", (), answer=Answer("open", (numpy.int64(3), numpy.float32(0.5)))), store)
    assert back.answer.value == (3, 0.5)
    assert [type(item) for item in back.answer.value] == [int, float]


def test_media_come_back_with_their_limits(store, tmp_path):
    image = Image.new("RGB", (4, 3), (9, 8, 7))
    (tmp_path / "clip").write_bytes(b"no real video")
    sample = Sample(
        "a",
        (),
        images=(MediaRef(pil=image, size=(4, 3), max_pixels=99), MediaRef(url="https://example.org/a.png")),
        videos=(
            VideoRef(frames=(MediaRef(pil=image), MediaRef(pil=image)), fps=2.0, max_seconds=4.0),
            VideoRef(file=MediaRef(path="clip", root=str(tmp_path)), start=1.0, end=2.0),
        ),
    )
    back = there_and_back(sample, store)
    first = back.images[0]
    assert open_image(first).tobytes() == image.tobytes()
    assert (first.root, first.size, first.max_pixels) == (str(store.folder), (4, 3), 99)
    assert back.images[1] == sample.images[1]
    assert [frame.path for frame in back.videos[0].frames] == [first.path] * 2
    assert replace(back.videos[1], file=sample.videos[1].file) == sample.videos[1]
    assert len(list(store.folder.iterdir())) == 2


def test_the_hash_of_media_depends_on_content_and_order_alone(store):
    red, blue = (MediaRef(pil=Image.new("RGB", (2, 2), colour)) for colour in ("red", "blue"))

    def hash_of(*images, **others):
        return media_hash(sample_to_json(Sample("a", (), images=images, **others), store))

    assert hash_of() == ""
    assert hash_of(red, blue) == hash_of(replace(red, max_pixels=5), blue, weight=2.0)
    assert len({hash_of(red), hash_of(blue), hash_of(red, blue), hash_of(blue, red)}) == 4
    assert hash_of(MediaRef(url="a")) not in ("", hash_of(MediaRef(url="b")))


def test_odd_things_in_extra_become_text_and_odd_answers_are_refused(store):
    odd = complex(1, 2)
    back = there_and_back(Sample("a", (), meta=SampleMeta(extra={"odd": [odd], "path": store.folder})), store)
    assert back.meta.extra == {"odd": ["(1+2j)"], "path": str(store.folder)}
    with pytest.raises(UserError, match=r"sample 'a' holds a complex .* make it a number"):
        sample_to_json(Sample("a", (), answer=Answer("open", odd)), store)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "the record of a sample"),
        ({"!record": "Popen", "args": "true"}, "'Popen' is no record"),
        ({"!record": "Sample", "id": "a"}, "this is no Sample"),
        ({"!record": "Sample", "id": "a", "messages": [], "mood": 1}, "Sample has no mood"),
        ({"!python": "1"}, "'!python' marks nothing"),
        ({"!record": "Sample", "id": "a", "messages": [], "images": [{"!media": "../../etc/passwd"}]}, "is no name"),
    ],
)
def test_foreign_content_is_refused(store, content, reason):
    with pytest.raises(UserError, match=reason):
        sample_from_json(content, store)
