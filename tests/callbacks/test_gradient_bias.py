from types import SimpleNamespace

import lightning
import pytest
import torch
from torch import Tensor, nn

from lit_vlm.callbacks.gradient_bias import GradientBias
from lit_vlm.functional.gradient_directions import ALPHA_SHARE
from lit_vlm.interfaces.coefficients import Coefficient, Coefficients
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import AttachedTransform, GradientTransform

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


class Doubled(GradientTransform, AttachedTransform):
    """Multiplies the gradient by one more than the share."""

    acts_on = ("weight",)

    def __init__(self):
        self.seen: list[tuple[float, float]] = []

    def attach(self, module):
        self.weight = module.trained_weights()[0]
        return self

    def __call__(self, coefficients) -> dict[str, Tensor]:
        gradient = self.weight.grad
        self.seen.append((float(gradient), coefficients["alpha_share"]))
        gradient.mul_(1 + coefficients["alpha_share"])
        return {"cosine": torch.tensor(0.25)}


class Line(lightning.LightningModule):
    """A number that descends by its gradient, which is the mean of the batches."""

    def __init__(self, by_hand=False):
        super().__init__()
        self.number = nn.Parameter(torch.zeros(()))
        self.automatic_optimization = not by_hand
        self.clipped = []

    def trained_weights(self):
        return [self.number]

    def initial_weights(self):
        raise NotImplementedError

    def open_weights(self, reference):
        raise NotImplementedError

    def train_dataloader(self):
        return torch.utils.data.DataLoader(torch.arange(1.0, 9.0))

    def training_step(self, batch, batch_idx):
        loss = self.number * batch.sum()
        if not self.automatic_optimization:
            optimizer = self.optimizers()
            self.manual_backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        return loss

    def on_before_optimizer_step(self, optimizer):
        self.clipped.append(float(self.number.grad))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(callback, module=None, steps=2, **options):
    module = Line() if module is None else module
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=callback,
        **options,
    )
    trainer.fit(module)
    return module, trainer


def test_accumulated_gradients_are_transformed_once_a_step():
    doubled = Doubled()
    module, _ = fit(GradientBias(doubled), accumulate_grad_batches=2)
    # Means of 1, 2 and of 3, 4; each is doubled, and descended by.
    assert doubled.seen == [(1.5, 1.0), (3.5, 1.0)]
    assert module.number.item() == -10.0


def test_gradients_are_cut_down_after_the_transform():
    module, _ = fit(GradientBias(Doubled()), steps=1, gradient_clip_val=1.5)
    assert module.number.item() == pytest.approx(-1.5, rel=1e-4)  # 2 x 1, cut down


def test_a_module_that_steps_by_hand_sees_transformed_gradients_in_its_own_hook():
    module, _ = fit(GradientBias(Doubled()), Line(by_hand=True))
    assert module.clipped == [2.0, 4.0]


def test_figures_and_the_share_are_logged():
    _, trainer = fit(GradientBias(Doubled(), start=0.5))
    figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
    assert figures == {"train/drift/cosine": 0.25, "train/drift/alpha_share": 0.5}


@pytest.mark.parametrize(
    ("options", "shares"),
    [
        ({}, [1.0, 1.0, 1.0, 1.0]),
        ({"kind": "linear", "start": 1.0, "end": 0.0, "steps": 2}, [1.0, 0.5, 0.0, 0.0]),
        ({"kind": "linear", "start": 0.0, "end": 1.0}, [0.0, 0.25, 0.5, 0.75]),
        ({"kind": "cosine", "start": 0.0, "end": 1.0, "steps": 2}, [0.0, 0.5, 1.0, 1.0]),
        ({"start": 2.0, "warmup": 2}, [0.0, 1.0, 2.0, 2.0]),
        ({"kind": "linear", "start": 1.0, "end": 0.0, "steps": 4, "warmup": 2}, [0.0, 0.375, 0.5, 0.25]),
    ],
)
def test_the_share_follows_its_schedule(options, shares):
    doubled = Doubled()
    fit(GradientBias(doubled, **options), steps=4)
    assert [share for _, share in doubled.seen] == pytest.approx(shares)


def test_what_was_read_is_let_go():
    bias = GradientBias(Doubled())
    fit(bias, steps=1)
    assert bias._attached is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "square"}, "kind is 'square'; it must be one of constant, linear, cosine"),
        ({"kind": "linear"}, "end is not given; a linear schedule needs it"),
        ({"start": float("nan")}, "give finite numbers"),
        ({"kind": "linear", "end": 0.0, "steps": 0}, "give steps >= 1"),
        ({"end": 0.0}, "kind is constant, which has no end and no steps, but end is 0.0"),
        ({"steps": 5}, "steps are 5; give kind linear or cosine"),
        ({"warmup": -1}, "warmup >= 0"),
    ],
)
def test_schedules_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        GradientBias(Doubled(), **options)


def test_a_module_that_does_not_tell_what_it_trains_is_refused():
    trainer = SimpleNamespace(max_steps=2, callbacks=[])
    with pytest.raises(UserError, match="LightningModule does not tell what it trains"):
        GradientBias(Doubled()).setup(trainer, lightning.LightningModule(), "fit")
    GradientBias(Doubled()).setup(trainer, lightning.LightningModule(), "test")


def test_a_module_with_a_bias_of_its_own_is_refused():
    line = Line()
    line.coefficients = Coefficients({"kl": Coefficient(0.1)})
    GradientBias(Doubled()).setup(SimpleNamespace(max_steps=2, callbacks=[]), line, "fit")
    line.coefficients = Coefficients({ALPHA_SHARE: Coefficient(1.0)})
    with pytest.raises(UserError, match="Line biases its gradients itself; leave the callback out"):
        GradientBias(Doubled()).setup(SimpleNamespace(max_steps=2, callbacks=[]), line, "fit")


def test_a_second_bias_is_refused():
    with pytest.raises(UserError, match="GradientBias twice"):
        fit([GradientBias(Doubled()), GradientBias(Doubled())])


def test_the_transform_is_asked_what_does_not_fit_before_a_model_is_loaded():
    class Missing(Doubled):
        def check(self, module):
            raise UserError(f"no prior for {type(module).__name__}")

    class NeverLoaded(Line):
        def configure_model(self):
            raise RuntimeError("loaded")

    with pytest.raises(UserError, match="no prior for NeverLoaded"):
        fit(GradientBias(Missing()), NeverLoaded())


def test_a_course_without_an_end_is_refused():
    with pytest.raises(UserError, match=r"GradientBias has no steps, and trainer\.max_steps is -1"):
        GradientBias(Doubled(), kind="linear", end=0.0).setup(
            SimpleNamespace(max_steps=-1, callbacks=[]), Line(), "fit"
        )
