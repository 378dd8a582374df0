"""All callbacks that steer rounds at once, on the bundled model."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lit_vlm.advantages.group_filter import GroupFilter
from lit_vlm.callbacks.coefficient_schedule import CoefficientSchedule
from lit_vlm.callbacks.difficulty_curriculum import DifficultyCurriculum
from lit_vlm.callbacks.entropy_monitor import EntropyBonus, EntropyMonitor
from lit_vlm.callbacks.kl_scheduler import KLScheduler
from lit_vlm.callbacks.rollout_callback import RolloutCallback
from lit_vlm.callbacks.success_curriculum import SuccessRateCurriculum
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss
from lit_vlm.paradigms.group_sampling import GroupSampling
from lit_vlm.paradigms.policy_update import UpdateSettings
from lit_vlm.paradigms.reference_policy import ReferenceSettings
from lit_vlm.rewards.answer_correctness import AnswerCorrectness
from tests.paradigms.on_policy_material import EvenTokens, data, engine, fit, module

CURRICULA = {
    "levels": lambda: DifficultyCurriculum(pacing="success", threshold=0.05, min_attempts=4),
    "steps": lambda: DifficultyCurriculum(window="gaussian", end_step=3, floor=0.1),
    "categories": SuccessRateCurriculum,
    "samples": lambda: SuccessRateCurriculum("sample", every_n_rounds=2, temperature=0.1),
}


class Keep(RolloutCallback):
    """Keeps what each round was made of, and saves a checkpoint once."""

    def __init__(self, path=None, saves_at=lambda trainer, module: False):
        self.path = path
        self.saves_at = saves_at
        self.samples = []
        self.coefficients = []
        self.logged = []

    def on_after_rollout(self, trainer, pl_module, iteration):
        self.samples.append([sample.id for sample in iteration.prompts.samples])
        self.coefficients.append(dict(pl_module.coefficients))

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        if self.path is not None and self.saves_at(trainer, pl_module):
            trainer.save_checkpoint(self.path)
            self.path = None


def make_callbacks(curriculum):
    return [
        KLScheduler("adaptive", start=0.02, target=1e-3, horizon=64),
        CoefficientSchedule("clip_high", "cosine", start=0.2, end=0.28),
        EntropyMonitor(calibration_rounds=2, bonus=EntropyBonus(target=1.0)),
        CURRICULA[curriculum](),
    ]


def run(folder, curriculum, keep, steps=4, ckpt_path=None, **options):
    callbacks = make_callbacks(curriculum)
    model = module(
        folder,
        objective=ClippedPolicyLoss(kl=0.02, highest_entropy_bonus=0.01),
        reference=ReferenceSettings(),
        engine=engine(16),
        **{"reward": AnswerCorrectness(), **options},
    )
    loading = data(model.encoder, batch_size=2, levels=[1, 2, 3], tasks=["read_digit", "compare"])
    _, weights = fit(model, loading, steps, [*callbacks, keep], ckpt_path)
    return [callback.state_dict() for callback in callbacks], weights


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]) if isinstance(value, torch.Tensor) else value == second[name], name


@pytest.mark.parametrize("curriculum", CURRICULA)
def test_a_run_with_all_of_them_resumes_bit_equal(curriculum, tmp_path):
    path = tmp_path / "two.ckpt"
    keep, later = Keep(path, lambda trainer, model: trainer.global_step == 2), Keep()
    states, weights = run("tiny", curriculum, keep)
    again, again_weights = run("tiny", curriculum, later, ckpt_path=path)
    for state, other in zip(states, again, strict=True):
        assert_same(state, other)
    assert_same(weights, again_weights)
    assert later.samples == keep.samples[2:]
    assert later.coefficients == keep.coefficients[2:]
    assert len(keep.samples) == 4
    # What they do shows: weights that change, an entropy that is measured, arms that are drawn by.
    assert len({values["kl"] for values in keep.coefficients}) == 4
    assert keep.coefficients[0]["clip_high"] == 0.2 < keep.coefficients[3]["clip_high"] < 0.28
    assert keep.coefficients[3]["entropy_bonus"] > 0
    for logged in keep.logged:
        assert logged["entropy/mean"] > 0
        assert 1 <= logged["curriculum/effective_arms"] <= 64


def test_a_round_that_a_checkpoint_cuts_short_is_counted_once(random_tiny_folder, tmp_path):
    class Few(EvenTokens):
        """Only the completions with very many even tokens are right."""

        def __call__(self, completions, context=None):
            output = super().__call__(completions, context)
            output.total.copy_((output.total > 0.75).float())
            return output

    path = tmp_path / "cut.ckpt"
    groups = GroupSampling("resample", GroupFilter(metric="reward"), max_rounds=50)

    def cut(trainer, model):
        return trainer.global_step >= 2 and model.unfinished_batches > 0

    keep, later = Keep(path, cut), Keep()
    options = {"reward": Few(), "groups": groups, "update": UpdateSettings(epochs=2)}
    states, weights = run(random_tiny_folder, "categories", keep, 6, **options)
    assert keep.path is None
    again, again_weights = run(random_tiny_folder, "categories", later, 6, ckpt_path=path, **options)
    for state, other in zip(states, again, strict=True):
        assert_same(state, other)
    assert_same(weights, again_weights)
    assert later.samples == keep.samples[-len(later.samples) :]


def test_easy_levels_come_first(random_tiny_folder):
    levels = []

    class Levels(RolloutCallback):
        def on_before_rollout(self, trainer, pl_module, iteration):
            levels.append({sample.meta.difficulty for sample in iteration.prompts.samples})

    model = module(random_tiny_folder, group_size=2, engine=engine(2))
    loading = data(model.encoder, levels=[1, 3, 5])
    fit(model, loading, 12, [DifficultyCurriculum(end_step=8), Levels()])
    assert levels[:4] == [{1}] * 4
    assert all(5 not in seen for seen in levels[:8])
    assert any(3 in seen for seen in levels[4:8])
    assert any(5 in seen for seen in levels[8:])


SCRIPT = """
import sys
sys.path.insert(0, {root!r})
import torch
from lit_vlm.rewards.answer_correctness import AnswerCorrectness
from tests.callbacks.test_rollout_callbacks_end_to_end import Keep, make_callbacks
from tests.paradigms import on_policy_material as material
from lit_vlm.objectives.clipped_policy_loss import ClippedPolicyLoss
from lit_vlm.paradigms.reference_policy import ReferenceSettings

