import json

import lightning
import pytest
import torch

from lit_vlm.callbacks.before_after_report import BeforeAfterReport
from lit_vlm.callbacks.progress import Progress
from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.capabilities import completions_of
from lit_vlm.interfaces.critiques import Critique, StepLabel
from lit_vlm.interfaces.records import Answer, Sample, SampleMeta, assistant_message, user_message
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings, VisionLanguageModel
from lit_vlm.paradigms.critique import CritiqueModule
from lit_vlm.paradigms.optimization import OptimizerSettings

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]
WRONG = (StepLabel("i see 8.", False, "visual interpretation"), StepLabel("the answer is 8", False, "reasoning"))
SAID = "Step 1 is wrong. Conclusion: wrong [END]"


def solve(number):
    turns = (user_message("which digit is this?"), assistant_message("<answer>7</answer>"))
    return Sample(f"solve-{number}", turns, answer=Answer("number", "7"), meta=SampleMeta(category="read"))


def judge(number):
    """A judging question about a wrong solution, or, where the number is odd, about a right one."""
    critique = (
        Critique("which digit?", "7", verdict="right") if number % 2 else Critique("which digit?", "8", steps=WRONG)
    )
    turns = (user_message("judge this: i see 8."), assistant_message(SAID))
    # Its category is none of the tasks that are solved, and the question's answer is no critique's.
    meta = SampleMeta(category="judging")
    return Sample(f"judge-{number}", turns, answer=Answer("number", "7"), meta=meta, critique=critique)


class Both(VLMDataModule):
    """Three questions to solve and two to judge."""

    @property
    def tasks(self):
        return ("read",)

    def samples(self, split):
        return [solve(0), judge(0), solve(1), judge(1), solve(2)]


@pytest.fixture
def critic(random_tiny_folder):
    optimizer = OptimizerSettings(learning_rate=1e-3, warmup=0, schedule="constant")
    return CritiqueModule(
        Backbone(str(random_tiny_folder)), optimizer=optimizer, generation=GenerationSettings(max_new_tokens=4)
    )


@pytest.fixture
def says(monkeypatch, critic):
    """Makes the policy write ``SAID`` whatever it is asked."""
    ids = critic.encoder.tokenise(SAID)
    monkeypatch.setattr(VisionLanguageModel, "generate", lambda self, batch, settings: [ids] * len(batch))


def trainer(**options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return lightning.Trainer(accelerator="cpu", use_distributed_sampler=False, **{**quiet, **options})


def data(critic):
    return Both(critic.encoder, batch_size=2, evaluation_batch_size=3, num_workers=0)


@pytest.mark.parametrize("stage", ["validation", "test"])
def test_both_abilities_are_measured_apart(critic, says, stage):
    run = trainer()
    evaluate = run.validate if stage == "validation" else run.test
    (figures,) = evaluate(critic, data(critic), verbose=False)
    assert figures[f"{stage}/exact_match_total"] == 3
    assert figures[f"{stage}/exact_match"] == 0
    assert figures[f"{stage}/verdict_accuracy_total"] == 2
    assert figures[f"{stage}/verdict_accuracy"] == 0.5
    assert figures[f"{stage}/verdict_accuracy/visual_interpretation"] == 1
    assert figures[f"{stage}/verdict_accuracy/right"] == 0
    assert figures[f"{stage}/first_wrong_step_accuracy"] == 1
    assert figures[f"{stage}/verdict_unreadable"] == 0
    assert f"{stage}/step_accuracy" not in figures  # no critique lists steps
    assert figures[f"{stage}/loss"] > 0


def test_completions_bear_the_verdict_on_the_judge(critic, says):
    class Kept(lightning.Callback):
        completions = ()

        def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
            self.completions += tuple(completions_of(outputs))

    kept = Kept()
    trainer(callbacks=[kept]).validate(critic, data(critic), verbose=False)
    verdicts = {completion.sample.id: completion.verdict for completion in kept.completions}
    assert {name: verdict.correct for name, verdict in verdicts.items()} == {
        "solve-0": False,
        "solve-1": False,
        "solve-2": False,
        "judge-0": True,
        "judge-1": False,
    }
    assert verdicts["judge-1"].parsed == "wrong"


def test_an_answer_inside_a_critique_solves_nothing(critic):
    assert critic.verdict_of(solve(0), "<answer>7</answer>").correct
    assert not critic.verdict_of(judge(1), "<answer>7</answer>").correct
    assert critic.verdict_of(judge(1), "Conclusion: right [END]").correct


def test_the_report_and_the_progress_tell_of_verdicts(critic, says, tmp_path, capsys):
    report = BeforeAfterReport(metric="verdict_accuracy", also=["exact_match", "first_wrong_step_accuracy"])
    run = trainer(
        default_root_dir=tmp_path,
        max_steps=2,
        val_check_interval=2,
        num_sanity_val_steps=-1,
        enable_checkpointing=False,
        enable_progress_bar=True,
        callbacks=[Progress(plain=True), report],
    )
    lightning.seed_everything(0, verbose=False)
    run.fit(critic, data(critic))
    (written,) = tmp_path.rglob("report.json")
    record = json.loads(written.read_text())
    assert record["metric"] == "verdict_accuracy"
    assert record["comparison"]["overall"]["after"]["total"] == 2
    assert record["comparison"]["visual_interpretation"]["before"]["mean"] == 1
    assert record["comparison"]["exact match"]["after"]["total"] == 3
    assert "verdict accuracy 50.0 %" in capsys.readouterr().out


def test_what_is_learnt_is_what_supervised_fine_tuning_learns(critic, random_tiny_folder):
    from lit_vlm.paradigms.sft import SFTModule

    weights = []
    for module in (critic, SFTModule(critic.backbone, optimizer=critic.optimizer_settings)):
        lightning.seed_everything(0, verbose=False)
        run = trainer(max_steps=2, limit_val_batches=0, num_sanity_val_steps=0, enable_checkpointing=False)
        run.fit(module, data(module))
        weights.append({name: value.clone() for name, value in module.policy.state_dict().items()})
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])
