"""Imitates completions as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.synthesis.completions import check_candidates, imitation_sample, origin_of, spoken_candidates, total_score


@dataclass(frozen=True)
class Replay(SampleTransform):
    """Makes a training sample of every candidate that says something, right or wrong, repeated or not.

    What should not be replayed is left out before, by the operators of ``data.curation``.
    """

    weight: str | None = None
    """Grade that a sample's weight is multiplied by, 0 or more, such as ``reward``; None leaves weights as they are."""
    shared: bool = False
    """Whether the candidates of one prompt share its weight, so that no question counts more for having more of
    them."""

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns one sample for each candidate, in their order.

        Raises:
            BadSampleError: The sample has no candidates, or one of them lacks the grade or has a negative one.
        """
        check_candidates(sample)
        spoken = spoken_candidates(sample)
        replayed = []
        for index, candidate in spoken:
            factor = 1.0 if self.weight is None else total_score(candidate, [self.weight])
            if factor is None or factor < 0:
                raise BadSampleError(
                    origin_of(sample), f"has a candidate without a grade {self.weight!r} of 0 or more; name another"
                )
            weight = sample.weight * factor / (len(spoken) if self.shared else 1)
            replayed.append(replace(imitation_sample(sample, index, candidate.messages), weight=weight))
        return tuple(replayed)
