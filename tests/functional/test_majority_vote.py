import pytest

from lit_vlm.functional.majority_vote import majority_vote, vote_is_right


@pytest.mark.parametrize(
    ("answers", "place"),
    [
        (["3", "7", "7"], 1),
        (["3", None, "7", " 7"], 2),
        (["Knight  A", "knave", "knight a"], 0),  # case and white space do not count
        (["3", "0.50", "1/2"], 1),  # one number, written in two ways
        (["3", "7"], 0),  # of a tie the first
        (["5", "3", "7", "7", "3"], 1),
        ([None, None, "3"], 2),  # what has no answer does not vote
        ([None, None], None),
        ([], None),
        (["", "", "3"], 0),  # an empty answer is one
    ],
)
def test_the_first_completion_of_the_answer_that_most_give(answers, place):
    assert majority_vote(answers) == place


def test_the_vote_is_right_as_its_answer_is():
    assert vote_is_right(["3", "7", "7"], [True, False, False]) is False
    assert vote_is_right(["3", "7", "7"], [False, True, True]) is True
    assert vote_is_right([None, None], [False, False]) is False
    assert vote_is_right(["3", "7"], [False, True]) is False
