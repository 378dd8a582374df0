"""Whole DataModules whose samples are steered, or handed out as prompts, while a run goes on."""

from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch.utils.data import Dataset

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.capabilities import SamplesRollouts, SteeredData
from lit_vlm.interfaces.coefficients import Coefficients
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import BadSample, Sample, SampleMeta, TokenCount, user_message
from lit_vlm.interfaces.roles import SampleEncoder

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create",
    "ignore:.*does not have many workers",
    "ignore:.*treespec",
    "ignore:.*tensorboardX",
    "ignore:You passed in a `val_dataloader`",
)

SIZE = 40
UNREADABLE, LONG = 13, 22
LIMIT = 70
"""Most tokens of a prompt."""


class Lines(Dataset):
    """Sample ``i`` is of level ``i % 4``; one cannot be read."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        if index == UNREADABLE:
            raise BadSampleError(f"line {index}", "it is no JSON")
        meta = SampleMeta(category="even" if index % 2 == 0 else "odd", difficulty=index % 4, origin=f"line {index}")
        return Sample(str(index), (user_message("?"),), meta=meta)


class LineEncoder(SampleEncoder):
    """Sample ``i`` has ``1 + i`` tokens of prompt and ``100 - i`` of completion; the prompt of one is too long."""

    def encode(self, samples):
        ids = torch.tensor([[int(sample.id)] for sample in samples] or [[-1]])
        return PromptBatch(ids, torch.ones_like(ids), {}, tuple(samples), labels=ids.expand(-1, 2))

    def encode_prompts(self, samples):
        if any(self.count_prompt_tokens(sample).total > LIMIT for sample in samples):
            raise BadSampleError(f"line {LONG}", "its prompt is too long")
        lengths = [self.count_prompt_tokens(sample).total for sample in samples]
        mask = torch.zeros(len(samples), max(lengths, default=0), dtype=torch.long)
        for row, length in enumerate(lengths):
            mask[row, mask.shape[1] - length :] = 1
        return PromptBatch(mask * 7, mask, {}, tuple(samples))

    def encode_evaluation(self, samples):
        raise NotImplementedError

    def describe_prompt(self, sample):
        return sample.id

    def count_tokens(self, sample):
        return TokenCount(101, 0)

    def count_prompt_tokens(self, sample):
        return TokenCount(LIMIT + 1 if sample.id == str(LONG) else 1 + int(sample.id), 0)

    encode_pairs = encode_groups = count_comparison_tokens = None

    def tokenise(self, text):
        return []

    def decode(self, token_ids):
        return ""


class LineData(VLMDataModule):
    """Serves the lines in every split."""

    def __init__(self, **options):
        super().__init__(LineEncoder(), **{"num_workers": 0, "batch_size": 4, "bad_samples": "skip", **options})

    @property
    def tasks(self):
        return ("even", "odd")

    def samples(self, split):
        return Lines()


class Sampler(LightningModule):
    """Takes prompts, notes them, and updates after so many batches."""

    def __init__(self, batches_per_update=1):
        super().__init__()
        self.automatic_optimization = False
        self.layer = torch.nn.Linear(1, 1)
        self.batches_per_update = batches_per_update
        self.coefficients = Coefficients({})
        self.encoder = LineEncoder()
        self.group_size = 2
        self.sampling_temperature = 1.0
        self.unfinished_batches = 0
        self.seen = []

    def training_step(self, batch, batch_idx):
        self.seen.append([sample.id for sample in batch.samples])
        self.unfinished_batches = (self.unfinished_batches + 1) % self.batches_per_update
        if not self.unfinished_batches:
            self.manual_backward(self.layer(torch.ones(1, 1)).sum())
            self.optimizers().step()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def placed(data, rank=0, world_size=1, module=None):
    """Gives a DataModule a place without a Trainer."""
    data.trainer = SimpleNamespace(
        global_rank=rank,
        world_size=world_size,
        strategy=SimpleNamespace(root_device=SimpleNamespace(type="cpu")),
        lightning_module=module,
        accumulate_grad_batches=1,
        num_training_batches=float("inf"),
    )
    return data


def ids(batch):
    return [sample.id for sample in batch.samples]


def test_a_data_module_is_steered_data():
    assert isinstance(LineData(), SteeredData)
    assert isinstance(Sampler(), SamplesRollouts)
    assert LineData().arms("category") == {"even": 20, "odd": 19}
    assert list(LineData().arms("difficulty").items()) == [("0", 10), ("1", 9), ("2", 10), ("3", 10)]


def test_prompts_are_handed_out_where_the_module_samples_completions():
    data = placed(LineData(), module=Sampler())
    batches = list(data.train_dataloader())
    assert all(batch.labels is None and batch.step_totals is None for batch in batches)
    assert all(batch.attention_mask[:, -1].all() for batch in batches)
    told = {bad for batch in batches for bad in batch.dropped}
    reasons = {BadSample(f"line {UNREADABLE}", "it is no JSON"), BadSample(f"line {LONG}", "its prompt is too long")}
    assert told == reasons
    assert all(
        batch.labels is not None for batch in placed(LineData(), module=torch.nn.Linear(1, 1)).train_dataloader()
    )


def test_a_batch_of_bad_samples_alone_is_empty_and_names_them():
    data = placed(LineData(batch_size=1), module=Sampler())
    batches = list(data.train_dataloader())
    assert len(batches) == SIZE
    empty = [batch for batch in batches if not len(batch)]
    assert [batch.samples for batch in empty] == [(), ()]
    assert sorted(bad.origin for batch in empty for bad in batch.dropped) == [f"line {UNREADABLE}", f"line {LONG}"]


@pytest.mark.parametrize("options", [{"batching": "token_budget", "max_batch_tokens": 80, "batch_size": None}])
def test_batches_by_length_go_by_the_prompts(options):
    batches = list(placed(LineData(**options), module=Sampler()).train_dataloader())
    assert all(batch.attention_mask.numel() <= 80 for batch in batches)
    assert max(len(batch) for batch in batches) > 4
    assert sum(len(batch) for batch in batches) == SIZE - 2
    with pytest.raises(UserError, match="it has 101 tokens, more than data.max_batch_tokens=80"):
        placed(LineData(**options, bad_samples_limit=0)).train_dataloader()


def test_steering_is_refused_where_batches_go_by_length():
    for options in ({"batching": "length_grouped"}, {"batching": "token_budget", "max_batch_tokens": 80}):
        with pytest.raises(UserError, match=f"data.batching is {options['batching']}, .* set it to fixed"):
            LineData(**options).steer("difficulty", {"1": 1.0})


def test_bad_samples_of_the_arms_are_counted_and_named_by_the_next_batch():
    data = LineData(bad_samples="error")
    with pytest.raises(BadSampleError, match=f"line {UNREADABLE}: it is no JSON"):
        data.arms("category")
    data = LineData()
    source = iter(data.train_dataloader())
    next(source)
    data.steer("difficulty", {"1": 1.0})
    assert [bad.origin for bad in next(source).dropped] == [f"line {UNREADABLE}"]
    assert not any(batch.dropped for batch in source)


def steered_run(data, workers, changes, epochs=3, start=None, stop=None):
    """Takes batches; ``changes`` says at which batch a steering is to act, and it is called as much earlier."""
    loader = data.train_dataloader()
    if start is not None:
        loader.load_state_dict(start[1])
    number = 0 if start is None else start[0]
    seen = []
    while number < epochs * len(loader):
        for batch in loader:
            seen.append(ids(batch))
            number += 1
            if number + 2 * workers in changes:
                data.steer(*changes[number + 2 * workers])
            if number == stop:
                return seen, loader.state_dict()
    return seen


CHANGES = {
    7: ("difficulty", {"1": 1.0, "3": 1.0}),
    11: ("category", {"even": 1.0}),
    18: ("difficulty", {"0": 1.0, "1": 2.0}),
}


@pytest.fixture(scope="module")
def uninterrupted():
    """Thirty batches whose steering acts from batches 7, 11 and 18 on."""
    return steered_run(LineData(), 0, CHANGES)


def test_a_steering_acts_on_the_batches_after_those_read_ahead(uninterrupted):
    unsteered = [ids(batch) for batch in LineData().train_dataloader()]
    assert uninterrupted[:7] == unsteered[:7]
    levels = [{int(sample) % 4 for sample in batch} for batch in uninterrupted]
    assert all(found <= {1, 3} for found in levels[7:11])
    assert all(found <= {0, 2} for found in levels[11:18])
    assert all(found <= {0, 1} for found in levels[18:])
    shares = Counter(int(sample) % 4 for batch in uninterrupted[18:] for sample in batch)
    assert shares[1] > shares[0] > 0
    assert len(uninterrupted) == 30


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_only_changes_when_a_steering_acts(uninterrupted, workers):
    assert steered_run(LineData(num_workers=workers), workers, CHANGES) == uninterrupted


@pytest.mark.parametrize("workers", [0, 1])
def test_a_steered_run_resumes_anywhere_with_what_it_would_have_seen(uninterrupted, workers):
    for stop in range(1, 30, 1 if workers == 0 else 4):
        before, state = steered_run(LineData(num_workers=workers), workers, CHANGES, stop=stop)
        rest = steered_run(LineData(num_workers=workers), workers, CHANGES, start=(stop, state))
        assert before + rest == uninterrupted


def test_ranks_share_what_one_process_would_draw(uninterrupted):
    first, second = (steered_run(placed(LineData(batch_size=2), rank, 2), 0, CHANGES) for rank in range(2))
    assert [sorted(one + other) for one, other in zip(first, second, strict=True)] == [
        sorted(batch) for batch in uninterrupted
    ]
    assert all(one and other for one, other in zip(first, second, strict=True))


def test_steering_before_the_first_batch_acts_on_all():
    for workers in (0, 2):
        for early in (True, False):
            data = LineData(num_workers=workers)
            if early:
                data.steer("difficulty", {"2": 1.0})
            loader = data.train_dataloader()
            if not early:
                data.steer("difficulty", {"2": 1.0})
            assert {int(sample) % 4 for batch in loader for sample in ids(batch)} == {2}


class Steers(Callback):
    """Steers at the start and after the fourth update, and saves after every batch."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_start(self, trainer, pl_module):
        if trainer.global_step == 0:
            trainer.datamodule.steer("difficulty", {"0": 1.0, "1": 1.0})

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 4 and not pl_module.unfinished_batches:
            trainer.datamodule.steer("category", {"odd": 3.0, "even": 1.0})
        trainer.save_checkpoint(self.folder / f"{len(pl_module.seen)}.ckpt")


def fit(folder, module, steps, resume=None, **options):
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        max_epochs=-1,
        limit_val_batches=0,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[Steers(folder)],
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=LineData(**options), ckpt_path=resume)
    return module.seen


@pytest.mark.parametrize(("per_update", "workers"), [(1, 0), (1, 1), (3, 0), (3, 1)])
def test_a_trainer_saves_and_resumes_a_steered_run_also_between_updates(tmp_path, per_update, workers):
    steps = 24 // per_update
    whole = fit(tmp_path, Sampler(per_update), steps, num_workers=workers)
    assert len(whole) == 24
    changed = 4 * per_update + 2 * workers
    assert {int(sample) % 4 for batch in whole[:changed] for sample in batch} == {0, 1}
    assert {int(sample) % 4 for batch in whole[changed:] for sample in batch} == {0, 1, 2, 3}
    for batches in (3, 10, 11, 13, 20):
        checkpoint = tmp_path / f"{batches}.ckpt"
        torch.load(checkpoint, weights_only=True)
        rest = fit(tmp_path / "rest", Sampler(per_update), steps, checkpoint, num_workers=workers)
        # Batches that no update has used are sampled again.
        assert rest == whole[batches - batches % per_update :]
