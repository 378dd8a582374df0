import math
import random
from dataclasses import replace
from types import SimpleNamespace

import lightning
import numpy
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger
from PIL import ImageStat

from lit_vlm.callbacks.vision_dependence import SUMS, VisionDependence, figures_of
from lit_vlm.callbacks.vision_probes import plan_probes
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef, RewardOutput, Sample, user_message
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.models.vision_language_model import GenerationSettings
from tests.paradigms.on_policy_material import data, engine, module

# The fake has a frozen part, as a module with a frozen vision tower does.
pytestmark = pytest.mark.filterwarnings("ignore:Found 1 module.* in eval mode")


class CountingEncoder(SampleEncoder):
    """Gives sample ``i`` two trained tokens if ``i`` is even, four if odd."""

    def encode(self, samples):
        counts = [2 + 2 * (int(sample.id.removeprefix("sample-")) % 2) for sample in samples]
        labels = torch.tensor([[-100] + [1] * count + [-100] * (4 - count) for count in counts])
        return PromptBatch(labels, labels, {}, tuple(samples), labels)

    encode_prompts = encode_evaluation = describe_prompt = count_tokens = count_prompt_tokens = tokenise = None
    encode_pairs = encode_groups = count_comparison_tokens = None
    decode = None


def red(sample):
    """How red the sample's picture is: 40 times its own number, or 128 for grey."""
    return ImageStat.Stat(open_image(sample.images[0])).mean[0]


def make_probed(base):
    class Probed(base):
        """Tells pictures by their red; draws random numbers, changes modes."""

        encoder = CountingEncoder()

        def __init__(self):
            super().__init__()
            self.dropout = torch.nn.Dropout()
            self.frozen = torch.nn.Linear(1, 1).eval()
            self.asked = []
            self.completed = 0

        def training_step(self, batch, batch_idx):
            self.weight.data += torch.rand(1) + random.random() + numpy.random.random()
            return super().training_step(batch, batch_idx)

        def completion_log_probs(self, samples):
            self.eval()
            torch.rand(3), random.random(), numpy.random.random()
            self.asked.append([sample.id for sample in samples])
            return torch.tensor([-abs(red(sample) - 40 * number(sample)) for sample in samples])

        def complete(self, samples):
            self.train()
            self.completed += len(samples)
            return [SimpleNamespace(sample=sample) for sample in samples]

        def rewards_of(self, completions):
            shown = [(number(item.sample), red(item.sample)) for item in completions]
            rewards = [math.nan if pair == (3, 128) else float(pair[1] == 40 * pair[0]) for pair in shown]
            return RewardOutput(torch.tensor(rewards))

    return Probed()


def number(sample):
    return int(sample.id.removeprefix("sample-"))


class Data(lightning.LightningDataModule):
    """Trains on eight samples, serves six for validation."""

    def __init__(self, make_loader, samples):
        super().__init__()
        self.make_loader = make_loader
        self.samples = samples

    def prepared(self, split):
        assert split == "validation"
        return self.samples

    def train_dataloader(self):
        return self.make_loader(8, training=True)

    def val_dataloader(self):
        return self.make_loader(6)


@pytest.fixture
def probed(answers):
    return make_probed(type(answers))


@pytest.fixture
def samples(make_completion):
    return [make_completion(index).sample for index in range(4)]


@pytest.fixture
def fit_probed(probed, samples, make_loader, make_trainer, tmp_path):
    def run(*callbacks, model=None, served=None, **options):
        lightning.seed_everything(1, verbose=False)
        trainer = make_trainer(*callbacks, limit_val_batches=0, **options)
        trainer.fit(model or probed, datamodule=Data(make_loader, samples if served is None else served))
        return trainer

    return run


