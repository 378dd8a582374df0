import pytest

from lit_vlm.data.records.columns import ColumnNames
from lit_vlm.data.records.conventions import TITLES, detect
from lit_vlm.data.records.placeholders import NO_PLACEHOLDER, REPEATED_PLACEHOLDER
from lit_vlm.data.records.record import Record
from lit_vlm.data.records.sample_reader import BROKEN_ESCAPES, REPAIRS, SampleReader, asked_and_answered
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Answer, ImagePart


@pytest.fixture
def read(published, media_folder):
    """Reads all records of a convention; what cannot be read comes as its error."""

    def read_all(convention, records=None, **options):
        records = records or published[convention]
        options = {"needs_completion": convention != "verl", **options}
        reader = SampleReader(detect(published[convention], ColumnNames()), **options)
        results = []
        for row, values in enumerate(records, start=1):
            try:
                results.append(reader(Record(values, f"{media_folder}/x.jsonl, line {row}", media_folder)))
            except BadSampleError as fault:
                results.append(fault)
        return results

    return read_all


def text(sample):
    """The turns as ``role: text``, an image as a star."""
    return [
        f"{message.role}: " + "".join("*" if isinstance(part, ImagePart) else part.text for part in message.content)
        for message in sample.messages
    ]


CONVERSATIONS = {
    "llava": [
        ["user: *\nHow many cups?", "assistant: Two."],
        ["user: * or *?", "assistant: The first."],
        ["user: Name a prime.", "assistant: 7"],
        ["user: *\nWhat?", "assistant: A cup.", "user: \nRed?", "assistant: Yes."],
        "2 placeholders of images in one turn, but 1 image",
    ],
    "messages": [
        ["user: *Colour?", "assistant: Blue."],
        ["user: Compare * with *.", "assistant: Alike."],
        ["user: Hello.", "assistant: Hi."],
        ["user: *What is it?", "assistant: A sky."],
        "1 placeholder of images, but 0 images",
    ],
    "sharegpt": [
        ["system: Be brief.", "user: *Describe.", "assistant: A bus."],
        ["user: **Same?", "assistant: No."],
        ["user: Hi.", "assistant: Hello."],
        ["user: Weather?", 'assistant: <tool_call>\n{"name": "sky", "arguments": {}}\n</tool_call>', "tool: rain",
         "assistant: It rains."],
        "role 'martian'",
    ],
    "openai": [
        ["user: Read it.*", "assistant: STOP"],
        ["user: **Which?", "assistant: The left."],
        ["system: Be kind.", "user: Hi.", "assistant: Hello."],
        ["user: Time?", 'assistant: <tool_call>\n{"name": "clock", "arguments": {"zone": "UTC"}}\n</tool_call>',
         "tool: 12:00", "assistant: Noon."],
        "is a remote address",
    ],
    "swift": [
        ["user: *Find the sheep", "assistant: [9, 16, 13, 21]"],
        ["user: **Same?", "assistant: No"],
        ["user: Hi.", "assistant: Hello."],
        ["user: One?", "assistant: 1", "user: Two?", "assistant: 2"],
        "more <bbox> marks than boxes",
    ],
    "prompt_completion": [
        ["user: *What?", "assistant: A cup."],
        ["user: * or *?", "assistant: The first."],
        ["user: 2 + 2 =", "assistant: 4"],
        ["system: Be brief.", "user: Hi.", "assistant: Hello."],
        "last turn is of role 'user'",
    ],
    "question_answer": [
        ["user: *How many dots?", "assistant: 4"],
        ["user: **Alike?", "assistant: yes"],
        ["user: Largest?\nA. one\nB. two\nC. three", "assistant: C"],
        ["user: *Angle?", "assistant: <answer> $\\frac{1}{2}$ </answer>"],
        "none of the 3 options",
    ],
    "alpaca": [
        ["user: *Describe.", "assistant: A cup."],
        ["user: **Compare.\nBriefly.", "assistant: Alike."],
        ["system: You know French.", "user: Translate.\nchat", "assistant: cat"],
        ["user: One?", "assistant: un", "user: And two?", "assistant: deux"],
        "there is nothing to learn: its column 'output' is empty or missing",
    ],
    "verl": [
        ["user: *How many dots?"],
        ["user: **Which?\nA. left\nB. right"],
        ["user: 1 + 1?"],
        ["user: Capital?"],
        "1 placeholder of images, but 0 images",
    ],
}  # fmt: skip


