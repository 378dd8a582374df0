"""What mDPO is for: pairs that a model can satisfy without looking teach DPO not to look, and mDPO still to look.

Every page of the training pairs shows a 7 and every chosen answer says so, so that "always say 7" is a way to win. The
bundled model reads 9 of 10 digits rightly before.
"""

import random
from dataclasses import replace

import pytest
from lightning import Trainer, seed_everything

from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.data.embedded import THINK_FIRST
from lit_vlm.data.transformed_samples import PreparedSamples
from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.records import Preference, assistant_message
from lit_vlm.models.backbone import Backbone
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.paradigms.dpo import DPOModule
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.synthesis.image_corruption import ImageCorruption

DIGITS = "0123456789"
STEPS, BATCH, HELD_OUT = 20, 16, 120
GENERATOR = DigitsReasoningGenerator(0, ("read_digit",), (1,), 64)


def answer(digit):
    return (assistant_message(f"<think>i see {digit}.</think><answer>{digit}</answer>"),)


class OneSidedPairs(VLMDataModule):
    """Pages of sevens, with the right answer against another digit."""

    tasks = ("read_digit",)

    def __init__(self, size, **options):
        super().__init__(**options)
        self._samples = []
        for index in range(20 * size):
            sample = GENERATOR.sample("train", index)
            if sample.answer.value == "7" and len(self._samples) < size:
                wrong = random.Random(index).choice(DIGITS.replace("7", ""))
                pair = Preference(answer("7"), answer(wrong))
                self._samples.append(replace(sample, messages=sample.prompt, preferences=(pair,)))
        assert len(self._samples) == size

    def samples(self, split):
        return self._samples


def accuracies(kind):
    """Trains, and returns the shares of right answers to clean pages of all digits and to spoilt ones."""
    seed_everything(0)
    module = DPOModule(
        Backbone(),
        objective=PreferenceLoss(kind=kind),
        corruption=ImageCorruption(),
        optimizer=OptimizerSettings(learning_rate=2e-4, schedule="constant", warmup=0),
        max_tokens=256,
    )
    data = OneSidedPairs(
        STEPS * BATCH, encoder=module.encoder, batch_size=BATCH, num_workers=0, system_prompt=THINK_FIRST
    )
    Trainer(
        accelerator="cpu", devices=1, max_epochs=1, logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, num_sanity_val_steps=0,
    ).fit(module, data)  # fmt: skip
    prepared = PreparedSamples([GENERATOR.sample("validation", index) for index in range(HELD_OUT)], THINK_FIRST)
    clean = [prepared[index] for index in range(HELD_OUT)]
    spoil = ImageCorruption()

    def accuracy(samples):
        return sum(completion.verdict.correct for completion in module.complete(samples)) / len(samples)

    return accuracy(clean), accuracy([spoil(sample) for sample in clean])


@pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*")
def test_mdpo_depends_more_on_the_image_than_dpo():
    dpo_clean, dpo_spoilt = accuracies("sigmoid")
    mdpo_clean, mdpo_spoilt = accuracies("mdpo")
    dropped_by_dpo, dropped_by_mdpo = dpo_clean - dpo_spoilt, mdpo_clean - mdpo_spoilt
    assert dropped_by_dpo < 0.15, "DPO should have learnt to say 7 to every page"
    assert dropped_by_mdpo > dropped_by_dpo + 0.25
    assert mdpo_clean > dpo_clean + 0.25
