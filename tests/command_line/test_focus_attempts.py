import pytest

from lit_vlm.command_line.focus_attempts import main
from lit_vlm.data.focus_candidates import FocusCandidates
from lit_vlm.data.own_completions import read_completions

SMALL = ["--train", "2", "--validation", "1", "--attempts", "1", "--batch", "2"]


def test_attempts_of_a_model_are_written_so_that_they_are_read_again(tmp_path, random_tiny_folder) -> None:
    path = tmp_path / "attempts.jsonl.xz"
    assert main([str(random_tiny_folder), str(path), *SMALL, "--name", "random"]) == 0
    written = read_completions(path)
    assert written.origin.model == "random"
    assert {split: len(texts) for split, texts in written.texts.items()} == {"train": 2, "validation": 1}
    # A random model writes no box, so that its attempts are dropped.
    assert all(len(texts) % 2 == 0 for of_split in written.texts.values() for texts in of_split)
    assert len(FocusCandidates(candidates_file=path).samples("train")) == 2


@pytest.mark.parametrize("option", [["--train", "0"], ["--batch", "0"], ["--attempts", "0"]])
def test_options_out_of_range_are_told_in_one_line(option, tmp_path, random_tiny_folder, capsys) -> None:
    assert main([str(random_tiny_folder), str(tmp_path / "a.xz"), *option]) == 2
    fault = capsys.readouterr().err.strip().splitlines()[-1]
    assert fault.startswith("focus_attempts: error:")
    assert option[0].removeprefix("--") in fault
