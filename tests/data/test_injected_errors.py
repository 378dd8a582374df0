from collections import Counter
from dataclasses import replace

import pytest

from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.data.embedded_thoughts import concluded, contradicts_itself, sentences, thought_of
from lit_vlm.data.injected_errors import inject_errors
from lit_vlm.data.shape_scenes import ShapeSceneGenerator
from lit_vlm.parsing.answers import check_answer

GENERATORS = (DigitsReasoningGenerator(), ShapeSceneGenerator())
READING = ("read_digit", "read_number")


@pytest.fixture(scope="module", params=GENERATORS, ids=lambda generator: generator.name)
def injected(request):
    samples = [request.param.sample("train", index) for index in range(120)]
    return [(sample, inject_errors(request.param, sample, "train", index)) for index, sample in enumerate(samples)]


def test_every_error_is_well_formed_and_wrong(injected):
    for sample, errors in injected:
        for text in errors.values():
            verdict = check_answer(text, sample.answer)
            assert (verdict.correct, verdict.formatted) == (False, True)
        assert len({sample.messages[-1].text, *errors.values()}) == 1 + len(errors)


def test_nearly_every_question_has_the_errors_that_it_can_have(injected):
    found = Counter(kind for _, errors in injected for kind in errors)
    assert found["perception"] >= 0.97 * len(injected)
    concluding = sum(sample.meta.category not in READING for sample, _ in injected)
    assert 0.97 * concluding <= found["reasoning"] <= concluding


def test_a_misreading_is_carried_through_the_thought(injected):
    for sample, errors in injected:
        if "perception" in errors:
            thought = thought_of(errors["perception"])
            assert thought != thought_of(sample.messages[-1].text)
            assert not contradicts_itself(thought)
            assert concluded(thought).replace(" ", "") == check_answer(
                errors["perception"], sample.answer
            ).parsed.replace(" ", "")


def test_a_wrong_conclusion_follows_a_right_reading(injected):
    for sample, errors in injected:
        if "reasoning" in errors:
            truth, thought = sentences(thought_of(sample.messages[-1].text)), sentences(thought_of(errors["reasoning"]))
            assert len(truth) > 1
            assert thought[:-1] == truth[:-1]


def test_the_wrong_steps_of_sums_and_counts_can_be_seen(injected):
    seen = [
        contradicts_itself(thought_of(errors["reasoning"]))
        for sample, errors in injected
        if sample.meta.category in ("sum", "count", "existence") and "reasoning" in errors
    ]
    assert seen
    assert all(seen)


def test_errors_are_the_same_at_each_call_and_each_kind_alone():
    for generator in GENERATORS:
        for index in range(10):
            sample = generator.sample("validation", index)
            both = inject_errors(generator, sample, "validation", index)
            assert inject_errors(generator, sample, "validation", index) == both
            assert inject_errors(generator, sample, "validation", index, ["perception"]).items() <= both.items()
            assert inject_errors(generator, sample, "validation", index, []) == {}


def test_a_sample_without_answer_has_no_errors():
    sample = replace(GENERATORS[0].sample("train", 0), answer=None)
    with pytest.raises(ValueError, match="has no answer"):
        inject_errors(GENERATORS[0], sample, "train", 0)
