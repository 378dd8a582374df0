"""The verb as a whole; stages run in this process, in the place of processes of their own."""

import hashlib
import json
import sys
from pathlib import Path

import pytest
import yaml

from lit_vlm.cli import main
from lit_vlm.command_line import pipeline as verb
from lit_vlm.models.backbone import Backbone
from tests.command_line.workplaces import enter

EXPORT = "lit_vlm.callbacks.export_model.ExportModel"
PROBE = '''
import hashlib
import json
from pathlib import Path

from lightning import Callback


def fingerprint(model):
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().numpy().tobytes())
    return digest.hexdigest()


class Probe(Callback):
    """Writes what the weights are when training starts and when it ends."""

    def on_train_start(self, trainer, pl_module):
        self.entered = fingerprint(pl_module.policy.model)

    def on_train_end(self, trainer, pl_module):
        record = {"entered": self.entered, "left": fingerprint(pl_module.policy.model)}
        Path(f"{Path(trainer.log_dir).name}.json").write_text(json.dumps(record))
'''
FIT = {
    "trainer.max_steps": 1,
    "trainer.limit_val_batches": 0,
    "trainer.num_sanity_val_steps": 0,
    "trainer.enable_checkpointing": False,
    "trainer.callbacks": [EXPORT, "probe.Probe"],
    "data.batch_size": 2,
    "data.train_size": 4,
}
COMMON = {
    "data.num_workers": 0,
    "trainer.accelerator": "cpu",
    "trainer.enable_progress_bar": False,
    "data.evaluation_batch_size": 2,
    "model.generation.max_new_tokens": 4,
}
TEST = {"name": "check", "verb": "test", "config": "quickstart", "init_from": "current"}


def fit(name, start, **options):
    return {"name": name, "verb": "fit", "config": "quickstart", "init_from": start, "options": {**FIT, **options}}


@pytest.fixture
def start(tmp_path, monkeypatch, one_thread):
    """Writes a pipeline of stages and starts it; returns its exit status."""
    (tmp_path / "probe.py").write_text(PROBE)
    enter(monkeypatch, tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "probe", raising=False)

    def begin(*stages, words=(), **content):
        told = {"base": "tiny", "common": COMMON, "stages": [*stages], **content}
        Path("loop.yaml").write_text(yaml.safe_dump(told))
        return main(["pipeline", "--config", "loop.yaml", *words])

    return begin


@pytest.fixture
def in_this_process(monkeypatch):
    monkeypatch.setattr(verb, "launcher", lambda lock: lambda run: (main([run.stage.verb, *run.words]), ""))


@pytest.fixture
def launched(monkeypatch):
    """Stages that run do nothing but leave what fits leave; the labels of those that ran."""
    labels = []

    def launch(run):
        labels.append(run.label)
        (run.folder / "model").mkdir()
        (run.folder / "figures.json").write_text(json.dumps({"test/loss": float(len(labels))}))
        return 0, ""

    monkeypatch.setattr(verb, "launcher", lambda lock: launch)
    return labels


def refused(status, capsys):
    assert status == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


def fingerprint(model):
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode() + value.detach().numpy().tobytes())
    return digest.hexdigest()


def test_base_enters_each_round_bit_by_bit_and_current_is_what_the_stage_before_left(start, in_this_process, capsys):
    options = {"trainer.limit_test_batches": 1}
    check = {**TEST, "rounds": "last", "options": options}
    assert start(fit("from_base", "base"), fit("onwards", "current"), check, rounds=2) == 0
    seen = {path.stem: json.loads(path.read_text()) for path in Path().glob("[12]-*.json")}
    backbone = Backbone("tiny")
    base = fingerprint(backbone.load_model(backbone.load_encoder()).model)
    assert seen["1-from_base"]["entered"] == seen["2-from_base"]["entered"] == base
    for number in "12":
        assert seen[f"{number}-onwards"]["entered"] == seen[f"{number}-from_base"]["left"] != base
    folder = Path("runs/loop/version_0")
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {*seen, "2-check"}
    table = capsys.readouterr().out.strip().splitlines()[-7:]
    assert "exact_match" in table[0]
    assert json.loads((folder / "figures.json").read_text())[-1]["figures"]["test/exact_match_total"] == 2


def test_stages_that_are_done_are_not_repeated_after_a_kill(start, launched, monkeypatch, capsys):
    stages = (fit("a", "base"), fit("b", "current"), TEST)
    launch = verb.launcher(None)

    def killed(run):
        if run.label == "1-b":
            (run.folder / "half").mkdir()
            raise KeyboardInterrupt
        return launch(run)

    monkeypatch.setattr(verb, "launcher", lambda lock: killed)
    assert start(*stages) == 130
    told = capsys.readouterr().err
    assert "go on with: lit-vlm pipeline --config loop.yaml --output runs/loop/version_0" in told
    assert launched == ["1-a"]
    monkeypatch.setattr(verb, "launcher", lambda lock: launch)
    assert start(*stages, words=["--output", "runs/loop/version_0"]) == 0
    assert launched == ["1-a", "1-b", "1-check"]
    assert "1-a: done before" in capsys.readouterr().out
    assert Path("runs/loop/version_0/1-b.old-1/half").is_dir()
    assert not Path("runs/loop/version_0/1-b/half").exists()
    # Once more there is nothing to do; without --output it is another run.
    assert start(*stages, words=["--output", "runs/loop/version_0"]) == 0
    assert len(launched) == 3
    assert start(*stages, words=["--only", "a"]) == 0
    assert launched[3:] == ["1-a"]
    assert Path("runs/loop/version_1/1-a/stage.json").is_file()


