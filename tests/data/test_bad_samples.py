import pytest

from lit_vlm.data.bad_samples import BadSampleLedger
from lit_vlm.interfaces.errors import BadSampleError, TooManyBadSamplesError, UserError
from lit_vlm.interfaces.records import BadSample


def bad(*lines):
    return [BadSample(f"data.jsonl, line {line}", f"reason {line}") for line in lines]


def test_the_first_bad_sample_stops_the_run_unless_it_may_skip():
    with pytest.raises(BadSampleError, match=r"^data.jsonl, line 3: reason 3 \(data.bad_samples=skip leaves"):
        BadSampleLedger("error", 100, "train", 100).add(bad(3, 4))
    BadSampleLedger("error").add([])


def test_each_sample_counts_once_however_often_it_is_met():
    ledger = BadSampleLedger("skip", 2, "train", 100)
    for _ in range(3):
        ledger.add(bad(1, 2, 1))
    assert ledger.bad_samples == tuple(bad(1, 2))
    assert ledger.unknown(bad(2, 3, 3)) == bad(3)


def test_what_was_refused_once_is_refused_again():
    for ledger, error in ((BadSampleLedger(), BadSampleError), (BadSampleLedger("skip", 1), TooManyBadSamplesError)):
        for _ in range(2):
            with pytest.raises(error):
                ledger.add(bad(1, 2))


@pytest.mark.parametrize(("limit", "allowed"), [(3, 3), (0, 0), (0.03, 3), (0.0, 0), (1.0, 100), (1, 1)])
def test_the_limit_is_a_number_or_a_share_of_the_split(limit, allowed):
    ledger = BadSampleLedger("skip", limit, "validation", 100)
    ledger.add(bad(*range(allowed)))
    assert len(ledger.bad_samples) == allowed
    with pytest.raises(TooManyBadSamplesError, match=f"{allowed + 1} of 100 samples of the validation split are bad"):
        ledger.add(bad(1000))


def test_the_error_lists_the_first_ten_and_holds_all():
    ledger = BadSampleLedger("skip", 5, "train", 100)
    with pytest.raises(TooManyBadSamplesError) as raised:
        ledger.add(bad(*range(12)))
    told = str(raised.value)
    assert [f"line {line}: reason {line};" in told for line in range(12)] == [True] * 10 + [False] * 2
    assert told.endswith("and 2 more")
    assert "data.bad_samples_limit=5" in told
    assert raised.value.bad_samples == tuple(bad(*range(12)))


def test_a_restored_ledger_counts_on():
    first = BadSampleLedger("skip", 2, "train", 100)
    first.add(bad(1, 2))
    second = BadSampleLedger("skip", 2, "train", 100)
    second.restore(first.state())
    second.add(bad(2))
    with pytest.raises(TooManyBadSamplesError, match="3 of 100"):
        second.add(bad(3))


@pytest.mark.parametrize("limit", [-1, -0.5, 1.5])
def test_an_impossible_limit_is_refused(limit):
    with pytest.raises(UserError, match=f"data.bad_samples_limit is {limit}"):
        BadSampleLedger("skip", limit)
