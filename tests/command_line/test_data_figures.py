import statistics
from collections import Counter
from dataclasses import replace

import pytest
from PIL import Image

from lit_vlm.command_line.data_figures import measure_split, overlaps, reason_kind, reference, shared_images
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import (
    Answer,
    ImagePart,
    MediaRef,
    Message,
    Preference,
    Sample,
    SampleMeta,
    TextPart,
    assistant_message,
    user_message,
)

LIMIT = 100


class Listed:
    """Samples of a list; an exception in it is raised."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        if isinstance(self.items[index], Exception):
            raise self.items[index]
        return self.items[index]


@pytest.fixture(scope="module")
def encoder(random_tiny_folder):
    from lit_vlm.models.backbone import Backbone

    return Backbone(str(random_tiny_folder)).load_encoder(max_tokens=LIMIT)


@pytest.fixture
def items(make_sample):
    first = make_sample("i see 7.", "7", sample_id="first")
    text_only = Sample(
        "text", (user_message("Say yes."), assistant_message("<answer>yes</answer>")), answer=Answer("yesno", "yes")
    )
    turns = (
        Message("user", (ImagePart(0), ImagePart(1), TextPart("Which?"))),
        assistant_message("seven"),
        user_message("And now?"),
        assistant_message("yes"),
    )
    several = Sample("several", turns, images=first.images * 2, meta=SampleMeta(source="other", difficulty=3))
    missing = replace(
        first, id="missing", images=(MediaRef(path="/gone.png"),), meta=SampleMeta(origin="rows.jsonl, line 9")
    )
    return [
        first,
        text_only,
        several,
        BadSampleError("rows.jsonl, line 4", "line 4 is no JSON"),
        make_sample("i see 7. " * 50, "7", sample_id="long answer"),
        Sample("long question", (user_message("digit " * 200), assistant_message("7"))),
        missing,
        UserError("the archive has no member 7"),
        first,
    ]


def test_figures_agree_with_a_plain_count(items, encoder, random_tiny_folder):
    figures = measure_split(Listed(items), "train", encoder, range(len(items)))
    record = figures.to_json()
    readable = [item for item in items if isinstance(item, Sample)]
    encodable = [item for item in readable if item.id != "missing"]

    assert record["total"] == record["looked_at"] == 9
    assert record["read"] == len(readable) == 7
    assert figures.usable == [0, 1, 2, 4, 8]
    assert record["usable"] == 5
    assert record["images_per_sample"] == {"0": 2, "1": 4, "2": 1}
    assert record["videos_per_sample"] == {"0": 7}
    assert record["tasks"] == {"read": 3, "(unnamed)": 4}
    assert record["sources"] == {"test": 3, "other": 1, "(unnamed)": 3}
    assert record["difficulties"] == {"3": 1}
    assert record["answer_types"] == {"number": 4, "yesno": 1}
    assert record["without_answer"] == 2
    assert record["repeated"] == 2  # the long answer asks what the first sample asks, and that stands twice

    from lit_vlm.models.backbone import Backbone

    whole = Backbone(str(random_tiny_folder)).load_encoder(max_tokens=10**6)
    (image_id, _) = whole.media_token_ids
    rows = [whole.encode([item]).input_ids[0].tolist() for item in encodable]
    lengths = [len(row) for row in rows]
    images = [row.count(image_id) for row in rows]
    assert images == [16, 0, 32, 16, 0, 16]
    trained = [encoder.encode([items[index]]).count().labels for index in figures.usable]
    expected = {
        "row": lengths,
        "image": images,
        "text": [length - image for length, image in zip(lengths, images, strict=True)],
        "trained": trained,
    }
    for name, values in expected.items():
        spread = record["tokens"][name]
        assert spread["count"] == len(values)
        assert spread["total"] == sum(values)
        assert spread["minimum"] == min(values)
        assert spread["median"] == statistics.median(values)
        assert spread["maximum"] == max(values)
        assert sum(item["count"] for item in spread["bins"]) == len(values)
    assert record["beyond_max_tokens"] == sum(length > LIMIT for length in lengths) == 2
    assert (record["cut"], record["refused"]) == (1, 1)


def test_bad_samples_keep_place_origin_and_reason(items, encoder):
    figures = measure_split(Listed(items), "train", encoder, range(len(items)))
    bad = {row.index: row for row in figures.bad}
    assert sorted(bad) == [3, 5, 6, 7]
    assert (bad[3].origin, bad[3].reason) == ("rows.jsonl, line 4", "line 4 is no JSON")
    assert bad[5].origin == "long question"
    assert bad[6].origin == "rows.jsonl, line 9"
    assert "/gone.png" in bad[6].reason
    assert bad[7].origin == "train sample 7"
    assert figures.bad_reasons().total() == 4


def test_evaluation_serves_long_completions_whole_and_refuses_long_prompts(items, encoder):
    figures = measure_split(Listed(items), "validation", encoder, [4, 5])
    assert figures.usable == [4]
    assert (figures.beyond_limit, figures.cut, figures.refused) == (2, 0, 1)
    assert "max_tokens" in figures.bad[0].reason


def test_a_fault_of_the_program_is_no_bad_sample(encoder):
    with pytest.raises(KeyError):
        measure_split(Listed([KeyError("x")]), "train", encoder, [0])


def test_only_what_was_asked_for_is_looked_at(items, encoder):
    figures = measure_split(Listed(items), "train", encoder, [0, 2])
    assert (figures.total, figures.looked_at, figures.usable) == (9, 2, [0, 2])


def test_reasons_that_differ_in_names_and_numbers_are_one_kind():
    kinds = Counter(map(reason_kind, ["no file '/a/1.png'", "no file '/b 2.png'", "has 12 tokens", "has 7\n tokens"]))
    assert kinds == {"no file '…'": 2, "has N tokens": 2}


def test_the_same_question_in_two_splits_is_counted_once_a_question(items, encoder):
    first = measure_split(Listed(items), "train", encoder, [0, 1, 8])
    second = measure_split(Listed(items), "validation", encoder, [0, 2])
    third = measure_split(Listed(items), "test", encoder, [2])
    assert overlaps([first, second, third]) == {
        ("train", "validation"): 1,
        ("train", "test"): 0,
        ("validation", "test"): 1,
    }


def test_an_image_in_two_splits_is_counted_whatever_is_asked(encoder):
    def asked(question, *colours):
        images = tuple(MediaRef(pil=Image.new("RGB", (28, 28), colour)) for colour in colours)
        return Sample("s", (user_message(question, images=len(images)), assistant_message("A")), images=images)

    first = measure_split(Listed([asked("What?", "red", "blue")]), "train", encoder, [0])
    second = measure_split(Listed([asked("Where?", "blue")]), "validation", encoder, [0])
    assert shared_images([first, second]) == {("train", "validation"): 1}
    assert overlaps([first, second]) == {("train", "validation"): 0}
    assert first.to_json()["distinct_images"] == 2


def test_mends_are_counted_by_name(encoder):
    sample = Sample(
        "s", (user_message("q"), assistant_message("a")), meta=SampleMeta(extra={"repairs": ("one", "two")})
    )
    figures = measure_split(Listed([sample, sample]), "train", encoder, [0, 1])
    assert figures.to_json()["repairs"] == {"one": 2, "two": 2}


@pytest.mark.parametrize(
    ("completion", "answer", "correct"),
    [
        ("<answer>7</answer>", Answer("number", "7"), True),
        ("<answer>8</answer>", Answer("number", "7"), False),
        ("7", Answer("number", "7"), True),
        ("8", Answer("number", "7"), False),
        ("anything", Answer("open", None), None),
        ("anything", None, None),
        ("", Answer("number", "7"), None),
    ],
)
def test_completions_are_compared_with_their_own_answer(completion, answer, correct):
    shown = reference(Sample("s", (user_message("q"), assistant_message(completion)), answer=answer))
    assert shown.text == completion
    assert (None if shown.verdict is None else shown.verdict.correct) == correct


def test_contradicting_and_untagged_completions_are_counted(encoder):
    rows = [
        Sample("s", (user_message("q"), assistant_message(text)), answer=Answer("number", "7"))
        for text in ("<answer>7</answer>", "<answer>8</answer>", "7", "8")
    ]
    record = measure_split(Listed(rows), "train", encoder, range(4)).to_json()
    assert (record["references_checked"], record["references_right"], record["references_untagged"]) == (4, 2, 2)


def test_both_halves_of_a_pair_are_measured(random_tiny_encoder):
    halves = (Preference((assistant_message("i see 7."),), (assistant_message("8"),)),)
    pair = Sample("p", (user_message("Which digit?"),), preferences=halves)
    figures = measure_split([pair], "train", random_tiny_encoder, [0], compared=True)
    assert (figures.usable, figures.bad) == ([0], [])
    assert len(figures.row_tokens) == len(figures.trained_tokens) == 2
    assert figures.row_tokens[0] - figures.row_tokens[1] == figures.trained_tokens[0] - figures.trained_tokens[1] > 0
