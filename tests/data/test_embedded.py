import pytest
import torch

from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.data.embedded import THINK_FIRST, EmbeddedDataModule, MixedSamples
from lit_vlm.interfaces.errors import UserError

SUM, READ = (DigitsReasoningGenerator(tasks=(task,)) for task in ("sum", "read_digit"))


def test_a_mixture_serves_runs_of_each_generator_by_turns():
    mixed = MixedSamples([SUM, READ], "train", 10, run=2)
    categories = [mixed[index].meta.category for index in range(10)]
    assert categories == ["sum", "sum", "read_digit", "read_digit"] * 2 + ["sum", "sum"]
    ids = [mixed[index].id for index in range(8) if mixed[index].meta.category == "sum"]
    assert [sample_id.rsplit("/", 1)[1] for sample_id in ids] == ["0", "1", "2", "3"]
    outlines = [mixed.outline(index) for index in range(10)]
    assert [outline.id for outline in outlines] == [mixed[index].id for index in range(10)]
    assert [outline.meta.category for outline in outlines] == categories
    with pytest.raises(IndexError):
        mixed[10]


def test_a_training_batch_of_a_mixture_is_of_one_kind(random_tiny_encoder):
    data = EmbeddedDataModule([SUM, READ], random_tiny_encoder, train_size=16, batch_size=4, num_workers=0)
    assert data.tasks == ("sum", "read_digit")
    kinds = [{sample.meta.category for sample in batch.samples} for batch in data.train_dataloader()]
    assert all(len(kind) == 1 for kind in kinds)
    assert set.union(*kinds) == {"sum", "read_digit"}


def test_the_system_prompt_comes_first_unless_there_is_none(random_tiny_encoder):
    for prompt, expected in ((THINK_FIRST, True), (None, False)):
        data = EmbeddedDataModule(
            [SUM], random_tiny_encoder, train_size=2, batch_size=2, num_workers=0, system_prompt=prompt
        )
        batch = next(iter(data.train_dataloader()))
        assert (batch.samples[0].messages[0].role == "system") is expected


def test_batches_are_the_same_with_and_without_workers(random_tiny_encoder):
    served = []
    for workers in (0, 2):
        data = EmbeddedDataModule([SUM], random_tiny_encoder, train_size=8, batch_size=2, num_workers=workers)
        served.append(torch.cat([batch.visual["pixel_values"] for batch in data.train_dataloader()]))
    assert torch.equal(*served)


def test_evaluation_serves_prompts_and_completions_in_order(random_tiny_encoder):
    data = EmbeddedDataModule([SUM], random_tiny_encoder, validation_size=5, evaluation_batch_size=2, num_workers=0)
    batches = list(data.val_dataloader())
    ids = [sample.id for batch in batches for sample in batch.complete.samples]
    assert ids == [SUM.sample("validation", index).id for index in range(5)]
    assert all((batch.prompts.attention_mask[:, -1] == 1).all() for batch in batches)


@pytest.mark.parametrize("name", ["train_size", "validation_size", "test_size", "batch_size", "evaluation_batch_size"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(UserError, match=f"data.{name} is 0"):
        EmbeddedDataModule([SUM], **{name: 0})


def test_a_missing_encoder_is_named():
    with pytest.raises(UserError, match="needs an encoder"):
        EmbeddedDataModule([SUM]).train_dataloader()
