"""An expert's completion against the model's own."""

from dataclasses import dataclass

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import INJECTED_ERROR, Preference, Sample
from lit_vlm.synthesis.completions import is_empty, origin_of, reference_completion
from lit_vlm.synthesis.pair_transform import PairTransform, preference_between


@dataclass(frozen=True)
class ExpertPairs(PairTransform):
    """Prefers the sample's own last assistant turn, an expert's, to the first candidate, which the model wrote.

    Where both say the same, the expert is only imitated. Where either says nothing, there is no training sample.

    Source:
        Yang et al., Embodied Multi-Modal Agent trained by an LLM from a Parallel TextWorld (2024), released code
        (confirmed-in-code). There, pairs of equal actions stay pairs; we keep them for the likelihood alone.
    """

    def pairs(self, sample: Sample) -> tuple[Preference, ...]:
        """Returns the one pair, without a rejected side where both say the same."""
        expert = reference_completion(sample)
        own = next((candidate for candidate in sample.candidates if candidate.model != INJECTED_ERROR), None)
        if expert is None or own is None or is_empty(own.messages):
            return ()
        return (preference_between(expert, own.messages) or Preference(expert, ()),)

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns the prompt with its pair, or nothing where the expert or the model says nothing.

        Raises:
            BadSampleError: The sample does not end on an assistant turn, or has no candidates.
        """
        if len(sample.prompt) == len(sample.messages):
            raise BadSampleError(
                origin_of(sample), "has no expert's completion; let its last turn be the assistant's, as the expert"
            )
        return super().__call__(sample)
