import json

import pytest

from lit_vlm.interfaces.critiques import StepLabel
from lit_vlm.parsing.step_judgements import (
    ERROR_TYPES,
    MOST_CHARACTERS,
    MOST_STEPS,
    read_error_type,
    read_step_judgements,
    write_step_judgements,
)

STEPS = (
    StepLabel("", True),
    StepLabel("", False, "numerical calculation", "it is [5] {not} 6"),
    StepLabel("", False),
)
LIST = write_step_judgements(STEPS)


def test_what_is_written_is_read_back():
    assert read_step_judgements(LIST) == STEPS
    for error_type in ERROR_TYPES:
        steps = (StepLabel("", False, error_type, 'she said "no" \\ \n é'),)
        assert read_step_judgements(write_step_judgements(steps)) == steps


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{LIST}\n```",
        f"Here it is:\n{LIST}\nThat is all [I think].",
        f"<solution>2 + 3 = [5]. {{x}} [{{</solution>\n{LIST}",
        f'{{"steps": {LIST}}}',
        f'First [{{"step": 1, "correct": 1}}], no: {LIST}',
        LIST.replace('"correct"', '"correctness"').replace("numerical calculation", "Numerical Calculation Error"),
        LIST.replace('"correct": 1', '"label": true').replace('"correct": 0', '"label": "0"'),
        LIST.replace('"step": 2', '"step": "Step 2"').replace('"step": 1', '"step": "1."'),
    ],
)
def test_the_list_is_found_in_what_surrounds_it(text):
    assert read_step_judgements(text) == STEPS


def test_words_of_a_step_are_kept():
    (label,) = read_step_judgements('[{"step": "2 + 3 = 5", "correct": 1, "error_type": "None", "explanation": null}]')
    assert label == StepLabel("2 + 3 = 5", True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all right",
        "[]",
        "[1, 0]",
        '{"step": 1, "correct": 1}',
        LIST[:-1],
        LIST[:-20],
        f"<solution>{LIST}",
        f"<solution>{LIST}</solution>",
        '[{"step": 1}]',
        '[{"step": 1, "correct": 2}]',
        '[{"step": 1, "correct": 0.5}]',
        '[{"step": 1, "correct": "right"}]',
        '[{"step": 1, "correct": [1]}]',
        '[{"step": 1, "correct": NaN}]',
        '[{"step": 2, "correct": 1}]',
        '[{"step": 1, "correct": 1}, {"step": 1, "correct": 1}]',
        '[{"step": {}, "correct": 1}]',
        '[{"step": 1, "correct": 0, "error_type": "typo"}]',
        '[{"step": 1, "correct": 0, "error_type": 3}]',
        '[{"step": 1, "correct": 1, "error_type": "knowledge"}]',
        '[{"step": 1, "correct": 1, "explanation": 3}]',
        '[{"step": 1, "correct": 1}, 3]',
        f"{LIST} and then [{{",
        '[{"step": ' + "9" * 5000 + ', "correct": 1}]',
    ],
)
def test_anything_else_is_not_read(text):
    assert read_step_judgements(text) is None


def test_sizes_are_limited():
    step = '{"correct": 1}'
    assert len(read_step_judgements(f"[{', '.join([step] * MOST_STEPS)}]")) == MOST_STEPS
    assert read_step_judgements(f"[{', '.join([step] * (MOST_STEPS + 1))}]") is None
    assert read_step_judgements(LIST + " " * MOST_CHARACTERS) is None


@pytest.mark.parametrize("piece", ["[", "[{", '[{"a":', "[ ", '[{"a": 1}]', "</solution>", '"', "\\"])
def test_hostile_texts_take_linear_time(piece):
    assert read_step_judgements((piece * MOST_CHARACTERS)[:MOST_CHARACTERS]) is None


def test_right_steps_are_written_without_a_type():
    said = json.loads(write_step_judgements([StepLabel("a", True, None, ""), StepLabel("b", False)]))
    assert said == [{"step": 1, "correct": 1}, {"step": 2, "correct": 0, "error_type": None}]


@pytest.mark.parametrize("name", ["Reasoning Error", "reasoning_error", " REASONING  errors", "reasoning"])
def test_names_of_error_types(name):
    assert read_error_type(name) == "reasoning"
