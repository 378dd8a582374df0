import json

import pytest

from lit_vlm.data.critique_data_module import CritiqueDataModule
from lit_vlm.data.records.critique_conventions import CritiqueColumns
from lit_vlm.interfaces.critiques import CritiqueUnit, StepLabel
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Answer, TokenCount

ASK = "Please critique whether the following solution to the question is correct."


def web(number, solution="5", said="It is 4. Conclusion: wrong [END]", **more):
    return {
        "instruction": ASK,
        "input": f"Question:\nWhat is 2 + {number}?\n\nSolution:\n{solution}",
        "output": said,
        **more,
    }


STEPS = [
    {"step": 1, "correctness": 1},
    {"step": 2, "correctness": 0, "error_type": "Visual Interpretation Error", "explanation": "misread axis"},
]
PROJUDGE = {
    "messages": [
        {"role": "user", "content": "<image>How high is it?\nStep 1: The axis is in cm.\nStep 2: It is 5."},
        {"role": "assistant", "content": json.dumps(STEPS)},
    ],
    "images": ["a.png"],
}  # fmt: skip
PLAIN = [
    {"messages": [{"role": "user", "content": f"What is 1 + {n}?"}, {"role": "assistant", "content": f"{n + 1}"}]}
    for n in range(40)
]


@pytest.fixture
def info(monkeypatch):
    lines = []
    for name in ("chat_data_module", "critique_rules"):
        monkeypatch.setattr(f"lit_vlm.data.{name}.rank_zero_info", lines.append)
    return lines


@pytest.fixture
def serve(media_folder, write_lines):
    def served(records, **options):
        path = write_lines(media_folder / "critiques.jsonl", records)
        return CritiqueDataModule(str(path), **{"validation_share": 0.0, **options})

    return served


def all_of(samples):
    return [samples[index] for index in range(len(samples))]


def test_webinstruct_cft(serve):
    (sample,) = all_of(serve([web(2)]).samples("train"))
    critique = sample.critique
    assert (critique.question, critique.response, critique.verdict) == ("What is 2 + 2?", "5", "wrong")
    assert critique.text == sample.messages[-1].text == "It is 4. Conclusion: wrong [END]"
    assert [message.train for message in sample.messages] == [False, True]


@pytest.mark.parametrize("form", ["messages", "query", "alpaca"])
def test_one_shot_cft_in_each_form_that_it_may_have(serve, form):
    asked = "You are a mathematics expert. Analyze it.\n\nQuestion:\nq\n\nStudent's Solution:\ns{}"
    said = "Key concepts. Conclusion: right [END]"
    records = {
        "messages": [
            {"messages": [{"role": "user", "content": asked.format(n)}, {"role": "assistant", "content": said}]}
            for n in range(3)
        ],
        "query": [{"query": asked.format(n), "response": said} for n in range(3)],
        "alpaca": [{"instruction": asked.format(n), "input": "", "output": said} for n in range(3)],
    }[form]
    samples = all_of(serve(records).samples("train"))
    assert [sample.critique.response for sample in samples] == ["s0", "s1", "s2"]
    assert {(sample.critique.question, sample.critique.verdict) for sample in samples} == {("q", "right")}


def test_multicritique_units_and_score(serve):
    asked = "Query: q\nResponse: s\nCriteria: it is short"
    listed = '[{"location": "step 2", "flaw": "it is 5", "severity": 2}] Score: 3.5'
    records = [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for said in ("ACU 1: The second step is wrong. ACU 2: It is long. Score: 4", listed)
    ]
    first, second = (sample.critique for sample in all_of(serve(records).samples("train")))
    assert (first.question, first.response, first.score) == ("q", "s", 4.0)
    assert [unit.description for unit in first.units] == ["The second step is wrong.", "It is long."]
    assert (second.units, second.score) == ((CritiqueUnit("step 2", "it is 5", 2.0),), 3.5)


def test_multicritique_pairs(serve, info):
    record = {"prompt": "Query: q\nResponse: s", "chosen": "It is 5. Score: 4", "rejected": "Fine."}
    samples = all_of(serve([record, {**record, "rejected": record["chosen"]}]).samples("train"))
    (sample,) = samples
    assert sample.preferences[0].rejected[0].text == "Fine."
    assert (sample.critique.response, sample.critique.text, sample.critique.score) == ("s", "It is 5. Score: 4", 4.0)
    assert any("1 of 2 records are left out since both halves are the same" in line for line in info)


def test_projudge_labels(serve):
    (sample,) = all_of(serve([PROJUDGE]).samples("train"))
    assert sample.critique.steps == (
        StepLabel("The axis is in cm.", True),
        StepLabel("It is 5.", False, "visual interpretation", "misread axis"),
    )
    assert (sample.critique.question, sample.critique.verdict) == ("How high is it?", "wrong")
    assert sample.critique.first_wrong_step == 2
    assert len(sample.images) == 1


def test_stepwise_supervision(serve):
    record = {"prompt": "What is 2 + 3?", "completions": ["2 + 3 = 6.", "So 6."], "labels": [False, True]}
    (sample,) = all_of(serve([record]).samples("train"))
    assert sample.critique.steps == (StepLabel("2 + 3 = 6.", False), StepLabel("So 6.", True))
    assert (sample.critique.question, sample.critique.verdict) == ("What is 2 + 3?", "wrong")
    assert "Step 2: So 6." in sample.question


@pytest.mark.parametrize(
    ("more", "reason"),
    [({"labels": [True]}, "2 steps and 1 labels"), ({"labels": [True, 7]}, "has the label 7")],
)
def test_bad_stepwise_records(serve, more, reason):
    record = {"prompt": "What is 2 + 3?", "completions": ["2 + 3 = 6.", "So 6."], "labels": [False, True]}
    with pytest.raises(UserError, match=reason):
        serve([{**record, **more}]).samples("train")


