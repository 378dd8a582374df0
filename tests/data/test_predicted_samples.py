from dataclasses import replace

import pytest

from lit_vlm.data.predicted_samples import samples_left
from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.capabilities import LeavesOutPredicted
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.interfaces.roles import SampleTransform


class Samples:
    """Samples by these ids; None cannot be read."""

    def __init__(self, *ids):
        self.ids = ids
        self.read = []

    def __len__(self):
        return len(self.ids)

    def __getitem__(self, index):
        self.read.append(index)
        if self.ids[index] is None:
            raise BadSampleError(f"line {index}", "broken")
        return Sample(self.ids[index], ())


def shares(samples, done, world_size):
    return [list(samples_left(samples, done, rank, world_size)) for rank in range(world_size)]


def test_without_anything_done_no_sample_is_read():
    samples = Samples("a", "b", "c")
    assert shares(samples, (), 2) == [[0, 2], [1]]
    assert samples.read == []


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_what_is_left_is_dealt_evenly_whoever_did_the_rest(world_size):
    samples = Samples(*"abcdefgh")
    dealt = shares(samples, {"a", "c", "d"}, world_size)
    assert sorted(index for share in dealt for index in share) == [1, 4, 5, 6, 7]
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1
    assert all(share == sorted(share) for share in dealt)


def test_a_rank_without_a_share_repeats_a_sample_that_is_done():
    assert shares(Samples("a", "b", "c"), {"a", "b"}, 2) == [[2], [0]]
    assert shares(Samples("a", "b"), {"a", "b"}, 2) == [[0], [0]]


def test_samples_that_cannot_be_read_are_left():
    assert shares(Samples("a", None, "c"), {"a"}, 1) == [[1, 2]]


def test_ids_of_other_samples_change_nothing():
    assert shares(Samples("a", "b"), {"z"}, 1) == [[0, 1]]


def test_two_samples_of_one_id_are_refused():
    with pytest.raises(UserError, match="samples 0 and 2 of those to predict are both called 'a'"):
        samples_left(Samples("a", "b", "a"), {"b"}, 0, 1)


class Numbered(VLMDataModule):
    """Serves six samples of each split, named after it."""

    tasks = ("read",)

    def __init__(self, sample, encoder, **options):
        super().__init__(encoder, num_workers=0, batch_size=4, evaluation_batch_size=4, **options)
        self.sample = sample

    def samples(self, split):
        return [replace(self.sample, id=f"{split}-{number}") for number in range(6)]


def served(data):
    return [[sample.id for sample in batch.prompts.samples] for batch in data.predict_dataloader()]


def test_predict_reads_the_split_that_is_asked_for(image_sample, random_tiny_encoder):
    assert served(Numbered(image_sample, random_tiny_encoder))[0][0] == "test-0"
    for split in ("train", "validation"):
        batches = served(Numbered(image_sample, random_tiny_encoder, predict_split=split))
        assert batches == [[f"{split}-{number}" for number in range(4)], [f"{split}-4", f"{split}-5"]]
    with pytest.raises(UserError, match="data.predict_split is 'dev'"):
        Numbered(image_sample, random_tiny_encoder, predict_split="dev")


def test_predict_passes_by_what_is_done_and_the_test_does_not(image_sample, random_tiny_encoder):
    data = Numbered(image_sample, random_tiny_encoder)
    assert isinstance(data, LeavesOutPredicted)
    data.leave_out({"test-0", "test-3"})
    assert served(data) == [["test-1", "test-2", "test-4", "test-5"]]
    assert [len(batch) for batch in data.test_dataloader()] == [4, 2]


class Twice(SampleTransform):
    """Makes two samples of each to train on."""

    def __call__(self, sample):
        return [replace(sample, id=f"{sample.id}#{place}") for place in range(2)]


def test_a_transform_makes_as_many_prompts_as_of_training_samples(image_sample, random_tiny_encoder):
    data = Numbered(image_sample, random_tiny_encoder, transform=Twice(), predict_split="train")
    data.leave_out({"train-0#1"})
    ids = [name for batch in served(data) for name in batch]
    assert len(ids) == 11
    assert ids[:2] == ["train-0#0", "train-1#0"]
