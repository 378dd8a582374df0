import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rollouts.stop_strings import StopStrings, check_stop_strings


def decode(ids):
    """A byte-level tokenizer: ids below 256 are bytes, 256 has no text, others are words."""
    words = {257: b"</answer>", 258: b"er>!", 259: b"\n\nso"}
    return b"".join(words.get(i, bytes([i]) if i < 256 else b"") for i in ids).decode(errors="replace")


def ids_of(text):
    return list(text.encode())


def first_end(stops, ids):
    """Adds a token at a time, as a rollout does; returns how many there are once a stop string is complete."""
    for end in range(1, len(ids) + 1):
        if stops.may_complete(ids[end - 1]) and stops.completed(ids[:end]):
            return end
    return None


@pytest.mark.parametrize(
    ("stop", "ids", "tokens", "text"),
    [
        ("</answer>", ids_of("7</answer> and"), 10, "7</answer>"),
        ("</answer>", [*ids_of("7"), 257, *ids_of("x")], 2, "7</answer>"),
        ("</answer>", [*ids_of("7</answ"), 258, *ids_of("x")], 8, "7</answer>"),
        ("</answer>", [*ids_of("7</answ"), 256, 256, 258], 10, "7</answer>"),
        ("\n\n", [*ids_of("a"), 259], 2, "a\n\n"),
        ("€", ids_of("5 € now"), 5, "5 €"),
        (" ", ids_of("ab cd"), 3, "ab "),
        ("aba", ids_of("ababa"), 3, "aba"),
    ],
)
def test_a_stop_string_ends_a_row_wherever_its_tokens_part(stop, ids, tokens, text):
    stops = StopStrings([stop], decode)
    assert first_end(stops, ids) == tokens
    assert stops.cut(ids) == (ids[:tokens], text, True)
    assert stops.cut(ids[:tokens]) == (ids[:tokens], text, True)
    assert first_end(stops, ids[: tokens - 1]) is None
    assert stops.cut(ids[: tokens - 1]) == (ids[: tokens - 1], decode(ids[: tokens - 1]), False)


def test_the_first_of_several_counts():
    stops = StopStrings(["world", "lo"], decode)
    assert first_end(stops, ids_of("hello world")) == 5
    assert stops.cut(ids_of("hello world")) == (ids_of("hello"), "hello", True)


def test_only_few_tokens_are_decoded_and_only_where_a_stop_string_can_end():
    decoded = []

    def counting(ids):
        decoded.append(len(ids))
        return decode(ids)

    stops = StopStrings(["</answer>"], counting)
    ids = ids_of("x" * 500 + ">" + "y" * 500)
    assert first_end(stops, ids) is None
    assert sum(decoded) < 25  # one for each known token, and one span behind '>'


def test_no_stop_strings_are_false_and_cut_nothing():
    stops = StopStrings([], decode)
    assert not stops
    assert stops.cut(ids_of("abc")) == (ids_of("abc"), "abc", False)


def test_what_the_tokenizer_cannot_write_is_refused(random_tiny_encoder):
    check_stop_strings(("</answer>", "\n\n", " yes", "\N{EURO SIGN}"), random_tiny_encoder)
    with pytest.raises(UserError, match=r"sampling.stop_strings: '<\|im_end\|>' cannot be written"):
        check_stop_strings(("</answer>", "<|im_end|>"), random_tiny_encoder)
