import re
from io import StringIO

import pytest
from rich.console import Console

from lit_vlm.command_line.encoded_rows import EncodedRow, encode_row
from lit_vlm.command_line.token_view import (
    BEGINS_CHARACTER,
    TokenRun,
    styled_tokens,
    token_runs,
)
from lit_vlm.interfaces.records import Sample, assistant_message, user_message


@pytest.fixture
def row(make_sample, random_tiny_encoder):
    return encode_row(random_tiny_encoder, make_sample("i see 7 🙂.", "7", images=2), "train")


def test_runs_hold_every_token_in_order_with_its_mask(row, random_tiny_encoder):
    runs = token_runs(row, random_tiny_encoder)
    assert [run.token_id for run in runs for _ in range(run.count)] == list(row.token_ids)
    assert [run.trained for run in runs for _ in range(run.count)] == list(row.trained)


def test_the_texts_are_those_of_the_row(row, random_tiny_encoder):
    runs = token_runs(row, random_tiny_encoder)
    decoded = random_tiny_encoder.tokenizer.decode(list(row.token_ids), skip_special_tokens=False)
    assert "".join(run.text * run.count for run in runs) == decoded


def test_each_picture_is_one_run_and_special_tokens_are_marked(row, random_tiny_encoder):
    runs = token_runs(row, random_tiny_encoder)
    media = [run for run in runs if run.kind == "media"]
    assert [run.shown for run in media] == ["<|image_pad|> x 16"] * 2
    assert {run.text for run in runs if run.kind == "special"} == {
        "<|im_start|>",
        "<|im_end|>",
        "<|vision_start|>",
        "<|vision_end|>",
    }


def test_two_kinds_of_placeholder_side_by_side_are_two_runs(random_tiny_encoder):
    image, video = random_tiny_encoder.media_token_ids
    runs = token_runs(EncodedRow((image, image, video), (False,) * 3), random_tiny_encoder)
    assert [(run.token_id, run.count) for run in runs] == [(image, 2), (video, 1)]


def test_a_token_that_begins_a_character_is_seen(random_tiny_encoder):
    row = encode_row(random_tiny_encoder, Sample("s", (user_message("🙂"), assistant_message("a"))), "train")
    shown = [run.shown for run in token_runs(row, random_tiny_encoder)]
    assert shown.count(BEGINS_CHARACTER) == 3
    assert "🙂" in shown


def test_trained_stretches_are_told_without_colours_too():
    runs = [
        TokenRun("a [b]", 1, 1, False, "text"),
        TokenRun("c", 2, 1, True, "text"),
        TokenRun("<e>", 3, 1, True, "special"),
        TokenRun("<p>", 4, 7, False, "media"),
    ]
    text = styled_tokens(runs)
    assert text.plain == "a·[b]⟦c<e>⟧<p> x 7"
    out = StringIO()
    Console(file=out, force_terminal=True, color_system="truecolor", width=80).print(text)
    green = "".join(re.findall(r"\x1b\[1(?:;4)?;32m(.*?)\x1b\[0m", out.getvalue()))
    assert green == "⟦c<e>⟧"
