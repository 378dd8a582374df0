"""What the operators over whole sets share: counting what they leave out, and refusing sets that lack a grade."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from typing import Literal

from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Sample
from lit_vlm.interfaces.roles import CurationOperator
from lit_vlm.synthesis.completions import origin_of

TextOf = Literal["candidates", "questions"]
Unknown = Literal["error", "drop", "keep"]
"""What becomes of something that does not tell what is asked: it stops the run, is left out, or is kept."""
WITHOUT_CANDIDATES = "samples of which no candidate is left"


class CountingOperator(CurationOperator):
    """Counts what it leaves out: the base of the operators here."""

    @abstractmethod
    def choose(self, samples: Sequence[Sample], left_out: Counter[str]) -> list[Sample]:
        """Returns what is kept, in the order given, and counts the rest by reason."""

    def __call__(self, samples: Sequence[Sample]) -> list[Sample]:
        """Returns what is kept."""
        return self.choose(samples, Counter())

    def with_reasons(self, samples: Sequence[Sample]) -> tuple[list[Sample], Counter[str]]:
        """Returns what is kept, and how much is left out for which reason."""
        left_out: Counter[str] = Counter()
        return self.choose(samples, left_out), left_out


def filter_candidates(
    samples: Sequence[Sample],
    reason_to_leave_out: Callable[[Candidate], str | None],
    left_out: Counter[str],
    *,
    keep_emptied: bool = False,
) -> list[Sample]:
    """Leaves out candidates, and samples of which none is left; samples that had none are passed by.

    Args:
        samples: With candidates.
        reason_to_leave_out: Says why a candidate goes, as ``candidates longer than 9 words``; None keeps it.
        left_out: Counts the reasons.
        keep_emptied: Whether samples stay of which no candidate is left.
    """
    kept = []
    for sample in samples:
        candidates = []
        for candidate in sample.candidates:
            reason = reason_to_leave_out(candidate)
            if reason is None:
                candidates.append(candidate)
            else:
                left_out[reason] += 1
        if sample.candidates and not candidates and not keep_emptied:
            left_out[WITHOUT_CANDIDATES] += 1
        else:
            kept.append(with_candidates(sample, candidates))
    return kept


def filter_texts(
    samples: Sequence[Sample],
    of: TextOf,
    reason_to_leave_out: Callable[[str], str | None],
    left_out: Counter[str],
) -> list[Sample]:
    """Leaves out candidates, or samples, by what they say.

    Args:
        samples: The set.
        of: Whether each candidate's text is looked at, or that of a sample's last turn before the completion.
        reason_to_leave_out: Says why a text goes; None keeps it.
        left_out: Counts the reasons.
    """
    if of == "candidates":
        return filter_candidates(samples, lambda candidate: reason_to_leave_out(candidate.text), left_out)
    kept = []
    for sample in samples:
        reason = reason_to_leave_out(sample.question)
        if reason is None:
            kept.append(sample)
        else:
            left_out[reason] += 1
    return kept


def with_candidates(sample: Sample, candidates: Sequence[Candidate]) -> Sample:
    """Returns the sample with these candidates; itself where they are its own."""
    return sample if len(candidates) == len(sample.candidates) else replace(sample, candidates=tuple(candidates))


def draw_of_each(samples: Sequence[Sample], kinds: Sequence[Hashable], most: int | None, seed: int) -> list[bool]:
    """Draws up to ``most`` samples of each kind, by a hash of the seed and the id, whatever else the set holds.

    Args:
        samples: The set.
        kinds: Of each sample its kind.
        most: Most of a kind; None draws all.
        seed: Names the draw.

    Returns:
        Of each sample whether it is drawn.
    """
    if most is None:
        return [True] * len(samples)
    order = sorted(range(len(samples)), key=lambda place: (stream_seed(seed, "draw", samples[place].id), place))
    drawn = [False] * len(samples)
    counts: Counter[Hashable] = Counter()
    for place in order:
        kind = kinds[place]
        if counts[kind] < most:
            counts[kind] += 1
            drawn[place] = True
    return drawn


def refuse_if_any(faulty: Sequence[Sample], what: str, mend: str) -> None:
    """Refuses a set in which samples lack something, naming the first.

    Args:
        faulty: The samples at fault.
        what: What is wrong with each, as ``has no candidates``.
        mend: What to do about it.

    Raises:
        UserError: There is one.
    """
    if faulty:
        more = f" (and {len(faulty) - 1:,} more)" if len(faulty) > 1 else ""
        raise UserError(f"{origin_of(faulty[0])}{more} {what}; {mend}")


def check_one_of(field: str, value: object, known: Sequence[object]) -> None:
    """Refuses a value that is not among the known ones.

    Raises:
        UserError: It is not.
    """
    if value not in known:
        raise UserError(f"{field} is {value!r}; choose one of {', '.join(map(str, known))}")


def check_names(field: str, names: Sequence[str]) -> None:
    """Refuses a list of names that is empty or repeats one.

    Raises:
        UserError: It is, or does.
    """
    if not names or len(set(names)) != len(names):
        raise UserError(f"{field} is {list(names)}; name one or more, each once")


def check_range(least: float | None, most: float | None, names: tuple[str, str] = ("least", "most")) -> None:
    """Refuses bounds that are no numbers, or leave nothing between them.

    Raises:
        UserError: They are, or do.
    """
    for name, bound in zip(names, (least, most), strict=True):
        if bound is not None and bound != bound:
            raise UserError(f"{name} is not a number; give one, or null for no bound")
    if least is not None and most is not None and least > most:
        raise UserError(f"{names[0]} is {least}, above {names[1]}, {most}; exchange them")
