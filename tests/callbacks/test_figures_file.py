import json
import math
from types import SimpleNamespace

import torch

from lit_vlm.callbacks.figures_file import FiguresFile


def trainer_of(folder, **settings):
    figures = {"test/exact_match": torch.tensor(0.5), "loss": torch.tensor(math.inf)}
    told = {"log_dir": str(folder), "is_global_zero": True, "fast_dev_run": False, "callback_metrics": figures}
    return SimpleNamespace(**{**told, **settings})


def test_the_last_figures_are_written_as_strict_json(tmp_path):
    FiguresFile().teardown(trainer_of(tmp_path / "run"), None, "test")
    text = (tmp_path / "run" / "figures.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"loss": None, "test/exact_match": 0.5}


def test_other_ranks_and_trial_runs_write_nothing(tmp_path):
    for settings in ({"is_global_zero": False}, {"fast_dev_run": 1}):
        FiguresFile().teardown(trainer_of(tmp_path / "run", **settings), None, "fit")
    assert not (tmp_path / "run").exists()
