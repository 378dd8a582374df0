import pytest

from lit_vlm.data.critic_panel import SHORT_INSTRUCTION, CriticPanel
from lit_vlm.data.embedded_critiques import JUDGE
from lit_vlm.parsing.critique_units import read_units
from lit_vlm.parsing.critique_verdict import read_verdict
from lit_vlm.parsing.meta_critiques import read_unit_labels
from lit_vlm.synthesis.aggregate_critiques import AggregateCritiques
from lit_vlm.synthesis.critique_unit_prompts import CritiqueUnitPrompts
from lit_vlm.synthesis.revision_validated_pairs import RevisionValidatedPairs

PROMPT = CritiqueUnitPrompts(instruction=SHORT_INSTRUCTION)
SIZE = 24


@pytest.fixture(scope="module", params=["digits", "scenes"])
def panel(request):
    data = CriticPanel(tasks_from=request.param, train_size=SIZE, validation_size=SIZE)
    samples = data.samples("train")
    return data, [samples[index] for index in range(SIZE)]


def test_every_critique_can_be_read_and_is_labelled_and_tried_out(panel):
    data, samples = panel
    assert data.tasks == (JUDGE,)
    for sample in samples:
        assert [candidate.model for candidate in sample.candidates] == ["careful", "hasty", "fault_finding"]
        for candidate in sample.candidates:
            units = read_units(candidate.text)
            labels = read_unit_labels(candidate.critique.text, len(units)) if units else ()
            assert len(units) == len(labels)
            assert read_verdict(candidate.text) == ("wrong" if units else "right")
            scores = [candidate.scores[f"revision/{reviser}"] for reviser in range(3)]
            assert all(1 <= score <= 10 for score in scores)


def test_correct_labels_are_of_steps_that_are_wrong(panel):
    for sample in panel[1]:
        steps = sample.critique.steps
        for candidate in sample.candidates:
            units = read_units(candidate.text)
            labels = read_unit_labels(candidate.critique.text, len(units)) if units else ()
            for unit, label in zip(units, labels, strict=True):
                step = steps[int(unit.location.removeprefix("step ")) - 1]
                assert step.correct == (label == "wrong")
                assert label != "correct" or unit.suggestion == step.explanation


def test_right_and_wrong_solutions_are_asked_about(panel):
    verdicts = [sample.critique.verdict for sample in panel[1]]
    assert 4 < verdicts.count("right") < SIZE - 4


def test_the_same_index_gives_the_same_sample(panel):
    data, samples = panel
    again = CriticPanel(tasks_from="digits" if "digits" in samples[0].id else "scenes", train_size=SIZE)
    assert [again.samples("train")[index].candidates for index in range(3)] == [
        sample.candidates for sample in samples[:3]
    ]


def test_what_is_aggregated_agrees_with_the_truth_unless_all_critics_missed_it(panel):
    for sample in panel[1]:
        (made,) = AggregateCritiques(prompt=PROMPT)(sample)
        labelled = "correct" in "".join(candidate.critique.text for candidate in sample.candidates)
        expected = sample.critique.verdict if labelled else "right"
        assert read_verdict(made.messages[-1].text) == expected
        assert made.question == sample.question


def test_pairs_prefer_the_critique_with_the_better_revisions(panel):
    made = [(sample, each) for sample in panel[1] for each in RevisionValidatedPairs(prompt=PROMPT)(sample)]
    assert len(made) > SIZE / 4
    for sample, each in made:
        totals = {candidate.text: sum(candidate.scores.values()) for candidate in sample.candidates}
        for pair in each.preferences:
            assert totals[pair.chosen[0].text] > totals[pair.rejected[0].text]


def test_splits_ask_about_other_questions(panel):
    data, samples = panel
    held_out = {data.samples("validation")[index].meta.extra["parent"] for index in range(4)}
    assert len(held_out) == 4
    assert not held_out & {sample.meta.extra["parent"] for sample in samples}
