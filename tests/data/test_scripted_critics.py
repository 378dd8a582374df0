import random
from dataclasses import replace

import pytest

from lit_vlm.data.scripted_critics import CRITICS, ScriptedCritic
from lit_vlm.interfaces.critiques import StepLabel

STEPS = (
    StepLabel("i see 2 3", True),
    StepLabel("2 + 3 = 6", False, "numerical calculation", "2 + 3 = 5"),
    StepLabel("the answer is 6", False, "numerical calculation", "the answer is 5"),
)
TRUE = ScriptedCritic("true", misses=0.0, is_vague=0.0, imagines=0.0, wording="{} error")


def remarks(critic, seed=0, steps=STEPS):
    return critic.remarks(steps, random.Random(seed))


def test_a_critic_that_never_errs_names_every_wrong_step_and_its_mend():
    found = remarks(TRUE)
    assert [(unit.location, unit.suggestion, label) for unit, label in found] == [
        ("step 2", "2 + 3 = 5", "correct"),
        ("step 3", "the answer is 5", "correct"),
    ]
    assert found[0][0].description == "numerical calculation error"


def test_a_critic_that_misses_all_says_nothing():
    assert remarks(replace(TRUE, misses=1.0)) == []


def test_a_vague_remark_lacks_detail():
    assert [(unit.suggestion, label) for unit, label in remarks(replace(TRUE, is_vague=1.0))] == [
        ("", "missing detail")
    ] * 2


def test_an_imagined_flaw_is_at_a_right_step_and_labelled_wrong():
    found = remarks(replace(TRUE, imagines=1.0))
    ((unit, _),) = [pair for pair in found if pair[1] == "wrong"]
    assert (unit.location, unit.suggestion) == ("step 1", "i see 2 4")
    assert found[0][0] is unit


def test_where_all_is_right_only_the_imagined_is_found():
    right = tuple(replace(step, correct=True) for step in STEPS)
    assert remarks(TRUE, steps=right) == []
    assert [label for _, label in remarks(replace(TRUE, imagines=1.0), steps=right)] == ["wrong"]


@pytest.mark.parametrize("critic", CRITICS)
def test_the_same_stream_gives_the_same_remarks(critic):
    assert all(remarks(critic, seed) == remarks(critic, seed) for seed in range(20))


def test_the_critics_differ_in_quality():
    def share(critic):
        labels = [label for seed in range(300) for _, label in remarks(critic, seed)]
        return labels.count("correct") / 600, labels.count("wrong") / 300

    careful, hasty, fault_finding = map(share, CRITICS)
    assert careful[0] > fault_finding[0] > hasty[0]
    assert fault_finding[1] > hasty[1] > careful[1]
