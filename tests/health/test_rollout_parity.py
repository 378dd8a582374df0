from dataclasses import replace

from lit_vlm.health.rollout_parity import rollout_parity
from tests.health.health_material import on_policy


class Beside:
    """An engine that tells other log-probabilities than those that it sampled with."""

    def __init__(self, engine, by, own=False):
        self.engine, self.by, self.has_own_weights = engine, by, own
        self.temperature = engine.temperature

    def check(self, policy, encoder):
        self.engine.check(policy, encoder)

    def __call__(self, *given, **options):
        rollouts = self.engine(*given, **options)
        return replace(rollouts, log_probs=rollouts.log_probs + self.by * rollouts.mask)


def test_an_engine_that_samples_from_the_policy_passes(make_subject):
    found = rollout_parity(make_subject(on_policy))
    assert found.status == "pass"
    assert "sampled tokens" in found.told


def test_an_engine_with_other_log_probabilities_fails(make_subject):
    subject = make_subject(on_policy)
    subject.module.engine = Beside(subject.module.engine, 0.1)
    found = rollout_parity(subject)
    assert found.status == "fail"
    assert "1.0e-01" in found.told
    assert "weights" in found.mend


def test_an_engine_with_kernels_of_its_own_may_differ_a_little(make_subject):
    subject = make_subject(on_policy)
    engine = subject.module.engine
    subject.module.engine = Beside(engine, 0.01, own=True)
    assert rollout_parity(subject).status == "pass"
    subject.module.engine = Beside(engine, 0.01)
    assert rollout_parity(subject).status == "fail"


def test_an_engine_at_another_temperature_fails(make_subject):
    subject = make_subject(on_policy)
    subject.module.engine = Beside(subject.module.engine, 0.0)
    subject.module.engine.temperature = 0.25
    assert rollout_parity(subject).status == "fail"


def test_a_method_without_rollouts_has_no_sampler(make_subject):
    assert rollout_parity(make_subject()).status == "not applicable"
