import io
import json

import pyarrow
import pyarrow.parquet
import pytest

from lit_vlm.data.records.columns import ColumnNames
from lit_vlm.data.records.placeholders import ASSISTANT_PLACEHOLDER, NO_PLACEHOLDER
from lit_vlm.data.records.preference_conventions import PreferenceColumns, detect_preferences
from lit_vlm.data.records.preference_reader import NO_HALF, SAME_HALVES, PreferenceReader
from lit_vlm.data.records.record import Record
from lit_vlm.data.records.sample_reader import REPAIRS
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Answer, ImagePart
from tests.data.preference_material import CANDIDATES, PAIRS, QUESTIONS

NOTHING = PreferenceColumns()


@pytest.fixture
def read(media_folder):
    """Reads records; what cannot be read comes as its error."""

    def read_all(records, names=NOTHING, shown=None, **options):
        reader = PreferenceReader(detect_preferences(shown or records, names), needs_completion=False, **options)
        results = []
        for row, values in enumerate(records, start=1):
            try:
                results.append(reader(Record(values, f"{media_folder}/x.jsonl, line {row}", media_folder)))
            except BadSampleError as fault:
                results.append(fault)
        return results

    return read_all


def text(sample):
    """The prompt as ``role: text``, an image as a star, and the halves or completions."""
    prompt = [
        f"{message.role[0]}: " + "".join("*" if isinstance(part, ImagePart) else part.text for part in message.content)
        for message in sample.messages
    ]
    if sample.candidates:
        return [*prompt, *(candidate.text for candidate in sample.candidates)]
    (pair,) = sample.preferences
    return [*prompt, *("".join(message.text for message in half) for half in (pair.chosen, pair.rejected))]


EXPECTED = {
    "prompt_pairs": [
        ["u: *What is it?", "A cup.", "Two cups."],
        ["u: *Colour?", "Red.", "Blue."],
        ["s: Be brief.", "u: Hi.", "a: Yes?", "u: Who?", "Me.", "You."],
        ["u: Hi", "Hello!", "Go."],
        "the prompt 'Hi' is not what chosen and rejected begin with, 'Bye'",
    ],
    "implicit_pairs": [
        ["u: *What?", "A cup.", "A hat."],
        ["s: Be kind.", "u: Hi.", "Hello.", "Go."],
        ["u: One?", "a: 1", "u: Two?", "2", "3"],
        ["u: Why?", "So.And so.", "So."],
        "answer different prompts, 'One?' and 'Two?'",
    ],
    "question_pairs": [
        ["u: *What is the man doing?", "He rides a horse.", "He rides a bike."],
        ["u: *Where?", "At sea.", "At sea, at night."],
        ["u: Name a prime.", "7", "8"],
        ["u: *Describe.", "A cup.", "Two cups."],
        "rejected is empty; write the completion, or remove the record",
    ],
    "rlhf_v": [
        ["u: *Describe.", "A cup.\nRed.", "Two  cups.\nRed."],
        ["u: *Which?", "[1, 2]", "[1, 3]"],
        ["u: Hi.", "Hello.", "Go."],
        ["u: Hi.", "Hello.", "No."],
        "its column 'text' is no JSON object with question, chosen and rejected",
    ],
    "conversation_pairs": [
        ["u: *Describe.", "A bus.", "A cat."],
        ["u: **Same?", "No.", "Yes."],
        ["s: Be kind.", "u: Hi.", "Hello.", "Go."],
        ["u: *One?", "a: 1", "u: Two?", "2", "3"],
        "the prompt ends with a turn of role 'assistant'; it must end with the user's",
    ],
    "swift_pairs": [
        ["u: *What?", "A cup.", "A hat."],
        ["u: **Same?", "No.", "Yes."],
        ["s: Be kind.", "u: Hi.", "Hello.", "Go."],
        ["u: One?", "a: 1", "u: Two?", "2", "3"],
        "its halves show different images",
    ],
    "instruction_pairs": [
        ["u: *Describe.", "A bus.", "A cat."],
        ["u: Compare * and *.\nBriefly.", "Alike.", "No."],
        ["s: You know French.", "u: Translate.\nchat", "cat", "dog"],
        ["u: One?", "a: un", "u: And two?", "deux", "trois"],
        "its column 'instruction' is empty or missing",
    ],
    "vlfeedback": [
        ["u: *What is it?", "A cat.", "A dog."],
        ["u: *What is it?", "A cat.", "A dog."],
        ["u: Hi.", "Hello.", "Go."],
        "have 2 texts and 1 model",
    ],
    "ultrafeedback": [["u: Name a prime.", "7", "8"], ["u: Say hi.", "Hi."], "none of its completions has a text"],
    "graded": [
        ["u: *Why is it funny?", "Because ...", "It is."],
        ["u: 1 + 1?", "2", "3", "4"],
        "completion 1 has the helpfulness 'good'",
    ],
}
PUBLISHED = {**PAIRS, **CANDIDATES}


