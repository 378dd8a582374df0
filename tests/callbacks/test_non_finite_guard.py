import json

import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from lit_vlm.callbacks.non_finite_guard import MOST_FOLDERS, NonFiniteGuard
from lit_vlm.functional.fault_folder import read_fault
from lit_vlm.interfaces.batches import PromptBatch, StepTotals
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, user_message
from tests.paradigms.processes import run_script

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


class Line(lightning.LightningModule):
    """Two weights and a loss that is what the batch says."""

    def __init__(self):
        super().__init__()
        self.used = torch.nn.Linear(2, 1)
        self.other = torch.nn.Linear(2, 1)

    def training_step(self, batch, batch_idx):
        values = batch.visual["values"]
        return self.used(values).sum() + 0.0 * self.other(torch.ones(1, 2)).sum()

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=0.1)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1000)}


class ByHand(Line):
    """The same, with steps of its own."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer = self.optimizers()
        optimizer.step()
        optimizer.zero_grad()


class InfiniteGradient(torch.autograd.Function):
    """Leaves its argument as it is, and makes its gradient infinite."""

    @staticmethod
    def forward(ctx, value):
        return value.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * torch.inf


class Steep(Line):
    """Its loss is finite, a gradient of its first layer is not where the batch says so."""

    def training_step(self, batch, batch_idx):
        values = batch.visual["values"]
        weight = InfiniteGradient.apply(self.used.weight) if values.isnan().any() else self.used.weight
        return (weight * values.nan_to_num()).sum() + self.other(torch.ones(1, 2)).sum()


def batch(number, spoilt=False):
    values = torch.full((2, 2), float(number + 1))
    if spoilt:
        values[1, 0] = torch.nan
    return PromptBatch(
        input_ids=torch.full((2, 3), number),
        attention_mask=torch.ones(2, 3, dtype=torch.int64),
        visual={"values": values},
        samples=tuple(Sample(f"{number}-{row}", (user_message("?"),)) for row in range(2)),
        labels=torch.full((2, 3), number),
        step_totals=StepTotals(6, 2),
    )


class States(Callback):
    """Keeps weights and the optimizer's state after every batch."""

    def __init__(self):
        self.states = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        state = trainer.optimizers[0].state_dict()["state"]
        weights = {name: value.detach().clone() for name, value in pl_module.named_parameters()}
        moments = {(key, name): value.clone() for key, item in state.items() for name, value in item.items()}
        self.states.append((weights, moments, trainer.global_step))


def fit(folder, guard, spoilt, module=None, batches=4, more=(), **options):
    loader = DataLoader([batch(number, number in spoilt) for number in range(batches)], batch_size=None)
    states = States()
    lightning.seed_everything(3, verbose=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[states, guard, *more],
        **options,
    )
    model = Line() if module is None else module
    trainer.fit(model, loader)
    return trainer, states.states


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for name in wanted:
        assert torch.equal(found[name], wanted[name]), name


def test_a_run_with_finite_steps_is_left_alone(tmp_path):
    _, guarded = fit(tmp_path, NonFiniteGuard(action="skip"), spoilt=())
    _, free = fit(tmp_path, Callback(), spoilt=())
    for mine, theirs in zip(guarded, free, strict=True):
        assert_equal(mine[0], theirs[0])
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_stops_the_run_before_the_weights_change(tmp_path):
    guard = NonFiniteGuard()
    model = Line()
    with pytest.raises(
        UserError, match=r"step 2: the loss is infinite or NaN and the gradients of 1 parameter.*rank_0"
    ):
        fit(tmp_path, guard, spoilt={2}, module=model)
    assert all(value.isfinite().all() for value in model.parameters())


