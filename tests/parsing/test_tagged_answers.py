import pytest

from lit_vlm.parsing.tagged_answers import extract_answer, is_well_formed

FORM = "<think>2 + 3</think><answer>5</answer>"


@pytest.mark.parametrize(
    "completion",
    [FORM, f" \n{FORM}\n", "<think>2 + 3</think>\n\n<answer> 5 </answer>", "<think></think><answer>5</answer>"],
)
def test_one_thought_and_one_answer_are_well_formed(completion):
    assert is_well_formed(completion)
    assert extract_answer(completion) == "5"


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "5",
        "<answer>5</answer>",
        "<think>2 + 3</think>",
        "<answer>5</answer><think>2 + 3</think>",
        f"{FORM} or 6",
        f"So {FORM}",
        "<think>2 + 3</think> so <answer>5</answer>",
        f"{FORM}<answer>6</answer>",
        f"{FORM}{FORM}",
        "<think>2 + 3<answer>5</answer></think>",
        "<think>2 <think>+</think> 3</think><answer>5</answer>",
        "<think>2 + 3</think><answer><answer>5</answer></answer>",
        "<think>2 + 3</think><answer>5</answer></answer>",
        "<think>2 + 3</think><answer>5",
        "<think>2 + 3<answer>5</answer>",
        "<think>2 + 3</think><answer> </answer>",
        "<THINK>2 + 3</THINK><ANSWER>5</ANSWER>",
    ],
)
def test_everything_else_is_not_well_formed(completion):
    assert not is_well_formed(completion)


@pytest.mark.parametrize(
    ("completion", "answer"),
    [
        ("<answer>5</answer>", "5"),
        ("so <answer> 5\n</answer> I hope", "5"),
        ("<answer>5</answer><answer>6</answer>", "6"),
        ("<answer>5</answer><think>hm</think>", "5"),
        ("<think>maybe <answer>4</answer></think><answer>5</answer>", "5"),
        ("<answer>5</answer><think><answer>4</answer></think>", "5"),
        # The prompt opened the thought.
        ("maybe <answer>4</answer></think><answer>5</answer>", "5"),
        ("<think>a</think><answer>5</answer></think>", "5"),
        ("<answer>7 <answer>5</answer>", "5"),
        ("<answer><answer>5</answer>6</answer>", "5"),
        ("<answer></answer>", ""),
    ],
)
def test_the_last_block_outside_the_thought_is_the_answer(completion, answer):
    assert extract_answer(completion) == answer


@pytest.mark.parametrize(
    "completion",
    [
        "",
        "5",
        "<answer>5",
        "5</answer>",
        "<think>2 + 3 <answer>5</answer>",
        "<think>2 + 3 <answer>5</answer></think>",
        "<think><think>a</think><answer>5</answer></think>",
        "<answer>5</answer></think>",
        "<answer>5<think>hm</think></answer>",
        "<answer>5</answe>",
    ],
)
def test_no_block_outside_the_thought_is_no_answer(completion):
    assert extract_answer(completion) is None


@pytest.mark.parametrize("piece", ["<answer>", "<think>", "<answer>5</answer>", "</think>", "<", "<answer"])
def test_a_flood_of_tags_is_read_in_linear_time(assert_linear, piece):
    def read(size):
        extract_answer(piece * size)
        is_well_formed(piece * size)

    assert_linear(read, 50_000)
