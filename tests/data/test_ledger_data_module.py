import logging
from dataclasses import replace
from pathlib import Path

import pytest

from lit_vlm.data.digits_reasoning import DigitsReasoning
from lit_vlm.data.ledger_data_module import LedgerDataModule
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import LedgerHeader
from lit_vlm.interfaces.records import Sample, SampleMeta, user_message
from lit_vlm.synthesis.candidate_cap import CandidateCap
from lit_vlm.synthesis.candidate_filter import CandidateFilter
from lit_vlm.synthesis.candidate_groups import CandidateGroups
from lit_vlm.synthesis.correctness_pairs import CorrectnessPairs
from lit_vlm.synthesis.deduplicate import Deduplicate
from lit_vlm.synthesis.judge_filter import JudgeFilter
from lit_vlm.synthesis.pass_rate_filter import PassRateFilter
from lit_vlm.synthesis.rejection_sampling import RejectionSampling
from lit_vlm.synthesis.replay import Replay
from tests.data.ledger_material import HEADER, completion, question, solutions, write_ledger


@pytest.fixture
def ledger(tmp_path):
    """Eight questions: two completions of each, one of them right."""
    return str(write_ledger(tmp_path / "ledger", solutions(8)))


@pytest.fixture
def told(caplog):
    """What was told, line by line."""
    caplog.set_level(logging.INFO)
    return lambda: [record.getMessage() for record in caplog.records]


def ids(samples):
    return [samples[index].id for index in range(len(samples))]


def test_questions_come_with_graded_completions(ledger, told):
    data = LedgerDataModule(ledger)
    samples = data.samples("train")
    assert ids(samples) == [f"q{number}" for number in range(8)]
    assert [one.scores["correct"] for one in samples[1].candidates] == [0.0, 1.0]
    assert "16 completions of 8 samples" in told()[0]
    assert "of tiny (aaaaaaaa)" in told()[0]


def test_a_ledger_is_imitated_compared_grouped_and_replayed(ledger):
    made = {
        transform: LedgerDataModule(ledger, transform=transform()).prepared("train")
        for transform in (RejectionSampling, CorrectnessPairs, CandidateGroups, Replay)
    }
    assert [len(samples) for samples in made.values()] == [8, 8, 8, 16]
    assert "<answer>0</answer>" in made[RejectionSampling][0].messages[-1].text
    (pair, *_) = made[CorrectnessPairs][0].preferences
    assert "99" in pair.rejected[0].text
    assert [one.scores["correct"] for one in made[CandidateGroups][0].candidates] == [1.0, 0.0]
    assert {sample.id.partition("/")[0] for sample in map(made[Replay].__getitem__, range(16))} == {
        f"q{number}" for number in range(8)
    }


def test_operators_act_in_order_and_each_tells_what_it_left_out(ledger, told):
    data = LedgerDataModule(
        ledger, curation=[PassRateFilter(most=0.5), CandidateFilter(), CandidateCap(1), Deduplicate()]
    )
    samples = data.samples("train")
    assert [len(samples[index].candidates) for index in range(8)] == [1] * 8
    assert told()[1:] == [
        "data.curation[0] PassRateFilter: keeps 8 of 8 samples, 16 of 16 candidates",
        "data.curation[1] CandidateFilter: keeps 8 of 8 samples, 8 of 16 candidates; left out: 8 candidates with "
        "correct below 1",
        "data.curation[2] CandidateCap: keeps 8 of 8 samples, 8 of 8 candidates",
        "data.curation[3] Deduplicate: keeps 8 of 8 samples, 8 of 8 candidates",
    ]


def test_a_prompt_that_nothing_is_learnt_from_is_counted(tmp_path, told):
    never = write_ledger(tmp_path / "l", solutions(6, right=lambda number, index: number < 4))
    assert len(LedgerDataModule(str(never), transform=RejectionSampling()).prepared("train")) == 4
    assert told()[-1] == "data.transform RejectionSampling: makes 4 training samples of 4 of 6"


def test_curation_that_leaves_nothing_is_refused(ledger):
    data = LedgerDataModule(ledger, curation=[PassRateFilter(least=0.9)])
    with pytest.raises(
        UserError, match=r"curation\[0\] PassRateFilter: keeps 0 of 8 .* 8 samples with a pass rate below"
    ):
        data.setup("fit")