def test_the_batch_that_led_to_it_is_on_disk_with_all_that_it_takes(tmp_path):
    (tmp_path / "config.yaml").write_text("seed_everything: 3\n")
    model = Line()
    with pytest.raises(UserError):
        fit(tmp_path, NonFiniteGuard(), spoilt={2}, module=model)
    folder = tmp_path / "faults" / "step_2_rank_0"
    contents = read_fault(folder)
    fault = contents.fault
    assert (fault.step, fault.rank, fault.world_size, fault.run_seed, fault.module) == (2, 0, 1, 3, "Line")
    assert fault.parameters == ("used.weight",)
    assert fault.spoilt_weights == ()
    (said,) = fault.micro_batches
    assert said.sample_ids == ("2-0", "2-1")
    assert not said.is_finite
    assert said.index == 2
    (held,) = contents.batches
    wanted = batch(2, spoilt=True)
    assert torch.equal(held.input_ids, wanted.input_ids)
    assert torch.equal(held.labels, wanted.labels)
    torch.testing.assert_close(held.visual["values"], wanted.visual["values"], equal_nan=True)
    assert held.samples == wanted.samples
    assert held.step_totals == wanted.step_totals
    assert_equal(dict(contents.weights), {name: value.detach() for name, value in model.named_parameters()})
    assert (folder / "config.yaml").read_text() == "seed_everything: 3\n"


def test_an_infinite_gradient_of_a_finite_loss_is_found_and_named(tmp_path):
    with pytest.raises(UserError, match=r"step 1: the gradients of 1 parameter are infinite or NaN \(used.weight\)"):
        fit(tmp_path, NonFiniteGuard(), spoilt={1}, module=Steep())
    assert read_fault(tmp_path / "faults" / "step_1_rank_0").fault.micro_batches[0].is_finite


@pytest.mark.parametrize("kind", [Line, ByHand, Steep])
def test_a_skipped_step_changes_neither_weights_nor_the_optimizer(tmp_path, kind):
    guard = NonFiniteGuard(action="skip")
    trainer, states = fit(tmp_path, guard, spoilt={2}, module=kind())
    (before, moments, _), (after, same_moments, steps) = states[1:3]
    assert_equal(after, before)
    assert_equal(same_moments, moments)
    assert (steps, guard.skipped) == (3, 1)
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 1
    assert not torch.equal(states[3][0]["used.weight"], after["used.weight"])
    assert (tmp_path / "faults" / "step_2_rank_0" / "fault.json").is_file()


def test_all_micro_batches_of_a_step_are_kept_and_the_one_at_fault_is_told(tmp_path):
    with pytest.raises(UserError, match="step 1:"):
        fit(tmp_path, NonFiniteGuard(), spoilt={2}, batches=4, accumulate_grad_batches=2)
    contents = read_fault(tmp_path / "faults" / "step_1_rank_0")
    assert [said.is_finite for said in contents.fault.micro_batches] == [False, True]
    assert [int(held.input_ids[0, 0]) for held in contents.batches] == [2, 3]


def test_tensors_and_weights_beyond_their_limits_are_left_out_and_records_stay(tmp_path):
    guard = NonFiniteGuard(kept_bytes=0, weight_bytes=0)
    with pytest.raises(UserError):
        fit(tmp_path, guard, spoilt={0}, module=Line())
    folder = tmp_path / "faults" / "step_0_rank_0"
    assert not list(folder.glob("*.safetensors"))
    lines = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["0-0", "0-1"]
    contents = read_fault(folder)
    assert contents.batches == ()
    assert contents.fault.weights_in is None


def test_too_many_skipped_steps_stop_the_run(tmp_path):
    with pytest.raises(UserError, match=r"3 steps in a row would be skipped now and 3 in all"):
        fit(tmp_path, NonFiniteGuard(action="skip", most_in_a_row=2), spoilt={1, 2, 3}, batches=5)
    with pytest.raises(UserError, match=r"1 steps in a row would be skipped now and 3 in all"):
        fit(tmp_path, NonFiniteGuard(action="skip", most=2), spoilt={0, 2, 4}, batches=6)
    guard = NonFiniteGuard(action="skip", most_in_a_row=2)
    fit(tmp_path, guard, spoilt={0, 1, 3, 4}, batches=6)
    assert guard.skipped == 4


def test_no_more_than_a_few_steps_are_written(tmp_path):
    guard = NonFiniteGuard(action="skip", most_in_a_row=9)
    fit(tmp_path, guard, spoilt=range(8), batches=8)
    assert len(list((tmp_path / "faults").iterdir())) == MOST_FOLDERS


