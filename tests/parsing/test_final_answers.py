import pytest

from lit_vlm.parsing.final_answers import extract_final_answer, extract_single_answer, last_boxed, lists_answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>a</think><answer> 5 </answer>", "5"),
        ("<answer>4</answer> <answer>5</answer>", "5"),
        ("<answer>so \\boxed{6}</answer>", "6"),
        ("<answer>so \\boxed{6</answer>", "so \\boxed{6"),
        ("<think>\\boxed{1}</think>It is \\boxed{2}.", "2"),
        ("<think><answer>1</answer></think> 5", None),
        ("<answer> </answer>\\boxed{3}", None),
        ("a</think><answer>b</answer>", "b"),
        ("\\boxed{ }", None),
        ("5", None),
        ("", None),
    ],
)
def test_the_last_answer_after_the_thought_counts(text, answer):
    assert extract_final_answer(text) == answer


def test_several_blocks_that_differ_are_no_single_answer():
    assert extract_single_answer("<answer>1</answer><answer>2</answer>") is None
    assert extract_single_answer("<answer>1</answer>, that is <answer> 1 </answer>") == "1"
    assert extract_single_answer("<think><answer>1</answer></think><answer>2</answer>") == "2"
    assert lists_answers("<answer>1</answer><answer></answer>")


def test_boxes_nest_and_stay_open():
    assert last_boxed("\\boxed{a{b}c}") == "a{b}c"
    assert last_boxed("\\boxed {\\boxed{5}}") == "5"
    assert last_boxed("}} \\boxed{1} \\boxed{2") == "1"
    assert last_boxed("{}") is None
