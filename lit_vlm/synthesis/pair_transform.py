"""Makes one pair sample of a sample with candidates: the base of the transforms that differ in whom they pair."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace

from lit_vlm.interfaces.records import Message, Preference, Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.synthesis.completions import check_candidates, completion_key, trained


class PairTransform(SampleTransform):
    """Turns a sample into its prompt with pairs of completions.

    Pairs of one sample share its weight: with ``n`` of them each weighs ``1 / n``, so that no question counts more for
    having more completions.
    """

    @abstractmethod
    def pairs(self, sample: Sample) -> Sequence[Preference]:
        """Returns the pairs that can be made of a sample, perhaps none; never raises."""

    def training_pairs(self, sample: Sample) -> Sequence[Preference]:
        """Returns the pairs to train on: ``pairs``, where nothing else is said."""
        return self.pairs(sample)

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns the prompt with its pairs, or nothing where there is no pair.

        Raises:
            BadSampleError: The sample has no candidates.
        """
        check_candidates(sample)
        pairs = _shared_weight(self.training_pairs(sample))
        return (replace(sample, messages=sample.prompt, candidates=(), preferences=pairs),) if pairs else ()

    def for_evaluation(self, sample: Sample) -> Sample:
        """Adds the pairs of two completions; messages and answer stay, so that completions are still verified."""
        return replace(sample, preferences=_shared_weight([pair for pair in self.pairs(sample) if pair.rejected]))


def preference_between(chosen: Sequence[Message], rejected: Sequence[Message]) -> Preference | None:
    """Pairs two completions; None where they say the same, white space aside."""
    if completion_key(chosen) == completion_key(rejected):
        return None
    return Preference(trained(chosen), trained(rejected))


def _shared_weight(pairs: Sequence[Preference]) -> tuple[Preference, ...]:
    return tuple(replace(pair, weight=pair.weight / len(pairs)) for pair in pairs)
