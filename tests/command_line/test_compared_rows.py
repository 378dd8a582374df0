from lit_vlm.command_line.compared_rows import compared_rows, compared_text
from lit_vlm.interfaces.records import Candidate, Preference, Sample, assistant_message, user_message

ASKED = user_message("Which digit?")
RIGHT, WRONG = (assistant_message("7"),), (assistant_message("8"),)


def shown(sample):
    return [(name, [message.text for message in row.messages]) for name, row in compared_rows(sample)]


def test_both_halves_of_a_pair_are_rows():
    sample = Sample("s", (ASKED,), preferences=(Preference(RIGHT, WRONG),))
    assert shown(sample) == [("chosen", ["Which digit?", "7"]), ("rejected", ["Which digit?", "8"])]
    assert compared_text(sample) == "chosen: 7\nrejected: 8"
    assert all(not row.preferences and row.id == "s" for _, row in compared_rows(sample))


def test_steps_are_numbered_and_have_their_own_prompts():
    later = (ASKED, *RIGHT, user_message("Sure?"))
    sample = Sample("s", (ASKED,), preferences=(Preference(RIGHT, WRONG), Preference(RIGHT, (), prompt=later)))
    assert [name for name, _ in shown(sample)] == ["chosen 1", "rejected 1", "chosen 2"]
    assert shown(sample)[2][1] == ["Which digit?", "7", "Sure?", "7"]


def test_graded_completions_are_rows_beside_the_samples_own():
    candidates = (Candidate(RIGHT, {"correct": 1.0, "style": 0.5}), Candidate(WRONG))
    sample = Sample("s", (ASKED, *RIGHT), candidates=candidates)
    assert shown(sample) == [
        ("own completion", ["Which digit?", "7"]),
        ("candidate 1 (correct 1, style 0.5)", ["Which digit?", "7"]),
        ("candidate 2", ["Which digit?", "8"]),
    ]
    assert [name for name, _ in shown(Sample("s", (ASKED,), candidates=candidates))] == [
        "candidate 1 (correct 1, style 0.5)",
        "candidate 2",
    ]


def test_other_samples_are_one_row_without_a_name():
    sample = Sample("s", (ASKED, *RIGHT))
    assert compared_rows(sample) == [("", sample)]
    assert compared_text(sample) == ""
