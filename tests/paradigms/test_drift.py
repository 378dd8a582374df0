import lightning
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from lit_vlm.callbacks.coefficient_schedule import CoefficientSchedule
from lit_vlm.callbacks.gradient_bias import GradientBias
from lit_vlm.functional.gradient_directions import biased_gradient
from lit_vlm.gradients.directional_bias import DirectionalBias
from lit_vlm.interfaces.capabilities import HasCoefficients
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import OffersWeights
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.quantisation import QuantisationSettings
from lit_vlm.paradigms.drift import DRIFTModule
from tests.paradigms import on_policy_material as on_policy
from tests.paradigms import test_sft as sft
from tests.paradigms.drift_material import disk_weights, drift_module, write_text_prior
from tests.paradigms.processes import run_script

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]

TENSORS_A_LAYER = 10  # seven matrices and the biases of q, k and v


@pytest.fixture(scope="module")
def prior(random_tiny_folder, tmp_path_factory):
    return write_text_prior(random_tiny_folder, tmp_path_factory.mktemp("prior") / "reasoner")


class Gradients(Callback):
    """Keeps the gradients of each step, as they are when it is called, and the figures."""

    def __init__(self):
        self.steps, self.figures = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.steps.append(
            {n: p.grad.clone() for n, p in pl_module.policy.model.named_parameters() if p.grad is not None}
        )

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        names = ("cosine", "tensors", "push", "alpha_share")
        self.figures.append({name: float(trainer.callback_metrics[f"train/drift/{name}"]) for name in names})


def fit(model, steps=2, callbacks=(), batch_size=4, **options):
    return sft.fit(model, sft.data(model.encoder, batch_size=batch_size), steps, callbacks, **options)


def assert_same(found, wanted, **tolerance):
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], **{"atol": 0, "rtol": 0, **tolerance}, msg=name)


