import json
import math
import sys

import pytest
import torch
import yaml
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText, AutoProcessor

from lit_vlm.cli import main
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from tests.merging.perturbed_models import WEIGHTS, changed, perturbed

QUERY = "model.layers.1.self_attn.q_proj.weight"
FULL = 128
"""Rank of the largest of its differences."""


@pytest.fixture(scope="module")
def donors(tmp_path_factory):
    folder = tmp_path_factory.mktemp("donors")
    return perturbed(folder / "a", seed=1), perturbed(folder / "b", seed=2)


@pytest.fixture(autouse=True)
def working_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])


def added(*donors, base="tiny", operation="TaskArithmetic", weight=1.0):
    told = [{"model": str(donor), "weight": weight} for donor in donors]
    words = ["merge", "--merge.operation", operation, "--merge.donors", json.dumps(told)]
    return [*words, *(["--merge.base", base] if base else [])]


def refused(words, capsys):
    assert main(words) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("lit-vlm: error: ")
    return line


def test_the_result_is_the_sum_and_loads_whole(donors, tmp_path, capsys):
    assert main([*added(*donors, weight=0.5), "--output", "out"]) == 0
    told = capsys.readouterr().out
    assert "91 weights merged, 1 kept" in told
    assert "GB/s" in told
    assert "next: lit-vlm test" in told
    base, a, b, out = (load_file(folder / WEIGHTS) for folder in (TINY_FOLDER, *donors, tmp_path / "out"))
    expected = base[QUERY].float() + 0.5 * (a[QUERY].float() - base[QUERY]) + 0.5 * (b[QUERY].float() - base[QUERY])
    assert torch.equal(out[QUERY], expected.to(base[QUERY].dtype)) or torch.allclose(out[QUERY].float(), expected)
    assert torch.equal(out["model.embed_tokens.weight"], base["model.embed_tokens.weight"])
    assert out.keys() == base.keys()
    model, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert not report["mismatched_keys"]
    assert model.config.tie_word_embeddings
    AutoProcessor.from_pretrained(tmp_path / "out")


def test_the_folder_holds_what_a_plain_checkpoint_has(donors, tmp_path):
    assert main([*added(donors[0]), "--output", "out"]) == 0
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {path.name for path in TINY_FOLDER.iterdir()} | {"README.md", "merge_report.json"}
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["base_model"] == ["tiny", str(donors[0])]
    recipe = yaml.safe_load(card.split("```yaml\n")[1].split("```")[0])
    assert recipe["merge"]["donors"][0]["model"] == str(donors[0])
    report = json.loads((tmp_path / "out" / "merge_report.json").read_text(encoding="utf-8"))
    (query,) = [weight for weight in report["weights"] if weight["name"] == QUERY]
    base, donor = (load_file(folder / WEIGHTS)[QUERY].double() for folder in (TINY_FOLDER, donors[0]))
    assert query["deltas"][0] == pytest.approx(float((donor - base).norm() / base.norm()), rel=1e-4)
    assert query["change"] == pytest.approx(query["deltas"][0], rel=1e-4)
    assert len(report["sources"][0]["digests"]["model.safetensors"]) == 64


def test_the_recipe_in_the_card_makes_the_same_model(donors, tmp_path):
    assert main([*added(*donors, operation="TIES"), "--merge.seed", "3", "--output", "first"]) == 0
    card = (tmp_path / "first" / "README.md").read_text(encoding="utf-8")
    (tmp_path / "again.yaml").write_text(card.split("```yaml\n")[1].split("```")[0], encoding="utf-8")
    assert main(["merge", "--config", "again.yaml", "--output", "second"]) == 0
    first, second = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("first", "second"))
    assert first == second


def test_many_files_hold_the_same_weights_as_one(donors, tmp_path):
    words = added(*donors, operation="DARE", weight=0.7)
    assert main([*words, "--output", "one"]) == 0
    assert main([*words, "--merge.largest_shard", "300KB", "--output", "many"]) == 0
    one, many = load_file(tmp_path / "one" / WEIGHTS), {}
    files = sorted((tmp_path / "many").glob("model-*.safetensors"))
    assert len(files) >= 10
    for file in files:
        many |= load_file(file)
    assert one.keys() == many.keys()
    assert all(torch.equal(one[name], many[name]) for name in one)
    index = json.loads((tmp_path / "many" / "model.safetensors.index.json").read_text(encoding="utf-8"))
    assert index["weight_map"].keys() == one.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in one.values())
    _, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "many", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]


