import torch

from lit_vlm.rollouts import growing_rows
from lit_vlm.rollouts.growing_rows import GrowingRows
from lit_vlm.rollouts.stop_strings import StopStrings
from lit_vlm.rollouts.token_sampler import Draw

END, PADDING = 1, 0


def decode(ids):
    return "".join(chr(token) for token in ids if token > END)


def grow(rows, most=5, stops=(), ends=(END,)):
    """Feeds the given rows token by token, as a batch from which finished rows leave."""
    growing = GrowingRows(len(rows), most, ends, PADDING, StopStrings(stops, decode), torch.device("cpu"))
    order, sizes = list(range(len(rows))), []
    while growing.is_growing:
        sizes.append(len(order))
        tokens = torch.tensor([rows[row][growing.length] for row in order])
        kept = growing.append(Draw(tokens, tokens * -0.5, tokens * 2.0))
        if kept is not None:
            order = [order[index] for index in kept.tolist()]
    return growing, growing.finish(), sizes


def test_rows_end_at_an_end_token_a_stop_string_or_the_limit():
    rows = [[65, 66, 67, 68, 69], [65, END], [END], [66, 67, 68, 69, END], [90, 65, 66, 70]]
    growing, texts, sizes = grow(rows, stops=("AB",), ends=(END, 70))
    assert texts == ["AB", "A", "", "BCDE", "ZAB"]
    assert growing.mask.sum(1).tolist() == [2, 2, 1, 5, 3]
    assert sizes == [5, 4, 2, 1, 1]
    assert growing.is_truncated.tolist() == [False] * 5
    expected = [row[:length] for row, length in zip(rows, (2, 2, 1, 5, 3), strict=True)]
    assert [ids[mask != 0].tolist() for ids, mask in zip(growing.token_ids, growing.mask, strict=True)] == expected
    assert torch.equal(growing.log_probs, growing.token_ids * -0.5)
    assert torch.equal(growing.entropies, growing.token_ids * 2.0)


def test_a_row_is_truncated_only_if_its_last_token_ends_nothing():
    growing, texts, _ = grow([[65, 66], [65, END], [66, 65]], most=2, stops=("BA",))
    assert growing.is_truncated.tolist() == [True, False, False]
    assert texts == ["AB", "A", "BA"]


def test_a_stop_string_that_was_overlooked_still_cuts(monkeypatch):
    monkeypatch.setattr(StopStrings, "completed", lambda *_: False)
    growing, texts, _ = grow([[65, 66, 67], [67, 68, 69]], most=3, stops=("AB",))
    assert texts == ["AB", "CDE"]
    assert growing.mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert growing.is_truncated.tolist() == [False, True]
    assert growing.token_ids[0].tolist() == [65, 66, PADDING]
    assert growing.log_probs[0, 2] == growing.entropies[0, 2] == 0


def test_room_is_made_as_rows_grow(monkeypatch):
    monkeypatch.setattr(growing_rows, "BLOCK", 3)
    rows = [list(range(65, 65 + 8)), [*range(65, 69), END]]
    growing, texts, _ = grow(rows, most=8)
    assert texts == ["ABCDEFGH", "ABCD"]
    assert growing.token_ids.shape == (2, 8)


def test_most_rows_keep_their_place_when_others_leave():
    is_done = torch.tensor([False, True, False, True, False, False, True, False])
    rows = growing_rows._fill_holes(is_done, 3)
    assert sorted(rows.tolist()) == [0, 2, 4, 5, 7]
    assert rows[[0, 2, 4]].tolist() == [0, 2, 4]
    assert growing_rows._fill_holes(torch.ones(2, dtype=torch.bool), 2).tolist() == []
