import json

import pytest

from lit_vlm.interfaces.critiques import CritiqueUnit
from lit_vlm.parsing.critique_units import critique_request, read_units, write_critique, write_units
from lit_vlm.parsing.critique_verdict import read_verdict

UNITS = (CritiqueUnit("step 2", "2 + 3 is 5", 2.0, "2 + 3 = 5"), CritiqueUnit("“seven”", "a digit is meant", 1.5))


def test_what_is_written_is_read():
    assert read_units(write_units(UNITS)) == UNITS
    assert read_units(write_units(())) == ()


def test_words_and_a_fence_may_stand_around_the_list():
    assert read_units(f"My remarks:\n```json\n{write_units(UNITS)}\n```\nConclusion: wrong [END]") == UNITS


def test_the_first_list_counts():
    assert read_units("[] and then [" + write_units(UNITS)) == ()


def test_fields_may_be_missing_or_have_other_names():
    text = '[{"description": " it  is 5 ", "severity": "3", "location": 2}, {"error": "no unit"}]'
    assert read_units(text) == (CritiqueUnit("2", "it is 5", 3.0), CritiqueUnit("", "no unit", 1.0))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "It is all wrong. Conclusion: wrong [END]",
        '[{"flaw": "cut off',
        '[{"flaw": "cut off"}',
        '{"flaw": "no list"}',
        "[1, 2]",
        '[{"location": "step 2"}]',
        '[{"flaw": ""}]',
        '[{"flaw": 7}]',
        '[{"flaw": "x", "severity": 0}]',
        '[{"flaw": "x", "severity": -2}]',
        '[{"flaw": "x", "severity": "grave"}]',
        '[{"flaw": "x", "severity": true}]',
        '[{"flaw": "x", "severity": NaN}]',
        '[{"flaw": "x", "severity": Infinity}]',
        '[{"flaw": "x", "severity": 1' + "0" * 400 + "}]",
        '[{"flaw": "x", "location": ["step", 2]}]',
        '[{"flaw": "x", "suggestion": {"do": 1}}]',
        '[{"flaw": "good"}, "bad"]',
        "[" + '{"flaw": ' * 3000,
        json.dumps([{"flaw": "x"}] * 201),
        "x" * 200_001 + write_units(UNITS),
    ],
)
def test_what_is_no_list_of_remarks_is_not_read(text):
    assert read_units(text) is None


def test_the_crucial_information_stands_before_the_solution():
    text = critique_request("2 + 2?", "5", instruction="Judge.", task="sums", criteria=["short", "true"], reference="4")
    places = [text.index(word) for word in ("Judge.", "sums", "short", "true", "Reference answer: 4", "2 + 2?", ": 5")]
    assert places == sorted(places)


def test_nothing_is_said_of_what_is_not_known():
    text = critique_request("2 + 2?", "5", instruction="Judge.")
    assert text == "Judge.\nQuestion: 2 + 2?\nSolution: 5"


def test_the_instruction_asks_for_what_is_read():
    asked = critique_request("q", "r").partition('"flaw"')
    assert asked[1]
    assert "Conclusion: right [END]" in asked[2]


@pytest.mark.parametrize(("severity", "verdict"), [(1.0, "right"), (1.9, "right"), (2.0, "wrong"), (3.0, "wrong")])
def test_the_conclusion_follows_from_the_gravest_flaw(severity, verdict):
    text = write_critique([CritiqueUnit("a", "b"), CritiqueUnit("c", "d", severity)])
    assert read_verdict(text) == verdict
    assert len(read_units(text)) == 2


def test_a_critique_without_remarks_is_read_as_one():
    text = write_critique(())
    assert (read_units(text), read_verdict(text)) == ((), "right")
