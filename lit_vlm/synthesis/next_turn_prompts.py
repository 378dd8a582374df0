"""Asks again where an attempt was wrong."""

from dataclasses import dataclass, replace

from lit_vlm.functional.next_turn import CANDIDATE, FEEDBACK, PARENT, next_turn
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.synthesis.completions import check_candidates, origin_of, spoken_candidates, total_score


@dataclass(frozen=True)
class NextTurnPrompts(SampleTransform):
    """Makes of each wrong completion the prompt of the next turn: the dialogue so far, the completion, feedback on it.

    A dialogue stops at its first right attempt, of which nothing is made; empty completions are left out. The id of
    what is made is ``<id>#<place of the completion>``, and ``meta.extra`` has the id as ``parent``, the place as
    ``candidate`` and the rewards of all attempts as ``earlier_rewards``.

    Source:
        Qu et al., Recursive Introspection: Teaching Language Model Agents How to Self-Improve (RISE, 2024), section 4;
        confirmed-in-code. The wording is ours. In their code every dialogue starts with one fixed worked example, which
        can be given as the system prompt here.
    """

    feedback: str = FEEDBACK
    """What the user says of a wrong attempt."""
    score: tuple[str, ...] = ("correct",)
    """Names of the grades that are added up to a completion's reward."""
    success: float = 1.0
    """Least reward of a right attempt."""
    per_prompt: int | None = None
    """Most dialogues that go on of one prompt, the first ones; None takes all."""

    def __post_init__(self) -> None:
        if not self.feedback.strip():
            raise UserError("feedback is empty; give what the user says of a wrong attempt")
        if not self.score or len(set(self.score)) != len(self.score):
            raise UserError(f"score is {list(self.score)}; name one or more grades, each once")
        if self.success != self.success:
            raise UserError("success is not a number; give the least reward of a right attempt")
        if self.per_prompt is not None and self.per_prompt < 1:
            raise UserError(f"per_prompt is {self.per_prompt}; give at least 1, or null to take all")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns a prompt for each wrong completion.

        Raises:
            BadSampleError: The sample has no candidates, or one without a grade.
        """
        check_candidates(sample)
        asked = [
            self._next(sample, index, candidate, reward)
            for index, candidate in spoken_candidates(sample)
            if (reward := self._reward(sample, candidate)) < self.success
        ]
        return tuple(asked[: self.per_prompt])

    def for_evaluation(self, sample: Sample) -> Sample:
        """Goes on with the first wrong completion; a sample that has none is asked as it stands.

        Raises:
            BadSampleError: A candidate has no grade.
        """
        wrong = self(sample) if sample.candidates else ()
        return wrong[0] if wrong else sample

    def _reward(self, sample: Sample, candidate: Candidate) -> float:
        reward = total_score(candidate, self.score)
        if reward is None:
            raise BadSampleError(origin_of(sample), f"has a candidate without {' and '.join(self.score)}; grade it")
        return reward

    def _next(self, sample: Sample, index: int, candidate: Candidate, reward: float) -> Sample:
        if len(candidate.messages) != 1:
            raise BadSampleError(
                origin_of(sample),
                f"has a candidate of {len(candidate.messages)} turns; an attempt is one turn of the assistant",
            )
        asked = next_turn(sample, candidate.text, self.feedback, reward)
        extra = {**asked.meta.extra, PARENT: sample.id, CANDIDATE: index}
        return replace(asked, id=f"{sample.id}#{index}", meta=replace(asked.meta, extra=extra))
