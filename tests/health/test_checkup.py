from types import SimpleNamespace

import pytest

from lit_vlm.health import checkup
from lit_vlm.health.checkup import MODEL_CHECKS, check_module
from lit_vlm.health.finding import Finding
from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.aft import AFTModule
from lit_vlm.paradigms.critique import CritiqueModule
from lit_vlm.paradigms.dpo import DPOModule
from lit_vlm.paradigms.drift import DRIFTModule
from lit_vlm.paradigms.frank import FRANKModule
from lit_vlm.paradigms.grpo import GRPOModule
from lit_vlm.paradigms.reasoning_vector import ReasoningVectorModule
from lit_vlm.paradigms.sft import SFTModule


def test_every_check_of_a_model_is_there_once():
    assert len(set(MODEL_CHECKS)) == len(MODEL_CHECKS) == 11


@pytest.mark.parametrize("kind", [object, ReasoningVectorModule, FRANKModule])
def test_a_module_that_trains_no_policy_is_refused(kind):
    with pytest.raises(UserError, match=f"doctor looks at modules that train .* {kind.__name__} does not"):
        check_module(kind)


@pytest.mark.parametrize("kind", [SFTModule, DRIFTModule, DPOModule, AFTModule, GRPOModule, CritiqueModule])
def test_a_module_that_trains_a_policy_is_looked_at(kind):
    check_module(kind)


def test_a_mistake_that_a_check_meets_is_its_failure():
    def sampled(subject):
        raise UserError("max_new_tokens is too large")

    found = checkup._found(sampled, None)
    assert found == Finding("sampled", "fail", "max_new_tokens is too large", "mend what is named")


def test_a_fault_of_the_program_is_not_hidden():
    def broken(subject):
        raise RuntimeError("fault")

    with pytest.raises(RuntimeError, match="fault"):
        checkup._found(broken, None)


def test_module_and_data_are_prepared_as_for_a_run():
    told = []
    module = SimpleNamespace(setup=lambda stage: told.append(("module", stage)))
    data = SimpleNamespace(prepare_data=lambda: told.append("files"), setup=lambda stage: told.append(("data", stage)))
    trainer = SimpleNamespace(strategy=SimpleNamespace(connect=lambda given: told.append(given is module)))
    checkup.attach(trainer, module, data)
    assert told == [True, "files", ("data", "fit"), ("module", "fit")]
    assert trainer.datamodule is data
    assert module.trainer is data.trainer is trainer
