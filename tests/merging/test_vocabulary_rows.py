"""Rows matched by token."""

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging import vocabulary_rows
from lit_vlm.merging.vocabulary_rows import Vocabulary, match_rows, moved_tokens

BASE = Vocabulary("base", {"a": 0, "b": 1}, 2)
APPENDED = Vocabulary("appended", {"a": 0, "b": 1, "<think>": 2}, 3)
TURNED = Vocabulary("turned", {"b": 0, "a": 1, "z": 2}, 3)


def test_shared_rows_take_the_difference_and_others_stay() -> None:
    match = match_rows("shared_rows", [APPENDED, BASE, BASE])
    assert match is not None
    target = torch.tensor([[0.0, 0], [0, 0], [7, 7]])
    delta = match.difference(target, torch.tensor([[1.5, 1], [2, 3]]), torch.tensor([[1.0, 1], [2, 2]]))
    assert (target + delta).tolist() == [[0.5, 0.0], [0.0, 1.0], [7.0, 7.0]]


def test_by_token_matches_rows_wherever_they_stand() -> None:
    match = match_rows("by_token", [APPENDED, TURNED, BASE])
    assert match is not None
    assert [rows.tolist() for rows in match.rows] == [[0, 1], [1, 0], [0, 1]]
    target = torch.tensor([[10.0], [20], [30]])
    donor, base = torch.tensor([[2.0], [1], [9]]), torch.tensor([[0.5], [0.25]])
    # Row 0 is "a": 1 - 0.5; row 1 is "b": 2 - 0.25.
    assert match.difference(target, donor, base).tolist() == [[0.5], [1.75], [0.0]]
    assert match.difference(target, donor, None).tolist() == [[1.0], [2.0], [0.0]]
    assert match.value(target, donor).tolist() == [[1.0], [2.0], [30.0]]
    assert target.tolist() == [[10.0], [20], [30]]


def test_equal_vocabularies_are_whole() -> None:
    assert match_rows("shared_rows", [BASE, BASE, Vocabulary("c", {"b": 1, "a": 0}, 2)]) is None
    assert match_rows("by_token", [BASE, BASE]) is None


def test_rows_that_only_pad_stay() -> None:
    match = match_rows("shared_rows", [BASE, Vocabulary("padded", BASE.tokens, 8)])
    assert match is not None
    assert match.target.tolist() == [0, 1]


def test_a_row_with_another_token_stays() -> None:
    other = Vocabulary("renamed", {"a": 0, "<new>": 1}, 2)
    match = match_rows("shared_rows", [BASE, other])
    assert match is not None
    assert match.target.tolist() == [0]


def test_a_token_without_a_row_is_left_out() -> None:
    match = match_rows("shared_rows", [APPENDED, Vocabulary("short", APPENDED.tokens, 2)])
    assert match is not None
    assert match.target.tolist() == [0, 1]


def test_tokens_that_have_moved_are_refused_in_shared_rows() -> None:
    with pytest.raises(UserError, match=r"tokens in different rows: 'a' \(0 and 1\), 'b' \(1 and 0\); give vocabulary"):
        match_rows("shared_rows", [BASE, TURNED])


def test_a_missing_tokenizer_is_no_fault_where_the_rows_are_as_many() -> None:
    unknown = Vocabulary("unknown", None, 2)
    assert match_rows("shared_rows", [BASE, unknown]) is None
    with pytest.raises(UserError, match="unknown without a tokenizer"):
        match_rows("by_token", [BASE, unknown])
    with pytest.raises(UserError, match="unknown without a tokenizer"):
        match_rows("shared_rows", [APPENDED, unknown])


def test_vocabularies_with_nothing_in_common_are_refused() -> None:
    with pytest.raises(UserError, match="base and other have no token in common"):
        match_rows("by_token", [BASE, Vocabulary("other", {"x": 0, "y": 1}, 2)])


def test_moved_tokens_are_those_that_both_have() -> None:
    assert moved_tokens({"a": 0, "b": 1, "c": 2}, {"a": 0, "b": 5, "d": 2}) == [("b", 1, 5)]


def test_many_rows_are_gathered_in_pieces_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    models = [
        Vocabulary(name, {str(token): token for token in range(count)}, 9) for name, count in (("a", 9), ("b", 7))
    ]
    match = match_rows("shared_rows", models)
    assert match is not None
    target, donor = torch.arange(9.0)[:, None], torch.arange(100.0, 109)[:, None]
    whole = match.difference(target, donor, None), match.value(target, donor)
    monkeypatch.setattr(vocabulary_rows, "PIECE", 3)
    assert torch.equal(match.difference(target, donor, None), whole[0])
    assert torch.equal(match.value(target, donor), whole[1])
    assert whole[0].flatten().tolist() == [100, 101, 102, 103, 104, 105, 106, 0, 0]
    assert whole[1].flatten().tolist() == [100, 101, 102, 103, 104, 105, 106, 7, 8]
