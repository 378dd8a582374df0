from types import SimpleNamespace

import pytest
from torch.utils.data import Dataset

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Message, TextPart


class Fixed(Dataset):
    """The same sample ten times."""

    def __init__(self, sample):
        self.sample = sample

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return self.sample


class FixedData(VLMDataModule):
    """Serves the fixed samples in every split."""

    def __init__(self, sample, encoder, **options):
        super().__init__(encoder, **{"num_workers": 0, "batch_size": 4, "evaluation_batch_size": 4, **options})
        self.sample = sample

    @property
    def tasks(self):
        return ("read",)

    def samples(self, split):
        return Fixed(self.sample)


def test_training_leaves_out_what_fills_no_batch_and_evaluation_serves_all(image_sample, random_tiny_encoder):
    data = FixedData(image_sample, random_tiny_encoder)
    assert [len(batch) for batch in data.train_dataloader()] == [4, 4]
    assert data.train_batches(world_size=1) == 2
    assert data.train_batches(world_size=2) == 1
    assert [len(batch) for batch in data.val_dataloader()] == [4, 4, 2]


def test_ranks_share_the_evaluation(image_sample, random_tiny_encoder):
    sizes = []
    for rank in range(3):
        data = FixedData(image_sample, random_tiny_encoder)
        device = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3, strategy=device)
        sizes.append(sum(len(batch) for batch in data.test_dataloader()))
    assert sizes == [4, 3, 3]


def test_a_system_turn_of_the_sample_is_kept(image_sample, random_tiny_encoder):
    from dataclasses import replace

    own = Message("system", (TextPart("own words"),))
    data = FixedData(
        replace(image_sample, messages=(own, *image_sample.messages)), random_tiny_encoder, system_prompt="theirs"
    )
    (first, *_) = next(iter(data.train_dataloader())).samples
    assert [message.text for message in first.messages if message.role == "system"] == ["own words"]


def test_a_second_sampler_under_several_processes_is_refused(image_sample, random_tiny_encoder):
    data = FixedData(image_sample, random_tiny_encoder)
    connector = SimpleNamespace(use_distributed_sampler=True)
    data.trainer = SimpleNamespace(world_size=2, _accelerator_connector=connector)
    with pytest.raises(UserError, match="use_distributed_sampler to false"):
        data.setup("fit")
    data.trainer.world_size = 1
    data.setup("fit")


def test_impossible_settings_are_refused(image_sample):
    with pytest.raises(UserError, match=r"data\.num_workers is -1"):
        FixedData(image_sample, None, num_workers=-1)
