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
        (
            "Does not validate against any of the Union subtypes\nErrors:\n  - Expected a <class 'float'>\n"
            "  - Expected a <class 'float'>. Got value: Namespace(filter='layers:3-1', value=1.0)\n"
            "  - filter 'layers:3-1' is no range of layers\nGiven value type: <class 'list'>",
            ("filter 'layers:3-1' is no range of layers",),
        ),
        (
            'Parser key "trainer.callbacks":\n  Errors:\n'
            "    - Problem with given class_path 'lit_vlm.callbacks.gradient_bias.GradientBias':\n"
            "        Parser key \"kind\":\n          Expected a typing.Literal['linear', 'cosine']. Got value: square\n"
            "    - Problem with given class_path 'lightning.Callback':\n        Option 'kind' is not accepted\n",
            ("--trainer.callbacks.kind: 'square' does not fit; give one of 'linear', 'cosine'",),
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


def test_options_of_base_classes_that_a_class_does_not_hand_on_are_not_proposed():
    message = (
        'Parser key "model":\n'
        "  Problem with given class_path 'lit_vlm.paradigms.reasoning_vector.ReasoningVectorModule':\n"
        "    unrecognized arguments: --optimizer.learning_rate=1e-3"
    )
    line = explain(ValueError(message))
    assert line.startswith("--model.optimizer.learning_rate: there is no such option; there are alpha, backbone, ")
    assert "optimizer" not in line.split("there are")[1]