def test_a_comparison_of_two_pictures_is_a_question_with_two_choices(serve):
    said = "<think>Image 1 has a red cube.</think>\n<answer>Image 1 is better</answer>"
    turns = [{"from": "human", "value": "<image>\n<image>\nCompare for: a red cube."}, {"from": "gpt", "value": said}]
    (sample,) = all_of(serve([{"conversations": turns, "images": ["a.png", "b.png"]}]).samples("train"))
    assert sample.answer == Answer("choice", "A", options=("Image 1 is better", "Image 2 is better"))
    assert sample.critique is None


def test_broken_records_are_named_and_the_others_served(serve, info):
    lost = web(3, image="missing.png")
    without = {"instruction": ASK, "input": "Question:\nWhat is 2 + 2?", "output": "Conclusion: wrong [END]"}
    records = [web(1), web(2), lost, without]
    samples = serve(records, bad_samples="skip").samples("train")
    assert len(samples) == 4
    with pytest.raises(BadSampleError, match="no solution|none in its prompt"):
        samples[3]
    (warning,) = [line for line in info if line.startswith("warning")]
    assert "there is none in its prompt" in warning


def test_labels_of_another_number_of_steps_are_refused(serve):
    broken = {
        **PROJUDGE,
        "messages": [PROJUDGE["messages"][0], {"role": "assistant", "content": json.dumps(STEPS[:1])}],
    }
    with pytest.raises(UserError, match="labels 1 steps, and the solution has 2"):
        serve([broken]).samples("train")


CARD = ["It is 4. Conclusion: wrong [END]", "It is 4 (cut", "It is 5. Conclusion: right [END]"]


@pytest.mark.parametrize(("agreement", "kept"), [(False, [0, 2]), (True, [0])])
def test_the_cards_critiques_of_a_wrong_solution(serve, info, agreement, kept):
    records = [web(2, said=said, answer="4") for said in CARD]
    samples = all_of(serve(records, verdict_agreement=agreement).samples("train"))
    assert [sample.critique.text for sample in samples] == [CARD[index] for index in kept]
    assert any("1 of 3 records are left out since they neither conclude" in line for line in info)
    assert any("not the verifier's" in line for line in info) is agreement
    assert any("all 2 critiques are of one solution" in line for line in info) is not agreement


def test_critiques_that_were_cut_off_may_be_kept(serve):
    records = [web(2, said=said) for said in CARD]
    assert len(serve(records, only_complete=False).samples("train")) == 3


def test_agreement_needs_an_answer(serve):
    with pytest.raises(UserError, match="no critique has an answer"):
        serve([web(1), web(2)], verdict_agreement=True).samples("train")


def test_repeats_go_and_unclear_verdicts_are_counted(serve, info):
    unclear = web(3, said="Conclusion: mostly right [END]")
    samples = all_of(serve([web(1), web(1), web(2, "7"), unclear]).samples("train"))
    assert [sample.critique.verdict for sample in samples] == ["wrong", "wrong", None]
    assert any("1 of 4 records are left out since solution and critique" in line for line in info)
    assert any("1 of 3 critiques conclude neither right nor wrong" in line for line in info)


class WordCounter:
    def count_tokens(self, sample):
        return TokenCount(sum(len(message.text.split()) for message in sample.messages), 0)


def test_long_samples_are_left_out_whole(serve, info):
    long = web(2, said="so " * 90 + "Conclusion: wrong [END]")
    samples = all_of(serve([web(1), long], encoder=WordCounter(), max_sample_tokens=60).samples("train"))
    assert [sample.critique.question for sample in samples] == ["What is 2 + 1?"]
    assert any("since they are longer than data.max_sample_tokens (" in line for line in info)


@pytest.mark.parametrize(("share", "plain"), [(0.5, 10), (0.2, 2), (0.9, 90)])
def test_plain_conversations_are_mixed_in_by_share(serve, media_folder, write_lines, share, plain):
    path = write_lines(media_folder / "plain.jsonl", PLAIN)
    module = serve([web(n) for n in range(10)], plain=str(path), plain_share=share)
    samples = all_of(module.samples("train"))
    assert [sample.critique is None for sample in samples] == [False] * 10 + [True] * plain
    assert len({sample.id for sample in samples[10:]}) == min(plain, len(PLAIN))
    assert module.samples("train").origin(10).endswith("plain.jsonl, line 1")


def test_both_abilities_are_validated(serve, media_folder, write_lines):
    path = write_lines(media_folder / "plain.jsonl", PLAIN)
    module = serve([web(n) for n in range(40)], plain=str(path), validation_share=0.4)
    validation = all_of(module.samples("validation"))
    assert {sample.critique is None for sample in validation} == {True, False}
    assert all(sample.answer is not None for sample in validation if sample.critique is None)
    training = {sample.question for sample in all_of(module.samples("train"))}
    assert not training & {sample.question for sample in validation}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"plain_share": 1.0}, "plain_share is 1.0"),
        ({"max_sample_tokens": 0}, "max_sample_tokens is 0"),
        ({"convention": "spoken"}, "convention is 'spoken'"),
    ],
)
def test_settings_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        CritiqueDataModule("x.jsonl", **options)


def test_named_columns_and_conventions(serve):
    record = {"asked": "What is 2 + 3?", "parts": ["2 + 3 = 6."], "ok": [0]}
    columns = CritiqueColumns(prompt="asked", completions="parts", labels="ok")
    (sample,) = all_of(serve([record], columns=columns).samples("train"))
    assert sample.critique.first_wrong_step == 1
    with pytest.raises(UserError, match="needs a column of prompt"):
        serve([record], convention="stepwise").samples("train")
