import json
import math
import sys
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_vlm.callbacks.before_after_report import BeforeAfterReport
from lit_vlm.callbacks.export_model import ExportModel
from lit_vlm.cli import main
from lit_vlm.functional.weight_coefficients import CoefficientRule
from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.coefficient_search import GridSearch, LayerGroupSearch
from lit_vlm.merging.merge_settings import Donor
from lit_vlm.models.backbone import Backbone
from lit_vlm.paradigms.merge_trials import Factors
from lit_vlm.paradigms.reasoning_vector import ReasoningVectorModule
from tests.paradigms.merge_material import SHORT, digits, direction, in_memory, planted, trainer, weights_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed.*"),
    pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint need to be provided.*"),
]
BEST = 0.5


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three checkpoints with the best factor planted."""
    return planted(tmp_path_factory.mktemp("planted"), BEST, size=3.0)


def module(folders, search=None, **options):
    options = {"metric": "loss", "mode": "min", **options}
    if "vectors" not in options:
        options |= {"plus": folders["plus"], "minus": folders["minus"]}
    return ReasoningVectorModule(
        Backbone(folders["target"]), search=search, generation=SHORT, max_tokens=512, **options
    )


def data(model):
    return digits(model.encoder, validation_size=4, test_size=4, tasks=["read_digit"])


@pytest.fixture(scope="module")
def searched(folders, tmp_path_factory):
    """A search that has ended, with all that a recipe runs beside it."""
    folder = tmp_path_factory.mktemp("searched")
    model = module(folders, GridSearch((1.0, BEST, 0.25)), save_vector=str(folder / "vector"))
    callbacks = [
        BeforeAfterReport(),
        ExportModel(str(folder / "model")),
        ModelCheckpoint(folder / "checkpoints", save_top_k=-1, every_n_epochs=1),
    ]
    running = trainer(folder, callbacks=callbacks, enable_checkpointing=True)
    running.fit(model, data(model))
    return model, running, folder


def test_the_search_finds_the_planted_factor_and_ends_with_it(searched, folders):
    model, running, _ = searched
    assert model.chosen == Factors((BEST,))
    # Three candidates, and one step back to the best, which was not the last.
    assert running.global_step == running.current_epoch == 4
    held = dict(model.policy.model.named_parameters())
    tiny = weights_of()
    for disk, memory in model._names.items():
        torch.testing.assert_close(held[memory], tiny[disk].float(), atol=1e-5, rtol=1e-4)


def test_the_search_is_written_down(searched):
    model, _, folder = searched
    record = json.loads((folder / "search.json").read_text(encoding="utf-8"))
    assert record["best"] == [BEST]
    assert [trial["candidate"] for trial in record["trials"]] == [[1.0], [BEST], [0.25]]
    means = {trial["candidate"][0]: trial["mean"] for trial in record["trials"]}
    assert means[BEST] < min(means[1.0], means[0.25], record["unchanged"]["mean"])


def test_report_and_export_are_those_of_the_best(searched):
    model, running, folder = searched
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    record = json.loads((folder / "search.json").read_text(encoding="utf-8"))
    assert report["before"]["metrics"]["loss"] == pytest.approx(record["unchanged"]["mean"])
    assert report["after"]["metrics"]["loss"] == pytest.approx(record["trials"][1]["mean"])
    exported = weights_of(folder / "model")
    held = dict(model.policy.model.named_parameters())
    assert all(torch.equal(exported[disk], held[memory]) for disk, memory in model._names.items())


def test_a_saved_vector_does_what_the_search_found(searched, folders, tmp_path):
    model, _, folder = searched
    again = module(folders, vectors=[Donor(vector=str(folder / "vector"))])
    running = trainer(tmp_path)
    (figures,) = running.validate(again, data(again), verbose=False)
    held, wanted = in_memory(again), in_memory(model)
    for name in wanted:
        torch.testing.assert_close(held[name], wanted[name], atol=1e-5, rtol=1e-5)
    record = json.loads((folder / "search.json").read_text(encoding="utf-8"))
    assert figures["validation/loss"] == pytest.approx(record["trials"][1]["mean"], rel=1e-3)


def test_a_resumed_search_goes_on_where_it_stopped(searched, folders, tmp_path):
    _, _, folder = searched
    (first,) = (folder / "checkpoints").glob("epoch=0*.ckpt")
    model = module(folders, GridSearch((1.0, BEST, 0.25)))
    running = trainer(tmp_path)
    running.fit(model, data(model), ckpt_path=first, weights_only=False)
    assert running.global_step == 4
    assert model.trials is not None
    assert model.trials.to_json() == json.loads((folder / "search.json").read_text(encoding="utf-8"))


def test_testing_compares_subtracted_left_out_and_best(searched, folders, tmp_path, capsys):
    _, _, folder = searched
    (last,) = (folder / "checkpoints").glob("epoch=3*.ckpt")
    model = module(folders, GridSearch((1.0, BEST, 0.25)))
    running = trainer(tmp_path)
    figures = running.test(model, data(model), ckpt_path=last, weights_only=False)[0]
    losses = [figures[f"test/alpha_{alpha}/loss"] for alpha in ("0.5", "0", "-1")]
    assert losses == sorted(losses)
    assert figures["test/loss"] == losses[0]
    assert figures["test/alpha_-1/exact_match_total"] == figures["test/alpha_0.5/exact_match_total"] == 4
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines() if line.startswith("  ")] == ["alpha", "-1", "0", "0.5"]
    record = json.loads((tmp_path / "test_by_alpha.json").read_text(encoding="utf-8"))
    assert [entry["chosen"] for entry in record["by_alpha"].values()] == [False, False, True]


def test_a_test_keeps_its_figures_where_the_metric_is_not_there(folders, tmp_path):
    model = module(folders, metric="wit")
    with pytest.raises(UserError, match="model.metric is 'wit', which is not logged; choose one of .*'exact_match'"):
        trainer(tmp_path).test(model, data(model), verbose=False)
    record = json.loads((tmp_path / "test_by_alpha.json").read_text(encoding="utf-8"))
    assert [entry["exact_match_total"] for entry in record["by_alpha"].values()] == [4, 4, 4]


def test_a_data_module_that_serves_its_test_batches_once_is_refused(folders, tmp_path, monkeypatch):
    model = module(folders)
    dataset = data(model)
    monkeypatch.setattr(dataset, "test_dataloader", dataset.predict_dataloader)
    with pytest.raises(UserError, match="goes through the test set 3 times, but the DataModule gave 1 loader"):
        trainer(tmp_path).test(model, dataset, verbose=False)


@pytest.mark.slow
def test_the_command_line_runs_the_recipe(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["lit-vlm"])
    small = ["--data.validation_size=4", "--data.test_size=4", "--data.num_workers=0", "--trainer.accelerator=cpu"]
    models = [
        f"--model.backbone.checkpoint={folders['target']}",
        f"--model.plus.model={folders['plus']}",
        f"--model.minus={folders['minus']}",
        "--model.mask=[{filter: layers:0-3, value: [1.0, 1.0]}]",
        "--model.generation.max_new_tokens=2",
        "--model.metric=loss",
        "--model.mode=min",
        "--trainer.enable_progress_bar=false",
    ]
    recipe = ["--config", "merging/reasoning_vector"]
    assert main(["fit", *recipe, *small, *models]) == 0, capsys.readouterr().err
    (record,) = tmp_path.rglob("search.json")
    assert json.loads(record.read_text(encoding="utf-8"))["best"] == [BEST]
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert main(["test", *recipe, *small, *models, f"--ckpt_path={checkpoint}"]) == 0, capsys.readouterr().err
    (compared,) = tmp_path.rglob("test_by_alpha.json")
    assert list(json.loads(compared.read_text(encoding="utf-8"))["by_alpha"]) == ["alpha_-1", "alpha_0", "alpha_0.5"]


def test_zero_restores_the_target_bit_for_bit(searched):
    model, _, folder = searched
    before = model.chosen
    model._set(Factors((-1.0,)))
    model._set(Factors((0.0,)))
    target = weights_of(Path(model.target.model))
    held = dict(model.policy.model.named_parameters())
    assert all(torch.equal(held[memory], target[disk]) for disk, memory in model._names.items())
    model._set(before)


def test_groups_of_layers_find_factors_of_their_own(folders, tmp_path):
    model = module(folders, LayerGroupSearch(("layers:0-1", "layers:2-3"), (0.0, BEST), start=0.0))
    running = trainer(tmp_path, num_sanity_val_steps=0)
    running.fit(model, data(model))
    assert model.chosen == Factors((BEST, BEST), ("layers:0-1", "layers:2-3"))
    assert "search/layers:0-1" in running.callback_metrics


def test_vectors_are_composed_by_their_weights_and_the_mask(folders, tmp_path):
    vectors = [
        Donor(model=folders["plus"], base=folders["minus"], weight=0.75),
        Donor(model=folders["plus"], base=folders["minus"], weight=-0.25),
    ]
    model = module(folders, vectors=vectors, mask=[CoefficientRule("layers:2-3", 2.0)])
    trainer(tmp_path).validate(model, data(model), verbose=False)
    held, target = dict(model.policy.model.named_parameters()), weights_of(Path(folders["target"]))
    names = model._names
    assert names
    assert all("layers.2." in disk or "layers.3." in disk for disk in names)
    for disk, memory in names.items():
        wanted = target[disk] + (0.75 - 0.25) * 2.0 * direction(disk, weights_of()[disk].float(), 3.0)
        torch.testing.assert_close(held[memory], wanted, atol=1e-4, rtol=1e-3)


def test_one_batch_an_epoch_is_taken_where_the_command_line_writes_the_number_as_a_float(folders, tmp_path):
    # Lightning takes 1.0 for all batches.
    model = module(folders, GridSearch((BEST,)))
    running = trainer(tmp_path, limit_train_batches=1.0, num_sanity_val_steps=0)
    running.fit(model, data(model))
    assert running.num_training_batches == running.global_step == 1


@pytest.mark.parametrize(
    ("options", "trainer_options", "message"),
    [
        ({"search": None}, {}, "has no model.search"),
        ({}, {"limit_train_batches": 3}, "trainer.limit_train_batches is 3, .* set it to 1"),
        ({}, {"limit_train_batches": 0.5}, "trainer.limit_train_batches is 0.5, .* set it to 1"),
        ({}, {"limit_val_batches": 0}, "needs a validation in every epoch"),
        ({}, {"max_epochs": 2}, "trainer.max_epochs is 2, but the search may take 3 epochs"),
        ({}, {"accumulate_grad_batches": 2}, "trainer.accumulate_grad_batches is 2"),
        ({}, {"gradient_clip_val": 1.0}, "trainer.gradient_clip_val is 1.0"),
        ({"metric": "wit"}, {"num_sanity_val_steps": 1}, r"model.metric is 'wit'"),
        ({"save_vector": "."}, {}, "exists already"),
        ({"save_vector": f"{__file__}/vector"}, {}, "model.save_vector: .* cannot be written"),
        ({"search": LayerGroupSearch(("layers:7-9", "attn"))}, {}, "layers:7-9"),
        ({"mask": [CoefficientRule("atn", 1.0)]}, {}, r"model\.mask: filter 'atn' finds no weight; did you mean attn"),
        ({"mask": 0.0}, {}, "would merge nothing, as all coefficients are 0"),
    ],
)
def test_a_search_that_cannot_run_is_refused(folders, tmp_path, options, trainer_options, message):
    model = module(folders, **{"search": GridSearch((0.5, 1.0)), **options})
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, **trainer_options).fit(model, data(model))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plus": "a"}, "give both"),
        ({"plus": "a", "minus": "b", "vectors": [Donor(vector="v")]}, "give either"),
        ({"plus": "a", "minus": "b", "alpha": float("inf")}, "give a finite number"),
        ({"plus": "a", "minus": "b", "mask": math.nan}, "model.mask is nan"),
        ({"plus": "a", "minus": "b", "mask": []}, "model.mask has an empty list"),
        ({"vectors": [Donor(vector="v"), Donor(vector="w", weight=math.inf)]}, r"model\.vectors\[1\]\.weight is inf"),
        ({"vectors": [Donor(vector="v", density=0.5)]}, r"model\.vectors\[0\]\.density is set, but .* whole"),
        (
            {"vectors": [Donor(vector="v", weight=[0.0, 1.0])], "mask": [0.5, 1.0]},
            "give the mask in the weights alone",
        ),
    ],
)
def test_vectors_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ReasoningVectorModule(**options)
