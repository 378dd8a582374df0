from dataclasses import replace

import pytest

from lit_vlm.data.ledger_samples import ledger_folders, read_ledgers
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Message, TextPart
from tests.data.ledger_material import completion, question, solutions, write_ledger


def test_each_question_comes_back_once_with_its_completions(tmp_path):
    written = solutions(3)
    read = read_ledgers([write_ledger(tmp_path / "l", written)])
    assert [sample.id for sample in read.samples] == ["q0", "q1", "q2"]
    assert read.completions == 6
    assert read.notes == ()
    for place, sample in enumerate(read.samples):
        given = written[2 * place].sample
        assert (sample.messages, sample.answer) == (given.messages, given.answer)
        assert open_image(sample.images[0]).getpixel((0, 0)) == (place, 90, 200)
        assert [one.text for one in sample.candidates] == [one.text for one in written[2 * place : 2 * place + 2]]
        assert "l, sample 'q" in sample.meta.origin


def test_what_is_known_of_a_completion_becomes_scores(tmp_path):
    sample = question(7)
    written = [
        completion(sample, 0, "a", True, rewards={"total": 0.5, "format": 1.0}),
        completion(sample, 1, "b", None, finish_reason="length", rewards={}, entropies=(), log_prob_sum=None),
        completion(sample, 2, "c", False, finish_reason=None),
    ]
    first, second, third = read_ledgers([write_ledger(tmp_path, written)]).samples[0].candidates
    assert first.scores == {
        "correct": 1.0,
        "formatted": 1.0,
        "finished": 1.0,
        "reward": 0.5,
        "reward/format": 1.0,
        "length": 3.0,
        "log_prob": -1.0,
        "entropy": 0.5,
    }
    assert second.scores == {"finished": 0.0, "length": 3.0}
    assert third.scores["correct"] == 0.0
    assert "finished" not in third.scores
    assert (first.model, first.token_ids) == ("tiny", ())
    assert first.messages[0].train


def test_tokens_come_along_where_they_are_asked_for(tmp_path):
    (sample, *_) = read_ledgers([write_ledger(tmp_path, solutions(1))], with_tokens=True).samples
    assert sample.candidates[0].token_ids == (5, 6, 7)
    assert sample.candidates[0].log_probs == (-0.5, -0.25, -0.25)
    assert sample.candidates[0].entropies == (0.5, 1.0, 0.0)


def test_ledgers_of_the_same_questions_add_up(tmp_path):
    first = write_ledger(tmp_path / "a", solutions(3))
    second = write_ledger(tmp_path / "b", solutions(3, first=1, mark="hm "), model="other")
    read = read_ledgers([first, second])
    assert [(sample.id, len(sample.candidates)) for sample in read.samples] == [
        ("q0", 2),
        ("q1", 4),
        ("q2", 4),
        ("q3", 2),
    ]
    assert [one.model for one in read.samples[1].candidates] == ["tiny", "tiny", "other", "other"]
    assert list(read.headers) == [first, second]


def test_another_answer_or_question_for_one_id_is_refused_by_name(tmp_path):
    first = write_ledger(tmp_path / "a", solutions(3))
    second = write_ledger(tmp_path / "b", solutions(3, answer="5"))
    with pytest.raises(
        UserError, match=r"a' and .*b' differ in the answers of sample 'q0' \('0' and '5'\), and of 2 more"
    ):
        read_ledgers([first, second])
    third = write_ledger(tmp_path / "c", solutions(3, text="What?"))
    with pytest.raises(UserError, match="differ in the questions or pictures of sample 'q0', and of 2 more"):
        read_ledgers([first, third])
    other = [replace(one, sample=replace(one.sample, images=question(50).images)) for one in solutions(1)]
    with pytest.raises(UserError, match="questions or pictures of sample 'q0'; only"):
        read_ledgers([first, write_ledger(tmp_path / "d", other)])


def test_another_system_turn_is_told(tmp_path):
    system = Message("system", (TextPart("Be kind."),))
    other = [replace(o, sample=replace(o.sample, messages=(system, *o.sample.messages))) for o in solutions(1)]
    folders = [write_ledger(tmp_path / "a", solutions(1)), write_ledger(tmp_path / "b", other)]
    read = read_ledgers(folders)
    assert len(read.samples[0].candidates) == 4
    assert read.samples[0].messages[0].role == "user"
    assert "1 samples have another system turn" in read.notes[0]


def test_a_ledger_that_did_not_end_is_told(tmp_path):
    folder = write_ledger(tmp_path, solutions(2)[:-1])
    assert "sample 'q1' have fewer than 2 completions" in read_ledgers([folder]).notes[0]


def test_a_part_that_was_copied_is_refused(tmp_path):
    folder = write_ledger(tmp_path, solutions(2))
    part = next(folder.glob("part-*.parquet"))
    (folder / "part-0009-000000.parquet").write_bytes(part.read_bytes())
    with pytest.raises(UserError, match="completion 0 of sample 'q0' twice"):
        read_ledgers([folder])


def test_a_truncated_part_is_named(tmp_path):
    folder = write_ledger(tmp_path, solutions(8))
    part = sorted(folder.glob("part-*.parquet"))[1]
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(UserError, match=f"{part.name}.*truncated"):
        read_ledgers([folder])
    read = read_ledgers([folder], skip_faults=True)
    assert [sample.id for sample in read.samples] == ["q0", "q1", *(f"q{number}" for number in range(4, 8))]
    assert read.completions == 12
    (note,) = read.notes
    assert note.startswith("passes by")
    assert part.name in note


def test_a_ledger_without_rows_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no completion"):
        read_ledgers([write_ledger(tmp_path, [])])


def test_ledgers_are_found_by_folder_run_and_pattern(tmp_path):
    for number in (0, 1):
        write_ledger(tmp_path / f"version_{number}" / "ledger", solutions(1))
    places = [tmp_path / f"version_{number}" / "ledger" for number in (0, 1)]
    assert ledger_folders(str(places[0]), "data.ledgers") == places[:1]
    assert ledger_folders(str(tmp_path / "version_0"), "data.ledgers") == places[:1]
    assert ledger_folders(str(tmp_path / "version_*/ledger"), "data.ledgers") == places
    assert ledger_folders([str(place) for place in places], "data.ledgers") == places


def test_what_is_no_ledger_is_refused_by_name(tmp_path):
    folder = write_ledger(tmp_path / "l", solutions(1))
    for given, told in [
        (str(tmp_path / "gone"), r"data\.ledgers: there is no '.*gone'"),
        (str(tmp_path / "g*"), "there is no"),
        (str(tmp_path), "holds no ledger"),
        ([], "is empty"),
        ([str(folder), str(folder / "..") + "/l"], "twice"),
    ]:
        with pytest.raises(UserError, match=told):
            ledger_folders(given, "data.ledgers")
