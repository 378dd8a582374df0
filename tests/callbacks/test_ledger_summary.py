import json

import pytest

from lit_vlm.callbacks.ledger_summary import summarise_ledger, told_numbers
from lit_vlm.functional.ledger_files import LedgerWriter
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import LedgerHeader
from lit_vlm.interfaces.records import Completion, Sample, Verdict


@pytest.fixture
def make_ledger(tmp_path):
    """Writes a ledger of answers: 7 is right; None where nothing was found; samples of no text have no answer."""

    def make(name, answers):
        count = len(answers[0])
        header = LedgerHeader(name, "m", "c", "t", count, 0, {}, "0.1")
        writer = LedgerWriter(tmp_path / name, header)
        for place, row in enumerate(answers):
            verdicts = [None if one == "unjudged" else Verdict(one == "7", one, one is not None) for one in row]
            sample = Sample(f"s{place}", ())
            writer.write([Completion(sample, "", "", verdict, index=at) for at, verdict in enumerate(verdicts)])
        writer.close()
        return tmp_path / name

    return make


def test_shares_are_over_samples(make_ledger):
    ledger = make_ledger(
        "a", [["7", "7", "3", None], ["3", "3", "3", "7"], [None] * 4, ["3", "7", "7", "3"], ["unjudged"] * 4]
    )
    summary = summarise_ledger(ledger)
    assert (summary.samples, summary.completions, summary.judged) == (5, 20, 4)
    # right completions 2, 1, 0, 2 of 4: pass@1 (0.5 + 0.25 + 0 + 0.5) / 4; pass@2 by 1 - C(4 - c, 2) / 6
    assert summary.pass_at[1].value == pytest.approx(0.3125)
    assert summary.pass_at[2].value == pytest.approx((5 / 6 + 1 / 2 + 0 + 5 / 6) / 4)
    assert summary.pass_at[4].value == pytest.approx(3 / 4)
    assert sorted(summary.pass_at) == [1, 2, 3, 4]
    # Votes: 7; 3; none; a tie, of which 3 came first.
    assert summary.majority.value == pytest.approx(1 / 4)
    assert summary.unparsed == pytest.approx(5 / 16)
    for share in (*summary.pass_at.values(), summary.majority):
        assert share.low < share.value < share.high
        assert share.samples == 4
    lines = summary.lines()
    assert lines[0] == "of 4 samples, in % with 95 % intervals:"
    assert lines[1].startswith("  pass@1          31.2 (")
    assert lines[5].startswith("  majority vote   25.0 (")
    assert lines[6] == "  no answer found in 31.2 % of the completions"
    assert json.loads(json.dumps(summary.to_json()))["pass@4"]["value"] == pytest.approx(0.75)


def test_one_completion_of_each_has_no_vote(make_ledger):
    summary = summarise_ledger(make_ledger("a", [["7"], ["3"]]))
    assert summary.majority is None
    assert list(summary.pass_at) == [1]
    assert "majority_vote" not in summary.to_json()


def test_without_answers_there_is_nothing_to_tell(make_ledger):
    summary = summarise_ledger(make_ledger("a", [["unjudged"] * 2]))
    assert summary.lines() == ["no completion has an answer to be compared with"]
    assert summary.to_json()["judged_samples"] == 0


def test_a_base_is_compared_with_as_many_completions(make_ledger):
    base = make_ledger("base", [["7", "3"], ["7", "7"], ["3", "3"], ["3", "3"], ["3", "3"]])
    model = make_ledger("a", [["7", "7", "7"], ["3", "3", "7"], ["3", "7", "7"], ["3"] * 3, ["3"] * 3])
    summary = summarise_ledger(model, base)
    report = summary.expansion
    assert (report.k, report.expansion, report.shrinkage, report.preservation) == (2, {"s2"}, {"s1"}, {"s0"})
    assert summary.lines()[-5:] == [
        "beside the base, with 2 completions of each sample:",
        "  solved by this model alone  1 (20.0 %, 33.3 % of what the base does not solve)",
        "  solved by the base alone    1",
        "  solved by both              1",
        "  right completions of these  100.0 %, of the base 50.0 %",
    ]
    assert summary.to_json()["expansion"]["expansion"] == ["s2"]


def test_a_base_that_was_asked_other_samples_is_refused(make_ledger):
    with pytest.raises(UserError, match="compare completions of the same samples"):
        summarise_ledger(make_ledger("a", [["7"]]), make_ledger("base", [["7"], ["3"]]))


def test_many_completions_are_told_by_powers_of_two():
    assert told_numbers(16) == list(range(1, 17))
    assert told_numbers(17) == [1, 2, 4, 8, 16, 17]
    assert told_numbers(64) == [1, 2, 4, 8, 16, 32, 64]
