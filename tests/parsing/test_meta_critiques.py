import pytest

from lit_vlm.interfaces.critiques import CritiqueUnit
from lit_vlm.parsing.meta_critiques import UNIT_LABELS, meta_critique_request, read_unit_labels, write_unit_labels

UNITS = (CritiqueUnit("step 2", "2 + 3 is 5", 2.0, "2 + 3 = 5"), CritiqueUnit("", "too long"))


def test_every_label_is_read_as_it_was_written():
    assert read_unit_labels(write_unit_labels(UNIT_LABELS), 3) == UNIT_LABELS


def test_words_around_case_and_underscores_play_no_part():
    text = 'I find: [{"remark": "1", "label": "CORRECT"}, {"label": "Missing_Detail"}] so far.'
    assert read_unit_labels(text, 2) == ("correct", "missing detail")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "all correct",
        '[{"remark": 1, "label": "correct"}',
        '[{"remark": 1, "label": "correct"}, {"remark": 2, "label": "dubious"}]',
        '[{"remark": 1, "label": "correct"}, {"remark": 2, "label": null}]',
        '[{"remark": 1, "label": "correct"}, {"remark": 3, "label": "correct"}]',
        '[{"remark": 2, "label": "correct"}, {"remark": 1, "label": "correct"}]',
        '[{"remark": 1, "label": "correct"}]',
        '[{"remark": 1, "label": "correct"}, "correct"]',
        "[" + '{"remark": ' * 3000,
    ],
)
def test_a_label_outside_the_set_or_too_few_of_them_are_not_read(text):
    assert read_unit_labels(text, 2) is None


def test_the_remarks_are_numbered_behind_the_solution():
    text = meta_critique_request("2 + 2?", "5", UNITS, instruction="Label.", reference="4")
    assert text.splitlines() == [
        "Label.",
        "Reference answer: 4",
        "Question: 2 + 2?",
        "Solution: 5",
        "Remark 1: step 2: 2 + 3 is 5 Suggestion: 2 + 3 = 5",
        "Remark 2: too long",
    ]


def test_the_instruction_names_every_label():
    text = meta_critique_request("q", "r", UNITS)
    assert all(label in text for label in UNIT_LABELS)
    assert "Reference" not in text
