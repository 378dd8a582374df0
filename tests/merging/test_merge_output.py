import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging import merge_output
from lit_vlm.merging.linear import Linear
from lit_vlm.merging.merge_output import write_merge
from lit_vlm.merging.merge_plan import plan_merge
from lit_vlm.merging.merge_settings import Donor, MergeSettings
from lit_vlm.merging.task_arithmetic import TaskArithmetic
from lit_vlm.models.checkpoint_tensors import open_checkpoint
from tests.merging.material import text_model

CONFIGURATION = {"model_type": "qwen2", "tie_word_embeddings": False}


@pytest.fixture
def folders(tmp_path):
    for seed, name in enumerate(("base", "a", "b")):
        folder = tmp_path / name
        folder.mkdir()
        save_file(text_model(name, seed).tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(CONFIGURATION))
    return tmp_path


def plan_of(folders, scale=1.0, **options):
    donors = [Donor(str(folders / name), weight=0.5) for name in ("a", "b")]
    settings = MergeSettings(
        TaskArithmetic(scale=scale), donors, base=str(folders / "base"), largest_shard="100B", **options
    )
    return plan_merge(settings, open_checkpoint)


def weights(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.safetensors*"))}


class Stopped(BaseException):
    """As if the process had been killed."""


def stop_after(count):
    """Stops a merge once a number of weights is written."""
    seen = []

    def advance(figures):
        seen.append(figures.name)
        if len(seen) == count:
            raise Stopped

    return advance, seen


def test_a_merge_that_is_stopped_leaves_nothing_and_goes_on_to_the_same_result(folders):
    whole = write_merge(plan_of(folders), folders / "whole", "merge: {}")
    advance, _ = stop_after(7)
    with pytest.raises(Stopped):
        write_merge(plan_of(folders), folders / "out", "merge: {}", advance)
    assert not (folders / "out").exists()
    advance, seen = stop_after(-1)
    summary = write_merge(plan_of(folders), folders / "out", "merge: {}", advance)
    assert summary.taken_over >= 5
    assert len(seen) == len(plan_of(folders).outputs) - summary.taken_over
    assert (summary.merged, summary.kept) == (whole.merged, whole.kept)
    assert weights(folders / "out") == weights(folders / "whole")
    reports = [json.loads((folders / name / "merge_report.json").read_text()) for name in ("out", "whole")]
    assert reports[0]["weights"] == reports[1]["weights"]
    assert {path.name for path in (folders / "out").iterdir()} == {path.name for path in (folders / "whole").iterdir()}
    assert [path.name for path in folders.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("change", ["settings", "source"])
def test_what_another_merge_has_left_is_not_taken_over(change, folders):
    advance, _ = stop_after(7)
    with pytest.raises(Stopped):
        write_merge(plan_of(folders), folders / "out", "", advance)
    if change == "source":
        tensors = {name: tensor + 1 for name, tensor in load_file(folders / "a" / "model.safetensors").items()}
        save_file(tensors, folders / "a" / "model.safetensors", metadata={"format": "pt"})
    scale = 2.0 if change == "settings" else 1.0
    assert write_merge(plan_of(folders, scale), folders / "out", "").taken_over == 0
    write_merge(plan_of(folders, scale), folders / "whole", "")
    assert weights(folders / "out") == weights(folders / "whole")


def test_a_fault_at_the_very_end_is_mended_without_merging_again(folders, monkeypatch):
    monkeypatch.setattr(merge_output, "copy_companions", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_merge(plan_of(folders), folders / "out", "")
    assert not (folders / "out").exists()
    monkeypatch.undo()
    summary = write_merge(plan_of(folders), folders / "out", "")
    assert summary.taken_over == len(plan_of(folders).outputs)
    report = json.loads((folders / "out" / "merge_report.json").read_text())
    assert len(report["weights"]) == len(plan_of(folders).outputs)


def test_a_folder_with_something_in_it_is_refused(folders):
    with pytest.raises(UserError, match="exists and is not empty"):
        write_merge(plan_of(folders), folders / "a", "")


def test_untying_writes_a_head_and_says_so(folders):
    for name in ("base", "a"):
        tied = text_model(name, 5 if name == "a" else 0, tied=True).tensors
        save_file(tied, folders / name / "model.safetensors", metadata={"format": "pt"})
        (folders / name / "config.json").write_text(json.dumps({**CONFIGURATION, "tie_word_embeddings": True}))
    donors = [Donor(str(folders / "a"))]
    settings = MergeSettings(TaskArithmetic(), donors, base=str(folders / "base"), tied="untie")
    write_merge(plan_merge(settings, open_checkpoint), folders / "out", "")
    written = load_file(folders / "out" / "model.safetensors")
    assert torch.equal(written["lm_head.weight"], written["model.embed_tokens.weight"])
    assert json.loads((folders / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_figures_count_what_was_read_and_written(folders):
    summary = write_merge(plan_of(folders), folders / "out", "")
    written = sum(tensor.nbytes for tensor in load_file(folders / "base" / "model.safetensors").values())
    assert summary.bytes_written == written
    assert written < summary.bytes_read <= 3 * written
    assert summary.merged + summary.kept == len(plan_of(folders).outputs)


PEAK = """
import resource, sys, torch
from pathlib import Path
from lit_vlm.merging.linear import Linear
from lit_vlm.merging.merge_output import write_merge
from lit_vlm.merging.merge_plan import plan_merge
from lit_vlm.merging.merge_settings import Donor, MergeSettings
from lit_vlm.models.checkpoint_tensors import open_checkpoint
torch.set_num_threads(1)
folder = Path(sys.argv[1])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
settings = MergeSettings(Linear(), [Donor(str(folder / "a")), Donor(str(folder / "b"))], largest_shard="20MB")
write_merge(plan_merge(settings, open_checkpoint), folder / "out", "")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_the_peak_of_memory_does_not_grow_with_the_number_of_weights(tmp_path):
    """Weights of 2 MB: 40 MB or 400 MB a model."""
    assert Linear().elementwise
    peaks = []
    for count in (20, 200):
        folder = tmp_path / str(count)
        for seed, name in enumerate(("a", "b")):
            (folder / name).mkdir(parents=True)
            (folder / name / "config.json").write_text(json.dumps(CONFIGURATION))
            generator = torch.Generator().manual_seed(seed)
            tensors = {
                f"model.layers.{index}.mlp.up_proj.weight": torch.randn(512, 1024, generator=generator)
                for index in range(count)
            }
            save_file(tensors, folder / name / "model.safetensors", metadata={"format": "pt"})
        told = subprocess.run(
            [sys.executable, "-c", PEAK, str(folder)], check=True, capture_output=True, text=True
        ).stdout
        peaks.append(int(told.split()[-1]))
    assert peaks[1] < peaks[0] + 40e6
    assert peaks[1] < 200e6
