import pytest

from lit_vlm.parsing.segments import segment_end_tokens, split_segments


@pytest.mark.parametrize(
    ("text", "segments"),
    [
        ("there is a cat. it sleeps! does it?", ["there is a cat.", "it sleeps!", "does it?"]),
        ("no sentence end, as it was cut off here", ["no sentence end, as it was cut off here"]),
        ("a cat sleeps. a dog wakes and", ["a cat sleeps.", "a dog wakes and"]),
        ("it costs 3.5 coins. all is well.", ["it costs 3.5 coins.", "all is well."]),
        ('he says "a cat." then he goes.', ['he says "a cat."', "then he goes."]),
        ("1. a cat.\n2. a dog\n", ["1. a cat.", "2. a dog"]),
        ("猫がいる。犬もいる。", ["猫がいる。", "犬もいる。"]),
        ("", []),
        (" \n ", []),
        ("...", ["..."]),
        ("a cat... sleeps.", ["a cat...", "sleeps."]),
    ],
)
def test_sentences_end_with_their_marks_or_lines(text: str, segments: list[str]) -> None:
    assert split_segments(text) == segments


def test_a_long_sentence_is_parted_at_commas_with_five_words_on_either_side() -> None:
    text = "a cat sleeps on the mat, a dog sits beside the door. yes, it does."
    assert split_segments(text) == ["a cat sleeps on the mat,", "a dog sits beside the door.", "yes, it does."]
    assert split_segments("one two three four, one two three four five.") == [
        "one two three four, one two three four five."
    ]
    assert split_segments("one two three four five, one two three four.") == [
        "one two three four five, one two three four."
    ]


@pytest.mark.parametrize(
    ("texts", "ends"),
    [
        (["a", " cat", ".", " a", " dog", "."], [2, 5]),
        (["a", " cat", ".", " a", " dog", ".", ""], [2, 5]),
        (["a", " cat", " sleeps"], [2]),
        (["a", " cat", ".", " a", " dog", "", ""], [2, 6]),  # no sentence end: the last token of all
        (["a", " c", "at. A", " dog."], [2, 3]),
        (["a. b. ", "c."], [0, 0, 1]),
        ([], []),
        (["", ""], []),
        (["a", "", "", "€."], [3]),
    ],
)
def test_the_token_with_the_last_character_ends_a_segment(texts: list[str], ends: list[int]) -> None:
    assert segment_end_tokens(texts) == ends


@pytest.mark.parametrize("width", [1, 2, 3, 7])
def test_every_segment_has_one_end_however_the_text_is_cut(width: int) -> None:
    text = "a red cat sleeps there, and a green dog sits here. yes!  1. one\nthe end of it"
    texts = [text[start : start + width] for start in range(0, len(text), width)]
    ends = segment_end_tokens(texts)
    segments = split_segments(text)
    assert len(ends) == len(segments) == 5
    assert ends == sorted(ends)
    assert ends[-1] == len(texts) - 1
    position = 0
    for segment, end in zip(segments, ends, strict=True):
        position = text.index(segment, position) + len(segment)
        assert (position - 1) // width == end


def test_no_text_between_segments_is_lost() -> None:
    text = "a cat. (b) 2. three four!! five, six seven eight nine ten; eleven twelve thirteen fourteen fifteen. rest"
    assert "".join("".join(split_segments(text)).split()) == "".join(text.split())
