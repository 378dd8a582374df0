"""Quality asked for in the prompt: supervised samples of graded completions, good and bad."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Candidate, Message, Sample, TextPart
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.synthesis.completions import imitation_sample, origin_of, spoken_candidates


@dataclass(frozen=True)
class AttributePrompt(SampleTransform):
    """Ends the user's turn on a completion's grades, so that the best ones can be asked for.

    Every graded completion is imitated, bad ones too. A completion that has none of the attributes was not graded and
    is left out, as is an empty one.

    Source:
        Dong et al., SteerLM (2023), as a baseline of Li et al., Multi-modal preference alignment remedies regression
        (2024). The order and the place of the string, and the values asked for, are ours (reconstructed).
    """

    attributes: tuple[str, ...] = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    """Names of the grades, in the order in which they are written."""
    lowest: int = 0
    """Least value of a grade."""
    highest: int = 4
    """Greatest value of a grade."""
    requested: dict[str, int] = field(default_factory=lambda: {"verbosity": 2})
    """What is asked for in evaluation, by attribute; ``highest`` where nothing is said."""
    limit: int | None = None
    """Most completions of a question with the same grades, the first ones, so that rare grades weigh more; None for
    all, as the method has it."""

    def __post_init__(self) -> None:
        if not self.attributes or len(set(self.attributes)) != len(self.attributes):
            raise UserError(f"attributes is {list(self.attributes)}; name one or more attributes, each once")
        if any(not name or set(name) & set(":,\n") for name in self.attributes):
            raise UserError(f"attributes is {list(self.attributes)}; a name may hold no colon, comma or line break")
        if self.lowest >= self.highest:
            raise UserError(f"lowest is {self.lowest} and highest {self.highest}; highest has to be greater")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit is {self.limit}; give at least 1")
        for name, value in self.requested.items():
            if name not in self.attributes:
                raise UserError(f"requested names {name!r}, which is none of attributes, {list(self.attributes)}")
            if not self.lowest <= value <= self.highest:
                raise UserError(f"requested.{name} is {value}; give {self.lowest} to {self.highest}")

    def __call__(self, sample: Sample) -> tuple[Sample, ...]:
        """Returns one sample for each graded candidate, or for ``limit`` with the same grades.

        Raises:
            BadSampleError: No candidate is graded, one lacks an attribute, a grade is no integer or out of range, or
                the prompt has no user's turn.
        """
        graded = [
            (index, candidate)
            for index, candidate in spoken_candidates(sample)
            if any(name in candidate.scores for name in self.attributes)
        ]
        if not graded:
            raise BadSampleError(origin_of(sample), f"has no candidate with grades for {', '.join(self.attributes)}")
        alike: Counter[str] = Counter()
        made = []
        for index, candidate in graded:
            grades = self._grades(sample, index, candidate)
            alike[grades] += 1
            if self.limit is None or alike[grades] <= self.limit:
                made.append(imitation_sample(sample, index, candidate.messages, _with_request(sample, grades)))
        return tuple(made)

    def for_evaluation(self, sample: Sample) -> Sample:
        """Asks for the best completion; the sample is the same otherwise.

        Raises:
            BadSampleError: The prompt has no user's turn.
        """
        best = {name: self.requested.get(name, self.highest) for name in self.attributes}
        reference = sample.messages[len(sample.prompt) :]
        return replace(sample, messages=(*_with_request(sample, self.attribute_string(best)), *reference))

    def attribute_string(self, values: Mapping[str, int]) -> str:
        """Writes values in the order of ``attributes``, whatever theirs is.

        Example:
            >>> transform = AttributePrompt(attributes=("helpfulness", "verbosity"))
            >>> transform.attribute_string({"verbosity": 2, "helpfulness": 4})
            'helpfulness:4,verbosity:2'
        """
        return ",".join(f"{name}:{values[name]}" for name in self.attributes)

    def _grades(self, sample: Sample, index: int, candidate: Candidate) -> str:
        """Checks the grades of a candidate and writes them."""
        values = {}
        for name in self.attributes:
            if name not in candidate.scores:
                raise BadSampleError(origin_of(sample), f"candidate {index} has no grade {name!r}")
            grade: object = candidate.scores[name]
            if not isinstance(grade, int | float) or grade not in range(self.lowest, self.highest + 1):
                raise BadSampleError(
                    origin_of(sample),
                    f"candidate {index} has the grade {name} {grade!r}; give an integer of {self.lowest} to "
                    f"{self.highest}",
                )
            values[name] = int(grade)
        return self.attribute_string(values)


def _with_request(sample: Sample, request: str) -> tuple[Message, ...]:
    """Ends the prompt's last user turn on a line of its own.

    Raises:
        BadSampleError: There is no user's turn.
    """
    prompt = list(sample.prompt)
    for place in reversed(range(len(prompt))):
        if prompt[place].role == "user":
            *before, last = prompt[place].content or (TextPart(""),)
            line = f"\n{request}" if prompt[place].content else request
            ending = (TextPart(last.text + line),) if isinstance(last, TextPart) else (last, TextPart(line))
            prompt[place] = replace(prompt[place], content=(*before, *ending))
            return tuple(prompt)
    raise BadSampleError(origin_of(sample), "has no user's turn that could end on attributes")
