import pytest
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from lit_vlm.rollouts.row_random import BITS, row_seeds
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.rollouts.token_sampler import TokenSampler, cut_off, draw

VOCABULARY = 12
ROWS = 40_000


def logits_of(rows=1, seed=0, size=VOCABULARY):
    return 2 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def sampler(rows, unsampled=(), **settings):
    return TokenSampler(SamplingSettings(**settings), row_seeds(range(rows), rows, 1, torch.device("cpu")), unsampled)


def chi_square(token_ids, probabilities):
    counts = torch.bincount(token_ids, minlength=len(probabilities)).double()
    assert not counts[probabilities == 0].any()
    possible = probabilities > 0
    expected = probabilities[possible].double() * len(token_ids)
    return float(((counts[possible] - expected) ** 2 / expected).sum()), int(possible.sum()) - 1


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 0.6},
        {"temperature": 1.7},
        {"top_k": 4},
        {"top_p": 0.8},
        {"min_p": 0.15},
        {"temperature": 1.3, "top_k": 7, "top_p": 0.9, "min_p": 0.1},
    ],
)
@pytest.mark.parametrize("unsampled", [(), (2, 5)])
def test_frequencies_are_those_of_transformers_distribution(settings, unsampled):
    logits = logits_of()
    scores = logits.index_fill(1, torch.tensor(unsampled, dtype=torch.int64), -torch.inf)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings.get("temperature", 1.0))])
    if "top_k" in settings:
        warpers.append(TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        warpers.append(TopPLogitsWarper(settings["top_p"]))
    if "min_p" in settings:
        warpers.append(MinPLogitsWarper(settings["min_p"]))
    expected = warpers(None, scores)[0].softmax(-1)
    drawn = sampler(ROWS, unsampled, **settings)(logits.expand(ROWS, -1), 3)
    statistic, freedom = chi_square(drawn.token_ids, expected)
    assert statistic < freedom + 4.5 * (2 * max(freedom, 1)) ** 0.5
    # Whatever is cut off, the figures are those of the whole softmax.
    whole = torch.distributions.Categorical(logits=logits[0] / settings.get("temperature", 1.0))
    torch.testing.assert_close(drawn.log_probs, whole.log_prob(drawn.token_ids))
    torch.testing.assert_close(drawn.entropies, whole.entropy().expand(ROWS))


def test_the_check_of_frequencies_sees_another_distribution():
    drawn = sampler(ROWS, temperature=1.1)(logits_of().expand(ROWS, -1), 3)
    statistic, freedom = chi_square(drawn.token_ids, logits_of()[0].softmax(-1))
    assert statistic > freedom + 10 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("settings", [{"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.2}, {"top_k": 9, "top_p": 0.5}])
def test_cuts_leave_what_transformers_leaves(settings):
    logits = logits_of(200, seed=1, size=50)
    warpers = LogitsProcessorList()
    if "top_k" in settings:
        warpers.append(TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        warpers.append(TopPLogitsWarper(settings["top_p"]))
    if "min_p" in settings:
        warpers.append(MinPLogitsWarper(settings["min_p"]))
    kept = warpers(None, logits) > -torch.inf
    found = cut_off(logits.softmax(-1), SamplingSettings(**settings))
    assert torch.equal(found > 0, kept)
    assert torch.equal(found[kept], logits.softmax(-1)[kept])


def test_ties_at_a_cut_all_stay():
    even = torch.full((1, 6), 1 / 6)
    for settings in (SamplingSettings(top_k=2), SamplingSettings(top_p=0.4)):
        assert torch.equal(cut_off(even, settings), even)


def test_the_ends_of_the_random_numbers_fall_on_possible_indices():
    weights = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]]).expand(2, -1)
    assert draw(weights, torch.tensor([0, 2**BITS - 1])).tolist() == [1, 3]
    sure = torch.zeros(2, 150_000).index_fill_(1, torch.tensor([149_999]), 1.0)
    assert draw(sure, torch.tensor([0, 2**BITS - 1])).tolist() == [149_999] * 2


def test_a_likely_token_that_must_not_come_leaves_the_others_their_shares():
    logits = torch.tensor([[60.0, 0.0, 1.0]])
    drawn = sampler(ROWS, unsampled=(0,))(logits.expand(ROWS, -1), 0)
    statistic, _ = chi_square(drawn.token_ids, torch.tensor([-torch.inf, 0.0, 1.0]).softmax(0))
    assert statistic < 20


def test_greedy_takes_the_likeliest_that_may_come():
    logits = logits_of(30)
    found = sampler(30, temperature=0.0)(logits, 0)
    assert torch.equal(found.token_ids, logits.argmax(-1))
    torch.testing.assert_close(found.log_probs, logits.log_softmax(-1).amax(-1))
    best = int(logits[0].argmax())
    assert int(sampler(1, (best,), temperature=0.0)(logits[:1], 0).token_ids) == int(logits[0].topk(2).indices[1])


@pytest.mark.parametrize("penalty", [1.5, 0.7])
def test_the_repetition_penalty_is_transformers(penalty):
    rows, steps = 5, 6
    prompts = torch.randint(VOCABULARY, (rows, 4), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(prompts)
    mask[1:, 0] = 0  # padding is nothing that the row holds
    ours = sampler(rows, temperature=0.0, repetition_penalty=penalty)
    ours.hold(prompts, mask, VOCABULARY)
    theirs = RepetitionPenaltyLogitsProcessor(penalty)
    rows_so_far = [row[present != 0] for row, present in zip(prompts, mask, strict=True)]
    for step in range(steps):
        if step == 3:
            ours.select(torch.tensor([4, 1, 2]))
            rows_so_far = [rows_so_far[index] for index in (4, 1, 2)]
        logits = logits_of(len(rows_so_far), seed=step)
        found = ours(logits, step)
        expected = [int(theirs(row[None], logits[i : i + 1].clone()).argmax()) for i, row in enumerate(rows_so_far)]
        assert found.token_ids.tolist() == expected
        torch.testing.assert_close(found.log_probs, logits.log_softmax(-1).gather(1, found.token_ids[:, None])[:, 0])
        rows_so_far = [torch.cat([row, token[None]]) for row, token in zip(rows_so_far, found.token_ids, strict=True)]


def test_a_row_draws_the_same_in_any_company():
    logits = logits_of(50)
    together, apart = sampler(50), sampler(50)
    apart.select(torch.tensor([31, 2]))
    expected = [int(together(logits, step).token_ids[31]) for step in range(20)]
    assert [int(apart(logits[[31, 2]], step).token_ids[0]) for step in range(20)] == expected
    assert len(set(expected)) > 1


def test_logits_of_few_bits_are_widened_first():
    logits = logits_of(3).bfloat16()
    found = sampler(3)(logits, 0)
    assert found.log_probs.dtype == found.entropies.dtype == torch.float32
    torch.testing.assert_close(
        found.log_probs, logits.float().log_softmax(-1).gather(1, found.token_ids[:, None])[:, 0]
    )


def test_impossible_tokens_do_not_spoil_the_entropy():
    found = sampler(1)(torch.tensor([[0.0, 0.0, -torch.inf]]), 0)
    torch.testing.assert_close(found.entropies, torch.tensor([2.0]).log())