def test_held_out_questions_are_parted_by_their_ids(tmp_path):
    ledgers = str(write_ledger(tmp_path / "l", solutions(40)))
    data = LedgerDataModule(ledgers, validation_share=0.3, curation=[CandidateFilter()])
    held_out, training = ids(data.samples("validation")), ids(data.samples("train"))
    assert sorted([*held_out, *training]) == sorted(f"q{number}" for number in range(40))
    assert 4 < len(held_out) < 24
    assert len(data.samples("validation")[0].candidates) == 2  # curation acts on what is learnt
    fewer = LedgerDataModule(str(write_ledger(tmp_path / "f", solutions(20))), validation_share=0.3)
    assert set(ids(fewer.samples("validation"))) == set(held_out) & {f"q{number}" for number in range(20)}
    assert data.tasks == ("sum",)


def test_what_a_held_out_question_asks_is_not_learnt(tmp_path, told):
    same = [replace(one, sample=replace(one.sample, id=f"again {one.sample.id}")) for one in solutions(3)]
    training = write_ledger(tmp_path / "t", [*solutions(2, first=50), *same])
    held_out = write_ledger(tmp_path / "v", solutions(2))
    data = LedgerDataModule(str(training), validation=str(held_out))
    assert ids(data.samples("train")) == ["q50", "q51", "again q2"]
    assert "2 of 5 training samples ask what a held-out one asks, and are left out" in told()
    whole = LedgerDataModule(str(held_out), validation=str(write_ledger(tmp_path / "w", solutions(2))))
    with pytest.raises(UserError, match="none is left; name other ledgers"):
        whole.samples("train")


def test_questions_about_one_question_fall_on_one_side(tmp_path):
    written = []
    for number in range(60):
        asked = replace(
            question(number),
            id=f"q{number // 3}#{number % 3}#0",  # a critique of a critique
            meta=SampleMeta(split="train", extra={"parent": f"q{number // 3}#{number % 3}", "candidate": 0}),
        )
        written.append(completion(asked, 0, "Conclusion: right [END]", None))
    data = LedgerDataModule(str(write_ledger(tmp_path, written)), validation_share=0.4)
    sides = [{name.partition("#")[0] for name in ids(data.samples(split))} for split in ("train", "validation")]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_it_may_be_evaluated_on_another_data_set(ledger):
    elsewhere = DigitsReasoning(validation_size=3, test_size=2)
    data = LedgerDataModule(ledger, evaluate_on=elsewhere, transform=RejectionSampling())
    assert ids(data.prepared("validation")) == ids(elsewhere.prepared("validation"))
    assert data.prepared("validation")[0].messages[0].role == "system"  # its own, as that data set has it
    assert len(data.prepared("test")) == 2
    assert data.tasks == elsewhere.tasks
    both = LedgerDataModule(ledger, evaluate_on=elsewhere, validation_share=0.3)
    held_out = ids(both.samples("validation"))
    assert ids(both.prepared("validation")) == [*held_out, *ids(elsewhere.prepared("validation"))]


def test_without_anything_held_out_there_is_nothing_to_validate_or_test_on(ledger):
    data = LedgerDataModule(ledger)
    assert data.val_dataloader() == []
    with pytest.raises(UserError, match=r"set data\.evaluate_on"):
        data.prepared("test")


def test_what_is_evaluated_is_not_learnt(tmp_path):
    tested = str(write_ledger(tmp_path, solutions(3, split="test"), split="test"))
    with pytest.raises(UserError, match=r"is of the test split, and so are 2 more of 3 training samples"):
        LedgerDataModule(tested).setup("fit")
    LedgerDataModule(tested, any_split=True).setup("fit")
    LedgerDataModule(tested).setup("predict")


def judged(number, index, *texts):
    asked = Sample(f"q{number}#{index}", (user_message("judge"),), meta=SampleMeta(split="train"))
    return [completion(asked, place, text, None) for place, text in enumerate(texts)]


