from pathlib import Path

import pytest
import yaml

from lit_vlm.command_line.pipeline_file import Pipeline, read_pipeline
from lit_vlm.interfaces.errors import UserError

GENERATE = {"name": "generate", "verb": "predict", "config": "quickstart", "init_from": "current"}
SFT = {
    "name": "sft",
    "verb": "fit",
    "config": ["quickstart"],
    "init_from": "base",
    "options": {"data.ledgers": ["{generate.ledger}"]},
}
CONTENT = {"about": {"method": "m"}, "base": "tiny", "rounds": 3, "stages": [GENERATE, SFT]}


def read(*settings, path=Path("folder/loop.yaml"), **changes):
    return read_pipeline(path, {**CONTENT, **changes}, settings)


def with_stage(**changes):
    return {"stages": [GENERATE, {**SFT, **changes}]}


def test_a_recipe_is_read() -> None:
    pipeline = read(common={"trainer.devices": 1}, figures=["loss"])
    assert (pipeline.name, pipeline.base, pipeline.rounds, pipeline.figures) == ("loop", "tiny", 3, ("loss",))
    assert pipeline.common == {"trainer.devices": 1}
    generate, sft = pipeline.stages
    assert (generate.verb, generate.init_from, generate.rounds) == ("predict", "current", (1, 2, 3))
    assert generate.configs[0].name == "quickstart.yaml"
    assert sft.options == {"data.ledgers": ["{generate.ledger}"]}
    assert read_pipeline(Path("p.yaml"), {"stages": [GENERATE]}) == Pipeline("p", (read(rounds=1).stages[0],))


@pytest.mark.parametrize(
    ("given", "rounds"), [("first", (1,)), ("later", (2, 3)), ("last", (3,)), ([1, 3], (1, 3)), ([2, 9], (2,))]
)
def test_a_stage_says_in_which_rounds_it_takes_part(given, rounds) -> None:
    assert read(**with_stage(rounds=given)).stages[1].rounds == rounds


def test_recipes_beside_the_pipeline_come_first(tmp_path) -> None:
    (tmp_path / "quickstart").write_text("model: {}", encoding="utf-8")
    assert read(path=tmp_path / "p.yaml").stages[0].configs == (tmp_path / "quickstart",)


def test_settings_change_stages_and_the_whole() -> None:
    pipeline = read(
        "sft.data.batch_size=8", "common.trainer.devices=2", "base=other/model", "rounds=1", "figures=[loss]"
    )
    assert pipeline.stages[1].options["data.batch_size"] == 8
    assert pipeline.common == {"trainer.devices": 2}
    assert (pipeline.base, pipeline.rounds, pipeline.figures) == ("other/model", 1, ("loss",))
    assert "data.batch_size" not in SFT["options"]
    assert "common" not in CONTENT


def test_what_is_written_down_reads_back_the_same() -> None:
    pipeline = read("sft.data.batch_size=8", common={"trainer.devices": 1}, **with_stage(rounds="later"))
    assert read_pipeline(Path("elsewhere/loop.yaml"), yaml.safe_load(pipeline.to_yaml())) == pipeline


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"stages": []}, "stages is"),
        ({"stages": "fit"}, "stages is 'fit'"),
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": True}, "rounds is True"),
        ({"base": 3}, "base is 3"),
        ({"figures": []}, "figures is"),
        ({"common": ["a"]}, "common is"),
        ({"stage": []}, "there is no 'stage'; did you mean 'stages'"),
        (with_stage(name="Big"), "stage 2 has the name 'Big'"),
        (with_stage(name=None), "stage 2 has the name None"),
        (with_stage(name="previous"), "means something else"),
        (with_stage(name="generate"), "two stages are called 'generate'"),
        (with_stage(verb="train"), "stage sft: verb is 'train'"),
        (with_stage(verb="tets"), "did you mean 'test'"),
        (with_stage(init_from="teacher"), "init_from is 'teacher'; give base or current"),
        (with_stage(verb="merge"), "init_from is 'base'; name its models in options"),
        (with_stage(config=None), "config is None"),
        (with_stage(config=[3]), "config is"),
        (
            with_stage(config="quickstrat"),
            "stage sft: config quickstrat: there is no such file or recipe; did you mean",
        ),
        (with_stage(rounds="never"), "rounds is 'never'"),
        (with_stage(rounds=[0]), "rounds is"),
        (with_stage(options=["a"]), "stage sft: options is"),
        (with_stage(inputs={}), "stage sft: there is no 'inputs'"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(changes, told) -> None:
    with pytest.raises(UserError, match="folder/loop.yaml") as refused:
        read(**changes)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("sft", "give stage.option=value"),
        ("stf.data.batch_size=8", "there is no stage 'stf'; did you mean 'sft'"),
        ("sft=8", "give stage.option=value"),
        ("sft.data=[", "is not valid YAML"),
    ],
)
def test_settings_that_do_not_fit_are_refused(setting, told) -> None:
    with pytest.raises(UserError, match="--set") as refused:
        read(setting)
    assert told in str(refused.value)
