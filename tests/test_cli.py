import subprocess
import sys

import pytest

from lit_vlm import __version__
from lit_vlm.cli import VERBS, main

HEAVY = "{'torch', 'lightning', 'transformers', 'jsonargparse'}"


def complain(arguments, capsys):
    """Runs a wrong command line; returns its one line on stderr."""
    assert main(arguments) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("lit-vlm: error: ")
    return lines[0]


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["recipes"], ["recipes", "show", "quickstart"], ["completion", "bash"]]
)
def test_what_needs_no_run_imports_nothing_heavy(arguments):
    code = f"import sys; from lit_vlm.cli import main; main({arguments}); sys.exit(bool({HEAVY} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_help_names_every_verb(capsys):
    assert main([]) == main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {verb} " in shown for verb in VERBS)


def test_the_version_is_told(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"lit-vlm {__version__}\n"


def test_a_misspelt_verb_is_answered_in_one_line(capsys):
    assert "did you mean 'fit'" in complain(["fti"], capsys)


def test_debug_shows_the_traceback():
    from lit_vlm.interfaces.errors import UserError

    with pytest.raises(UserError, match="there is no verb"):
        main(["fti", "--debug"])


def test_the_module_runs_as_the_command_does():
    shown = subprocess.run([sys.executable, "-m", "lit_vlm", "--version"], check=True, capture_output=True, text=True)
    assert shown.stdout == f"lit-vlm {__version__}\n"
