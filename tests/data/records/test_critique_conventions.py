import pytest

from lit_vlm.data.records.critique_conventions import CritiqueColumns, StepwiseReading, detect_critiques
from lit_vlm.data.records.preference_conventions import PreferenceReading
from lit_vlm.interfaces.errors import UserError

STEPWISE = {"prompt": "p", "completions": ["a", "b"], "labels": [True, False]}


@pytest.mark.parametrize(
    ("record", "convention"),
    [
        ({"instruction": "i", "input": "Question: q", "output": "o"}, "alpaca"),
        ({"query": "q", "response": "r"}, "question_answer"),
        ({"conversation": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, "messages"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "prompt_pairs"),
        (STEPWISE, "stepwise"),
        ({**STEPWISE, "labels": "[true, false]"}, "stepwise"),
    ],
)
def test_conventions_are_told_from_columns(record, convention):
    reading = detect_critiques([record], CritiqueColumns())
    assert reading.convention == convention
    assert isinstance(reading, PreferenceReading) == (convention == "prompt_pairs")
    assert isinstance(reading, StepwiseReading) == (convention == "stepwise")
    assert reading.describe()


def test_a_named_convention_needs_its_columns():
    with pytest.raises(UserError, match="needs a column of labels"):
        detect_critiques([{"prompt": "p", "completions": ["a"]}], CritiqueColumns(), "stepwise")
    with pytest.raises(UserError, match="no known convention"):
        detect_critiques([{"x": 1}], CritiqueColumns())