model = material.module(
    "tiny",
    objective=ClippedPolicyLoss(kl=0.02, highest_entropy_bonus=0.01),
    reference=ReferenceSettings(),
    engine=material.engine(8),
    reward=AnswerCorrectness(),
)
callbacks, keep = make_callbacks("categories"), Keep()
material.fit(model, material.data(model.encoder, batch_size=2), 3, [*callbacks, keep], devices=2, strategy="ddp")
states = [callback.state_dict() for callback in callbacks]
torch.save((states, keep.coefficients, keep.logged), f"{{sys.argv[1]}}/{{model.global_rank}}.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes_agree_on_everything(tmp_path):
    script = tmp_path / "two.py"
    script.write_text(SCRIPT.format(root=str(Path(__file__).parents[2])))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(script), str(tmp_path)]
    done = subprocess.run(command, env=environment, timeout=600, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    (states, coefficients, logged), other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    for state, other_state in zip(states, other[0], strict=True):
        assert_same(state, other_state)
    assert coefficients == other[1]
    curriculum = states[-1]
    # Three rounds of two prompts on each of two ranks, with four completions of each.
    assert curriculum["attempts"].sum() == 3 * 2 * 2 * 4
    for figures, other_figures in zip(logged, other[2], strict=True):
        shared = [name for name in figures if name.startswith(("entropy/", "curriculum/"))]
        assert len(shared) > 10
        assert [figures[name] for name in shared] == [other_figures[name] for name in shared]
