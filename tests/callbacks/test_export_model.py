from pathlib import Path

import pytest

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


def test_a_module_that_cannot_export_is_refused(fit):
    with pytest.raises(UserError, match=r"Answers has none: remove ExportModel from trainer\.callbacks"):
        fit(ExportModel())


def test_a_trial_run_exports_nothing(fit, exportable):
    fit(ExportModel(), fast_dev_run=True)
    assert not exportable.exported_to
