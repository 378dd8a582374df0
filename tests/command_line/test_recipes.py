import pytest

from lit_vlm.cli import main
from lit_vlm.command_line.recipes import COLUMNS, readme


def test_the_catalogue_has_a_line_for_each_recipe(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == list(COLUMNS)
    assert any(line.startswith("quickstart ") and "SFTModule" in line for line in lines)


def test_a_recipe_is_shown_as_it_stands(capsys):
    assert main(["recipes", "show", "quickstart"]) == 0
    assert "class_path: lit_vlm.paradigms.sft.SFTModule" in capsys.readouterr().out


def test_names_and_markdown(capsys):
    assert main(["recipes", "--names"]) == 0
    assert "quickstart" in capsys.readouterr().out.splitlines()
    assert main(["recipes", "--markdown"]) == 0
    assert capsys.readouterr().out == readme()


@pytest.mark.parametrize("arguments", [["shwo"], ["show"], ["show", "a", "b"]])
def test_other_words_are_refused(arguments, capsys):
    assert main(["recipes", *arguments]) == 2
    assert "'show NAME'" in capsys.readouterr().err
