from dataclasses import replace

import pytest

from lit_vlm.data.attached_critiques import attach_critiques
from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.records import Candidate, Sample, SampleMeta, assistant_message, user_message


def said(*texts):
    return tuple(Candidate((assistant_message(text),)) for text in texts)


SOLUTIONS = [
    Sample("q0", (user_message("2 + 2?"),), candidates=said("4", "5")),
    Sample("q1", (user_message("3 + 3?"),), candidates=said("6")),
]
RIGHT, WRONG = "Yes. Conclusion: right [END]", "No. Conclusion: wrong [END]"


def judging(name, *texts, solution=None, **extra):
    critique = None if solution is None else Critique("?", solution)
    return Sample(
        name, (user_message("judge"),), critique=critique, meta=SampleMeta(extra=extra), candidates=said(*texts)
    )


def verdicts(attached):
    return [
        [None if one.critique is None else one.critique.verdict for one in sample.candidates]
        for sample in attached.samples
    ]


def test_a_critique_stands_beside_the_solution_it_is_about():
    attached = attach_critiques(SOLUTIONS, [judging("q0#1", WRONG), judging("x", RIGHT, parent="q1", candidate=0)])
    assert verdicts(attached) == [[None, "wrong"], ["right"]]
    critique = attached.samples[0].candidates[1].critique
    assert (critique.question, critique.text, critique.score) == ("2 + 2?", WRONG, 0.0)
    assert attached.describe() == "2 of 3 candidates are judged, by 2 critiques"
    assert [sample.candidates[0].text for sample in attached.samples] == ["4", "6"]


def test_the_solution_counts_where_candidates_have_moved():
    moved = [replace(SOLUTIONS[0], candidates=SOLUTIONS[0].candidates[1:])]
    assert verdicts(attach_critiques(moved, [judging("q0#1", WRONG, solution="5")])) == [["wrong"]]
    assert verdicts(attach_critiques(moved, [judging("q0#0", RIGHT, solution="4")])) == [[None]]


def test_what_is_said_of_a_solution_holds_for_those_that_say_the_same():
    repeated = [replace(SOLUTIONS[0], candidates=said("5", "4", " 5\n"))]
    assert verdicts(attach_critiques(repeated, [judging("q0#0", WRONG, solution="5")])) == [["wrong", None, "wrong"]]


def test_of_several_judges_most_count_and_the_first_where_they_tie():
    judgements = [judging("q0#0", RIGHT, WRONG), judging("q0#1", WRONG, "So. " + RIGHT, RIGHT)]
    attached = attach_critiques(SOLUTIONS, judgements)
    assert verdicts(attached) == [["right", "right"], [None]]
    first, second = (one.critique for one in attached.samples[0].candidates)
    assert (first.score, second.score) == (0.5, 2 / 3)
    assert second.text == "So. " + RIGHT


def test_garbage_is_counted_and_named_and_does_not_outvote():
    attached = attach_critiques(SOLUTIONS, [judging("q0#0", "hm", WRONG, "Conclusion: maybe"), judging("q1#0", "eh")])
    assert verdicts(attached) == [["wrong", None], [None]]
    assert attached.without_verdict == ("q0#0", "q0#0", "q1#0")
    assert attached.samples[1].candidates[0].critique.text == "eh"
    assert "3 critiques have no verdict (the first: q0#0)" in attached.describe()


@pytest.mark.parametrize("name", ["q9#0", "q0#7", "q0#x", "q0"])
def test_a_critique_without_its_solution_is_counted_and_named(name):
    attached = attach_critiques(SOLUTIONS, [judging(name, RIGHT)])
    assert attached.samples == SOLUTIONS
    assert attached.without_candidate == (name,)
    assert f"1 are about solutions that are not here (the first: {name})" in attached.describe()


def test_labels_of_steps_are_a_verdict_too():
    text = '[{"step": 1, "correct": 1}, {"step": 2, "correct": 0, "error_type": "reasoning"}]'
    critique = attach_critiques(SOLUTIONS, [judging("q1#0", text)]).samples[1].candidates[0].critique
    assert critique.verdict == "wrong"
    assert critique.first_wrong_step == 2