def test_figures_are_means_over_the_probes(fit_probed):
    metrics = fit_probed(VisionDependence()).callback_metrics
    figures = {name.removeprefix("vision_dependence/"): float(value) for name, value in metrics.items()}
    # Reds are 0, 40, 80, 120; partners 0-1 and 2-3 are 40 apart; grey is 128 away from 0, 88, 48 and 8.
    assert figures["log_prob"] == 0
    assert figures["log_prob_shuffled"] == -40
    assert figures["gap_shuffled"] == 40
    assert figures["log_prob_blank"] == -(128 + 88 + 48 + 8) / 4
    # Two, four, two and four tokens.
    assert figures["gap_per_token_shuffled"] == (20 + 10 + 20 + 10) / 4
    assert figures["gap_per_token_blank"] == (128 / 2 + 88 / 4 + 48 / 2 + 8 / 4) / 4
    # Sample 3 has no reward with a blank picture, and so counts in none.
    assert (figures["reward"], figures["reward_blank"], figures["reward_gap_shuffled"]) == (1, 0, 1)
    assert figures["probes"] == 4


def test_curves_are_logged_before_training_and_every_nth_step_whatever_else_is_logged(fit_probed, tmp_path):
    logger = CSVLogger(tmp_path)
    trainer = fit_probed(VisionDependence(every_n_steps=3), logger=logger, log_every_n_steps=1000)
    rows = (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text().splitlines()
    steps = rows[0].split(",").index("step")
    place = rows[0].split(",").index("vision_dependence/gap_blank")
    assert [row.split(",")[steps] for row in rows[1:] if row.split(",")[place]] == ["0", "3"]
    assert trainer.global_step == 4


def test_a_run_goes_as_it_would_without(fit_probed, answers, probed):
    fit_probed(VisionDependence(every_n_steps=1))
    plain = make_probed(type(answers))
    fit_probed(model=plain)
    assert probed.asked
    assert not plain.asked
    assert torch.equal(probed.weight, plain.weight)


def test_modes_of_modules_come_back(fit_probed, probed):
    seen = []

    class Watch(lightning.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.append([item.training for item in (pl_module, pl_module.dropout, pl_module.frozen)])

    fit_probed(VisionDependence(every_n_steps=1), Watch())
    assert seen == [[True, True, False]] * 4


@pytest.mark.parametrize(("every", "completions"), [(0, 0), (1, 5 * 12), (2, 3 * 12)])
def test_completions_can_be_rarer_than_log_probabilities(fit_probed, probed, every, completions):
    trainer = fit_probed(VisionDependence(every_n_steps=1, reward_every=every))
    assert len(probed.asked) == 5 * 3
    assert probed.completed == completions
    assert ("vision_dependence/reward" in trainer.callback_metrics) == (every > 0)


def test_samples_are_asked_in_batches(fit_probed, probed):
    fit_probed(VisionDependence(batch_size=3, reward_every=0))
    assert [len(asked) for asked in probed.asked] == [3, 3, 3, 1, 1, 1]


def test_a_resumed_run_measures_when_it_is_due(fit_probed, probed):
    first = VisionDependence(every_n_steps=3)
    fit_probed(first)
    later = VisionDependence(every_n_steps=3)
    later.load_state_dict(first.state_dict())
    assert (later.next_step, later.measurements) == (6, 2)


@pytest.fixture
def measure(probed, make_completion):
    """Measures as one of several ranks, from a plan that rank 0 makes; returns the sums and the names asked for."""

    def run(count, rank, ranks, **options):
        served = [make_completion(index).sample for index in range(count)]
        trainer = SimpleNamespace(
            global_rank=rank,
            world_size=ranks,
            is_global_zero=rank == 0,
            datamodule=SimpleNamespace(prepared=lambda split: served),
            strategy=SimpleNamespace(broadcast=lambda given: given or plan_probes(served, 64)),
        )
        callback = VisionDependence(**options)
        callback.setup(trainer, probed, "fit")
        probed.asked = []
        sums = callback._measure(trainer, probed, True)
        return sums, probed.asked

    return run


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("ranks", [2, 3])
def test_ranks_together_measure_what_one_does(measure, ranks, batch_size):
    alone, _ = measure(7, 0, 1)
    assert alone[SUMS.index("probes")] == 7
    parts = [measure(7, rank, ranks, batch_size=batch_size) for rank in range(ranks)]
    torch.testing.assert_close(torch.stack([sums for sums, _ in parts]).sum(0), alone)
    # No probe is asked on two ranks, and all ask equally often.
    names = [name for _, asked in parts for name in {name for batch in asked for name in batch}]
    assert sorted(names) == [f"sample-{index}" for index in range(7)]
    assert len({len(asked) for _, asked in parts}) == 1


def test_too_few_probes_for_the_ranks_are_refused(measure):
    with pytest.raises(UserError, match="found 4 validation samples .*; it needs 6, two for each rank"):
        measure(4, 0, 3)


def test_sums_of_nothing_give_no_means():
    assert figures_of(torch.zeros(len(SUMS))) == {"vision_dependence/probes": 0}


def test_resized_pictures_are_told(fit_probed, samples, make_completion, caplog):
    large = open_image(samples[1].images[0]).resize((20, 20))
    samples[1] = replace(samples[1], images=(MediaRef(pil=large),))
    with caplog.at_level("INFO"):
        fit_probed(VisionDependence(probes=2))
    assert "VisionDependence shows 2 of its 2 probes another sample's picture resized" in caplog.text


def test_data_without_pictures_are_refused(fit_probed):
    texts = [Sample(str(index), (user_message("q"),)) for index in range(4)]
    with pytest.raises(UserError, match="found 0 validation samples with a right answer and different pictures"):
        fit_probed(VisionDependence(), served=texts)


def test_other_modules_and_data_are_refused(fit_probed, answers, probed, make_trainer, make_loader):
    with pytest.raises(UserError, match="asks a policy about samples, which Answers does not offer"):
        fit_probed(VisionDependence(), model=answers)
    with pytest.raises(UserError, match=r"reads single samples, which the data \(NoneType\) do not serve"):
        make_trainer(VisionDependence(), limit_val_batches=0).fit(probed, make_loader(4, training=True), make_loader(2))


@pytest.mark.parametrize(
    ("option", "value", "least"),
    [("every_n_steps", 0, 1), ("probes", 1, 2), ("batch_size", 0, 1), ("reward_every", -1, 0), ("video_frames", 0, 1)],
)
def test_a_setting_that_is_too_small_is_refused(option, value, least):
    with pytest.raises(UserError, match=rf"VisionDependence\.{option} is {value}; give at least {least}"):
        VisionDependence(**{option: value})


@pytest.mark.slow
def test_the_bundled_model_looks_at_its_pictures(tmp_path):
    weights = []
    for callbacks in ([VisionDependence(every_n_steps=2, probes=16)], []):
        lightning.seed_everything(0, verbose=False)
        model = module("tiny", engine=engine(8), generation=GenerationSettings(max_new_tokens=48), rate=1e-4)
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_steps=2,
            logger=CSVLogger(tmp_path, version=len(weights)),
            callbacks=callbacks,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            limit_val_batches=0,
            use_distributed_sampler=False,
        )
        trainer.fit(model, datamodule=data(model.encoder, validation_size=24))
        weights.append([value.clone() for value in model.parameters()])
        if callbacks:
            figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    # In nats over a completion: a policy that does not look loses nothing.
    assert figures["vision_dependence/gap_blank"] > 5
    assert figures["vision_dependence/gap_shuffled"] > 5
    assert figures["vision_dependence/probes"] == 16
    assert "vision_dependence/gap_blank" in (tmp_path / "lightning_logs" / "version_0" / "metrics.csv").read_text()
    for one, other in zip(*weights, strict=True):
        assert torch.equal(one, other)
