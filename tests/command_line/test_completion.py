import subprocess

import pytest

from lit_vlm.cli import main

TRY = """
{script}
lit-vlm() {{ echo "quickstart tiny/pretrain"; }}
COMP_WORDS=({words})
COMP_CWORD={position}
_lit_vlm
echo "${{COMPREPLY[*]}}"
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("lit-vlm f", "fit"),
        ("lit-vlm fit --config qui", "quickstart"),
        ("lit-vlm fit --trainer.max_e", "--trainer.max_epochs"),
        ("lit-vlm data --sa", "--samples"),
        ("lit-vlm data --split val", "validation"),
        ("lit-vlm pipeline --on", "--only"),
    ],
)
def test_verbs_recipes_and_options_are_completed(words, expected, capsys, tmp_path):
    assert main(["completion", "bash"]) == 0
    script = TRY.format(script=capsys.readouterr().out, words=words, position=len(words.split()) - 1)
    shown = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert shown.stdout.split() == [expected]


def test_zsh_reads_the_same_script(capsys):
    assert main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out


def test_other_shells_are_refused(capsys):
    assert main(["completion", "fish"]) == 2
    assert "bash|zsh" in capsys.readouterr().err