def test_each_step_applies_the_rule_to_every_projection_of_a_vlm_and_a_text_prior(random_tiny_folder, prior):
    """Two steps of plain descent, whose moves are the gradients, against the rule applied by hand."""
    model = drift_module(random_tiny_folder, prior)
    gradients, moves = Gradients(), []

    model.configure_optimizers = lambda: torch.optim.SGD(model.policy.parameters(), lr=1.0)
    start, theirs = disk_weights(random_tiny_folder), disk_weights(prior)

    class Moves(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            moves.append({n: p.detach().clone() for n, p in pl_module.policy.model.named_parameters()})

    fit(model, callbacks=[gradients, Moves()])
    moves.append({name: value.detach() for name, value in model.policy.model.named_parameters()})
    layers = model.policy.model.config.text_config.num_hidden_layers
    for step, figures in enumerate(gradients.figures):
        acted = 0
        for name, gradient in gradients.steps[step].items():
            disk = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
            wanted = gradient
            if "_proj." in name and "layers" in name:
                wanted = biased_gradient(gradient, theirs[disk] - start[disk], 1.0)
                acted += 1
            torch.testing.assert_close(
                moves[step][name] - moves[step + 1][name], wanted, atol=2e-6, rtol=1e-4, msg=name
            )
        assert acted == layers * TENSORS_A_LAYER
        assert figures["tensors"] == acted
        assert figures["alpha_share"] == 1
        assert -1 <= figures["cosine"] <= 1
        assert figures["push"] > 0


def test_training_comes_nearer_to_the_prior_than_without_the_bias(random_tiny_folder, prior):
    start, theirs = disk_weights(random_tiny_folder), disk_weights(prior)
    name = "layers.0.mlp.down_proj.weight"
    direction = theirs[f"model.{name}"] - start[f"model.{name}"]
    along = []
    for model in (drift_module(random_tiny_folder, prior), sft.module(random_tiny_folder)):
        _, weights = fit(model, steps=4)
        moved = weights[f"model.model.language_model.{name}"] - start[f"model.{name}"]
        along.append(float((moved * direction).sum() / moved.norm() / direction.norm()))
    assert along[0] > along[1] + 0.2


def test_no_strength_is_plain_fine_tuning_bit_for_bit(random_tiny_folder, prior):
    _, plain = fit(sft.module(random_tiny_folder))
    _, none = fit(drift_module(random_tiny_folder, prior, alpha=0.0))
    assert_same(none, plain)
    faded = drift_module(random_tiny_folder, prior)
    faded.coefficients.set("alpha_share", 0.0)
    assert_same(fit(faded)[1], plain)


def test_the_callback_under_plain_fine_tuning_takes_the_steps_of_the_module(random_tiny_folder, prior):
    _, by_module = fit(drift_module(random_tiny_folder, prior), gradient_clip_val=0.5)
    bias = GradientBias(DirectionalBias(str(prior)))
    _, by_callback = fit(sft.module(random_tiny_folder), callbacks=[bias], gradient_clip_val=0.5)
    assert_same(by_callback, by_module)


def test_gradients_are_clipped_after_the_bias(random_tiny_folder, prior):
    """With a push a hundred times the gradient, the norm of a step can only be what it is cut to after the push."""
    model = drift_module(random_tiny_folder, prior, alpha=100.0, mode="gradnorm")
    model.configure_optimizers = lambda: torch.optim.SGD(model.policy.parameters(), lr=1.0)
    start = {name: value.clone() for name, value in sft_weights(random_tiny_folder).items()}
    _, weights = fit(model, steps=1, gradient_clip_val=0.25)
    moved = sum((weights[name] - start[name]).square().sum() for name in unique(weights)).sqrt()
    assert moved.item() == pytest.approx(0.25, rel=1e-3)


def sft_weights(folder):
    return Backbone(str(folder)).load_model(Backbone(str(folder)).load_encoder()).state_dict()


def unique(weights):
    """Names of weights, those that share memory once."""
    return [name for name in weights if not name.endswith("lm_head.weight")]


def test_a_module_that_steps_by_hand_clips_after_the_bias(random_tiny_folder, prior):
    """GRPO logs the norm that it clips, which is that of biased gradients."""
    norms = []
    for alpha in (0.0, 100.0):
        model = on_policy.module(random_tiny_folder)
        bias = GradientBias(DirectionalBias(str(prior), mode="gradnorm", alpha=alpha))
        on_policy.fit(model, on_policy.data(model.encoder), steps=1, callbacks=[bias])
        norms.append(float(model.trainer.callback_metrics["train/gradient_norm"]))
    assert norms[1] > 20 * norms[0] > 0


def test_accumulated_micro_batches_give_the_step_of_one_large_batch(random_tiny_folder, prior):
    _, whole = fit(drift_module(random_tiny_folder, prior), batch_size=8)
    _, parts = fit(drift_module(random_tiny_folder, prior), batch_size=2, accumulate_grad_batches=4)
    assert_same(parts, whole, atol=1e-4)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(random_tiny_folder, prior, tmp_path):
    def run(name, steps, **options):
        model = drift_module(random_tiny_folder, prior)
        schedule = CoefficientSchedule("alpha_share", "linear", start=0.2, end=1.0, steps=4)
        lightning.seed_everything(0, verbose=False)
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
            use_distributed_sampler=False,
            callbacks=[schedule, ModelCheckpoint(tmp_path / name, every_n_train_steps=2)],
        )
        trainer.fit(model, sft.data(model.encoder), **options)
        return {name: value.detach().clone() for name, value in model.policy.state_dict().items()}

    whole = run("whole", 4)
    run("begun", 2)
    (stop,) = (tmp_path / "begun").glob("*.ckpt")
    assert_same(run("resumed", 4, ckpt_path=str(stop), weights_only=False), whole)


def test_a_schedule_turns_the_share(random_tiny_folder, prior):
    gradients = Gradients()
    schedule = CoefficientSchedule("alpha_share", "linear", start=0.0, end=1.0, steps=2)
    fit(drift_module(random_tiny_folder, prior), steps=3, callbacks=[schedule, gradients])
    assert [figures["alpha_share"] for figures in gradients.figures] == [0.0, 0.5, 1.0]
    assert gradients.figures[0]["push"] == 0 < gradients.figures[1]["push"]


