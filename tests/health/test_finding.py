import torch

from lit_vlm.health.finding import Finding


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
