import pytest

from lit_vlm.functional.token_texts import token_texts


def bytes_decode(ids):
    return bytes(ids).decode(errors="replace")


def pieces_decode(ids):
    """As sentence-piece tokenizers do: the space of the first word is dropped."""
    return "".join([" the", " cat", "s", "\n"][index] for index in ids).removeprefix(" ")


@pytest.mark.parametrize(
    "text", ["plain", "naïve €", "🙂 a 🙂", "\n\t ", "ends in \N{REPLACEMENT CHARACTER}x", "", "é"]
)
def test_joined_texts_are_the_text_of_the_row(text):
    ids = list(text.encode())
    texts = token_texts(ids, bytes_decode)
    assert len(texts) == len(ids)
    assert "".join(texts) == text


def test_a_character_goes_to_the_token_that_completes_it():
    assert token_texts(list("a€b".encode()), bytes_decode) == ["a", "", "", "€", "b"]


def test_spaces_within_a_row_are_kept():
    ids = [0, 1, 2, 3, 0]
    assert token_texts(ids, pieces_decode) == ["the", " cat", "s", "\n", " the"]
    assert "".join(token_texts(ids, pieces_decode)) == pieces_decode(ids)


def test_an_unfinished_character_at_the_end_is_still_shown():
    ids = list("ab€".encode())[:-1]
    assert "".join(token_texts(ids, bytes_decode)) == bytes_decode(ids)


def test_every_token_of_the_tiny_tokenizer_is_accounted_for(random_tiny_encoder):
    tokenizer = random_tiny_encoder.tokenizer
    text = "<|im_start|>user\nWhich  digit?\n\n🙂 é<|im_end|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    texts = token_texts(ids, lambda part: tokenizer.decode(part, skip_special_tokens=False))
    assert "".join(texts) == text
    assert texts[0] == "<|im_start|>"