@pytest.mark.parametrize("quantisation", [None, QuantisationSettings()])
def test_an_adapter_is_biased_along_the_projection_of_the_unquantised_difference(
    random_tiny_folder, prior, quantisation
):
    model = drift_module(random_tiny_folder, prior)
    model.backbone = Backbone(
        str(random_tiny_folder), adapter=AdapterSettings(rank=2, alpha=4), quantisation=quantisation
    )
    model.strict_loading = False
    gradients = Gradients()
    values, after = [], {}

    class Values(Callback):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            values.append({n: p.detach().clone() for n, p in pl_module.policy.model.named_parameters()})

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            named = pl_module.policy.model.named_parameters()
            after[len(values)] = {n: p.grad.clone() for n, p in named if p.grad is not None}

    fit(model, callbacks=[gradients, Values()])
    layers = model.policy.model.config.text_config.num_hidden_layers
    # The outer factors begin at zero, so that inner ones have neither a gradient nor a direction in the first step.
    assert [figures["tensors"] for figures in gradients.figures] == [7 * layers, 14 * layers]
    assert gradients.figures[1]["push"] > 0
    start, theirs = disk_weights(random_tiny_folder), disk_weights(prior)
    module = "model.language_model.layers.1.mlp.up_proj"
    delta = theirs["model.layers.1.mlp.up_proj.weight"] - start["model.layers.1.mlp.up_proj.weight"]
    outer, inner = f"{module}.lora_B.default.weight", f"{module}.lora_A.default.weight"
    wanted = biased_gradient(gradients.steps[1][outer], 2.0 * delta @ values[1][inner].T, 1.0)
    torch.testing.assert_close(after[2][outer], wanted)
    wanted = biased_gradient(gradients.steps[1][inner], 2.0 * values[1][outer].T @ delta, 1.0)
    torch.testing.assert_close(after[2][inner], wanted)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ({"train_parts": ("vision", "projector")}, "layers of the decoder, of which nothing trains"),
        ({"adapter": AdapterSettings(rank=2, alpha=2, parts=("vision",))}, "of which nothing trains"),
        ({"adapter": AdapterSettings("dora", rank=2, alpha=2)}, "kind is dora"),
        ({"from_scratch": True}, "from_scratch draws new weights"),
    ],
)
def test_what_leaves_nothing_to_bias_is_refused_before_the_first_step(random_tiny_folder, prior, backbone, message):
    model = DRIFTModule(Backbone(str(random_tiny_folder), **backbone), bias=DirectionalBias(str(prior)))
    with pytest.raises(UserError, match=message):
        fit(model)


def test_a_prior_that_is_the_model_itself_is_refused(random_tiny_folder):
    with pytest.raises(UserError, match="the direction is zero everywhere"):
        fit(drift_module(random_tiny_folder, random_tiny_folder))


def test_a_prior_that_is_not_there_is_refused_before_the_model_is_loaded(random_tiny_folder, tmp_path):
    model = drift_module(random_tiny_folder, tmp_path / "nowhere")
    with pytest.raises(UserError, match="nowhere"):
        fit(model)
    with pytest.raises(RuntimeError, match="loaded in configure_model"):
        _ = model.policy


def test_the_module_tells_what_callbacks_may_ask(random_tiny_folder, prior):
    model = drift_module(random_tiny_folder, prior)
    assert isinstance(model, OffersWeights)
    assert isinstance(model, HasCoefficients)
    assert dict(model.coefficients) == {"alpha_share": 1.0}


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import torch
from lit_vlm.models.sharding import whole
from tests.paradigms import test_drift, test_sft
from tests.paradigms.drift_material import drift_module

folder, prior, strategy, adapter, out = sys.argv[1:]
model = drift_module(folder, prior, adapter=adapter == "adapter")
options = {{}} if strategy == "alone" else dict(devices=2, strategy=strategy)
dataset = test_sft.data(model.encoder, batch_size=8 if strategy == "alone" else 4, train_size=32)
figures = test_drift.Figures()
_, weights = test_sft.fit(model, dataset, steps=2, callbacks=[figures], **options)
weights = {{name: whole(value) for name, value in weights.items()}}
if model.global_rank == 0:
    torch.save((figures.figures, weights), out)
"""


class Figures(Callback):
    """Keeps the figures of each step."""

    def __init__(self):
        self.figures = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        names = ("cosine", "tensors", "push")
        self.figures.append([float(trainer.callback_metrics[f"train/drift/{name}"]) for name in names])


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
@pytest.mark.parametrize("adapter", ["full", "adapter"])
def test_two_processes_take_the_steps_of_one(random_tiny_folder, prior, tmp_path, adapter, strategy):
    folders = (random_tiny_folder, prior)
    one_figures, one = run_script(SCRIPT, tmp_path / "one.pt", *folders, "alone", adapter)
    two_figures, two = run_script(SCRIPT, tmp_path / "two.pt", *folders, strategy, adapter)
    for found, wanted in zip(two_figures, one_figures, strict=True):
        assert found == pytest.approx(wanted, rel=1e-3)
    for name in one:
        torch.testing.assert_close(two[name], one[name], atol=1e-4, rtol=0, msg=name)
