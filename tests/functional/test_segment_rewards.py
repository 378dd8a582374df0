import pytest
import torch

from lit_vlm.functional.segment_rewards import faithfulness, segment_token_rewards, with_kl_penalty


def test_the_dense_reward_of_a_worked_example() -> None:
    # Segments end at 2 and 5. Token 2: .8 + .1 + 0 + .1 * .1 = .91; token 5: -.4 + .2 - .5 - .1 * .5 = -.75.
    scores = torch.tensor([[0.8, -0.4], [0.1, 0.2], [0.0, -0.5]], dtype=torch.float64)
    ratio = torch.tensor([0.0, 0.2, -0.1, 0.0, 0.3, 0.5], dtype=torch.float64)
    rewards = segment_token_rewards(scores, torch.ones(3), [2, 5], 6)
    reference = torch.full((6,), -1.5, dtype=torch.float64)
    shaped = with_kl_penalty(rewards, reference + ratio, reference, 0.1)
    expected = torch.tensor([0.0, -0.02, 0.91, 0.0, -0.03, -0.75], dtype=torch.float64)
    torch.testing.assert_close(shaped, expected, atol=1e-9, rtol=0)


def test_the_rewards_add_up_to_the_weighted_scores() -> None:
    scores = torch.rand(2, 4)
    weights = torch.tensor([2.0, 0.5])
    rewards = segment_token_rewards(scores, weights, [0, 3, 3, 6], 7)
    torch.testing.assert_close(rewards.sum(), (weights[:, None] * scores).sum())
    torch.testing.assert_close(rewards[3], (weights @ scores)[1:3].sum())  # two end at one token
    assert rewards[[1, 2, 4, 5]].tolist() == [0, 0, 0, 0]


def test_a_response_without_segments_gets_nothing() -> None:
    assert segment_token_rewards(torch.zeros(2, 0), torch.ones(2), [], 3).tolist() == [0, 0, 0]


def test_faithfulness_lies_between_its_ends() -> None:
    corners = torch.eye(3)
    assert faithfulness(corners).tolist() == [-1, 0, 1]
    assert faithfulness(torch.tensor([0.2, 0.3, 0.5])).item() == pytest.approx(0.3)


@pytest.mark.parametrize(
    ("shape", "weights", "ends", "message"),
    [
        ((2, 2), 2, [1], r"shape \(2, 2\) for 2 kinds and 1 sub-sentences"),
        ((2, 2), 3, [0, 1], r"for 3 kinds"),
        ((1, 2), 1, [1, 4], r"\[1, 4\] of a response of 4"),
        ((1, 1), 1, [-1], r"\[-1\]"),
    ],
)
def test_what_does_not_agree_is_refused(shape: tuple[int, int], weights: int, ends: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segment_token_rewards(torch.zeros(shape), torch.ones(weights), ends, 4)
