import pytest

from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.data.embedded_thoughts import concluded, contradicts_itself, sentences, thought_of
from lit_vlm.data.shape_scenes import ShapeSceneGenerator
from lit_vlm.parsing.answers import answers_agree


@pytest.mark.parametrize("generator", [DigitsReasoningGenerator(), ShapeSceneGenerator()])
def test_every_reference_concludes_its_answer_and_does_not_contradict_itself(generator):
    for index in range(200):
        sample = generator.sample("train", index)
        thought = thought_of(sample.messages[-1].text)
        assert answers_agree(concluded(thought), sample.answer), thought
        assert not contradicts_itself(thought), thought


@pytest.mark.parametrize(
    "thought",
    [
        "i see 2 3 4. 2 + 3 = 6. 6 + 4 = 10.",
        "i see 2 3 4. 2 + 3 = 5. 6 + 4 = 10.",
        "i see 2 3 4. 2 + 3 = 5.",
        "i see 2 3. 2 + 4 = 6.",
        "top 3 7. bottom 7 8. 37 > 78.",
        "top 3 7. bottom 7 8. 97 > 78.",
        "i see 5 (1) 7 5 (2). so 3.",
        "i see 4 7. so 1.",
        "i see 9 9 3 9. most are 9. the other is 5.",
        "red circle 1, red square 2. so 1.",
        "none. so 1.",
        "red objects: red star 1. blue objects: none. 1 > 2. so red objects.",
        "red objects: red star 1. blue objects: blue star 1, blue square 2. 2 = 2. so equal.",
        "red circle, blue star. no green star. so yes.",
        "red circle. red circle is there. so no.",
        "red star row 1. blue star row 3. 1 < 3. so below.",
        "red star column 2. blue star column 1. 2 > 1. so left.",
        "red star column 2. blue star column 1. 3 > 1. so right.",
    ],
)
def test_a_contradiction_is_seen(thought):
    assert contradicts_itself(thought)


@pytest.mark.parametrize("thought", ["", "hm", "i see 3.", "so 3.", "...", "1 2 3. + = .", "9" * 30 + " + 1 = 2."])
def test_other_texts_do_not_contradict_themselves(thought):
    assert not contradicts_itself(thought)


@pytest.mark.parametrize("thought", ["", "hm", "perhaps 3", "row 1", "3 + 4", "left 1, top 2"])
def test_other_texts_conclude_nothing(thought):
    assert concluded(thought) is None


def test_thoughts_are_found_and_split():
    assert thought_of("<think> a. b.\n</think><answer>1</answer>") == "a. b."
    assert thought_of("a. b.</think>") == thought_of("") == ""
    assert sentences("a. b 1.5 c.") == ["a", "b 1.5 c"]
    assert sentences("") == []
