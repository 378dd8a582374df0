import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torch import nn

from lit_vlm.callbacks.gradient_bias import GradientBias
from lit_vlm.gradients.directional_bias import DirectionalBias
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.paradigms.reasoning_vector import ReasoningVectorModule
from lit_vlm.paradigms.weight_space import WeightSetter, WeightSpaceModule
from tests.paradigms.merge_material import SHORT, digits, direction, planted, trainer, weights_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
]


@pytest.mark.parametrize(
    ("option", "backbone"),
    [
        ("adapter", Backbone(adapter=AdapterSettings(rank=2))),
        ("from_scratch", Backbone(from_scratch=True)),
        ("gguf_file", Backbone(gguf_file="model.gguf")),
        ("train_parts", Backbone(train_parts=("language",))),
    ],
)
def test_a_backbone_whose_weights_are_no_plain_checkpoint_is_refused(option, backbone):
    with pytest.raises(UserError, match=rf"model\.backbone\.{option} is set"):
        ReasoningVectorModule(backbone, plus="a", minus="b")


def test_the_setter_changes_nothing_by_itself():
    model = nn.Linear(3, 2)
    before = model.weight.detach().clone()
    model(torch.ones(3)).sum().backward()
    optimizer = WeightSetter(model)
    assert optimizer.step() is None
    assert optimizer.step(lambda: 7) == 7
    assert torch.equal(model.weight, before)


def test_training_batches_are_prompts_alone():
    assert ReasoningVectorModule(plus="a", minus="b").batch_form == "prompts"


def test_the_plan_is_there_from_setup_on():
    module = ReasoningVectorModule(plus="a", minus="b")
    assert isinstance(module, WeightSpaceModule)
    with pytest.raises(RuntimeError, match="planned in setup"):
        _ = module.plan


def test_a_callback_that_changes_gradients_is_refused(tmp_path):
    bias = GradientBias(DirectionalBias("tiny"))
    with pytest.raises(UserError, match="has GradientBias, but ReasoningVectorModule has no gradients; leave it out"):
        trainer(tmp_path, callbacks=[bias]).fit(ReasoningVectorModule(plus="a", minus="b"))


class SetInTest(ReasoningVectorModule):
    """Takes down what it holds while it is tested, where the Trainer records no gradients."""

    def on_test_epoch_end(self):
        self.was_inference = torch.is_inference_mode_enabled()
        parameters = dict(self.policy.model.named_parameters())
        self.held = {disk: parameters[memory].clone() for disk, memory in self._names.items()}
        super().on_test_epoch_end()


def test_weights_are_set_while_the_trainer_tests(tmp_path):
    folders = planted(tmp_path / "models", best=0.5, size=3.0)
    model = SetInTest(
        Backbone(folders["target"]),
        plus=folders["plus"],
        minus=folders["minus"],
        alpha=0.5,
        generation=SHORT,
        max_tokens=512,
    )
    running = trainer(tmp_path, inference_mode=True)
    running.test(model, digits(model.encoder, test_size=2, tasks=["read_digit"]), verbose=False)
    assert model.was_inference
    target = weights_of(tmp_path / "models" / "target")
    assert model.held
    for name, held in model.held.items():
        wanted = target[name] + 0.5 * direction(name, weights_of()[name].float(), 3.0)
        torch.testing.assert_close(held, wanted, atol=1e-5, rtol=1e-4)


def test_precision_that_scales_gradients_is_refused(tmp_path):
    model = ReasoningVectorModule(plus="tiny", minus="tiny")
    running = trainer(tmp_path)
    running.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu"))
    model.trainer = running
    with pytest.raises(UserError, match=r"trainer\.precision 16-mixed scales gradients.*bf16-mixed or 32-true"):
        model.configure_callbacks()
