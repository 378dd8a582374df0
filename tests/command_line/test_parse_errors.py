import pytest

from lit_vlm.command_line.parse_errors import explain


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("unrecognized arguments: --trainer.max_stepss 3", ("--trainer.max_stepss", "'max_steps'")),
        ("unrecognized arguments: --traner.max_epochs 1", ("--traner.max_epochs", "'trainer'")),
        (
            "Parser key \"model\":\n  Problem with given class_path 'lit_vlm.paradigms.sft.SFTModule':\n"
            "    Group 'optimizer' does not accept option 'learning_rat'",
            ("--model.optimizer.learning_rat", "'learning_rate'"),
        ),
        (
            "Parser key \"trainer.max_steps\":\n  Expected a <class 'int'>. Got value: x",
            ("--trainer.max_steps", "'x'", "a whole number"),
        ),
        (
            'Parser key "data":\n  Parser key "convention":\n'
            "    Expected a typing.Literal['a', 'b']. Got value: NestedArg(key='convention', val='c')",
            ("--data.convention: 'c' does not fit", "one of 'a', 'b'"),
        ),
        ('Parser key "data":\n  Expected a dot import path string: DigitReasoning', ("--data", "'DigitsReasoning'")),
        (
            "Does not validate against any of the Union subtypes\nErrors:\n  - model.max_tokens is 1; give at least 2\n"
            "  - Expected a <class 'NoneType'>\nGiven value type: x",
            ("model.max_tokens is 1; give at least 2",),
        ),
        ("a message of another kind", ("a message of another kind",)),
    ],
)
def test_the_cause_is_found_among_nested_alternatives(message, expected):
    line = explain(ValueError(message))
    assert all(part in line for part in expected)
    assert "\n" not in line


def test_options_of_base_classes_are_known():
    message = (
        "Parser key \"data\":\n  Problem with given class_path 'lit_vlm.data.digits_reasoning.DigitsReasoning':\n"
        "    Option 'batchsize' is not accepted"
    )
    assert "'batch_size'" in explain(ValueError(message))