def test_changed_settings_are_refused_or_run_again_from_there(start, launched, capsys):
    stages = (fit("a", "base"), fit("b", "current"), TEST)
    output = ["--output", "here"]
    assert start(*stages, words=output) == 0
    capsys.readouterr()
    changed = [*output, "--set", "b.data.batch_size=3"]
    line = refused(start(*stages, words=changed), capsys)
    assert "stage 1-b in 'here' was done with other settings: --data.batch_size=2 is now --data.batch_size=3" in line
    assert "--rerun" in line
    assert launched == ["1-a", "1-b", "1-check"]
    assert start(*stages, words=[*changed, "--rerun"]) == 0
    assert launched[3:] == ["1-b", "1-check"]
    assert Path("here/1-b.old-1").is_dir()
    written = yaml.safe_load(Path("here/pipeline.yaml").read_text())
    assert written["stages"][1]["options"]["data.batch_size"] == 3


def test_a_stage_that_fails_ends_the_pipeline_with_what_to_do(start, monkeypatch, capsys):
    monkeypatch.setattr(verb, "launcher", lambda lock: lambda run: (1, "lit-vlm: error: no room\n"))
    line = refused(start(fit("a", "base"), TEST), capsys)
    assert "stage 1-a failed: no room; repeat it with: lit-vlm fit --config=" in line
    assert "then go on with: lit-vlm pipeline --config loop.yaml --output runs/loop/version_0" in line


def test_a_dry_run_prints_the_commands_and_writes_nothing(start, launched, capsys):
    assert start(fit("a", "base"), TEST, words=["--dry_run"], rounds=2) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    assert [line.partition(": lit-vlm ")[0] for line in lines] == ["1-a", "1-check", "2-a", "2-check"]
    assert launched == []
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (
            [fit("a", "base", **{"data.batchsize": 3})],
            "stage a: --data.batchsize: there is no such option; did you mean 'batch_size'",
        ),
        ([fit("a", "base", **{"data.batch_size": "many"})], "stage a: --data"),
        ([{**TEST, "config": "merging/ties"}], "stage check: "),
        (
            [fit("a", "base", **{"trainer.callbacks": []}), TEST],
            "stage a: a later stage is given its model, but it exp",
        ),
        (
            [fit("a", "base", **{"model.backbone.adapter": {"rank": 2}}), TEST],
            "stage a: a later stage is given its model, but it exports an adapter alone",
        ),
        ([fit("a", "current", **{"data.system_prompt": "{generate.ledger}"})], "there is no stage 'generate'"),
    ],
)
def test_everything_is_checked_before_the_first_stage_starts(stages, told, start, launched, capsys):
    line = refused(start(TEST | {"name": "before"}, *stages), capsys)
    assert told in line
    assert launched == []
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "pipeline: the following arguments are required: --config"),
        (["--config", "quickstart"], "this recipe is no pipeline, since it has no stages; start it with 'lit-vlm fit"),
        (["--config", "merging/ties"], "start it with 'lit-vlm merge --config"),
        (["--config", "loop.yaml", "--only", "chek"], "there is no such stage; did you mean 'check'"),
        (["--config", "loop.yaml", "--dryrun"], "pipeline: unrecognized arguments: --dryrun"),
    ],
)
def test_wrong_command_lines_are_answered_in_one_line(words, told, start, capsys, tmp_path):
    Path("loop.yaml").write_text(yaml.safe_dump({"base": "tiny", "stages": [TEST]}))
    assert told in refused(main(["pipeline", *words]), capsys)


def test_one_stage_alone_needs_what_it_is_given(start, launched, capsys):
    assert "is given what 1-a makes, which has not run here" in refused(
        start(fit("a", "base"), TEST, words=["--only", "check"]), capsys
    )
    assert launched == []


def test_pipelines_are_refused_by_the_verbs_of_runs(start, capsys, monkeypatch):
    Path("loop.yaml").write_text(yaml.safe_dump({"base": "tiny", "stages": [TEST]}))
    assert "start it with 'lit-vlm pipeline --config loop.yaml'" in refused(
        main(["fit", "--config", "loop.yaml"]), capsys
    )
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "a pipeline is started once" in refused(main(["pipeline", "--config", "loop.yaml"]), capsys)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "small", "told"),
    [
        ("rejection_sampling", ["generate.data.train_size=16", "sft.data.batch_size=2"], "strict_match"),
        (
            "rise",
            ["first_turn.data.train_size=16", "second_turn.model.generation.completions=2", "sft.data.batch_size=2"],
            "turns/majority_3",
        ),
    ],
)
def test_a_shipped_pipeline_runs_in_processes_of_its_own(name, small, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    small = ["rounds=1", "common.trainer.accelerator=cpu", "common.data.num_workers=0", *small]
    small += ["before.data.test_size=4", "check.data.test_size=4"]
    words = [word for setting in small for word in ("--set", setting)]
    assert main(["pipeline", "--config", f"pipelines/{name}", *words, "--output", "out"]) == 0
    table = capsys.readouterr().out
    assert told in table
    assert "pass@1" in table
    record = json.loads(Path("out/figures.json").read_text())
    assert [entry["stage"] for entry in record][-2:] == ["sft", "check"]
    assert record[-1]["figures"][f"test/{told}_total"] == 4
