import re
from types import SimpleNamespace

import pytest

from lit_vlm.callbacks.parameter_table import ParameterTable, table_lines
from lit_vlm.interfaces.capabilities import DescribesParts, PartSummary

PARTS = [PartSummary("vision", 1500, 0), PartSummary("language", 4500, 1500)]


@pytest.fixture
def described(answers):
    """The answering module, with parts to tell of."""
    answers.part_summaries = lambda: PARTS
    answers.token_budgets = lambda: ["an image is 64 tokens"]
    return answers


def test_the_table_is_printed_before_training(fit, described, capsys):
    assert isinstance(described, DescribesParts)
    fit(ParameterTable(), module=described)
    shown = capsys.readouterr().out.splitlines()
    assert shown == [*table_lines(PARTS), "an image is 64 tokens"]
    assert shown[-2].split() == ["all", "6,000", "1,500", "25.0", "%"]


def test_numbers_end_in_line():
    lines = table_lines([PartSummary("vision", 10_000_000, 0), PartSummary("projector", 1, 1)])
    cells = [list(re.finditer(r"\S+", line)) for line in lines]
    for column in (1, 2):
        assert len({row[column].end() for row in cells}) == 1
    assert [row[3][0] for row in cells[1:]] == ["0.0", "100.0", "0.0"]


def test_an_empty_model_divides_by_nothing():
    assert table_lines([])[-1].split() == ["all", "0", "0", "0.0", "%"]


def test_other_ranks_print_nothing(described, capsys):
    ParameterTable().on_fit_start(SimpleNamespace(is_global_zero=False), described)
    assert capsys.readouterr().out == ""


def test_a_module_without_parts_is_left_alone(fit, capsys):
    fit(ParameterTable())
    assert capsys.readouterr().out == ""
