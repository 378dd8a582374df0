from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lit_vlm.interfaces.batches import PreferenceBatch, PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.log_prob_cache import ModelName
from lit_vlm.paradigms.reference_cache import ServesPairs, cache_file, load_cache, make_cache

MODEL = ModelName("tiny", "ab" * 16)


def digest(number):
    return f"{number:032x}"


def batch(*numbers, named=True):
    """A batch of as many completions as numbers, two by two a pair."""
    ids = torch.tensor(numbers).unsqueeze(1)
    rows = torch.arange(len(numbers))
    return PreferenceBatch(
        prompts=PromptBatch(ids, torch.ones_like(ids), {}),
        token_ids=ids,
        mask=torch.ones_like(ids),
        counted=torch.ones_like(ids),
        prompt_of=rows,
        digests=tuple(map(digest, numbers)) if named else (),
        chosen=rows[::2],
        rejected=rows[1::2],
        corrupted=torch.full_like(rows[::2], -1),
        weights=torch.ones(len(rows[::2])),
        sample_of=torch.arange(len(rows[::2])),
    )


class Served:
    """Pairs of numbers."""

    def __init__(self, train, validation=(), folder=None):
        self.splits = {"train": train, "validation": validation}
        self.folder = folder

    def pair_batches(self, split):
        return iter(self.splits[split])

    def cache_file(self, name):
        return self.folder / name


def score(batch):
    return -batch.token_ids.sum(1).float()


def test_the_file_lies_next_to_the_data_unless_it_is_named(tmp_path):
    served = Served([], folder=tmp_path)
    assert isinstance(served, ServesPairs)
    assert cache_file(served, None) == tmp_path / "reference_log_probs.safetensors"
    assert cache_file(served, "elsewhere/file") == Path("elsewhere/file")


def test_all_pairs_of_training_and_validation_are_found_again(tmp_path):
    served = Served([batch(1, 2, 3, 4), batch(5, 6)], [batch(7, 1)])
    made = make_cache(tmp_path / "cache", MODEL, served, score, writes=True)
    found = load_cache(tmp_path / "cache", MODEL, served)
    assert made.sums == found.sums == {digest(number): -number for number in range(1, 8)}


def test_a_rank_that_does_not_write_knows_as_much(tmp_path):
    made = make_cache(tmp_path / "cache", MODEL, Served([batch(1, 2)]), score, writes=False)
    assert made.look_up([digest(2)]).tolist() == [-2]
    assert not (tmp_path / "cache").exists()


def test_pairs_that_are_not_there_are_counted(tmp_path):
    make_cache(tmp_path / "cache", MODEL, Served([batch(1, 2, 3, 4)]), score, writes=True)
    changed = Served([batch(1, 2, 3, 9)], [batch(8, 9)])
    with pytest.raises(UserError, match=r"cache lacks .* of 2 of 3 pairs"):
        load_cache(tmp_path / "cache", MODEL, changed)


def test_a_pair_without_a_rejected_completion_needs_none(tmp_path):
    make_cache(tmp_path / "cache", MODEL, Served([batch(1, 2)]), score, writes=True)
    alone = replace(batch(1, 9), rejected=torch.tensor([-1]))
    assert load_cache(tmp_path / "cache", MODEL, Served([alone]))


def test_completions_without_names_are_refused(tmp_path):
    with pytest.raises(UserError, match="no digests"):
        make_cache(tmp_path / "cache", MODEL, Served([batch(1, 2, named=False)]), score, writes=True)
