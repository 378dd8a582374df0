from collections import Counter
from dataclasses import replace

import pytest

from lit_vlm.data.digits_reasoning import DigitsReasoning
from lit_vlm.data.embedded_candidates import CandidateTasks, EmbeddedCandidates, judged
from lit_vlm.data.embedded_grades import ATTRIBUTES
from lit_vlm.data.handwritten_digits import scans_of_split
from lit_vlm.data.injected_errors import ERROR_KINDS
from lit_vlm.data.own_completions import BUNDLED_FOLDER, read_completions, write_completions
from lit_vlm.data.shape_scenes import ShapeScenes
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import INJECTED_ERROR
from lit_vlm.parsing.answers import check_answer

PLAIN = {"digits": DigitsReasoning, "scenes": ShapeScenes}
COUNT = 100


@pytest.fixture(scope="module", params=PLAIN)
def served(request):
    data = EmbeddedCandidates(tasks_from=request.param)
    samples = data.samples("train")
    return request.param, [samples[index] for index in range(COUNT)]


def test_all_that_is_bundled_is_served():
    for name, train, validation in (("digits", 4096, 768), ("scenes", 2048, 512)):
        data = EmbeddedCandidates(tasks_from=name)
        assert [len(data.samples(split)) for split in ("train", "validation", "test")] == [train, validation, 1024]
        assert data.tasks == PLAIN[name]().tasks


def test_questions_are_those_of_the_plain_data_module(served):
    name, samples = served
    plain = PLAIN[name]().samples("train")
    for index, sample in enumerate(samples):
        same = plain[index]
        assert (sample.id, sample.messages, sample.answer) == (same.id, same.messages, same.answer)
        assert sample.images[0].pil.tobytes() == same.images[0].pil.tobytes()
        assert same.meta.extra.items() <= sample.meta.extra.items()


def test_scores_agree_with_the_verifier(served):
    for sample in served[1]:
        for candidate in sample.candidates:
            assert candidate.scores["correct"] == check_answer(candidate.text, sample.answer).correct
            assert tuple(candidate.scores) == ("correct", *ATTRIBUTES)
            assert all(candidate.scores[name] in range(5) for name in ATTRIBUTES)
            (message,) = candidate.messages
            assert (message.role, message.train) == ("assistant", True)


def test_six_own_completions_come_first_and_injected_errors_last(served):
    name, samples = served
    texts = read_completions(BUNDLED_FOLDER / f"{name}.jsonl.xz").texts["train"]
    for sample, own in zip(samples, texts[:COUNT], strict=True):
        assert tuple(candidate.text for candidate in sample.candidates[:6]) == own
        kinds = sample.meta.extra["injected_errors"]
        makers = ["tiny"] * 6 + [INJECTED_ERROR] * len(kinds)
        assert [candidate.model for candidate in sample.candidates] == makers
        assert set(kinds) <= set(ERROR_KINDS)
        assert all(candidate.scores["correct"] == 0 for candidate in sample.candidates[6:])


def test_there_is_something_to_compare(served):
    own = [[candidate.scores["correct"] for candidate in sample.candidates[:6]] for sample in served[1]]
    assert sum(0 < sum(scores) < 6 for scores in own) > 0.3 * COUNT
    assert 0.2 < sum(map(sum, own)) / (6 * COUNT) < 0.8


def test_candidates_are_the_same_at_each_call_and_in_any_order(served):
    name, samples = served
    again = EmbeddedCandidates(tasks_from=name).samples("train")
    for index in (7, 3, 7):
        assert again[index].candidates == samples[index].candidates
    assert again.outline(3).id == samples[3].id


def test_errors_can_be_left_out():
    kinds = {
        errors: Counter(
            kind
            for index in range(20)
            for kind in EmbeddedCandidates(errors=errors).samples("train")[index].meta.extra["injected_errors"]
        )
        for errors in ((), ("perception",), ("reasoning",))
    }
    assert kinds[()] == {}
    assert kinds["perception",] == {"perception": 20}
    assert set(kinds["reasoning",]) == {"reasoning"}
    with pytest.raises(UserError, match="data.errors holds"):
        EmbeddedCandidates(errors=("spelling",))


def test_no_test_scan_is_seen_and_the_test_split_has_no_candidates(served):
    if served[0] == "digits":
        held_out = {scan for scans in scans_of_split("test") for scan in scans}
        seen = {scan for sample in served[1] for row in sample.meta.extra["scans"] for scan in row}
        assert seen
        assert not seen & held_out
    data = EmbeddedCandidates(tasks_from=served[0], test_size=3)
    assert all(sample.meta.split == "train" and sample.candidates for sample in served[1])
    test = data.samples("test")
    assert [(sample.meta.split, sample.candidates) for sample in (test[0], test[2])] == [("test", ())] * 2


def test_more_questions_than_are_bundled_are_refused():
    with pytest.raises(UserError, match="data.train_size is 4097, but .* holds completions of 4096 questions"):
        EmbeddedCandidates(train_size=4097)
    with pytest.raises(UserError, match="data.validation_size is 513"):
        EmbeddedCandidates(tasks_from="scenes", validation_size=513)
    with pytest.raises(UserError, match="data.train_size is 0"):
        EmbeddedCandidates(train_size=0)
    with pytest.raises(UserError, match="data.tasks_from holds"):
        EmbeddedCandidates(tasks_from="knights")


def test_a_file_of_another_model_is_served_and_one_of_other_questions_refused(tmp_path):
    bundled = read_completions(BUNDLED_FOLDER / "digits.jsonl.xz")
    path = tmp_path / "mine.jsonl.xz"
    origin = replace(bundled.origin, model="mine")
    write_completions(
        path, replace(bundled, origin=origin, texts={"train": [("a", "b"), ("d",)], "validation": [("c",)]})
    )
    data = EmbeddedCandidates(candidates_file=path, errors=())
    assert [len(data.samples(split)) for split in ("train", "validation")] == [2, 1]
    assert [(candidate.text, candidate.model) for candidate in data.samples("train")[0].candidates] == [
        ("a", "mine"),
        ("b", "mine"),
    ]
    with pytest.raises(UserError, match="but data.tasks_from is scenes"):
        EmbeddedCandidates(tasks_from="scenes", candidates_file=path)


def test_batches_are_made_of_them(random_tiny_encoder):
    data = EmbeddedCandidates(random_tiny_encoder, train_size=4, batch_size=2, num_workers=0)
    batches = list(data.train_dataloader())
    assert [len(batch.samples) for batch in batches] == [2, 2]
    assert all(sample.candidates for batch in batches for sample in batch.samples)
    assert batches[0].samples[0].messages[0].role == "user"


def test_a_sample_without_answer_cannot_be_judged():
    tasks = EmbeddedCandidates().samples("train").generator
    assert isinstance(tasks, CandidateTasks)
    with pytest.raises(ValueError, match="has no answer"):
        judged(replace(tasks.sample("train", 0), answer=None), "", "x")
