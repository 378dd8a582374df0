from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.batches import PreferenceBatch, PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Preference
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.paradigms.dpo import DPOModule
from lit_vlm.paradigms.halved_passes import PassSizes
from lit_vlm.paradigms.optimization import OptimizerSettings
from lit_vlm.paradigms.pair_uncertainty import PairUncertainty, UncertaintyWeights
from lit_vlm.paradigms.reference_policy import ReferencePolicy, ReferenceSettings
from tests.functional.threads_as_ranks import run_as_ranks
from tests.paradigms.comparison_material import ComparedData, compared_sample, completion, fit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.*"),
    pytest.mark.filterwarnings("ignore:.*GPU available but not used.*"),
]


def samples(count=6):
    return [compared_sample(index) for index in range(count)]


def alone(value):
    return value


def uncertainty(policy, sum_over_ranks=alone, **settings):
    reference = ReferencePolicy(ReferenceSettings("frozen_copy"), policy)
    return PairUncertainty(UncertaintyWeights(**settings), policy, reference, sum_over_ranks, PassSizes())


def module(folder, **options):
    return DPOModule(
        Backbone(str(folder)),
        optimizer=OptimizerSettings(learning_rate=1e-3, warmup=0, schedule="constant"),
        generation=GenerationSettings(max_new_tokens=4),
        **options,
    )


@pytest.fixture
def policy(random_tiny_model):
    return random_tiny_model


def features_of(policy, batch):
    return policy.completion_features(batch.prompts, batch.token_ids, batch.mask, batch.prompt_of).double()


def test_bounds_are_those_of_the_differences_under_the_matrix_of_all_halves(policy, random_tiny_encoder):
    batch = random_tiny_encoder.encode_pairs(samples())
    found = uncertainty(policy, ridge=0.5)
    accuracy = found.fit([batch])
    features = features_of(policy, batch)
    halves = features[torch.cat([batch.chosen, batch.rejected])]
    design = halves.T @ halves + 0.5 * torch.eye(halves.shape[1], dtype=torch.float64)
    differences = features[batch.chosen] - features[batch.rejected]
    expected = (differences @ torch.linalg.inv(design) * differences).sum(1).sqrt()
    torch.testing.assert_close(found.bounds(batch).double(), expected, atol=1e-5, rtol=1e-4)
    assert (expected > 0).all()
    assert accuracy == 1.0  # six pairs in as many dimensions as a state has
    torch.testing.assert_close(found.weights(batch), (0.7 - 0.05 * expected).exp().float(), atol=1e-5, rtol=1e-4)
    assert not found.weights(batch).requires_grad


def test_pairs_of_the_kind_that_was_seen_weigh_more_than_others(policy, random_tiny_encoder):
    batch = random_tiny_encoder.encode_pairs(samples())
    found = uncertainty(policy, scale=3.0, low=0.0)
    found.fit([random_tiny_encoder.encode_pairs([sample]) for sample in samples(2)] * 8)
    seen, unseen = found.bounds(batch)[:2], found.bounds(batch)[2:]
    assert seen.max() < unseen.min()
    assert found.weights(batch)[:2].min() > found.weights(batch)[2:].max()


def test_weights_are_the_least_where_the_scale_is_large(policy, random_tiny_encoder):
    batch = random_tiny_encoder.encode_pairs(samples())
    found = uncertainty(policy, scale=1e6)
    found.fit([batch])
    assert found.weights(batch).tolist() == [1.0] * len(batch)


def test_a_pair_that_is_only_imitated_weighs_one_and_teaches_the_reward_nothing(policy, random_tiny_encoder):
    imitated = replace(compared_sample(7), preferences=(Preference((completion(7),), ()),))
    with_it, without = uncertainty(policy), uncertainty(policy)
    batch = random_tiny_encoder.encode_pairs([*samples(3), imitated])
    with_it.fit([batch])
    without.fit([random_tiny_encoder.encode_pairs(samples(3))])
    torch.testing.assert_close(with_it.factor, without.factor, atol=1e-5, rtol=1e-4)
    assert with_it.weights(batch)[-1] == 1.0
    with pytest.raises(UserError, match="no training pair with two halves"):
        with_it.fit([random_tiny_encoder.encode_pairs([imitated])])


def test_features_are_of_the_reference_whatever_the_policy_has_become(policy, random_tiny_encoder):
    batch = random_tiny_encoder.encode_pairs(samples(3))
    found = uncertainty(policy)
    found.fit([batch])
    before = found.bounds(batch)
    with torch.no_grad():
        for value in policy.parameters():
            value.add_(0.1)
    torch.testing.assert_close(found.bounds(batch), before)