def test_coefficients_of_zero_copy_the_target(donors, tmp_path, capsys):
    assert main([*added(donors[0], weight=0.0), "--output", "out"]) == 0
    assert "0 weights merged, 92 kept" in capsys.readouterr().out
    base, out = load_file(TINY_FOLDER / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
    assert base.keys() == out.keys()
    for name, tensor in base.items():
        assert tensor.dtype == out[name].dtype
        assert torch.equal(tensor, out[name])


def test_a_dry_run_shows_the_plan_and_writes_nothing(donors, tmp_path, capsys):
    assert main([*added(donors[0]), "--dry_run"]) == 0
    told = capsys.readouterr().out
    assert "merged attn           28 weights" in told
    assert "kept   embed           1 weight: coefficient 0" in told
    assert list(tmp_path.iterdir()) == []


def test_the_configuration_is_printed(donors, capsys):
    assert main([*added(donors[0]), "--print_config"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["merge"]["operation"]["class_path"] == "lit_vlm.merging.task_arithmetic.TaskArithmetic"


def test_options_come_after_recipes(donors, tmp_path, capsys):
    donor = {"model": str(donors[0]), "weight": 0.25}
    recipe = {"about": {"method": "m"}, "merge": {"operation": "TaskArithmetic", "base": "tiny", "donors": [donor]}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    words = ["merge", "--config", "own.yaml", "--merge.operation.scale", "2", "--merge.dtype", "bfloat16"]
    assert main([*words, "--output", "out"]) == 0
    base, a, out = (load_file(folder / WEIGHTS)[QUERY] for folder in (TINY_FOLDER, donors[0], tmp_path / "out"))
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, (base.float() + 0.5 * (a.float() - base.float())).bfloat16())
    assert json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["dtype"] == "bfloat16"


def test_an_adapter_is_a_donor(donors, tmp_path):
    assert main([*added(donors[0]), "--as_lora", str(FULL), "--output", "adapter"]) == 0
    told = [{"model": {"model": "tiny", "adapter": "adapter"}, "weight": 0.5}]
    words = ["merge", "--merge.operation", "TaskArithmetic", "--merge.target", "tiny"]
    assert main([*words, "--merge.donors", json.dumps(told), "--output", "out"]) == 0
    base, a, out = (load_file(folder / WEIGHTS)[QUERY].float() for folder in (TINY_FOLDER, donors[0], tmp_path / "out"))
    torch.testing.assert_close(out, base + 0.5 * (a - base), rtol=1e-2, atol=1e-3)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks for it
@pytest.mark.parametrize(("rank", "limit"), [(FULL, 1e-5), (4, 1.0)])
def test_an_adapter_loads_with_peft_and_stands_for_the_difference(rank, limit, donors, tmp_path, capsys):
    assert main([*added(donors[0]), "--as_lora", str(rank), "--output", "adapter"]) == 0
    assert "an adapter of rank" in capsys.readouterr().out
    model = AutoModelForImageTextToText.from_pretrained(TINY_FOLDER, dtype=torch.float32)
    name = "model.language_model.layers.1.self_attn.q_proj.weight"
    before = dict(model.named_parameters())[name].detach().clone()
    merged = PeftModel.from_pretrained(model, tmp_path / "adapter").merge_and_unload()
    change = dict(merged.named_parameters())[name].detach() - before
    wanted = load_file(donors[0] / WEIGHTS)[QUERY].float() - load_file(TINY_FOLDER / WEIGHTS)[QUERY].float()
    error = float((change - wanted).norm() / wanted.norm())
    assert error < limit
    report = json.loads((tmp_path / "adapter" / "merge_report.json").read_text(encoding="utf-8"))
    (told,) = [entry for entry in report["adapted"] if entry["name"] == QUERY]
    assert told["relative_error"] == pytest.approx(error, abs=1e-3)
    assert "model.norm.weight" in report["left_out"]
    assert 0 < report["relative_error"] <= 1


def test_a_vector_is_saved_and_added_elsewhere(donors, tmp_path):
    assert main([*added(donors[0], weight=0.5), "--as_vector", "--output", "vector"]) == 0
    words = ["merge", "--merge.operation", "TaskArithmetic", "--merge.target", str(donors[1])]
    assert main([*words, "--merge.donors", '[{"vector": "vector", "weight": -2.0}]', "--output", "out"]) == 0
    folders = (TINY_FOLDER, *donors, tmp_path / "out")
    base, a, b, out = (load_file(folder / WEIGHTS)[QUERY].float() for folder in folders)
    torch.testing.assert_close(out, b - (a - base), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ([], "--output is missing"),
        (["--output", "full"], "exists and is not empty"),
        (["--outptu", "x"], "--outptu: there is no such option; did you mean 'output'"),
        (["--merge.opration", "x", "--output", "o"], "did you mean 'operation'"),
        (["--merge.operation.scael", "2", "--output", "o"], "did you mean 'scale'"),
        (["--merge.operation", "Tiess", "--output", "o"], "there is no class or file 'Tiess'"),
        (["--merge.dtype", "float8", "--output", "o"], "give one of 'float32', 'bfloat16', 'float16'"),
        (["--merge.base", "nowhere/at/all", "--output", "o"], "there is no folder 'nowhere/at/all'"),
        (["--merge.donors", "[]", "--output", "o"], "donor"),
        (["--merge.donors", "[{model: null}]", "--output", "o"], "a donor is either a model or a vector"),
        (["--merge.donors", "[{model: tiny}]", "--output", "o"], "its own base"),
        (["--as_lora", "0", "--output", "o"], "at least 1"),
        (["--as_lora", "8", "--as_vector", "--output", "o"], "just one of the two"),
        (["--approximate", "--output", "o"], "go with --as_lora"),
        (["--merge.device", "gpu", "--output", "o"], "device 'gpu' cannot compute here"),
        (["--merge.device", "meta", "--output", "o"], "device 'meta' cannot compute here"),
        (["--output", "full/file/o"], "--output: 'full/file/o' cannot be written"),
        (["--config", "quickstart", "--output", "o"], "lit-vlm fit --config"),
    ],
)
def test_mistakes_are_told_in_one_line_and_nothing_is_left(changes, told, donors, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("")
    assert told in refused([*added(donors[0]), *changes], capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_merge_without_donors_says_what_is_missing(capsys):
    assert "--merge.donors is missing" in refused(["merge", "--merge.operation", "Linear", "--output", "o"], capsys)


def test_a_setting_that_an_operation_lacks_is_named_with_its_path(donors, capsys):
    line = refused([*added(*donors, operation="Slerp", base=None), "--output", "o"], capsys)
    assert "--merge.operation.t is missing" in line


def test_weights_that_are_not_finite_are_named_and_nothing_is_written(donors, tmp_path, capsys):
    broken = changed(
        tmp_path / "broken", donors[0], lambda name, weight: weight * math.nan if name == QUERY else weight
    )
    line = refused([*added(broken), "--output", "out"], capsys)
    assert QUERY in line
    assert str(broken) in line
    assert not (tmp_path / "out").exists()


def test_the_same_numbers_in_another_file_are_refused(tmp_path, capsys):
    same = changed(tmp_path / "same", TINY_FOLDER, lambda name, weight: weight)
    line = refused([*added(same), "--output", "out"], capsys)
    assert str(same) in line
    assert not (tmp_path / "out").exists()


def test_a_number_too_large_for_the_type_is_refused(donors, tmp_path, capsys):
    line = refused([*added(donors[0], weight=1e7), "--merge.dtype", "float16", "--output", "out"], capsys)
    assert "as float16; give smaller coefficients" in line


def test_run_verbs_and_merge_recipes_do_not_mix(donors, tmp_path, capsys):
    (tmp_path / "own.yaml").write_text("merge: {operation: Linear}", encoding="utf-8")
    assert "lit-vlm merge --config own.yaml" in refused(["fit", "--config", "own.yaml"], capsys)
