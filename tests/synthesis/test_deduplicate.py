from dataclasses import replace

import pytest
from PIL import Image

from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import (
    Answer,
    MediaRef,
    Message,
    Sample,
    SampleMeta,
    TextPart,
    VideoRef,
    assistant_message,
    user_message,
)
from lit_vlm.synthesis.deduplicate import Deduplicate


def colour(shade, size=(8, 8)):
    return MediaRef(pil=Image.new("RGB", size, (shade, 0, 0)))


def asked(sample_id, text="How many?", shade=None, answer="7", **fields):
    images = () if shade is None else (colour(shade),)
    return Sample(
        sample_id, (user_message(text, images=len(images)),), images, answer=Answer("number", answer), **fields
    )


def ids(samples):
    return "".join(sample.id for sample in samples)


OTHER = asked("z", "another thing")


def test_one_question_about_many_pictures_is_many(tmp_path):
    # CLEVR counting asks one question of all pictures.
    samples = [asked("a", shade=1), asked("b", shade=2), asked("c", shade=1), asked("d", shade=1, answer="8")]
    assert ids(Deduplicate()(samples)) == "abd"


def test_the_same_picture_under_two_names_is_one(tmp_path):
    for name in ("x.png", "y.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    samples = [
        replace(asked(name[0], shade=1), images=(MediaRef(path=name, root=str(tmp_path)),))
        for name in ("x.png", "y.png")
    ]
    assert ids(Deduplicate()([*samples, OTHER])) == "xz"


def test_videos_are_told_apart_by_what_is_shown_of_them():
    samples = [
        replace(asked(name), videos=(VideoRef(frames=(colour(1), colour(shade)), fps=1.0, start=start),))
        for name, shade, start in [("a", 2, None), ("b", 3, None), ("c", 2, 1.0), ("d", 2, None)]
    ]
    assert ids(Deduplicate()(samples)) == "abc"


def test_a_question_that_is_repeated_a_hundred_times_stays_once():
    # As DAPO-Math-17k does.
    samples = [asked(f"{number};", text=f"question {number % 5}") for number in range(100)]
    kept, reasons = Deduplicate().with_reasons(samples)
    assert ids(kept) == "0;1;2;3;4;"
    assert reasons == {"samples that repeat an earlier one": 95}


def test_white_space_and_the_systems_turn_do_not_count():
    system = Message("system", (TextPart("Be kind."),))
    other = asked("b", text="How  many?\n")
    assert ids(Deduplicate()([asked("a"), replace(other, messages=(system, *other.messages)), OTHER])) == "az"


def test_a_set_that_repeats_one_question_by_design_is_not_emptied():
    # As One-Shot-CFT does: one problem, many solutions, a critique each.
    samples = [
        replace(asked(name), messages=(*asked(name).messages, assistant_message("c")), critique=Critique("?", solution))
        for name, solution in [("a", "7"), ("b", "8"), ("c", "7 ")]
    ]
    with pytest.raises(UserError, match="all 3 samples have the same text, media, answer.*solution"):
        Deduplicate()(samples)
    assert ids(Deduplicate(key=("text", "media", "answer", "solution"))(samples)) == "ab"
    named = [replace(sample, meta=SampleMeta(source="one shot")) for sample in samples]
    assert ids(Deduplicate(by_design=("one shot",))([*named, OTHER, OTHER, asked("y")])) == "abczy"


def test_another_completion_may_make_another_sample():
    samples = [replace(asked(n), messages=(*asked(n).messages, assistant_message(t))) for n, t in ["ax", "by", "cx"]]
    assert ids(Deduplicate(key=("text", "media", "completion"))(samples)) == "ab"


def test_nearly_the_same_words_are_one_where_the_rest_is_the_same():
    long = "A train leaves at nine and travels at sixty miles an hour; when does it arrive?"
    samples = [
        asked("a", text=long),
        asked("b", text=long.replace("nine", "nine,")),
        asked("c", text=long.replace("nine", "nine,"), answer="8"),
        asked("d", text=long, shade=1),
        asked("e", text="Something else altogether."),
    ]
    assert ids(Deduplicate(near=0.8)(samples)) == "acde"
    assert ids(Deduplicate()(samples)) == "abcde"


def test_completions_that_repeat_one_another_go(graded, candidate):
    sample = graded(candidate("so it is seven"), candidate("so it  is seven"), candidate("so it is seven."))
    (exact,) = Deduplicate(of="candidates")([sample])
    assert [one.text for one in exact.candidates] == ["so it is seven", "so it is seven."]
    near, reasons = Deduplicate(of="candidates", near=0.8, shingle=3).with_reasons([sample])
    assert [one.text for one in near[0].candidates] == ["so it is seven"]
    assert reasons == {"candidates at least 0.8 alike": 2}


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"key": ("text",)}, "text alone"),
        ({"key": ()}, "key"),
        ({"key": ("text", "colour")}, "key is 'colour'"),
        ({"near": 0.0}, "near is 0.0"),
        ({"near": 1.1}, "near is 1.1"),
        ({"near": 0.8, "key": ("media", "answer")}, "does not hold text"),
        ({"shingle": 0}, "shingle"),
        ({"of": "questions"}, "samples, candidates"),
    ],
)
def test_bad_settings_are_refused(settings, told):
    with pytest.raises(UserError, match=told):
        Deduplicate(**settings)


def test_a_picture_that_is_not_there_is_named(tmp_path):
    sample = replace(asked("a", shade=1), images=(MediaRef(path="gone.png", root=str(tmp_path)),))
    with pytest.raises(UserError, match=r"gone\.png"):
        Deduplicate()([sample, OTHER])
