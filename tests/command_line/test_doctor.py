import pytest
from rich.console import Console

from lit_vlm.cli import main
from lit_vlm.command_line.doctor import SAMPLES, parse_options, summary, table_of
from lit_vlm.health.finding import Finding
from lit_vlm.interfaces.errors import UserError
from tests.command_line.workplaces import enter

FOUND = [
    Finding("records", "pass", "all read"),
    Finding("resume", "fail", "3 tensors differ", "give it state_dict"),
    Finding("sampler and trainer", "not applicable", "nothing is sampled"),
]


def test_the_number_of_samples_is_an_option():
    assert parse_options(["--config", "quickstart"]) == (SAMPLES, ["--config", "quickstart"])
    assert parse_options(["--samples", "4", "--model.max_tokens", "9"]) == (4, ["--model.max_tokens", "9"])


@pytest.mark.parametrize("given", ["1", "-3", "all"])
def test_a_number_that_does_not_fit_is_refused(given):
    with pytest.raises(UserError, match="--samples"):
        parse_options(["--samples", given])


def test_the_table_says_what_to_do_where_a_check_failed():
    console = Console(width=100, record=True, file=None)
    with console.capture() as captured:
        console.print(table_of(FOUND, "mine"))
    text = captured.get()
    assert "doctor: mine" in text
    assert "-> give it state_dict" in text
    assert text.count("->") == 1
    assert summary(FOUND) == "1 passed, 1 failed, 1 not applicable"


def test_help_is_told(capsys):
    assert main(["doctor", "--help"]) == 0
    assert "--samples N" in capsys.readouterr().out


def test_a_recipe_that_trains_nothing_is_told_so_before_its_checkpoints_are_looked_for(tmp_path, monkeypatch, capsys):
    enter(monkeypatch, tmp_path)
    assert main(["doctor", "--config", "merging/reasoning_vector"]) == 2
    told = capsys.readouterr().err
    assert "policy, and ReasoningVectorModule does not; give the recipe of one" in " ".join(told.split())
    assert "no folder" not in told


TINY = [
    "--config=quickstart",
    "--samples=4",
    "--data.init_args.batch_size=2",
    "--data.init_args.num_workers=0",
    "--trainer.accelerator=cpu",
]


@pytest.mark.slow
def test_a_shipped_recipe_passes_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *TINY]) == 0
    told = capsys.readouterr().out
    assert "0 failed" in told
    assert "resume" in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_recipe_with_a_fault_ends_with_status_1(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", *TINY, "--model.init_args.max_tokens=20"]) == 1
    told = capsys.readouterr().out
    assert "length of rows: fail" in told
    assert "raise model.max_tokens" in " ".join(told.split())
