from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch

from lit_vlm.callbacks.asked_samples import AskedSamples
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, user_message


class Counted(AskedSamples):
    """Counts the samples that it is given."""

    def __init__(self, **options):
        super().__init__(**options)
        self.calls = []

    def ask(self, pl_module, samples):
        torch.rand(1)
        self.calls.append([sample.id for sample in samples])
        return torch.tensor([len(samples)], dtype=torch.float64)

    def tell(self, sums, split, total):
        return {"asked": sums[0], "total": float(total)}, f"{sums[0]:.0f} asked"


class Module:
    """Offers what is asked for, and keeps what is logged."""

    def complete(self, samples):
        raise AssertionError

    completion_log_probs = rewards_of = complete

    def __init__(self):
        self.logged = {}

    def log(self, name, value, batch_size):
        self.logged[name] = value


class Data(list):
    def prepared(self, split):
        return self


def trainer_of(count, rank=0, ranks=1):
    samples = Data(Sample(str(number), (user_message("q"),)) for number in range(count))
    return SimpleNamespace(
        datamodule=samples,
        global_rank=rank,
        world_size=ranks,
        global_step=3,
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
    )


def test_the_first_samples_are_asked_in_batches_and_random_streams_stay():
    callback, module, trainer = Counted(samples=5, batch_size=2), Module(), trainer_of(9)
    callback.setup(trainer, module, "fit")
    before = torch.get_rng_state()
    callback.on_validation_epoch_end(trainer, module)
    callback.on_test_epoch_end(trainer, module)
    assert torch.equal(torch.get_rng_state(), before)
    assert callback.calls == 2 * [["0", "1"], ["2", "3"], ["4"]]
    assert module.logged == {
        "validation/asked": 5.0,
        "validation/total": 5.0,
        "test/asked": 5.0,
        "test/total": 5.0,
    }


def test_ranks_share_samples_and_ask_equally_often(monkeypatch):
    monkeypatch.setattr("lit_vlm.callbacks.asked_samples.RolloutCallback.sum_over_ranks", lambda _, sums: sums)
    asked = []
    for rank in (0, 1):
        callback, module = Counted(batch_size=1), Module()
        callback.on_test_epoch_end(trainer_of(3, rank, 2), module)
        asked.append((callback.calls, module.logged["test/asked"]))
    # The second rank has one sample less and asks the first once more, which does not count.
    assert asked == [([["0"], ["2"]], 2.0), ([["1"], ["0"]], 1.0)]


@pytest.mark.parametrize("name", ["samples", "batch_size"])
def test_settings_out_of_range_are_refused(name):
    with pytest.raises(UserError, match=rf"Counted.{name} is 0; give at least 1"):
        Counted(**{name: 0})


def test_a_module_or_data_that_cannot_be_asked_are_refused():
    with pytest.raises(UserError, match="Counted asks a policy about samples, which object does not offer"):
        Counted().setup(trainer_of(1), object(), "fit")
    trainer = trainer_of(1)
    trainer.datamodule = None
    with pytest.raises(UserError, match="Counted reads single samples"):
        Counted().setup(trainer, Module(), "fit")


def test_no_samples_at_all_are_refused():
    with pytest.raises(UserError, match="there are no test samples to ask"):
        Counted().on_test_epoch_end(trainer_of(0), Module())
