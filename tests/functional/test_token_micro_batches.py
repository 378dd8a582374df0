import random

import pytest

from lit_vlm.functional.token_micro_batches import padded_tokens, token_micro_batches


def cost(rows, prompts, completions, owners, shares=True):
    lengths = [prompts[prompt] for prompt in {owners[row] for row in rows}]
    return padded_tokens(lengths, [completions[row] for row in rows], shares_prompts=shares)


def draw(seed):
    generator = random.Random(seed)
    prompts = [generator.randint(1, 60) for _ in range(generator.randint(1, 9))]
    owners = [generator.randrange(len(prompts)) for _ in range(generator.randint(1, 40))]
    return prompts, [generator.randint(1, 50) for _ in owners], owners, generator.randint(1, 400)


def test_padded_tokens_are_those_counted_by_hand():
    # 2 prompts of 7 with padding, 3 completions of 5: 14 + 15; repeated: 3 x (7 + 5).
    assert padded_tokens([4, 7], [5, 1, 2]) == 29
    assert padded_tokens([4, 7], [5, 1, 2], shares_prompts=False) == 36


def test_a_group_is_cut_where_it_does_not_fit_longest_first():
    # 10 + 2 x 8 = 26 > 20, so the two of 8 part; 10 + 2 x 4 = 18 fits.
    assert token_micro_batches([10], [4, 8, 8, 4], [0] * 4, 20) == [[0, 3], [1], [2]]


def test_small_groups_share_a_micro_batch():
    assert token_micro_batches([3, 3], [2, 2, 2, 2], [0, 0, 1, 1], 14) == [[0, 1, 2, 3]]


@pytest.mark.parametrize("seed", range(60))
@pytest.mark.parametrize("shares", [True, False])
def test_every_completion_is_in_one_micro_batch_within_the_budget_unless_alone(seed, shares):
    prompts, completions, owners, budget = draw(seed)
    batches = token_micro_batches(prompts, completions, owners, budget, shares_prompts=shares)
    assert sorted(row for rows in batches for row in rows) == list(range(len(owners)))
    costs = [cost(rows, prompts, completions, owners, shares) for rows in batches]
    assert all(cost <= budget or len(rows) == 1 for cost, rows in zip(costs, batches, strict=True))
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("seed", range(60))
def test_a_group_that_fits_stays_together(seed):
    prompts, completions, owners, budget = draw(seed)
    batches = token_micro_batches(prompts, completions, owners, budget)
    for prompt in set(owners):
        group = [row for row, owner in enumerate(owners) if owner == prompt]
        if cost(group, prompts, completions, owners) <= budget:
            assert any(set(group) <= set(rows) for rows in batches)


def test_a_completion_beyond_the_budget_goes_alone():
    batches = token_micro_batches([5, 5], [100, 3, 3], [0, 0, 1], 30)
    assert batches == [[0], [1, 2]]


def test_no_completions_give_no_micro_batches():
    assert token_micro_batches([5], [], [], 10) == []


@pytest.mark.parametrize(("owners", "budget", "message"), [([0], 0, "max_tokens is 0"), ([0, 0], 9, "1 completions")])
def test_senseless_requests_are_refused(owners, budget, message):
    with pytest.raises(ValueError, match=message):
        token_micro_batches([5], [3], owners, budget)
