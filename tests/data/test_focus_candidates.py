import pytest

from lit_vlm.data.focus_candidates import FocusCandidates, FocusTraceTasks, traces_of
from lit_vlm.data.focus_scenes import FocusSceneGenerator
from lit_vlm.data.own_completions import Origin, OwnCompletions, describe_generator, write_completions
from lit_vlm.interfaces.errors import UserError
from lit_vlm.synthesis.focus_box_pairs import FocusBoxPairs

GENERATOR = FocusSceneGenerator()
TEXTS = ("<answer>(0, 0, 8, 8)</answer>", "<answer>1</answer>", "nowhere", "<answer>2</answer>")


def attempts(texts=TEXTS, generator=GENERATOR) -> OwnCompletions:
    origin = Origin(describe_generator(generator), "m", "w", "0", "", {"seed": 0}, {"train": "q"})
    return OwnCompletions(origin, {"train": [texts] * 3, "validation": [texts]})


@pytest.fixture
def file(tmp_path):
    def write(*given, **options):
        path = tmp_path / f"{len(list(tmp_path.iterdir()))}.jsonl.xz"
        write_completions(path, attempts(*given, **options))
        return path

    return write


def test_scripted_attempts_are_a_function_of_split_and_index_and_give_pairs() -> None:
    one, other = FocusTraceTasks(GENERATOR, None), FocusTraceTasks(GENERATOR, None)
    pairs = FocusBoxPairs()
    made = 0
    for index in range(20):
        sample = one.sample("train", index)
        assert [trace.messages for trace in sample.candidates] == [
            trace.messages for trace in other.sample("train", index).candidates
        ]
        made += len(pairs(sample))
    assert made >= 15
    assert one.sample("validation", 0).candidates
    assert one.sample("test", 0).candidates == ()
    assert one.outline("train", 3) == GENERATOR.outline("train", 3)
    assert one.tasks == GENERATOR.tasks


def test_a_models_attempts_come_from_the_file(file) -> None:
    data = FocusCandidates(candidates_file=file())
    samples = data.samples("train")
    assert len(samples) == 3
    assert len(data.samples("validation")) == 1
    (candidate,) = samples[0].candidates  # the other has no box
    assert [message.text for message in candidate.messages] == [TEXTS[0], "Which digit is this?", TEXTS[1]]
    assert set(candidate.scores) == {"answer", "box"}


def test_sizes_may_be_less_than_there_are_but_not_more(file) -> None:
    path = file()
    assert len(FocusCandidates(candidates_file=path, train_size=2).samples("train")) == 2
    with pytest.raises(UserError, match=r"data.train_size is 4, but .* holds attempts at 3 questions"):
        FocusCandidates(candidates_file=path, train_size=4)
    assert len(FocusCandidates(train_size=5).samples("train")) == 5
    assert len(FocusCandidates().samples("validation")) == 256


def test_a_file_of_other_questions_is_refused(file) -> None:
    with pytest.raises(UserError, match="where attempts at focus_scenes with tasks looks are wanted; make it"):
        FocusCandidates(candidates_file=file(generator=FocusSceneGenerator(seed=5)))


def test_the_tasks_are_those_asked_for_and_a_file_about_others_is_refused(file) -> None:
    samples = FocusCandidates(tasks=["cell", "side"], train_size=20).samples("train")
    assert {samples[index].meta.category for index in range(20)} == {"cell", "side"}
    path = file(generator=FocusSceneGenerator(tasks=("side",)))
    assert len(FocusCandidates(tasks=["side"], candidates_file=path).samples("train")) == 3
    with pytest.raises(UserError, match="with tasks looks are wanted"):
        FocusCandidates(candidates_file=path)


def test_a_file_where_boxes_and_answers_do_not_take_turns_is_refused(file) -> None:
    with pytest.raises(UserError, match="question 0 of train has 3 texts"):
        FocusCandidates(candidates_file=file(TEXTS[:3]))


def test_boxes_and_answers_stand_by_turns() -> None:
    assert traces_of(TEXTS) == [(TEXTS[0], TEXTS[1]), (TEXTS[2], TEXTS[3])]
    assert traces_of(()) == []
