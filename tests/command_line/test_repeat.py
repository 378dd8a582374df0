import pytest

from lit_vlm.cli import main
from lit_vlm.command_line.repeat import report_lines
from lit_vlm.functional.fault_folder import Fault, MicroBatch
from lit_vlm.paradigms.repeated_fault import Repetition
from tests.command_line.workplaces import enter

RECIPE = """
model:
  class_path: SFTModule
  init_args:
    backbone: {{checkpoint: {folder}}}
    optimizer: {{learning_rate: 1.0e+30, warmup: 0, schedule: constant}}
data:
  class_path: DigitsReasoning
  init_args: {{train_size: 8, validation_size: 4, test_size: 4, batch_size: 2, num_workers: 0}}
trainer: {{max_steps: 3, accelerator: cpu, limit_val_batches: 0, enable_progress_bar: false}}
"""

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Checkpoint directory.*"),
    pytest.mark.filterwarnings("ignore:.*tensorboard.*"),
]


@pytest.fixture(autouse=True)
def workplace(tmp_path, monkeypatch, random_tiny_folder):
    (tmp_path / "wild.yaml").write_text(RECIPE.format(folder=random_tiny_folder))
    enter(monkeypatch, tmp_path)
    return tmp_path


def test_a_run_that_goes_wild_stops_and_its_step_repeats(workplace, capsys):
    assert main(["fit", "--config", "wild.yaml"]) == 2
    told = capsys.readouterr().err
    assert "lit-vlm: error: step 1: the loss is infinite or NaN" in told
    folder = "runs/wild/version_0/faults/step_1_rank_0"
    assert f"what led to it is in {folder}, and 'lit-vlm repeat' runs that folder again" in told
    assert main(["repeat", folder]) == 1
    found = capsys.readouterr().out
    assert "step 1 of rank 0: the loss is infinite or NaN" in found
    assert "repeated with the weights of the step; losses: nan" in found


def test_what_is_no_folder_of_a_fault_is_refused(workplace, capsys):
    assert main(["repeat", str(workplace)]) == 2
    assert "is no folder of a fault: it must hold fault.json and config.yaml" in capsys.readouterr().err
    assert main(["repeat", "--help"]) == 0
    assert "usage: lit-vlm repeat FOLDER" in capsys.readouterr().out


def test_the_report_tells_what_happened_then_and_now():
    batches = (MicroBatch("PromptBatch", 0, 1, True, tuple(map(str, range(12)))),)
    fault = Fault("why", 3, 0, 1, 2, 7, "SFTModule", "32", batches, ("a",), ("b",))
    assert report_lines(Repetition(fault, (1.0, float("inf")), ("a", "c"), used_weights=False)) == [
        "step 3 of rank 1: why",
        "samples: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 2 more",
        "repeated with the weights that the run began with; losses: 1, inf",
        "weights were infinite or NaN before the step: b",
        "infinite or NaN gradients: 2 parameters (a, c)",
    ]
    lines = report_lines(Repetition(fault, (1.0,), (), used_weights=True))
    assert lines[-1] == "this time the loss and all gradients are finite"
