import math

import pytest
import torch

from lit_vlm.callbacks.rollout_views import round_view, scales


def test_a_completion_has_the_numbers_of_its_own_tokens(rounds):
    iteration = rounds.make([[(["a", "b", "c"], 1.0)], [(["d"], 0.0), (["e"], math.nan)]], step=30)
    view = round_view(iteration, rounds.encoder, 8)
    assert view.step == 30
    assert [len(prompt.completions) for prompt in view.prompts] == [1, 2]
    first, (second, third) = view.prompts[0].completions[0], view.prompts[1].completions
    assert first.texts == ("a", "b", "c", "")
    assert second.texts == ("d", "")
    # Three rows of four places: the ramp rises by 1/12 at each, row 2 begins at place 5.
    assert second.numbers["entropy"] == pytest.approx((10 / 12, 12 / 12))
    assert second.numbers["log_prob"] == pytest.approx((-5 / 12, -6 / 12))
    assert second.numbers["log_ratio"] == pytest.approx((0.25, 0.25))
    # Reference 1.5 x -5/12, policy -5/12 + 1/4: d = -11/24; exp(d) - d - 1.
    difference = -5 / 24 - 0.25
    assert second.numbers["kl"][0] == pytest.approx(math.exp(difference) - difference - 1)
    assert second.advantage == pytest.approx(-0.5)
    assert (first.reward, second.reward) == (1, 0)
    assert math.isnan(third.reward)
    assert [(part.name, part.weight) for part in first.parts] == [("exact_match", 1.0), ("length", 0.5)]
    assert first.details == {"length/over": 2.0}


def test_masked_places_are_no_tokens(rounds):
    iteration = rounds.make([[(["a", "b"], 1.0), (["c"], 0.0)]])
    for item in round_view(iteration, rounds.encoder, 8).prompts[0].completions:
        assert all(len(numbers) == len(item.token_ids) == len(item.texts) for numbers in item.numbers.values())


@pytest.mark.parametrize(
    ("missing", "names"),
    [
        ((), {"entropy", "log_ratio", "kl", "advantage", "log_prob"}),
        (("entropies",), {"log_ratio", "kl", "advantage", "log_prob"}),
        (("log_probs",), {"entropy", "kl", "advantage", "log_prob"}),
        (("advantages", "rewards"), {"entropy", "log_ratio", "kl", "log_prob"}),
    ],
)
def test_what_a_round_lacks_is_left_out(rounds, missing, names):
    iteration = rounds.without(rounds.make([[(["a"], 1.0)]]), *missing)
    (item,) = round_view(iteration, rounds.encoder, 8).prompts[0].completions
    assert set(item.numbers) == names


def test_a_round_without_a_reference_has_no_divergence(rounds):
    iteration = rounds.make([[(["a"], 1.0)]], reference=False)
    assert "kl" not in round_view(iteration, rounds.encoder, 8).prompts[0].completions[0].numbers


def test_before_an_update_the_divergence_is_that_of_the_sampling_policy(rounds):
    iteration = rounds.without(rounds.make([[(["a"], 1.0)]]), "log_probs")
    (item,) = round_view(iteration, rounds.encoder, 8).prompts[0].completions
    assert item.numbers["kl"][1] == pytest.approx(math.exp(-0.5) + 0.5 - 1)  # d = -1.5 + 1


def test_only_the_first_prompts_with_completions_are_shown(rounds):
    iteration = rounds.make([[(["a"], 1.0)], [(["b"], 1.0)], [(["c"], 0.0)], [(["d"], 1.0)]])
    dropped = rounds.select(iteration, [1, 3, 2])  # the group of prompt 0
    view = round_view(dropped, rounds.encoder, 2)
    assert [prompt.sample.id for prompt in view.prompts] == ["sample-1", "sample-3"]
    assert [prompt.completions[0].texts for prompt in view.prompts] == [("b", ""), ("d", "")]
    assert (view.prompts_in_all, view.without_completions) == (3, 1)


@pytest.mark.parametrize("missing", [("rollouts",), ()])
def test_a_round_without_completions_has_no_prompts(rounds, missing):
    iteration = rounds.select(rounds.make([[(["a"], 1.0)]]), [])
    view = round_view(rounds.without(iteration, *missing), rounds.encoder, 8)
    assert (view.prompts, view.prompts_in_all, view.without_completions) == ((), 0, 1)
    assert scales(view.prompts) == {}


def test_the_best_completion_comes_first_and_unscored_ones_nowhere(rounds):
    iteration = rounds.make([[(["a"], 0.0), (["b"], math.nan), (["c"], 1.0), (["d"], 0.0)]])
    scored = round_view(iteration, rounds.encoder, 8).prompts[0].scored
    assert [item.texts[0] for item in scored] == ["c", "a", "d"]


def test_a_scale_leaves_single_extremes_out(rounds):
    iteration = rounds.make([[([str(index) for index in range(99)], 1.0)]])
    values = torch.linspace(0.01, 1, 100)[None]
    values[0, 7] = -500
    iteration.rollouts.entropies = values
    found = scales(round_view(iteration, rounds.encoder, 8).prompts)["entropy"]
    # 100 sizes, of which the 98th in order is 0.99: 500 is the hundredth.
    assert found.bound == pytest.approx(0.99)
    assert (found.lowest, found.highest) == (-500, 1)


def test_rounding_is_not_blown_up_to_a_difference(rounds):
    iteration = rounds.make([[(["a"], 1.0)]])
    iteration.log_probs = iteration.rollouts.log_probs + 1e-7
    assert scales(round_view(iteration, rounds.encoder, 8).prompts)["log_ratio"].bound == 1e-3