@pytest.mark.parametrize("convention", list(TITLES))
def test_each_convention_gives_its_conversations_and_names_what_is_broken(convention, read):
    *good, broken = read(convention)
    *expected, told = CONVERSATIONS[convention]
    assert [text(sample) for sample in good] == expected
    assert told in broken.reason
    assert broken.origin.endswith("x.jsonl, line 5")


@pytest.mark.parametrize("convention", list(TITLES))
def test_each_image_of_each_convention_can_be_opened(convention, read):
    samples = read(convention)[:-1]
    assert [len(sample.images) for sample in samples[:2]] == [1, 2]
    assert all(open_image(image).size == (28, 28) for sample in samples for image in sample.images)


def test_answers_come_typed(read):
    answers = [sample.answer for sample in read("verl")[:-1]]
    assert [answer.type for answer in answers] == ["number", "choice", "number", "text"]
    assert answers[3] == Answer("text", "Paris", accept=("paris, France",))
    assert read("swift")[0].answer == Answer("boxes", [(9, 16, 13, 21)], coords="pixel")
    assert read("question_answer")[2].answer == Answer("choice", "C", ("one", "two", "three"))
    assert [sample.answer for sample in read("question_answer", answer_type="none")[:4]] == [None] * 4


def test_the_turns_that_are_learnt(read):
    def trained(sample):
        return [message.train for message in sample.messages if message.role == "assistant"]

    assert trained(read("llava")[3]) == [True, True]
    assert trained(read("llava", train_on="last")[3]) == [False, True]
    assert trained(read("swift")[3]) == trained(read("swift", train_on="last")[3]) == [False, True]
    assert not any(message.train for message in read("alpaca")[2].messages if message.role != "assistant")


def test_names_sources_and_the_rest_are_kept(read, media_folder):
    first, *_ = read("verl")
    assert (first.id, first.meta.source) == ("x.jsonl, line 1", "demo")
    assert first.meta.extra == {"ability": "count", "extra_info": {"index": 0}, "raw_answer": "4"}
    assert first.meta.origin == f"{media_folder}/x.jsonl, line 1"
    assert read("llava")[1].id == "s2"
    assert read("llava")[1].meta.source == "x"
    with_bytes = {**read_record(), "thumbnail": {"bytes": b"x" * 100}}
    assert read("question_answer", [with_bytes])[0].meta.extra == {"raw_answer": "4"}


def read_record():
    return {"images": ["a.png"], "problem": "<image>How many dots?", "answer": "4"}


def test_mends_are_named(read):
    assert read("llava")[3].meta.extra[REPAIRS] == (REPEATED_PLACEHOLDER,)
    assert read("messages")[3].meta.extra[REPAIRS] == (NO_PLACEHOLDER,)
    assert REPAIRS not in read("messages")[0].meta.extra
    broken = {"prompt": "Half?", "completion": "\frac{1}{2}"}
    assert read("prompt_completion", [broken])[0].meta.extra[REPAIRS] == (BROKEN_ESCAPES,)


def test_limits_travel_with_the_media(read, media_folder):
    assert read("llava", max_image_pixels=10)[0].images[0].max_pixels == 10
    turns = [{"role": "user", "content": "<video>Q"}, {"role": "assistant", "content": "A"}]
    video = {"messages": turns, "videos": "v.mp4"}
    reader = SampleReader(detect([video], ColumnNames()), max_video_seconds=3.0)
    assert reader(Record(video, "x", media_folder)).videos[0].max_seconds == 3.0


def test_a_list_written_in_a_completion_stays_text(read):
    rows = [{"prompt": "Primes?", "completion": '["2", "3"]'}, {"prompt": "[sic] Q", "completion": "[1, 2]"}]
    assert [text(sample)[1] for sample in read("prompt_completion", rows)] == [
        'assistant: ["2", "3"]',
        "assistant: [1, 2]",
    ]


def test_equal_contents_are_equal_whatever_they_are_called(published, media_folder):
    reading = detect(published["llava"], ColumnNames())
    record = published["llava"][0]

    def written(values):
        return asked_and_answered(Record(values, "x", media_folder), reading)

    assert written(record) == written({**record, "id": "other", "note": "n"})
    assert written(record) != written({**record, "image": "b.png"})
    # Arrow fills the keys that a part does not have.
    part, filled = {"type": "image"}, {"type": "image", "text": None}
    assert written({**record, "image": [part]}) == written({**record, "image": [filled]})
    assert written({**record, "image": {"bytes": b"1"}}) != written({**record, "image": {"bytes": b"2"}})
