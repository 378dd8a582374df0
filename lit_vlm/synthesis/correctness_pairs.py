"""Right completions against wrong ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import INJECTED_ERROR, Candidate, Message, Preference, Sample
from lit_vlm.synthesis.completions import (
    completion_key,
    distinct_candidates,
    first_of_each,
    is_empty,
    reference_completion,
)
from lit_vlm.synthesis.pair_transform import PairTransform, preference_between

PairSource = Literal["own", "corrected", "injected"]


@dataclass(frozen=True)
class CorrectnessPairs(PairTransform):
    """Prefers a completion that was verified as right to one that is wrong.

    A candidate is right where its score ``correct`` is 1 and wrong where it is 0; others are left out, and so are empty
    ones and repeats.

    Source:
        ``own``: Pang et al., Iterative Reasoning Preference Optimization (2024). ``corrected``: Yu et al., RLHF-V
        (2024), where people correct the model's own errors. Which pairs stay under the cap is ours (reconstructed).
    """

    sources: tuple[PairSource, ...] = ("own", "corrected", "injected")
    """``own``: a right candidate against a wrong one; ``corrected``: the sample's last assistant turn against a wrong
    candidate; ``injected``: that turn against a candidate whose ``model`` is ``injected_error``."""
    pairs_per_sample: int = 1
    """Most pairs of one sample, which share the weight of one; the sources are drawn on by turns, in their order."""

    def __post_init__(self) -> None:
        known = get_args(PairSource)
        if not self.sources or len(set(self.sources)) != len(self.sources) or not set(self.sources) <= set(known):
            raise UserError(f"sources is {list(self.sources)}; choose one or more of {list(known)}, each once")
        if self.pairs_per_sample < 1:
            raise UserError(f"pairs_per_sample is {self.pairs_per_sample}; give at least 1")

    def pairs(self, sample: Sample) -> tuple[Preference, ...]:
        """Returns the first pairs that differ, taking one from each source by turns."""
        queues = [self._pairs_of(source, sample) for source in self.sources]
        turns = max(map(len, queues))
        by_turns = [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)]
        # A candidate may say what the last turn says, and give the same pair once more.
        distinct = first_of_each(
            by_turns, key=lambda pair: (completion_key(pair.chosen), completion_key(pair.rejected))
        )
        return tuple(distinct[: self.pairs_per_sample])

    def _pairs_of(self, source: PairSource, sample: Sample) -> list[Preference]:
        spoken = [candidate for candidate in sample.candidates if not is_empty(candidate.messages)]
        own = [candidate for candidate in spoken if candidate.model != INJECTED_ERROR]
        reference = reference_completion(sample)
        expert = [] if reference is None else [reference]
        wrong = _graded(own, 0)
        if source == "own":
            return _crossed(_graded(own, 1), wrong)
        if source == "corrected":
            return _crossed(expert, wrong)
        injected = [candidate for candidate in spoken if candidate.model == INJECTED_ERROR]
        return _crossed(expert, [candidate.messages for candidate in distinct_candidates(injected)])


def _graded(candidates: Sequence[Candidate], correct: int) -> list[tuple[Message, ...]]:
    graded = [candidate for candidate in candidates if candidate.scores.get("correct") == correct]
    return [candidate.messages for candidate in distinct_candidates(graded)]


def _crossed(chosen: Sequence[Sequence[Message]], rejected: Sequence[Sequence[Message]]) -> list[Preference]:
    """Pairs each with each, in an order that comes back to a completion as late as possible."""
    places = [(place, other) for place in range(len(chosen)) for other in range(len(rejected))]
    places.sort(key=lambda both: ((both[1] - both[0]) % len(rejected), both[0]))
    pairs = [preference_between(chosen[place], rejected[other]) for place, other in places]
    return [pair for pair in pairs if pair is not None]
