from collections import Counter
from io import StringIO

import pytest
from rich.console import Console

from lit_vlm.command_line.data_figures import BadRow, SplitFigures
from lit_vlm.command_line.data_report import (
    DataReport,
    SampleView,
    count_lines,
    limit_line,
    named_counts,
    print_report,
)
from lit_vlm.command_line.token_view import TokenRun
from lit_vlm.interfaces.records import Sample, SampleMeta


@pytest.fixture
def train():
    return SplitFigures(
        "train",
        max_tokens=100,
        total=5000,
        looked_at=6,
        usable=[0, 1, 2, 3],
        bad=[BadRow("train", 4, "a.jsonl, line 5", "no file 'x\x1b[2J'"), BadRow("train", 5, "6", "no file 'y'")],
        tasks=Counter({"sum": 4, "[red]count[/red]": 1}),
        difficulties=Counter({"10": 2, "2": 1}),
        images_per_sample=Counter({1: 4, 0: 1}),
        videos_per_sample=Counter({0: 5}),
        answer_types=Counter({"number": 3}),
        without_answer=2,
        row_tokens=[40, 50, 60, 300],
        text_tokens=[24, 34, 44, 284],
        image_tokens=[16, 16, 16, 16],
        trained_tokens=[10, 10, 10, 10],
        beyond_limit=1,
        cut=1,
        questions=Counter({b"a": 2, b"b": 1}),
        references_checked=3,
        references_right=1,
        references_untagged=2,
        repairs=Counter({"media without any placeholder": 3}),
    )


@pytest.fixture
def report(train):
    runs = (TokenRun("<p>", 5, 16, False, "media"), TokenRun("seven", 6, 1, True, "text"))
    sample = Sample("id/1", (), meta=SampleMeta(category="sum"))
    return DataReport(
        recipe="small",
        data="Rows",
        checkpoint="tiny",
        max_tokens=100,
        policy="error",
        splits=(train, SplitFigures("validation", 100, 1)),
        absent={"test": "there is no test file"},
        overlaps={("train", "validation"): 3},
        shared_images={("train", "validation"): 1},
        cards={},
        views=(SampleView("train", 1, sample, runs),),
    )


def printed(report, **options):
    out = StringIO()
    print_report(report, Console(file=out, width=100, **options))
    return out.getvalue()


def test_counts_are_worded(train):
    lines = dict(count_lines(train))
    assert lines["samples"] == "5,000, 6 looked at, evenly spaced"
    assert lines["usable"] == "4, bad 2"
    assert lines["answers"] == "number: 3; without 2 of 5 (40.0 %)"
    assert lines["images a sample"] == "0: 1, 1: 4"
    assert lines["difficulty"] == "2: 1, 10: 2"
    assert "videos a sample" not in lines


def test_what_becomes_of_long_rows_is_told(train):
    assert limit_line(train) == "1 of 4 (25.0 %) rows are longer than 100 tokens: 1 cut"
    train.cut, train.refused, train.beyond_limit = 0, 1, 3
    assert limit_line(train).endswith("1 left out as bad, 2 served whole")
    train.beyond_limit = 0
    assert limit_line(train) == "no row is longer than 100 tokens"


def test_long_lists_of_names_are_summed_up():
    text = named_counts({f"task{index:02}": 100 - index for index in range(20)})
    assert text.startswith("task00: 100, task01: 99")
    assert text.endswith(f"8 more: {sum(100 - index for index in range(12, 20))}")


def test_everything_is_printed_and_nothing_of_the_data_steers_the_terminal(report):
    shown = printed(report)
    for part in (
        "small: Rows for tiny, rows of at most 100 tokens",
        "[red]count[/red]: 1",
        "bad samples: 2",
        "2 x no file '…'",
        r"a.jsonl, line 5: no file 'x\x1b[2J'",
        "no row could be encoded",
        "no test split: there is no test file",
        "train sample 1: id/1 | sum | 17 tokens, 1 trained",
        "<p> x 16⟦seven⟧",
        "3 questions with the same media in both train and validation",
        "train repeats 1 question with the same media",
        "2 of 3 completions in train with an answer do not agree",
        "2 of 3 completions in train with an answer do not have it where validation looks for it",
        "3 x media without any placeholder",
        "1 image in both train and validation",
    ):
        assert part in " ".join(shown.split()), part
    assert "\x1b" not in shown


def test_the_limit_is_marked_in_the_histogram_of_rows_only(report):
    lines = printed(report).splitlines()
    assert sum("limit 100" in line for line in lines) == 1
    coloured = printed(report, force_terminal=True, color_system="standard")
    assert "\x1b[31m█" in coloured


def test_only_the_first_bad_samples_are_listed(report):
    figures = report.splits[0]
    figures.bad = [BadRow("train", index, f"line {index}", "broken") for index in range(25)]
    shown = printed(report)
    assert "line 9: broken" in shown
    assert "line 10: broken" not in shown
    assert "and 15 more in bad_samples.jsonl" in shown


def test_the_record_holds_what_is_printed(report):
    record = report.to_json()
    assert record["splits"]["train"]["tokens"]["row"]["maximum"] == 300
    assert record["splits"]["validation"]["tokens"]["row"] is None
    assert record["overlaps"] == {"train/validation": 3}
    assert record["absent_splits"] == {"test": "there is no test file"}
    assert len(record["warnings"]) == 5
    assert report.bad == 2
