from lit_vlm.health.suppressed_tokens import suppressed_tokens
from tests.health.health_material import with_policy


def test_placeholders_are_never_sampled_and_turns_end(make_subject):
    found = suppressed_tokens(make_subject())
    assert (found.status, "ends of 4 samples" in found.told) == ("pass", True)


def test_a_placeholder_that_may_be_sampled_fails(make_subject):
    found = suppressed_tokens(with_policy(make_subject(), unsampled_token_ids=()))
    assert found.status == "fail"
    assert "may be sampled" in found.told


def test_a_model_without_an_end_fails(make_subject):
    found = suppressed_tokens(with_policy(make_subject(), end_token_ids=()))
    assert (found.status, "no token" in found.told) == ("fail", True)


def test_an_end_that_is_not_taught_fails(make_subject):
    found = suppressed_tokens(with_policy(make_subject(), end_token_ids=(17,)))
    assert found.status == "fail"
    assert "eos_token_id" in found.mend
