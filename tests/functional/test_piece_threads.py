"""Pieces of a tensor, side by side."""

import threading

import pytest
import torch

from lit_vlm.functional.piece_threads import PieceThreads


@pytest.fixture
def two_processors():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8])
def test_pieces_cover_all_numbers_in_order(count):
    with PieceThreads() as threads:
        found = list(threads.over(count, lambda start, stop: list(range(start, stop)), step=3))
    assert [number for piece in found for number in piece] == list(range(count))


def test_torch_uses_one_processor_inside_and_as_many_as_before_outside(two_processors):
    with PieceThreads() as threads:
        inside = set(threads.over(8, lambda start, stop: torch.get_num_threads(), step=1))
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert (inside, torch.get_num_threads(), seen) == ({1}, 2, [2])


def test_pieces_are_worked_on_at_the_same_time(two_processors):
    meeting = threading.Barrier(2, timeout=20)
    with PieceThreads() as threads:
        # Each waits for the other.
        assert len(list(threads.over(2, lambda start, stop: meeting.wait(), step=1))) == 2


def test_what_a_piece_raises_is_raised():
    def work(start, stop):
        if start == 4:
            raise ValueError("the third piece")
        return start

    with PieceThreads() as threads, pytest.raises(ValueError, match="the third piece"):
        list(threads.over(10, work, step=2))
