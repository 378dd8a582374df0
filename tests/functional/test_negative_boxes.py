import random

import pytest

from lit_vlm.functional.boxes import box_iou
from lit_vlm.functional.negative_boxes import largest_change, negative_box, random_box_beside

BOX = (20.0, 24.0, 34.0, 40.0)
SIZE = (64, 64)


def test_a_second_guess_elsewhere_is_kept_and_no_random_number_is_drawn() -> None:
    stream = random.Random(3)
    state = stream.getstate()
    assert negative_box(BOX, (40.0, 40.0, 50.0, 50.0), SIZE, stream) == (40.0, 40.0, 50.0, 50.0)
    assert stream.getstate() == state


@pytest.mark.parametrize(
    ("edge", "is_kept"),
    [
        # Boxes of 10 x 10 that share a strip of width w: IoU = w / (20 - w), 0.0526 for w = 1, 0.0499 for w = 0.95.
        (9.05, True),
        (9.0, False),
    ],
)
def test_a_guess_is_kept_up_to_an_overlap_of_a_twentieth(edge: float, is_kept: bool) -> None:
    guess = (edge, 0.0, edge + 10, 10.0)
    found = negative_box((0.0, 0.0, 10.0, 10.0), guess, SIZE, random.Random(0))
    assert (found == guess) is is_kept


@pytest.mark.parametrize("guess", [None, BOX, (21.0, 25.0, 36.0, 41.0)])
def test_any_other_guess_is_replaced_by_a_box_of_about_the_size_that_shares_nothing(guess) -> None:
    for seed in range(200):
        found = negative_box(BOX, guess, SIZE, random.Random(seed))
        assert found is not None
        assert box_iou(BOX, found) == 0
        assert 0 <= found[0] < found[2] <= 64
        assert 0 <= found[1] < found[3] <= 64
        # So small a box is found within 20 tries.
        assert 0.6 * 14 - 1e-9 <= found[2] - found[0] <= 1.4 * 14 + 1e-9
        assert 0.6 * 16 - 1e-9 <= found[3] - found[1] <= 1.4 * 16 + 1e-9


def test_the_random_box_is_a_function_of_its_stream() -> None:
    one, other, third = (random_box_beside(BOX, SIZE, random.Random(seed)) for seed in (5, 5, 6))
    assert one == other
    assert one != third


def test_sides_may_differ_by_more_after_every_twenty_tries() -> None:
    assert [largest_change(attempt) for attempt in (0, 19, 20, 39, 40, 60, 80, 99)] == pytest.approx(
        [0.4, 0.4, 0.5, 0.5, 0.6, 0.7, 0.8, 0.8]
    )


def test_the_tries_end_where_there_is_no_room() -> None:
    class Counting(random.Random):
        drawn = 0

        def uniform(self, a: float, b: float) -> float:
            self.drawn += 1
            return super().uniform(a, b)

    stream = Counting(0)
    assert negative_box((1.0, 1.0, 63.0, 63.0), None, SIZE, stream) is None
    assert stream.drawn == 200  # two sides a try
    assert negative_box(BOX, None, SIZE, random.Random(0), tries=0) is None


def test_a_box_of_three_quarters_of_the_image_needs_the_widening() -> None:
    # Beside a strip of 0.7 fits one of 0.3: its side must differ by 4 / 7, which the first 40 tries forbid.
    strip = (0.0, 0.0, 0.7, 0.1)
    assert all(random_box_beside(strip, (1, 0.1), random.Random(seed), tries=40) is None for seed in range(100))  # type: ignore[arg-type]
    found = [random_box_beside(strip, (1, 0.1), random.Random(seed), tries=1000) for seed in range(20)]  # type: ignore[arg-type]
    assert any(found)