@pytest.mark.parametrize("layout", list(PUBLISHED))
def test_each_layout_gives_its_samples_and_names_what_is_broken(layout, read):
    *good, broken = read(PUBLISHED[layout])
    *expected, told = EXPECTED[layout]
    assert [text(sample) for sample in good] == expected
    assert told in broken.reason
    assert broken.origin.endswith(f"x.jsonl, line {len(good) + 1}")
    assert all(open_image(image).size == (28, 28) for sample in good for image in sample.images)
    assert any(sample.images for sample in good) or layout == "ultrafeedback"


@pytest.mark.parametrize("layout", list(PUBLISHED))
def test_a_round_trip_through_arrow_changes_no_sample(layout, read):
    for record in PUBLISHED[layout][:-1]:
        buffer = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([record, dict.fromkeys(record)]), buffer)
        filled = pyarrow.parquet.read_table(buffer).to_pylist()[:1]
        (back,), (straight,) = read(filled), read([record])
        assert text(back) == text(straight)
        assert (back.candidates, back.preferences) == (straight.candidates, straight.preferences)


def test_parts_that_arrow_filled_up_are_read_as_they_were(read):
    def part(kind, text):
        return {"type": kind, "text": text, "image_url": None}

    def said(role, *parts):
        return {"role": role, "content": [*parts], "tool_calls": None, "loss": None}

    record = {
        "prompt": [said("user", part("image", None), part("text", "Colour?"))],
        "chosen": [said("assistant", part("text", "Red."))],
        "rejected": [said("assistant", part("text", "Blue."))],
        "images": [{"bytes": None, "path": "a.png"}],
        "weight": None,
    }
    table = pyarrow.Table.from_pylist([record, {"prompt": None}])
    assert text(read(table.to_pylist()[:1])[0]) == ["u: *Colour?", "Red.", "Blue."]


def test_only_the_completions_are_learnt(read):
    sample = read(PAIRS["prompt_pairs"])[2]
    assert not any(message.train for message in sample.messages)
    assert sample.messages[-1].role == "user"
    (pair,) = sample.preferences
    assert [message.train for message in (*pair.chosen, *pair.rejected)] == [True, True]
    assert pair.prompt is None


def test_weights_and_margins_and_what_else_is_known(read):
    samples = read(PAIRS["prompt_pairs"])
    assert [sample.preferences[0].weight for sample in samples[:-1]] == [1.0, 1.0, 0.25, 1.0]
    assert samples[3].meta.extra["margin"] == 5.0
    assert "margin" not in samples[0].meta.extra
    for weight in (-1, "much", float("inf"), True):
        (fault,) = read([{**PAIRS["prompt_pairs"][0], "weight": weight}])
        assert f"its column 'weight' holds {weight!r}; give a number from 0 on" in fault.reason
    assert all(sample.meta.extra["diff"] for sample in read(PAIRS["rlhf_v"])[:-1])
    questions = read(PAIRS["question_pairs"])
    assert ["diff" in sample.meta.extra for sample in questions[:-1]] == [False, False, False, True]
    assert questions[0].meta.source == "VQAv2"
    assert questions[0].meta.extra["origin_split"] == '{"model": "m", "type": "question_answering"}'


def test_mends_are_named(read):
    assert read(PAIRS["question_pairs"])[0].meta.extra[REPAIRS] == (NO_PLACEHOLDER,)
    (sample,) = read([{"prompt": "Which tag?", "chosen": "<image>", "rejected": "<video>"}])
    assert sample.meta.extra[REPAIRS] == (ASSISTANT_PLACEHOLDER,)
    assert text(sample) == ["u: Which tag?", "<image>", "<video>"]


