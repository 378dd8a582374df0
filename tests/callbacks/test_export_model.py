import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from lightning import Callback
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy

from lit_vlm.callbacks.export_model import ExportModel
from lit_vlm.interfaces.errors import UserError


@pytest.fixture
def exportable(answers, monkeypatch):
    """The module with an export that notes where it wrote."""
    answers.exported_to = []

    def export(folder: Path) -> None:
        answers.exported_to.append(folder)
        (folder / "config.json").write_text("{}")

    answers.export = export
    return answers


def test_the_model_appears_complete_in_the_runs_folder(fit, exportable, tmp_path, capsys):
    fit(ExportModel())
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert f"exported the model to {tmp_path / 'model'}" in capsys.readouterr().out


def test_it_is_written_beside_its_place_first(fit, exportable, tmp_path):
    target = tmp_path / "deep" / "down"
    fit(ExportModel(str(target)))
    assert exportable.exported_to == [tmp_path / "deep" / ".down.partial"]
    assert (target / "config.json").is_file()


def test_what_an_earlier_failure_left_is_swept_away(fit, exportable, tmp_path):
    (tmp_path / ".model.partial").mkdir()
    (tmp_path / ".model.partial" / "half.safetensors").touch()
    fit(ExportModel())
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["config.json"]


def test_a_failed_export_leaves_no_model(fit, exportable, tmp_path):
    def export(folder: Path) -> None:
        raise OSError("disk full")

    exportable.export = export
    with pytest.raises(OSError, match="disk full"):
        fit(ExportModel())
    assert not (tmp_path / "model").exists()


def test_an_existing_folder_is_refused_before_the_first_step(fit, exportable, tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=r"would overwrite .*model'; give another ExportModel\.folder"):
        fit(ExportModel())
    assert not exportable.exported_to


def test_weights_that_lie_in_pieces_are_not_exported(exportable, tmp_path):
    stage_3, stage_2 = (DeepSpeedStrategy.__new__(DeepSpeedStrategy) for _ in range(2))  # needs deepspeed itself
    stage_3.config, stage_2.config = ({"zero_optimization": {"stage": stage}} for stage in (3, 2))
    for strategy in (FSDPStrategy(), stage_3):
        trainer = SimpleNamespace(strategy=strategy, fast_dev_run=False)
        with pytest.raises(UserError, match=f"cannot put together the weights that {type(strategy).__name__} cuts up"):
            ExportModel().setup(trainer, exportable, "fit")
    # What FSDP2 cuts up the module gathers.
    for strategy in (stage_2, ModelParallelStrategy()):
        whole = SimpleNamespace(strategy=strategy, fast_dev_run=False, log_dir=None, default_root_dir=str(tmp_path))
        ExportModel(str(tmp_path / "there")).setup(whole, exportable, "fit")


def test_a_module_that_cannot_export_is_refused(fit):
    with pytest.raises(UserError, match=r"Answers has none: remove ExportModel from trainer\.callbacks"):
        fit(ExportModel())


def test_a_trial_run_exports_nothing(fit, exportable):
    fit(ExportModel(), fast_dev_run=True)
    assert not exportable.exported_to


CONFIGURATION = {
    "about": {"method": "SFT"},
    "model": {"init_args": {"backbone": {"checkpoint": "tiny"}}},
    "trainer": {"logger": {"init_args": {"name": "mine", "save_dir": "/home/me"}}},
}


class Report(Callback):
    """Writes figures at the end of training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_end(self, trainer, pl_module) -> None:
        figure = {"mean": 0.25, "low": 0.2, "high": 0.3, "total": 40}
        compared = {"overall": {"before": figure, "after": figure, "gain_points": 0.0, "intervals_apart": False}}
        (self.folder / "report.json").write_text(json.dumps({"metric": "exact_match", "comparison": compared}))


@pytest.mark.parametrize("report_first", [True, False])
def test_a_model_card_tells_recipe_and_figures_whichever_comes_first(fit, exportable, tmp_path, report_first):
    export = ExportModel()
    export.configuration = CONFIGURATION
    fit(*([Report(tmp_path), export] if report_first else [export, Report(tmp_path)]))
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"config.json", "README.md"}
    card = (tmp_path / "model" / "README.md").read_text()
    assert "# mine" in card
    assert "| overall | 25.0 [20.0, 30.0] |" in card
    assert "| optimizer steps done | 4 |" in card
    assert "library_name: transformers" in card
    assert "/home" not in card


def test_an_adapter_is_called_one(fit, exportable, tmp_path):
    exportable.export = lambda folder: (folder / "adapter_config.json").write_text("{}")
    export = ExportModel()
    export.configuration = CONFIGURATION
    fit(export)
    assert "library_name: peft" in (tmp_path / "model" / "README.md").read_text()
