from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, Sample
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.interfaces.segments import Hallucination, SegmentScorer
from lit_vlm.parsing.segments import split_segments
from lit_vlm.rewards.segment_reward import SegmentReward, WeightedScorer
from lit_vlm.rewards.weighted_rewards import WeightedReward, WeightedRewards

WORDS = ["", " there", " is", ".", " cat", " dog", " and"]
"""What each token id writes; 0 is the end of a turn."""


class Says(SegmentScorer):
    """Gives each sub-sentence the score written down for it, as a difference of probabilities."""

    def __init__(self, kind: Hallucination, scores: dict[str, float], words: Sequence[str] = WORDS) -> None:
        self._kind: Hallucination = kind
        self._scores = scores
        self._words = words

    @property
    def kind(self) -> Hallucination:
        return self._kind

    def __call__(self, completions: Sequence[Completion]) -> list[Tensor]:
        judged = []
        for completion in completions:
            scores = torch.tensor([self._scores.get(segment, 0.0) for segment in split_segments(completion.text)])
            nothing = 1 - scores.abs()
            judged.append(torch.stack([(-scores).clamp(min=0), nothing, scores.clamp(min=0)], -1).reshape(-1, 3))
        return judged

    def token_texts(self, token_ids: Sequence[int]) -> list[str]:
        return [self._words[token_id] for token_id in token_ids]


def completion(ids: Sequence[int], words: Sequence[str] = WORDS) -> Completion:
    return Completion(Sample("s", ()), "", "".join(words[token_id] for token_id in ids), None)


def worked_example() -> list[WeightedScorer]:
    scores = {"existence": (0.8, -0.4), "attribute": (0.1, 0.2), "relation": (0.0, -0.5)}
    return [
        WeightedScorer(Says(kind, {"there is.": first, "cat dog.": second}))  # type: ignore[arg-type]
        for kind, (first, second) in scores.items()
    ]


TOKENS = (1, 2, 3, 4, 5, 3)


def test_the_dense_reward_of_a_worked_example() -> None:
    # Segments end at tokens 2 and 5: .8 + .1 + 0 = .9; -.4 + .2 - .5 = -.7.
    output = SegmentReward(worked_example(), "per_token")([completion(TOKENS)], RewardContext(token_ids=(TOKENS,)))
    (rewards,) = output.per_token or ()
    torch.testing.assert_close(rewards, torch.tensor([0, 0, 0.9, 0, 0, -0.7]))
    assert output.total.tolist() == [0]  # it stands beside the rewards of tokens, so it must not count them again
    assert output.details["existence"].item() == pytest.approx(0.4)
    assert set(output.details) == {"existence", "attribute", "relation"}


def test_both_forms_add_up_to_the_same() -> None:
    scorers = [
        WeightedScorer(Says("existence", {"there is.": 0.5, "cat": -1.0}), 2.0),
        WeightedScorer(Says("relation", {"there is.": -0.25}), 0.5),
    ]
    ids = ((1, 2, 3, 4, 0), (1, 2, 3, 0), (0,), (4, 5))
    completions = [completion(row) for row in ids]
    context = RewardContext(token_ids=ids)
    dense = SegmentReward(scorers, "per_token")(completions, context)
    summed = SegmentReward(scorers, "total")(completions, context)
    assert summed.per_token is None
    assert summed.total.tolist() == pytest.approx([-1.125, 0.875, 0, 0])
    assert [row.sum().item() for row in dense.per_token or ()] == pytest.approx(summed.total.tolist())
    assert [len(row) for row in dense.per_token or ()] == [5, 4, 1, 2]
    assert (dense.per_token or ())[0].tolist() == [0, 0, 0.875, 0, -2]  # no sentence end: the last token
    assert summed.total.dtype == torch.float32


def test_where_tokens_are_not_known_the_sum_is_given() -> None:
    output = SegmentReward(worked_example(), "per_token")([completion(TOKENS)])
    assert output.per_token is None
    assert output.total.item() == pytest.approx(0.2)


def test_it_is_one_of_several_rewards_of_rollouts() -> None:
    reward = WeightedRewards([WeightedReward("faithful", SegmentReward(worked_example(), "per_token"), weight=2.0)])
    ids = ((1, 2, 3), TOKENS)
    rewards = reward.score([completion(row) for row in ids], RewardContext(group_of=(0, 0), token_ids=ids))
    assert rewards.per_token is not None
    torch.testing.assert_close(
        rewards.per_token, torch.tensor([[0, 0, 1.8, 0, 0, 0], [0, 0, 1.8, 0, 0, -1.4]]), atol=1e-6, rtol=0
    )
    assert rewards.total.tolist() == [0, 0]
    assert rewards.details["faithful/relation"].tolist() == pytest.approx([0, -0.5])


@pytest.mark.parametrize("form", ["per_token", "total"])
def test_no_completions_have_no_rewards(form: str) -> None:
    output = SegmentReward(worked_example(), form)([], RewardContext())  # type: ignore[arg-type]
    assert output.total.shape == (0,)
    assert all(values.shape == (0,) for values in output.details.values())


def test_a_scorer_that_reads_other_text_is_refused() -> None:
    reward = SegmentReward([WeightedScorer(Says("relation", {}, [word.upper() for word in WORDS]))], "per_token")
    with pytest.raises(UserError, match=r"judges relation reads other text from the tokens of sample 's'.*form total"):
        reward([completion(TOKENS)], RewardContext(token_ids=(TOKENS,)))


def test_settings_are_checked() -> None:
    with pytest.raises(UserError, match="form is 'dense'; give one of per_token, total"):
        SegmentReward(worked_example(), "dense")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"scorers judge \[\]"):
        SegmentReward([])
    twice = [WeightedScorer(Says("relation", {})), WeightedScorer(Says("relation", {}))]
    with pytest.raises(UserError, match=r"\['relation', 'relation'\]; give one or more, each for a kind"):
        SegmentReward(twice)
