import random

import pytest
from PIL import Image

from lit_vlm.functional.spoilt_images import blank, blown_up, blurred, patches_hidden, random_crop_box

GRADIENT = Image.linear_gradient("L").resize((60, 40)).convert("RGB")


@pytest.mark.parametrize("size", [(60, 40), (336, 336), (7, 5)])
def test_crops_lie_within_and_keep_the_share_and_the_ratio(size):
    stream = random.Random(0)
    for _ in range(200):
        left, top, right, bottom = random_crop_box(size, (0.1, 0.2), (3 / 4, 4 / 3), stream)
        assert 0 <= left < right <= size[0]
        assert 0 <= top < bottom <= size[1]
        if size[0] > 50:
            assert 0.08 < (right - left) * (bottom - top) / (size[0] * size[1]) < 0.22
            assert 0.65 < (right - left) / (bottom - top) < 1.5


def test_area_shares_are_uniform():
    stream = random.Random(1)
    shares = []
    for _ in range(4000):
        left, top, right, bottom = random_crop_box((1000, 1000), (0.01, 0.2), (3 / 4, 4 / 3), stream)
        shares.append((right - left) * (bottom - top) / 1e6)
    assert abs(sum(shares) / len(shares) - 0.105) < 0.004
    assert abs(sum(share < 0.105 for share in shares) / len(shares) - 0.5) < 0.03


def test_where_nothing_fits_the_middle_is_taken():
    assert random_crop_box((100, 2), (1.0, 1.0), (1.0, 1.0), random.Random(0)) == (49, 0, 51, 2)


def test_a_crop_is_blown_up_to_the_whole():
    spoilt = blown_up(GRADIENT, (0, 0, 10, 10))
    assert spoilt.size == GRADIENT.size
    assert max(high for _, high in spoilt.getextrema()) < max(high for _, high in GRADIENT.getextrema())
    assert blown_up(GRADIENT, (0, 0, 60, 40)).tobytes() == GRADIENT.tobytes()


def test_blurs_and_blanks_keep_the_size():
    checks = Image.effect_noise((64, 48), 80).convert("RGB")
    spread = [high - low for low, high in blurred(checks, 0.2).getextrema()]
    assert max(spread) < min(high - low for low, high in checks.getextrema()) / 2
    assert blank(checks).size == checks.size
    assert len(blank(checks).getcolors()) == 1


def test_as_many_cells_are_hidden_as_asked():
    white = Image.new("RGB", (64, 64), (255, 255, 255))
    hidden = patches_hidden(white, 0.3, 8, random.Random(0))
    counts = {colour: count for count, colour in hidden.getcolors()}
    assert counts[(128, 128, 128)] == 20 * 64
    assert white.getpixel((0, 0)) == (255, 255, 255)
    assert len(patches_hidden(white, 1.0, 3, random.Random(0)).getcolors()) == 1