def test_a_trial_run_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError, match="step 0: "):
        fit(tmp_path, NonFiniteGuard(), spoilt={0}, fast_dev_run=True)
    assert not list(tmp_path.iterdir())


def test_infinite_gradients_that_a_scaler_looks_for_are_no_fault(tmp_path):
    class Scaler:
        scale = 2.0

        def is_enabled(self):
            return True

        def get_scale(self):
            return self.scale

    scaler = Scaler()

    class WithScaler(Callback):
        def on_train_start(self, trainer, pl_module):
            trainer.precision_plugin.scaler = scaler

    class Unharmed(Steep):
        """As a scaler does, it leaves such a step out."""

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.0)

    guard = NonFiniteGuard()
    fit(tmp_path, guard, spoilt={1}, module=Unharmed(), batches=2, more=[WithScaler()])
    scaler.scale = 1.0
    with pytest.raises(UserError, match="step 1: the gradients"):
        fit(tmp_path, guard, spoilt={1}, module=Unharmed(), batches=2, more=[WithScaler()])


def test_counts_go_on_after_a_resume(tmp_path):
    guard = NonFiniteGuard(action="skip", most=2)
    fit(tmp_path, guard, spoilt={0, 1})
    other = NonFiniteGuard(action="skip", most=2)
    other.load_state_dict(guard.state_dict())
    with pytest.raises(UserError, match="3 in all"):
        fit(tmp_path, other, spoilt={2})


def test_settings_that_mean_nothing_are_refused():
    with pytest.raises(UserError, match="action is 'ignore'; give one of stop, skip"):
        NonFiniteGuard(action="ignore")
    with pytest.raises(UserError, match="most_in_a_row is -1"):
        NonFiniteGuard(most_in_a_row=-1)


TWO_RANKS = """
import sys
sys.path.insert(0, {root!r})
import lightning, torch
from torch.utils.data import DataLoader
from lit_vlm.callbacks.non_finite_guard import NonFiniteGuard
from lit_vlm.interfaces.errors import UserError
from tests.callbacks.test_non_finite_guard import Line, States, batch

action, folder, out = sys.argv[1:]


class Data(lightning.LightningDataModule):
    def train_dataloader(self):
        spoilt = {{2}} if self.trainer.global_rank == 1 else set()
        return DataLoader([batch(number, number in spoilt) for number in range(4)], batch_size=None)


lightning.seed_everything(3)
states = States()
trainer = lightning.Trainer(
    accelerator="cpu", devices=2, strategy="ddp", max_epochs=1, logger=False, enable_checkpointing=False,
    enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, use_distributed_sampler=False,
    callbacks=[states, NonFiniteGuard(action=action)],
)
told = ""
try:
    trainer.fit(Line(), Data())
except UserError as mistake:
    told = str(mistake)
if trainer.global_rank == 0:
    torch.save({{"weights": [weights for weights, _, _ in states.states], "told": told}}, out)
if told:
    torch.distributed.barrier()
"""


@pytest.mark.slow
@pytest.mark.parametrize("action", ["stop", "skip"])
def test_all_ranks_decide_alike_and_the_one_at_fault_writes(tmp_path, action):
    found = run_script(TWO_RANKS, tmp_path / "out.pt", action, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "faults").iterdir()] == ["step_2_rank_1"]
    fault = read_fault(tmp_path / "run" / "faults" / "step_2_rank_1").fault
    assert (fault.rank, fault.world_size, fault.weights_in) == (1, 2, "step_2_rank_1")
    weights = found["weights"]
    if action == "stop":
        assert "step 2: the loss is infinite or NaN" in found["told"]
        assert "step_2_rank_1" in found["told"]
        assert len(weights) == 2
    else:
        assert found["told"] == ""
        assert_equal(weights[2], weights[1])
        assert not torch.equal(weights[3]["used.weight"], weights[2]["used.weight"])
        assert all(value.isfinite().all() for value in weights[3].values())