def test_no_more_pairs_are_read_than_were_asked_for(policy, random_tiny_encoder):
    batches = [random_tiny_encoder.encode_pairs(samples()[start : start + 2]) for start in (0, 2, 4)]
    some, first = uncertainty(policy, samples=3), uncertainty(policy)
    read = iter(batches)
    some.fit(read)
    assert len(list(read)) == 1
    first.fit([batches[0], random_tiny_encoder.encode_pairs(samples()[2:3])])
    torch.testing.assert_close(some.factor, first.factor, atol=1e-5, rtol=1e-4)


class Policy:
    """A policy whose features are the tokens themselves, which threads can share."""

    hidden_width = 3
    any_rank = staticmethod(bool)

    def parameters(self):
        return iter([torch.zeros(1)])

    def completion_features(self, prompts, token_ids, mask, prompt_of, media=None):
        return token_ids.float()


def made_batch(rows):
    token_ids = torch.tensor(rows)
    number = torch.arange(len(token_ids) // 2)
    return PreferenceBatch(
        prompts=PromptBatch(token_ids[::2], token_ids[::2], {}),
        token_ids=token_ids,
        mask=torch.ones_like(token_ids),
        prompt_of=number.repeat_interleave(2),
        chosen=2 * number,
        rejected=2 * number + 1,
        weights=torch.ones(len(number)),
        counted=torch.ones_like(token_ids),
        sample_of=number,
    )


class Installed:
    """A reference that is the policy."""

    settings = ReferenceSettings()

    def installed(self):
        return nullcontext()


def test_ranks_with_unequal_shares_agree_with_one_that_has_all():
    first, second = [[1, 2, 0], [0, 1, 1], [3, 0, 1], [2, 2, 2]], [[1, 0, 5], [4, 1, 0]]
    whole = PairUncertainty(UncertaintyWeights(), Policy(), Installed(), alone, PassSizes())
    accuracy = whole.fit([made_batch(first + second)])

    def part(batches):
        def run(ranks):
            fitted = PairUncertainty(UncertaintyWeights(), Policy(), Installed(), ranks, PassSizes())
            return fitted.fit(batches, ranks=2), fitted.factor

        return run

    found = run_as_ranks(part([made_batch(first[:2]), made_batch(first[2:])]), part([made_batch(second)]))
    assert torch.equal(found[0][1], found[1][1])
    torch.testing.assert_close(found[0][1], whole.factor)
    assert found[0][0] == found[1][0] == accuracy


def test_weighed_pairs_train_and_tell_of_their_weights(random_tiny_folder):
    steps = {}
    for name, settings in (
        ("none", None),
        ("least", UncertaintyWeights(scale=1e6)),
        ("twice", UncertaintyWeights(scale=0.0, offset=5.0, high=2.0)),
    ):
        model = module(random_tiny_folder, uncertainty=settings, objective=PreferenceLoss(beta=0.5))
        figures, _ = fit(model, ComparedData(model.encoder, samples(4)), steps=2)
        steps[name] = figures.steps
    assert "train/pair_weight" not in steps["none"][0]
    assert steps["least"][0]["train/pair_weight"] == 1.0
    assert steps["least"][1]["train/loss"] == pytest.approx(steps["none"][1]["train/loss"], rel=1e-5)
    assert steps["twice"][0]["train/pair_weight"] == 2.0
    assert steps["twice"][0]["train/loss"] == pytest.approx(2 * steps["none"][0]["train/loss"], rel=1e-5)


@pytest.mark.parametrize("reference", [ReferenceSettings("cached"), ReferenceSettings(sync_every=5)])
def test_a_reference_that_moves_or_is_a_file_is_refused(reference):
    with pytest.raises(UserError, match=r"set model\.reference\.kind to frozen_copy"):
        DPOModule(uncertainty=UncertaintyWeights(), reference=reference)


def test_an_objective_without_reference_gets_one_for_the_features():
    model = DPOModule(uncertainty=UncertaintyWeights(), objective=PreferenceLoss(kind="simpo"))
    assert model.reference_settings == ReferenceSettings("frozen_copy")


def test_weights_before_the_fit_are_refused(policy, random_tiny_encoder):
    with pytest.raises(RuntimeError, match="after the fit"):
        uncertainty(policy).weights(random_tiny_encoder.encode_pairs(samples(1)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": -1.0}, "scale -1.0"),
        ({"offset": float("nan")}, "offset nan"),
        ({"low": 3.0}, "low 3.0 and high 2.21"),
        ({"ridge": 0.0}, "uncertainty.ridge is 0.0"),
        ({"samples": 0}, "uncertainty.samples is 0"),
    ],
)
def test_settings_without_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        UncertaintyWeights(**settings)
