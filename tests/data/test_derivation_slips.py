import pytest

from lit_vlm.data.derivation_checks import check_derivation
from lit_vlm.data.derivation_slips import SLIPS, slips
from lit_vlm.data.embedded_candidates import candidate_tasks
from lit_vlm.interfaces.records import Answer, Sample, SampleMeta, user_message


@pytest.mark.parametrize("tasks_from", ["digits", "scenes"])
def test_one_step_is_wrong_and_the_others_follow(tasks_from):
    generator = candidate_tasks(tasks_from).generator
    kinds = set()
    for index in range(60):
        sample = generator.sample("train", index)
        texts = slips(sample)
        assert len(set(texts)) == len(texts)
        for text in texts:
            *steps, _ = check_derivation(sample, text)
            (wrong,) = (step for step in steps if not step.correct)
            kinds.add(wrong.error_type)
    assert kinds == set(SLIPS)


def test_slips_of_a_sum():
    sample = Sample(
        "s", (user_message("Add."),), answer=Answer("number", "9"),
        meta=SampleMeta(category="sum", extra={"rows": ((2, 3, 4),)}),
    )  # fmt: skip
    assert slips(sample) == (
        "<think>i see 2 3 4. 2 + 3 = 4. 4 + 4 = 8.</think><answer>8</answer>",
        "<think>i see 2 3 4. 2 + 3 = 6. 6 + 4 = 10.</think><answer>10</answer>",
        "<think>i see 2 3 4. 2 + 3 = 5. 5 + 4 = 8.</think><answer>8</answer>",
        "<think>i see 2 3 4. 2 + 3 = 5. 5 + 4 = 10.</think><answer>10</answer>",
    )
