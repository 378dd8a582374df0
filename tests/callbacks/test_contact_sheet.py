from dataclasses import replace

import pytest
from PIL import Image

from lit_vlm.callbacks.contact_sheet import (
    CARD_WIDTH,
    COMPARISON_WIDTH,
    GAP,
    RIGHT,
    UNJUDGED,
    WRONG,
    draw_comparison_sheet,
    draw_contact_sheet,
)
from lit_vlm.interfaces.records import MediaRef, VideoRef


def colours(sheet):
    return {colour for _, colour in sheet.getcolors(maxcolors=1 << 20)}


def test_the_sheet_is_as_wide_as_its_columns(make_completion):
    completions = [make_completion(index) for index in range(5)]
    # Two cards and three gaps; five cards in rows of two are three rows.
    assert draw_contact_sheet(completions, columns=2).width == 2 * CARD_WIDTH + 3 * GAP
    assert draw_contact_sheet(completions[:1], columns=4).width == CARD_WIDTH + 2 * GAP
    assert (
        draw_contact_sheet(completions, columns=2).height
        == 3 * (draw_contact_sheet(completions[:1], columns=1).height - GAP) + GAP
    )


def test_a_right_answer_is_green_a_wrong_one_red_and_an_unjudged_one_grey(make_completion):
    for correct, colour in ((True, RIGHT), (False, WRONG), (None, UNJUDGED)):
        drawn = colours(draw_contact_sheet([make_completion(0, correct)]))
        assert drawn & {RIGHT, WRONG, UNJUDGED} == {colour}


def test_a_small_image_is_enlarged_without_smoothing(make_completion):
    two = Image.new("RGB", (2, 1), (255, 0, 0))
    two.putpixel((1, 0), (0, 0, 255))
    completion = make_completion(0)
    completion = replace(completion, sample=replace(completion.sample, images=(MediaRef(pil=two),)))
    sheet = draw_contact_sheet([completion])
    reds_and_blues = [colour for colour in colours(sheet) if colour[1] == 0 and colour != (0, 0, 0)]
    assert sorted(reds_and_blues) == [(0, 0, 255), (255, 0, 0)]


def test_text_alone_several_images_and_videos_are_drawn(make_completion):
    plain = draw_contact_sheet([make_completion(0, images=0)])
    assert plain.height < draw_contact_sheet([make_completion(0)]).height
    many = draw_contact_sheet([make_completion(0, images=6)])
    assert many.width == CARD_WIDTH + 2 * GAP
    completion = make_completion(0, images=0)
    frames = tuple(MediaRef(pil=Image.new("RGB", (8, 8), (1, 200, index))) for index in range(9))
    filmed = replace(completion, sample=replace(completion.sample, videos=(VideoRef(frames=frames),)))
    # Four of nine frames, from the middle of their quarters: 9/8, 27/8, 45/8, 63/8.
    assert {colour for colour in colours(draw_contact_sheet([filmed])) if colour[:2] == (1, 200)} == {
        (1, 200, index) for index in (1, 3, 5, 7)
    }


def test_long_text_makes_no_endless_card(make_completion):
    sheet = draw_contact_sheet([make_completion(0, text="word " * 20_000)])
    assert sheet.height < 500


def test_each_pair_may_have_headings_of_its_own(make_completion):
    pairs = [(make_completion(0), make_completion(1, correct=False))] * 2
    named = draw_comparison_sheet(pairs, headings=[("best", "worst"), ("only", "one")])
    assert named.tobytes() != draw_comparison_sheet(pairs).tobytes()
    assert draw_comparison_sheet(pairs, headings=[("before", "after")] * 2).tobytes() == (
        draw_comparison_sheet(pairs).tobytes()
    )
    with pytest.raises(ValueError, match="zip"):
        draw_comparison_sheet(pairs, headings=[("best", "worst")])


def test_a_comparison_shows_both_completions_and_a_missing_one_as_unknown(make_completion):
    pairs = [(make_completion(0, False), make_completion(0)), (None, make_completion(1))]
    sheet = draw_comparison_sheet(pairs, columns=2, title="before and after")
    assert sheet.width == 2 * COMPARISON_WIDTH + 3 * GAP
    assert colours(sheet) >= {RIGHT, WRONG, UNJUDGED}


def test_the_same_completions_give_the_same_pixels(make_completion):
    sheets = [draw_contact_sheet([make_completion(index, index % 2 == 0) for index in range(3)]) for _ in range(2)]
    assert sheets[0].tobytes() == sheets[1].tobytes()


def test_no_completions_give_an_empty_sheet_with_its_title():
    assert draw_contact_sheet([], title="step 0").height > GAP


def test_less_than_one_column_is_refused(make_completion):
    with pytest.raises(ValueError, match="columns is 0"):
        draw_contact_sheet([make_completion(0)], columns=0)
