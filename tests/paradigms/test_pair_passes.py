import pytest
import torch

from lit_vlm.interfaces.batches import PreferenceBatch, PromptBatch
from lit_vlm.paradigms.pair_passes import completion_sums, frozen_media, pair_log_probs, pair_scores
from tests.paradigms.preference_material import Inverted, with_pair


@pytest.fixture
def batch(random_tiny_encoder, make_sample):
    """Two pairs with two images, the chosen completions behind spoilt images too."""
    samples = [
        with_pair(make_sample("i see 7.", "7", sample_id="a")),
        with_pair(make_sample("no yes", "1", sample_id="b"), "<answer>12</answer>"),
    ]
    return random_tiny_encoder.encode_pairs(samples, Inverted())


def by_hand(rejected=(1, -1), corrupted=(-1, 2)):
    ids = torch.zeros(3, 4, dtype=torch.long)
    return PreferenceBatch(
        prompts=PromptBatch(ids, ids, {}),
        token_ids=ids,
        mask=ids,
        counted=torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 0]]),
        prompt_of=torch.zeros(3, dtype=torch.long),
        chosen=torch.tensor([0, 2]),
        rejected=torch.tensor(rejected),
        corrupted=torch.tensor(corrupted),
        weights=torch.tensor([1.0, 0.5]),
        sample_of=torch.tensor([0, 1]),
    )


def test_sums_are_dealt_out_to_pairs_and_0_stands_for_none():
    sums = torch.tensor([-1.0, -2.0, -4.0])
    found = pair_log_probs(by_hand(), sums, with_corrupted=True)
    assert found.chosen.tolist() == [-1, -4]
    assert found.rejected.tolist() == [-2, 0]
    assert found.corrupted.tolist() == [0, -4]
    assert pair_log_probs(by_hand(), sums).corrupted is None


def test_an_objective_is_told_what_a_pair_lacks():
    scores = pair_scores(by_hand(), torch.zeros(3), None)
    assert scores.reference is None
    assert scores.chosen_tokens.tolist() == [2, 1]
    assert scores.rejected_tokens.tolist() == [3, 0]
    assert scores.has_rejected.tolist() == [True, False]
    assert scores.has_corrupted.tolist() == [False, True]
    assert scores.weights.tolist() == [1, 0.5]


def test_no_pairs_make_no_scores():
    none = torch.zeros(0, dtype=torch.long)
    tokens = torch.zeros(0, 0, dtype=torch.long)
    empty = PreferenceBatch(PromptBatch(tokens, tokens, {}), tokens, tokens, tokens, none)
    scores = pair_scores(empty, torch.zeros(0), torch.zeros(0), with_corrupted=True)
    assert len(scores.policy.chosen) == len(scores.rejected_tokens) == 0


def test_sums_agree_between_passes_and_with_features_made_before(random_tiny_model, batch):
    with torch.no_grad():
        naive = completion_sums(random_tiny_model, batch, prefix="naive")
        shared = completion_sums(random_tiny_model, batch, chunk_tokens=3)
        given = completion_sums(random_tiny_model, batch, media=frozen_media(random_tiny_model, batch))
    torch.testing.assert_close(shared, naive, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(given, naive, atol=1e-5, rtol=1e-5)
    assert len(naive) == 6


def test_only_counted_tokens_are_added(random_tiny_model, batch):
    with torch.no_grad():
        whole = completion_sums(random_tiny_model, batch)
        batch.counted[:, 0] = 0
        part = completion_sums(random_tiny_model, batch)
        first = random_tiny_model.score_rollouts(batch.prompts, batch.token_ids, batch.mask, batch.prompt_of)
    torch.testing.assert_close(whole - part, first.log_probs[:, 0], atol=1e-5, rtol=1e-5)


def test_features_made_before_have_no_graph(random_tiny_model, batch):
    assert not frozen_media(random_tiny_model, batch).has_graph
