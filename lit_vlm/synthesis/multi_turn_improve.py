"""Learns from dialogues of attempts to do better at the next one."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lit_vlm.functional.next_turn import TriedQuestion, tried_question
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Candidate, Message, Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.synthesis.completions import (
    check_candidates,
    completion_key,
    imitation_sample,
    origin_of,
    spoken_candidates,
    total_score,
)

Criterion = Literal["all", "better", "best", "success"]


@dataclass(frozen=True)
class MultiTurnImprove(SampleTransform):
    """Makes of each turn of a dialogue a sample to imitate: what was said before it, then its action alone.

    It is given the ledgers of all turns together, the first one's and those of ``NextTurnPrompts``: each sample is a
    dialogue so far with the completions of its last turn. At the first turn every completion is an attempt and so a
    dialogue of its own. At later turns one completion is the improved action: the best of them (self-improvement), or
    the teacher's (distillation). What is learnt weighs ``exp(reward / tau)``, by ``Sample.weight``; weights are not
    normalised, so ``SFTLoss`` with ``reduction: seq_mean`` is the method's mean over samples of the weighted mean
    over the action's tokens.

    Actions that an earlier turn of the dialogue has already are removed first, with the feedback on them; white space
    does not tell them apart. Empty completions are left out.

    Source:
        Qu et al., Recursive Introspection: Teaching Language Model Agents How to Self-Improve (RISE, 2024), section 4,
        with the criteria, the removal of duplicates and the defaults of their code; confirmed-in-code. That the first
        of equally good completions is taken is ours.
    """

    tau: float = 0.4
    """Temperature of the weights, above 0: at 0.4 a success weighs 12.18 times as much as a failure."""
    criterion: Criterion = "all"
    """Which turns are learnt. ``all``; ``better``: those with a higher reward than the turn before; ``best``: than no
    turn before a lower one; ``success``: reward 1. The first turn always is, but for ``success``."""
    score: tuple[str, ...] = ("correct",)
    """Names of the grades that are added up to a completion's reward, in [0, 1]."""
    teacher: str | None = None
    """Who wrote the improved actions (``Candidate.model``), whose first completion is taken; None takes the best of
    all."""

    def __post_init__(self) -> None:
        if not self.tau > 0 or math.isinf(self.tau):
            raise UserError(f"tau is {self.tau}; give a number above 0, such as 0.4")
        if not self.score or len(set(self.score)) != len(self.score):
            raise UserError(f"score is {list(self.score)}; name one or more grades, each once")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns what is learnt of the last turn of each dialogue.

        Raises:
            BadSampleError: The sample has no candidates, one without a reward in [0, 1], or none of the teacher; or
                its dialogue went on after a right attempt.
        """
        check_candidates(sample)
        tried = tried_question(sample)
        if any(turn.reward >= 1 for turn in tried.earlier):
            raise BadSampleError(
                origin_of(sample), "its dialogue goes on after a right attempt; it has to stop at the first"
            )
        rewarded = [
            (index, candidate, self._reward(sample, candidate)) for index, candidate in spoken_candidates(sample)
        ]
        if tried.earlier and self.teacher is not None:
            rewarded = [entry for entry in rewarded if entry[1].model == self.teacher][:1]
            if not rewarded:
                raise BadSampleError(origin_of(sample), f"has no completion of the teacher {self.teacher!r}")
        elif tried.earlier:
            rewarded = sorted(rewarded, key=lambda entry: -entry[2])[:1]
        made = (self._learnt(sample, tried, *entry) for entry in rewarded)
        return tuple(learnt for learnt in made if learnt is not None)

    def _reward(self, sample: Sample, candidate: Candidate) -> float:
        reward = total_score(candidate, self.score)
        if reward is None or not 0 <= reward <= 1:
            raise BadSampleError(
                origin_of(sample),
                f"has a candidate whose {' + '.join(self.score)} is {reward}; a reward has to be in [0, 1]",
            )
        return reward

    def _learnt(
        self, sample: Sample, tried: TriedQuestion, index: int, candidate: Candidate, reward: float
    ) -> Sample | None:
        context: list[Message] = [*tried.question]
        rewards: list[float] = []
        seen = set()
        for turn in tried.earlier:
            key = completion_key([turn.attempt])
            if key not in seen:
                seen.add(key)
                context += [turn.attempt, turn.feedback]
                rewards.append(turn.reward)
        if completion_key(candidate.messages) in seen or not is_learnt([*rewards, reward], self.criterion):
            return None
        learnt = imitation_sample(sample, index, candidate.messages, context)
        return replace(learnt, weight=sample.weight * math.exp(reward / self.tau))


def is_learnt(rewards: Sequence[float], criterion: Criterion) -> bool:
    """Tells whether the last turn of a dialogue is learnt.

    Args:
        rewards: Of all turns so far, in order; one or more.
        criterion: See ``MultiTurnImprove``.

    Example:
        >>> [is_learnt([0, 0, 1][:turns], "better") for turns in (1, 2, 3)]
        [True, False, True]
    """
    *earlier, last = rewards
    if criterion == "success":
        return last == 1
    if not earlier or criterion == "all":
        return True
    return last > earlier[-1] if criterion == "better" else last >= max(earlier)
