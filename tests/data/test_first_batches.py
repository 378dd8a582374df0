import torch

from lit_vlm.data.batch_plans import ShardedBatches
from lit_vlm.data.first_batches import look_ahead
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import TokenCount


class Lengths:
    """Sample ``i`` has ``i + 1`` tokens; the fourth cannot be read."""

    def __init__(self, make_sample, broken=()):
        self.make_sample, self.broken = make_sample, broken

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index in self.broken:
            raise BadSampleError(f"row {index}", "broken")
        return self.make_sample("a", "7", sample_id=str(index))


def count(sample):
    return TokenCount(text=1, media=int(sample.id))


def encode(samples):
    longest = max(count(sample).total for sample in samples)
    return PromptBatch(torch.ones(len(samples), longest), torch.ones(len(samples), longest), {}, tuple(samples))


def plan(batch_size=2):
    return ShardedBatches(6, batch_size, rank=0, world_size=1, seed=0)


def test_tokens_are_those_of_the_first_batches(make_sample):
    first = look_ahead(plan(), Lengths(make_sample), count, encode, 2)
    indices = [plan().batch((0, place)) for place in range(2)]
    assert [tokens.media for tokens in first.tokens] == [sum(batch) for batch in indices]
    assert first.samples == (2, 2)
    assert first.images == 4


def test_the_largest_batch_is_the_one_with_the_longest_row(make_sample):
    first = look_ahead(plan(), Lengths(make_sample), count, encode, 10)
    assert first.largest.input_ids.shape == (2, 6)
    assert len(first.tokens) == 3


def test_samples_that_cannot_be_read_are_passed_over(make_sample):
    first = look_ahead(plan(), Lengths(make_sample, broken=(5,)), count, encode, 10)
    assert sum(first.samples) == 5
    assert first.largest.input_ids.shape[1] == 5


def test_samples_that_cannot_be_encoded_are_left_out_of_the_largest(make_sample):
    def picky(samples):
        if any(sample.id == "5" for sample in samples):
            raise BadSampleError("row 5", "too long")
        return encode(samples)

    first = look_ahead(plan(), Lengths(make_sample), count, picky, 10)
    assert len(first.largest) == 1


def test_batches_of_nothing_give_nothing(make_sample):
    assert look_ahead(plan(), Lengths(make_sample, broken=range(6)), count, encode, 10) is None


def test_looking_leaves_the_order_as_it_is(make_sample):
    batches = plan()
    before = [batches.batch((0, place)) for place in range(3)]
    look_ahead(batches, Lengths(make_sample), count, encode, 10)
    assert [batches.batch((0, place)) for place in range(3)] == before
