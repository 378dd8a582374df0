import torch

from lit_vlm.health.batch_leak import batch_leak
from lit_vlm.health.finding import Finding
from lit_vlm.health.weights_round_trip import weights_round_trip


def test_only_a_failure_says_what_to_do():
    assert Finding.of("a", True, "seen", "mend") == Finding("a", "pass", "seen", "")
    assert Finding.of("a", False, "seen", "mend") == Finding("a", "fail", "seen", "mend")
    assert Finding.without_object("a", "nothing").status == "not applicable"


def test_half_precision_may_differ_by_more(make_subject):
    subject = make_subject()
    assert subject.is_exact
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not subject.is_exact
        assert subject.tolerance > 1e-2
    assert subject.tolerance < 1e-3


def test_samples_whose_completion_is_cut_off_whole_are_not_scored(make_subject):
    subject = make_subject()
    assert subject.scored_samples(2) == list(subject.samples[:2])
    subject.encoder.max_tokens = 10
    assert subject.scored_samples(2) == []
    for check in (batch_leak, weights_round_trip):
        found = check(subject)
        assert found.status == "not applicable"
        assert "within model.max_tokens" in found.told
