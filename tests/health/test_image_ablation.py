from dataclasses import replace

from lit_vlm.functional.replaced_media import with_blank_media
from lit_vlm.health.finding import Subject
from lit_vlm.health.image_ablation import loss_ablation, probes_of, reward_ablation
from tests.health.health_material import Changed, on_policy


def blind(subject: Subject) -> Subject:
    """A subject that is shown grey for every picture."""
    module = subject.module
    changed = Changed(
        module,
        completion_log_probs=lambda samples: module.completion_log_probs([with_blank_media(s) for s in samples]),
        complete=lambda samples: module.complete([with_blank_media(s) for s in samples]),
        rewards_of=module.rewards_of,
        sampling_temperature=1.0,
        group_size=2,
        unfinished_batches=0,
        coefficients={},
        encoder=module.encoder,
    )
    return Subject(changed, subject.samples, subject.folder)


def test_a_model_that_sees_passes(make_subject):
    found = loss_ablation(make_subject())
    assert found.status == "pass"
    assert "with a blank one" in found.told


def test_a_model_that_is_blind_fails(make_subject):
    found = loss_ablation(blind(make_subject()))
    assert found.status == "fail"
    assert "pixels" in found.mend


def test_without_different_images_there_is_nothing_to_compare(make_subject, make_sample):
    samples = [make_sample("a", "7", images=0, sample_id=name) for name in "ab"]
    assert loss_ablation(make_subject(samples=samples)).status == "not applicable"


def test_probes_show_each_other_their_pictures(make_subject):
    probes = probes_of(make_subject())
    assert len(probes) == 4
    assert all(probe.sample.id != probe.other.id for probe in probes)


def test_rewards_are_looked_at_where_a_policy_samples(make_subject):
    assert reward_ablation(make_subject()).status == "not applicable"


def test_completions_that_never_change_fail(make_subject):
    found = reward_ablation(blind(make_subject(on_policy)))
    assert found.status == "fail"
    assert found.told.startswith("0 of 4")


def test_completions_that_change_pass(make_subject):
    subject = make_subject(on_policy)
    module = subject.module
    texts = iter(range(100))
    original = module.complete
    module.complete = lambda samples: [replace(one, text=str(next(texts))) for one in original(samples)]
    found = reward_ablation(subject)
    assert found.status == "pass"
    assert "4 of 4 completions change" in found.told
