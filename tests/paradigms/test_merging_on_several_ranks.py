"""Merges as experiments, on several processes."""

import json

import pytest

from tests.paradigms.merge_material import direction, planted, write_model
from tests.paradigms.processes import run_script

pytestmark = pytest.mark.slow
BEST = 0.5

COMMON = """
import sys
sys.path.insert(0, {root!r})
import json
from pathlib import Path
import torch
from lit_vlm.models.backbone import Backbone
from tests.paradigms.merge_material import SHORT, digits, in_memory, trainer
devices, options, folder = int(sys.argv[1]), json.loads(sys.argv[2]), Path(sys.argv[3]).parent
strategy = options.pop("strategy")
ranks = dict(devices=devices, strategy=strategy) if devices > 1 else {{}}


def finish(model, figures):
    weights = in_memory(model)
    if model.global_rank == 0:
        torch.save((figures, weights), sys.argv[3])
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()

"""

SEARCH = (
    COMMON
    + """
from lit_vlm.merging.coefficient_search import GridSearch
from lit_vlm.paradigms.reasoning_vector import ReasoningVectorModule
target = Backbone(options.pop("target"))
search = GridSearch((1.0, 0.5, 0.25))
model = ReasoningVectorModule(
    target, **options, search=search, metric="loss", mode="min", generation=SHORT, max_tokens=512
)
data = digits(model.encoder, validation_size=5, test_size=5, batch_size=2 // devices, tasks=["read_digit"])
running = trainer(folder, **ranks)
running.fit(model, data)
tested = running.test(model, data, verbose=False)[0]
finish(model, (model.trials.to_json(), tested))
"""
)

FRANK = (
    COMMON
    + """
from lit_vlm.paradigms.frank import FRANKModule
model = FRANKModule(Backbone(), **options, generation=SHORT, max_tokens=512)
data = digits(
    model.encoder, train_size=6, validation_size=5, batch_size=6 // devices, tasks=["read_digit"], num_workers=0
)
running = trainer(folder, max_epochs=1, limit_train_batches=1, num_sanity_val_steps=0, **ranks)
running.fit(model, data)
finish(model, json.loads((folder / "frank.json").read_text(encoding="utf-8")))
"""
)


def same_weights(alone, together, tolerance):
    assert alone.keys() == together.keys()
    for name in alone:
        assert together[name].float() == pytest.approx(alone[name].float(), abs=tolerance), name


def both(tmp_path, script, options, strategy="ddp"):
    """Runs a script on one process and on two, each in a folder of its own."""
    results = []
    for devices in (1, 2):
        folder = tmp_path / str(devices)
        folder.mkdir()
        results.append(run_script(script, folder / "out.pt", devices, json.dumps({**options, "strategy": strategy})))
    return results


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_search_as_one(tmp_path, strategy):
    folders = planted(tmp_path / "models", BEST, size=3.0)
    ((one, one_test), alone), ((two, two_test), together) = both(tmp_path, SEARCH, folders, strategy)
    assert two["best"] == one["best"] == [BEST]
    assert [trial["candidate"] for trial in two["trials"]] == [trial["candidate"] for trial in one["trials"]]
    for first, second in zip([one["unchanged"], *one["trials"]], [two["unchanged"], *two["trials"]], strict=True):
        assert second["mean"] == pytest.approx(first["mean"], rel=1e-4)
    assert two_test == pytest.approx(one_test, rel=1e-4, nan_ok=True)
    assert two_test["test/alpha_-1/exact_match_total"] == 5
    same_weights(alone, together, 0)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_measure_attention_as_one(tmp_path, strategy):
    folders = {
        "base": write_model(tmp_path / "base", lambda name, value: value - direction(name, value, 0.1)),
        "reasoning": write_model(
            tmp_path / "reasoning", lambda name, value: value - direction(name, value, 0.1) + 0.05 * (value * 50).sin()
        ),
    }
    options = {name: str(folder) for name, folder in folders.items()}
    (one, alone), (two, together) = both(tmp_path, FRANK, options, strategy)
    assert two["rows_measured"] == one["rows_measured"] == 6
    assert two["attention"] == pytest.approx(one["attention"], rel=1e-4)
    same_weights(alone, together, 1e-5)