def test_critiques_are_attached_and_judge(ledger, tmp_path, told):
    written = [*judged(0, 0, "Conclusion: right [END]"), *judged(0, 1, "eh"), *judged(9, 0, "Conclusion: right")]
    critics = str(write_ledger(tmp_path / "critics", written, model="judge"))
    data = LedgerDataModule(ledger, attach={"critiques": critics}, curation=[JudgeFilter()])
    (sample,) = (data.samples("train")[index] for index in range(len(data.samples("train"))))
    assert (sample.id, len(sample.candidates)) == ("q0", 1)
    assert sample.candidates[0].critique.verdict == "right"
    assert any("2 of 16 candidates are judged" in line and "(the first: q9#0)" in line for line in told())
    with pytest.raises(UserError, match=r"data\.attach\.critiques: 0 of 2 candidates"):
        LedgerDataModule(
            str(write_ledger(tmp_path / "o", solutions(1, first=30))), attach={"critiques": critics}
        ).setup("fit")


class _Module:
    """Tells which weights it has, as a paradigm does."""

    batch_form = "completions"

    def __init__(self, **changes):
        self.header = replace(HEADER, **changes)

    def ledger_header(self) -> LedgerHeader:
        return self.header


def checked(data, module):
    data.setup("fit")
    data.serve(module)
    return data.train_dataloader()


def test_another_model_is_refused_where_that_matters(ledger, random_tiny_encoder):
    other_weights, other_words = _Module(model="big", model_hash="b" * 32), _Module(template_hash="u" * 32)
    same = LedgerDataModule(ledger, random_tiny_encoder, model="same", num_workers=0, transform=Replay())
    checked(same, _Module())
    with pytest.raises(UserError, match=r"written by tiny \(aaaaaaaa\), and this run starts from big \(bbbbbbbb\)"):
        checked(same, other_weights)
    with pytest.raises(UserError, match="another chat template or tokenizer"):
        checked(same, other_words)
    tokens = LedgerDataModule(ledger, random_tiny_encoder, with_tokens=True, num_workers=0, transform=Replay())
    checked(tokens, other_weights)
    with pytest.raises(UserError, match="another chat template or tokenizer"):
        checked(tokens, other_words)
    with pytest.raises(UserError, match="does not tell which weights"):
        checked(tokens, object())
    checked(LedgerDataModule(ledger, random_tiny_encoder, num_workers=0, transform=Replay()), other_words)


def test_its_batches_hold_what_was_written(ledger, random_tiny_encoder):
    data = LedgerDataModule(
        ledger,
        random_tiny_encoder,
        transform=RejectionSampling(),
        batch_size=4,
        num_workers=0,
        system_prompt="Be kind.",
    )
    batches = list(data.train_dataloader())
    assert sorted(sample.id for batch in batches for sample in batch.samples) == sorted(
        f"q{number}/candidate-{number % 2}" for number in range(8)
    )
    texts = [random_tiny_encoder.decode(row[row != -100].tolist()) for batch in batches for row in batch.labels]
    assert all("<answer>" in text and "99" not in text for text in texts)
    predicted = list(data.predict_dataloader())
    assert sum(len(batch.prompts) for batch in predicted) == 8


def test_a_truncated_file_stops_the_run_or_is_named(ledger, told):
    part = sorted(Path(ledger).glob("part-*.parquet"))[0]
    part.write_bytes(part.read_bytes()[:-40])
    with pytest.raises(UserError, match=part.name):
        LedgerDataModule(ledger).setup("fit")
    data = LedgerDataModule(ledger, bad_samples="skip")
    assert ids(data.samples("train")) == [f"q{number}" for number in range(2, 8)]
    assert any(line.startswith("data.ledgers: passes by") and part.name in line for line in told())


def test_token_values_survive(ledger):
    candidate = LedgerDataModule(ledger, with_tokens=True).samples("train")[0].candidates[0]
    assert candidate.token_ids == (5, 6, 7)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"validation_share": 1.0}, "validation_share is 1.0"),
        ({"validation_share": 0.1, "validation": "x"}, "give one of them"),
        ({"model": "mine"}, "any or same"),
        ({"attach": {"rewards": "x"}}, "names 'rewards'; there are 'critiques'"),
    ],
)
def test_bad_options_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        LedgerDataModule("x", **options)


def test_a_share_that_leaves_a_side_empty_is_refused(tmp_path):
    one = str(write_ledger(tmp_path, solutions(1)))
    with pytest.raises(UserError, match=r"none is left for (validation|training) with data\.validation_share 0\.5"):
        LedgerDataModule(one, validation_share=0.5).samples("train")
