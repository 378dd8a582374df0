"""Makes step-wise preferences of graded traces: which box to look at, and which answer to give behind the good one."""

from dataclasses import dataclass, replace
from typing import Literal

from lit_vlm.functional.focus_conversation import focus_conversation, with_shown_images
from lit_vlm.functional.focus_traces import ANSWER, BOX
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Candidate, Message, Preference, Sample
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.synthesis.trace_filter import TraceFilter


@dataclass(frozen=True)
class FocusBoxPairs(SampleTransform):
    """Turns a sample with traces as candidates into its prompt with one pair for each step that is learnt.

    A trace is the assistant's box, the user's turn with the crop, the assistant's answer; its scores are ``answer`` and
    ``box``. In the answer's step both answers stand behind the good trace's box and crop, so that only the answer
    differs. A sample whose traces are too alike gives nothing; nor does one whose two boxes are written alike.

    Source:
        Zhang et al., VisRL: Intention-Driven Visual Perception via Reinforced Reasoning (2025), section on step-level
        preference optimisation; ``src/visrl_stage2`` (confirmed-in-code).
    """

    stage: Literal["box", "box_and_answer"] = "box_and_answer"
    """``box``: the box alone; ``box_and_answer``: both, each with half the weight."""
    filter: TraceFilter = TraceFilter()
    """Chooses the good trace and the bad one."""

    def __post_init__(self) -> None:
        if self.stage not in ("box", "box_and_answer"):
            raise UserError(f"stage is {self.stage!r}; choose box or box_and_answer")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns the question with its pairs, or nothing.

        Raises:
            BadSampleError: The sample has no candidates, or one that is no trace.
        """
        pairs = self._pairs(sample)
        if not pairs:
            return ()
        question = focus_conversation(sample).question
        return (with_shown_images(replace(sample, messages=question, candidates=(), preferences=pairs)),)

    def for_evaluation(self, sample: Sample) -> Sample:
        """Adds the pairs, where there are any; messages and answer stay, so that completions are still verified.

        Raises:
            BadSampleError: A candidate is no trace.
        """
        pairs = self._pairs(sample) if sample.candidates else ()
        return with_shown_images(replace(sample, candidates=(), preferences=pairs))

    def _pairs(self, sample: Sample) -> tuple[Preference, ...]:
        origin = sample.meta.origin or sample.id
        if not sample.candidates:
            raise BadSampleError(origin, "it has no candidates; give it traces scored by answer and box")
        traces = [_checked(origin, place, candidate) for place, candidate in enumerate(sample.candidates)]
        found = self.filter([(trace.scores[ANSWER], trace.scores[BOX]) for trace in traces])
        if found is None:
            return ()
        good, bad = (traces[place].messages for place in found)
        if good[0].text == bad[0].text:
            return ()
        question = focus_conversation(sample).question
        box = Preference((good[0],), (bad[0],), prompt=question)
        if self.stage == "box":
            return (box,)
        answer = Preference((good[2],), (bad[2],), prompt=(*question, _read(good[0]), good[1]), weight=0.5)
        return replace(box, weight=0.5), answer


def _read(message: Message) -> Message:
    """Marks a turn as one that is only read."""
    return replace(message, train=False)


def _checked(origin: str, place: int, candidate: Candidate) -> Candidate:
    """Refuses a candidate that is no scored trace."""
    roles = [message.role for message in candidate.messages]
    if roles != ["assistant", "user", "assistant"]:
        raise BadSampleError(
            origin,
            f"candidate {place} has the turns {', '.join(roles) or 'none'}; a trace has assistant (box), user (crop), "
            "assistant (answer)",
        )
    for name in (ANSWER, BOX):
        if not 0 <= candidate.scores.get(name, -1.0) <= 1:
            raise BadSampleError(
                origin,
                f"candidate {place} has {candidate.scores.get(name, 'no')} score {name!r}; give one from 0 to 1",
            )
    return candidate
