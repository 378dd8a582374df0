from lightning import LightningModule

from lit_vlm.interfaces.coefficients import Coefficient, Coefficients
from lit_vlm.paradigms.saved_coefficients import SavesCoefficients


class Other(LightningModule):
    def on_save_checkpoint(self, checkpoint):
        checkpoint["other"] = 1

    def on_load_checkpoint(self, checkpoint):
        self.seen = checkpoint.get("other")


class Turned(SavesCoefficients, Other):
    def __init__(self, **values):
        super().__init__()
        self.coefficients = Coefficients({name: Coefficient(value) for name, value in values.items()})


def test_values_come_back_and_the_other_base_is_asked_too():
    saved, loaded = Turned(kl=0.5, bonus=2.0), Turned(kl=0.1, bonus=1.0)
    checkpoint = {}
    saved.on_save_checkpoint(checkpoint)
    loaded.on_load_checkpoint(checkpoint)
    assert dict(loaded.coefficients) == {"kl": 0.5, "bonus": 2.0}
    assert loaded.seen == 1


def test_a_checkpoint_without_coefficients_leaves_them():
    module = Turned(kl=0.5)
    module.on_load_checkpoint({})
    assert dict(module.coefficients) == {"kl": 0.5}
