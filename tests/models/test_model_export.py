"""What an export does beside what tests/command_line/test_export.py sees: old names, stacked weights, memory."""

import pytest
import torch
from safetensors.torch import load_file

from lit_vlm.functional.training_checkpoint import TrainingCheckpoint, open_training_checkpoint
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.model_export import ExportSettings, export_model, writes_adapter
from lit_vlm.models.segment_classifier import DESCRIPTION, HEAD


@pytest.fixture
def saved(random_tiny_folder, random_tiny_model, tmp_path):
    """A checkpoint of the tiny model with a judging head, and its backbone."""
    state = {f"_policy.model.{name}": value for name, value in random_tiny_model.model.state_dict().items()}
    state["_policy.segment_head.weight"] = torch.ones(3, 4)
    torch.save({"state_dict": state, "global_step": 5}, tmp_path / "x.ckpt")
    return open_training_checkpoint(tmp_path / "x.ckpt"), Backbone(str(random_tiny_folder))


class Counting(TrainingCheckpoint):
    """Notes how much of a checkpoint is read, and in which order things happen."""

    def __init__(self, inner):
        self.inner, self.path, self.events = inner, inner.path, []
        self.names, self.progress = inner.names, inner.progress

    names = progress = ()

    def shape(self, name):
        return self.inner.shape(name)

    def dtype(self, name):
        return self.inner.dtype(name)

    def read(self, name):
        self.events.append(("read", self.inner.read(name).nbytes))
        return self.inner.read(name)


def test_each_weight_is_read_once_and_written_before_the_next(saved, tmp_path):
    checkpoint, backbone = Counting(saved[0]), saved[1]
    summary = export_model(
        checkpoint, backbone, tmp_path / "out", advance=lambda size: checkpoint.events.append(("written", size))
    )
    kinds = [kind for kind, _ in checkpoint.events]
    assert kinds == ["read", "written"] * summary.weights
    assert sum(size for kind, size in checkpoint.events if kind == "read") == summary.size


def test_the_head_of_a_judge_is_written_beside(saved, tmp_path):
    export_model(*saved, tmp_path / "out", judges="object-existence")
    assert load_file(tmp_path / "out" / HEAD)["weight"].shape == (3, 4)
    assert "object-existence" in (tmp_path / "out" / DESCRIPTION).read_text()


def test_pixel_bounds_of_the_run_are_kept(saved, random_tiny_folder, tmp_path):
    bounded = Backbone(str(random_tiny_folder), min_pixels=1024, max_pixels=4096)
    export_model(saved[0], bounded, tmp_path / "out")
    size = Backbone(str(tmp_path / "out")).load_encoder().processor.image_processor.size
    assert (size["shortest_edge"], size["longest_edge"]) == (1024, 4096)


def test_a_base_that_is_gone_is_no_hindrance_to_a_whole_model(saved, tmp_path, caplog, random_tiny_folder):
    (tmp_path / "bare").mkdir()
    for path in random_tiny_folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / "bare" / path.name).write_bytes(path.read_bytes())
    export_model(saved[0], Backbone(str(tmp_path / "bare")), tmp_path / "out")
    assert "named as transformers saves new models" in caplog.text
    Backbone(str(tmp_path / "out")).load_model(Backbone(str(tmp_path / "out")).load_encoder())


def test_what_is_written_follows_the_recipe_unless_it_is_said():
    adapter = Backbone(adapter=AdapterSettings())
    merged = Backbone(adapter=AdapterSettings(export="merged"))
    wanted = {
        (adapter, None): True, (adapter, "keep"): True, (adapter, "merged"): False,
        (merged, None): False, (merged, "keep"): True, (Backbone(), None): False,
    }  # fmt: skip
    for (backbone, choice), alone in wanted.items():
        assert writes_adapter(backbone, ExportSettings(adapter=choice)) is alone
    with pytest.raises(UserError, match="this run trained no adapter"):
        writes_adapter(Backbone(), ExportSettings(adapter="keep"))
