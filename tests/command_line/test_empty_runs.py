import lightning
import pytest
from lightning.pytorch.callbacks import EarlyStopping

from lit_vlm.callbacks.checkpointing import Checkpointing
from lit_vlm.command_line.empty_runs import refuse_empty_fit
from lit_vlm.interfaces.errors import UserError


def trainer(**options):
    options = {"accelerator": "cpu", "logger": False, "max_epochs": 1, "enable_progress_bar": False, **options}
    return lightning.Trainer(**options)


@pytest.mark.parametrize("option", ["max_steps", "max_epochs", "limit_train_batches"])
def test_a_run_without_a_step_is_refused(option):
    with pytest.raises(UserError, match=f"trainer.{option} is 0, so that nothing is trained; give at least 1"):
        refuse_empty_fit(trainer(**{option: 0}))


@pytest.mark.parametrize("callback", [EarlyStopping("validation/loss"), Checkpointing(monitor="validation/loss")])
def test_what_no_validation_measures_is_refused(callback):
    with pytest.raises(UserError, match="monitor is validation/loss, but trainer.limit_val_batches is 0"):
        refuse_empty_fit(trainer(callbacks=[callback], limit_val_batches=0))
    refuse_empty_fit(trainer(callbacks=[callback]))
    refuse_empty_fit(trainer(callbacks=[EarlyStopping("train/loss")], limit_val_batches=0))
