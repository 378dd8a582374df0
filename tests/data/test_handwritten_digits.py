import numpy
from PIL import Image

from lit_vlm.data.handwritten_digits import draw_digit, draw_page, scans_of_split
from lit_vlm.functional.random_streams import random_stream

SPLITS = ("train", "validation", "test")


def test_the_splits_share_no_scan_and_hold_them_all():
    scans = {split: [scan for digit in scans_of_split(split) for scan in digit] for split in SPLITS}
    everything = sorted(sum(scans.values(), []))
    assert everything == list(range(1797))
    assert len(scans["train"]) > 1200


def test_every_digit_is_in_every_split():
    for split in SPLITS:
        assert all(len(digit) >= 10 for digit in scans_of_split(split))


def test_a_drawn_digit_darkens_its_own_square_only():
    page = Image.new("L", (64, 64), 255)
    draw_digit(page, scans_of_split("train")[8][0], (10, 20), 16, 0.0, 0)
    pixels = numpy.asarray(page)
    assert pixels[20:36, 10:26].min() < 100
    outside = pixels.copy()
    outside[20:36, 10:26] = 255
    assert outside.min() == 255


def test_noise_roughens_the_paper():
    flat = numpy.asarray(draw_page([], 32, 0.0, random_stream(0)))
    rough = numpy.asarray(draw_page([], 32, 10.0, random_stream(0)))
    assert flat.std() == 0
    assert 5 < rough[..., 0].std() < 12
    assert flat.shape == (32, 32, 3)
