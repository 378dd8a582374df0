import numpy
import pytest
from PIL import Image

from lit_vlm.functional.boxes import box_iou
from lit_vlm.functional.focus_boxes import clipped_box, crop_to_box, read_focus_box


@pytest.mark.parametrize(
    ("text", "coords", "wanted"),
    [
        ("<answer>(10, 20, 30, 40)</answer>", "pixel", (10, 20, 30, 40)),
        ("<think>(1, 2, 3, 4)</think><answer>[10, 20, 30, 40]</answer>", "pixel", (10, 20, 30, 40)),
        ("<think>somewhere</think> 10, 20, 30, 40", "pixel", (10, 20, 30, 40)),
        ("(0.1, 0.4, 0.3, 0.8)", "norm1", (10, 20, 30, 40)),
        ("(100, 400, 300, 800)", "norm1000", (10, 20, 30, 40)),
        ("<answer>(-5, 20, 130, 40)</answer>", "pixel", (0, 20, 100, 40)),
        ("(0.9, -0.5, 1.5, 0.5)", "norm1", (90, 0, 100, 25)),
    ],
)
def test_one_box_is_read_in_pixels_and_clipped(text, coords, wanted) -> None:
    assert read_focus_box(text, coords, (100, 50)) == pytest.approx(wanted)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "there",
        "<answer></answer>",
        "<answer>(30, 20, 10, 40)</answer>",  # inverted
        "<answer>(10, 20, 10, 40)</answer>",  # no area
        "<answer>(110, 20, 130, 40)</answer>",  # outside
        "<answer>(100, 20, 130, 40)</answer>",  # no area is left
        "<answer>(1, 2, 3, 4) (5, 6, 7, 8)</answer>",
        "<answer>(1, 2, 3)</answer>",
        "<think>(10, 20, 30, 40)",
    ],
)
def test_anything_else_is_no_box(text: str) -> None:
    assert read_focus_box(text, "pixel", (100, 50)) is None


def test_the_overlap_of_fractions_is_that_of_their_pixels() -> None:
    # Worked by hand: 25 x 25 shared, 2 x 2500 - 625 covered: 625 / 4375.
    first, second = (read_focus_box(text, "norm1", (100, 100)) for text in ("(0, 0, .5, .5)", "(.25, .25, .75, .75)"))
    assert first is not None
    assert second is not None
    assert box_iou(first, second) == pytest.approx(0.142857, abs=1e-6)


def test_a_clipped_box_stays_as_it_is_inside_and_is_clipped_once() -> None:
    assert clipped_box((1, 2, 3, 4), (10, 10)) == (1, 2, 3, 4)
    once = clipped_box((-1, -2, 30, 4), (10, 10))
    assert once == (0, 0, 10, 4)
    assert clipped_box(once, (10, 10)) == once
    assert clipped_box((-5, -5, 0, 5), (10, 10)) is None


def test_a_crop_shows_its_box() -> None:
    pixels = numpy.zeros((40, 60, 3), dtype=numpy.uint8)
    pixels[10:20, 30:50] = (250, 40, 90)
    crop = crop_to_box(Image.fromarray(pixels), (30, 10, 50, 20), 64)
    assert crop.size == (64, 32)
    # Only the edges blend with what lies beside the box.
    assert crop.crop((8, 8, 56, 24)).getextrema() == ((250, 250), (40, 40), (90, 90))
    assert numpy.asarray(crop.convert("L")).min() > 30


def test_a_sliver_is_stretched_so_that_something_is_seen() -> None:
    image = Image.new("RGB", (64, 64), (9, 9, 9))
    assert crop_to_box(image, (0, 0, 64, 0.5), 64).size == (64, 8)
    assert crop_to_box(image, (3, 0, 4, 64), 32).size == (4, 32)
    assert crop_to_box(image, (3, 0, 4, 64), 4).size == (1, 4)
