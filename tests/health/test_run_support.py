from types import SimpleNamespace

import pytest
from lightning import Trainer

from lit_vlm.health.run_support import run_support
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone

QUIET = {"accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False}


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*")
@pytest.mark.parametrize("options", [{"devices": 1}, {"devices": 2, "strategy": "ddp"}], ids=["one", "two"])
def test_what_goes_together_passes(options):
    found = run_support(SimpleNamespace(backbone=Backbone()), lambda: Trainer(**QUIET, **options))
    assert found.status == "pass"
    assert "precision 32-true" in found.told


@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*")
def test_a_precision_that_contradicts_the_weights_fails():
    module = SimpleNamespace(backbone=Backbone(dtype="float16"))
    found = run_support(module, lambda: Trainer(**QUIET, devices=1, precision="bf16-true"))
    assert found.status == "fail"
    assert "model.backbone.dtype" in found.told


def test_a_trainer_that_cannot_be_made_fails():
    def refuse():
        raise UserError("trainer.accelerator gpu: there is none")

    found = run_support(SimpleNamespace(backbone=Backbone()), refuse)
    assert (found.status, found.told) == ("fail", "trainer.accelerator gpu: there is none")
