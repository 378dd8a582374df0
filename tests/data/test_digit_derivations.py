import pytest

from lit_vlm.data.derivation_slots import derived
from lit_vlm.data.digit_derivations import digit_derivation


@pytest.mark.parametrize(
    ("task", "rows", "steps", "conclusion"),
    [
        ("read_number", [[2, 3]], ["i see 2 3"], "23"),
        ("sum", [[2, 3, 4]], ["i see 2 3 4", "2 + 3 = 5", "5 + 4 = 9"], "9"),
        ("compare", [[4, 2], [4, 2]], ["top 4 2", "bottom 4 2", "42 = 42"], "equal"),
        ("count", [[3, 1], [3, 3]], ["i see 3 (1) 1 3 (2) 3 (3)", "so 3"], "3"),
        ("odd_one_out", [[7, 7], [1, 7]], ["i see 7 7 1 7", "most are 7", "the other is 1"], "1"),
    ],
)
def test_derivations(task, rows, steps, conclusion):
    assert derived(digit_derivation(task, "Count the digit 3.", rows)) == (steps, conclusion)


def labels(task, rows, said, question="Count the digit 3."):
    """The kind of error of each sentence, None where it is right."""
    derivation = digit_derivation(task, question, rows)
    slot, kinds = next(derivation), []
    for sentence in said:
        found = slot.form.fullmatch(sentence)
        kinds.append(None if slot.is_right(found) else slot.error_of(found))
        try:
            slot = derivation.send(found)
        except StopIteration as end:
            return kinds, end.value
    return kinds, None


@pytest.mark.parametrize(
    ("task", "rows", "said", "kinds", "conclusion"),
    [
        ("sum", [[2, 3]], ["i see 2 4", "2 + 4 = 6"], ["visual interpretation", None], "6"),
        ("sum", [[2, 3]], ["i see 2 3", "2 + 3 = 6"], [None, "numerical calculation"], "6"),
        ("sum", [[2, 3]], ["i see 2 3", "2 + 4 = 6"], [None, "reasoning"], "6"),
        ("sum", [[2, 3, 1]], ["i see 2 3 1", "2 + 3 = 6", "6 + 1 = 7"], [None, "numerical calculation", None], "7"),
        ("compare", [[4], [3]], ["top 4", "bottom 3", "4 < 3"], [None, None, "reasoning"], "bottom"),
        ("count", [[3, 1]], ["i see 3 (1) 1 (2)", "so 2"], ["numerical calculation", None], "2"),
        ("count", [[3, 1]], ["i see 3 1 (1)", "so 1"], ["question understanding", None], "1"),
        ("count", [[3, 1]], ["i see 3 (1) 3 (2)", "so 1"], ["visual interpretation", "reasoning"], "1"),
        ("odd_one_out", [[7, 7, 1]], ["i see 7 7 1", "most are 1", "the other is 7"], [None, "reasoning", None], "7"),
        ("odd_one_out", [[7, 7, 1]], ["i see 7 7 1", "most are 7", "the other is 2"], [None, None, "reasoning"], "2"),
    ],
)
def test_each_sentence_is_judged_by_the_page_and_those_before(task, rows, said, kinds, conclusion):
    assert labels(task, rows, said) == (kinds, conclusion)


def test_what_is_no_question_about_digits_is_refused():
    with pytest.raises(ValueError, match="no task 'describe'"):
        digit_derivation("describe", "", [[1]])
    with pytest.raises(ValueError, match="names no digit"):
        digit_derivation("count", "Count.", [[1]])