def test_samples_have_no_answer_unless_its_column_is_named(read):
    record = {"question": "1 + 1?", "chosen": "2", "rejected": "3", "answer": "2"}
    assert read([record])[0].answer is None
    assert read([record], PreferenceColumns(answer="answer"))[0].answer == Answer("number", "2")


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "Q", "chosen": "A", "rejected": " A"}, SAME_HALVES),
        ({"prompt": "Q", "chosen": "A", "rejected": None}, NO_HALF),
        ({"prompt": "Q", "chosen": float("nan"), "rejected": "A"}, NO_HALF),
        ({"prompt": "Q", "chosen": "A", "rejected": ""}, None),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, None),
        ({"prompt": "", "chosen": "A", "rejected": "A"}, None),
    ],
)
def test_pairs_that_teach_nothing_are_told_from_wrong_ones(record, reason, media_folder, read):
    reader = PreferenceReader(detect_preferences(PAIRS["prompt_pairs"], NOTHING))
    assert reader.reason_to_leave_out(Record(record, "x", media_folder)) == reason
    if reason is not None:
        (fault,) = read([record], shown=PAIRS["prompt_pairs"])
        assert f"{reason}, so that there is nothing to learn from it; remove the record" in fault.reason


def test_equal_whole_conversations_teach_nothing(media_folder):
    half = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]
    record = {"chosen": half, "rejected": half}
    reader = PreferenceReader(detect_preferences([record], NOTHING))
    assert reader.reason_to_leave_out(Record(record, "x", media_folder)) == SAME_HALVES


def test_pairs_of_one_prompt_have_one_content(media_folder):
    reader = PreferenceReader(detect_preferences(PAIRS["prompt_pairs"], NOTHING))

    def content(**values):
        return reader.content(Record({"chosen": "A", "rejected": "B", **values}, "x", media_folder))

    first = content(prompt="<image>What?", image="a.png")
    assert first == content(prompt="<image>What?", image="a.png", chosen="C", id="other", weight=2)
    assert first != content(prompt="<image>What?", image="b.png")
    assert first != content(prompt="<image>Who?", image="a.png")
    shown = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]}
    filled = {"role": "user", "content": [{"type": "image", "text": None}, {"type": "text", "text": "What?"}]}
    assert content(prompt=[shown], image="a.png") == content(prompt=[filled], image="a.png")
    assert content(prompt=None, image="a.png")  # a wrong record has one too


def test_images_given_by_number_are_searched_in_the_folders_of_visual_genome(read, media_folder, png):
    for place in ("VG_100K_2/2345.jpg", "77.jpg"):
        (media_folder / place).parent.mkdir(exist_ok=True)
        (media_folder / place).write_bytes(png())
    samples = read(QUESTIONS)
    assert [text(sample)[0] for sample in samples] == ["u: *Is there a dog?", "u: *Is there a hat?"]
    assert [sample.images[0].path for sample in samples] == ["VG_100K_2/2345.jpg", "77.jpg"]
    assert samples[0].meta.extra["group"] == "2345"
    assert open_image(samples[0].images[0]).size == (28, 28)
    (fault,) = read(QUESTIONS[:1], image_folders=("VG_100K",))
    assert "there is no image '2345.jpg' in" in fault.reason
    assert "or its folders VG_100K; set data.media_root" in fault.reason
    (found,) = read(QUESTIONS[1:], shown=QUESTIONS, media_root=media_folder, image_folders=("sub",))
    assert found.images[0].path == "77.jpg"
    (found,) = read([{**QUESTIONS[1], "image": "c.png"}], image_folders=("sub",))
    assert found.images[0].path == "sub/c.png"


def test_text_columns_of_other_kinds_do_not_confuse_it():
    # Column names of the plain reader are known to it too.
    assert isinstance(NOTHING, ColumnNames)
    reading = detect_preferences([{"text": json.dumps({"question": "Q", "chosen": "A", "rejected": "B"})}], NOTHING)
    assert reading.convention == "rlhf_v"
