import pytest
import torch
from torch.utils.data import Dataset

from lit_vlm.data.step_loader import ShardedBatches, StepLoader
from lit_vlm.interfaces.records import PromptBatch, StepTotals


class Numbers(Dataset):
    """Sample ``i`` is the number ``i``."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        return index


def collate(numbers):
    """A row of ``number + 1`` labels each."""
    length = max(numbers) + 2
    labels = torch.full((len(numbers), length), -100)
    for row, number in enumerate(numbers):
        labels[row, 1 : number + 2] = 1
    return PromptBatch(torch.tensor(numbers)[:, None].expand(-1, length), torch.ones_like(labels), {}, labels=labels)


def order(length=12, batch_size=2, rank=0, world_size=1, seed=0, **options):
    return ShardedBatches(length, batch_size, rank=rank, world_size=world_size, seed=seed, **options)


def loader(batches, accumulation=1, limit=None):
    return StepLoader(Numbers(batches.length), collate, batches, accumulation=lambda: accumulation, limit=lambda: limit)


def rows(batch):
    return batch.input_ids[:, 0].tolist()


def test_every_sample_comes_once_an_epoch():
    batches = list(order())
    assert sorted(sum(batches, [])) == list(range(12))
    assert sum(batches, []) != list(range(12))


def test_ranks_share_the_batches_that_one_process_would_see():
    alone = list(order(batch_size=4))
    shared = [list(order(batch_size=2, rank=rank, world_size=2)) for rank in range(2)]
    for whole, first, second in zip(alone, *shared, strict=True):
        assert sorted(whole) == sorted(first + second)


def test_a_last_batch_that_is_not_full_is_left_out():
    assert len(order(length=5)) == len(list(order(length=5))) == 2
    assert len(order(length=7, batch_size=2, world_size=2)) == 1


def test_whole_batches_are_shuffled_where_runs_belong_together():
    batches = list(order(shuffle_batches=True))
    assert sorted(batches) == [[start, start + 1] for start in range(0, 12, 2)]
    assert batches != sorted(batches)


def test_another_epoch_or_seed_gives_another_order():
    first = order()
    second = order()
    second.epoch = 1
    assert list(first) != list(second)
    assert list(first) != list(order(seed=1))


@pytest.mark.parametrize(("accumulation", "limit", "steps"), [(3, None, (3, 3)), (4, None, (4, 2)), (4, 3, (3,))])
def test_each_batch_knows_the_labels_of_its_whole_step(accumulation, limit, steps):
    served = list(loader(order(), accumulation=accumulation, limit=limit))
    start = 0
    for length in steps:
        window = served[start : start + length]
        labels = sum(number + 1 for batch in window for number in rows(batch))  # sample i has i + 1 labels
        assert [batch.step_totals for batch in window] == [StepTotals(labels, 2 * length)] * length
        start += length
    assert start == len(served)


def test_a_resumed_loader_continues_with_the_batch_it_would_have_seen_next():
    whole = loader(order(), accumulation=2)
    expected = [(rows(batch), batch.step_totals) for _ in range(2) for batch in whole]
    for stop in range(1, 12):
        first = loader(order(), accumulation=2)
        seen = []
        while len(seen) < stop:
            for batch in first:
                seen.append((rows(batch), batch.step_totals))
                if len(seen) == stop:
                    break
        second = loader(order(), accumulation=2)
        second.load_state_dict(first.state_dict())
        while len(seen) < 12:
            seen.extend((rows(batch), batch.step_totals) for batch in second)
        assert seen == expected
