import json
from pathlib import Path

import pytest

from lit_vlm.command_line.pipeline_file import read_pipeline
from lit_vlm.command_line.pipeline_plan import plan_pipeline
from lit_vlm.interfaces.errors import UserError

FOLDER = Path("runs/loop/version_0")


def stage(name, verb, init_from=None, rounds=None, **options):
    told = {
        "name": name,
        "verb": verb,
        "config": "quickstart",
        "options": {key.replace("__", "."): value for key, value in options.items()},
    }
    return {**told, **({"init_from": init_from} if init_from else {}), **({"rounds": rounds} if rounds else {})}


def plan(*stages, rounds=2, base="tiny", **content):
    return plan_pipeline(
        read_pipeline(Path("loop.yaml"), {"stages": [*stages], "rounds": rounds, "base": base, **content}), FOLDER
    )


def option(run, name):
    (value,) = (word.partition("=")[2] for word in run.words if word.startswith(f"--{name}="))
    return value


def checkpoints(runs):
    return {run.label: option(run, "model.backbone.checkpoint") for run in runs}


def test_a_stage_from_base_starts_there_in_every_round_and_from_current_where_the_last_one_ended() -> None:
    runs = plan(stage("generate", "predict", "current"), stage("sft", "fit", "base"), stage("check", "test", "current"))
    assert checkpoints(runs) == {
        "1-generate": "tiny",
        "1-sft": "tiny",
        "1-check": str(FOLDER / "1-sft/model"),
        "2-generate": str(FOLDER / "1-sft/model"),
        "2-sft": "tiny",
        "2-check": str(FOLDER / "2-sft/model"),
    }
    assert checkpoints(plan(stage("sft", "fit", "current"))) == {"1-sft": "tiny", "2-sft": str(FOLDER / "1-sft/model")}


def test_current_is_the_last_model_of_any_stage() -> None:
    """The rounds of OpenVLThinker: imitation from base, reinforcement from the imitation, generation from both."""
    runs = plan(stage("generate", "predict", "current"), stage("sft", "fit", "base"), stage("grpo", "fit", "current"))
    assert checkpoints(runs) == {
        "1-generate": "tiny",
        "1-sft": "tiny",
        "1-grpo": str(FOLDER / "1-sft/model"),
        "2-generate": str(FOLDER / "1-grpo/model"),
        "2-sft": "tiny",
        "2-grpo": str(FOLDER / "2-sft/model"),
    }


def test_results_are_handed_over_by_name_also_deep_in_an_option() -> None:
    runs = plan(
        stage("generate", "predict"),
        stage("sft", "fit", data={"init_args": {"ledgers": ["{generate.ledger}", "{generate.folder}/x-{round}"]}}),
    )
    assert json.loads(option(runs[3], "data")) == {
        "init_args": {"ledgers": [str(FOLDER / "2-generate/ledger"), f"{FOLDER}/2-generate/x-2"]}
    }
    assert runs[3].needs == (("2-generate", "ledger"), ("2-generate", "folder"))
    assert runs[2].hands_over == ("ledger", "folder")
    assert runs[3].hands_over == ()


def test_previous_is_an_earlier_round_and_base_in_the_first() -> None:
    runs = plan(
        stage("generate", "predict", model__backbone__checkpoint="{previous.sft.model}"), stage("sft", "fit"), rounds=3
    )
    assert [option(run, "model.backbone.checkpoint") for run in runs[::2]] == [
        "tiny",
        str(FOLDER / "1-sft/model"),
        str(FOLDER / "2-sft/model"),
    ]


def test_a_stage_of_some_rounds_hands_on_its_last_result() -> None:
    runs = plan(
        stage("teach", "predict", rounds="first"), stage("sft", "fit", data__ledgers="{teach.ledger}"), rounds=3
    )
    assert [run.label for run in runs] == ["1-teach", "1-sft", "2-sft", "3-sft"]
    assert {option(run, "data.ledgers") for run in runs[1:]} == {str(FOLDER / "1-teach/ledger")}


def test_common_options_come_first_and_not_to_merges() -> None:
    runs = plan(
        stage("sft", "fit", data__batch_size=4),
        stage("mix", "merge"),
        rounds=1,
        common={"data.batch_size": 2, "trainer.devices": 1},
    )
    assert [option(run, "data.batch_size") for run in runs[:1]] == ["4"]
    assert option(runs[0], "trainer.devices") == "1"
    assert runs[1].words == (runs[1].words[0], f"--output={FOLDER / '1-mix/model'}")


def test_runs_write_into_folders_of_their_own() -> None:
    (run,) = plan(stage("sft", "fit"), rounds=1)
    assert run.folder == FOLDER / "1-sft"
    logger = json.loads(option(run, "trainer.logger"))["init_args"]
    assert Path(logger["save_dir"], logger["name"], logger["version"]) == run.folder


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([stage("sft", "fit", data__ledgers="{generate.ledger}")], "there is no stage 'generate'; there are sft"),
        ([stage("sft", "fit", data__ledgers="{stf.model}")], "did you mean 'sft'"),
        (
            [stage("sft", "fit", data__ledgers="{sft.model}")],
            "does not come before it in a round; move it up, or write {previous.sft.model}",
        ),
        (
            [stage("sft", "fit", data__ledgers="{generate.ledger}"), stage("generate", "predict")],
            "stage generate does not come before it",
        ),
        (
            [stage("check", "test"), stage("sft", "fit", data__x="{check.model}")],
            "(test) makes no model; it has {check.folder}",
        ),
        ([stage("sft", "fit", data__x="{sft.ledger}")], "(fit) makes no ledger; it has {sft.model} and {sft.folder}"),
        ([stage("sft", "fit", data__x="{model}")], "{model} means nothing here"),
        ([stage("sft", "fit", data__x="{previous.sft}")], "{previous.sft} means nothing here"),
        (
            [stage("sft", "fit", data__x="{previous.generate.ledger}"), stage("generate", "predict")],
            "in round 1 stage generate has not run yet; say in which rounds",
        ),
        (
            [stage("late", "predict", rounds="later"), stage("sft", "fit", data__x="{late.ledger}")],
            "in round 1 stage late has not run yet",
        ),
        ([stage("sft", "fit", "base", model__backbone__checkpoint="x")], "both name its model"),
    ],
)
def test_hand_overs_that_there_are_not_are_named(stages, told) -> None:
    with pytest.raises(UserError, match="pipeline loop: stage ") as refused:
        plan(*stages)
    assert told in str(refused.value)


def test_a_pipeline_without_a_base_says_so_where_it_is_needed() -> None:
    assert len(plan(stage("sft", "fit"), base=None)) == 2
    for start in ("base", "current"):
        with pytest.raises(UserError, match="which the pipeline does not name"):
            plan(stage("sft", "fit", start), base=None)


def test_a_pipeline_in_which_nothing_runs_is_refused() -> None:
    with pytest.raises(UserError, match="no stage takes part"):
        plan(stage("sft", "fit", rounds="later"), rounds=1)
