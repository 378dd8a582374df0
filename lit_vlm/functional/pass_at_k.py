"""How likely it is that one of several completions is right, and what a model solves that another does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.interfaces.errors import UserError


@dataclass(frozen=True)
class Share:
    """A mean over samples with its interval."""

    value: float
    """In [0, 1]."""
    low: float
    high: float
    """Bounds of its 95 % interval."""
    samples: int
    """That it is a mean over."""

    @classmethod
    def of(cls, values: Sequence[float]) -> Share:
        """Takes the mean of numbers in [0, 1], one a sample; 0 with the widest interval where there are none."""
        total, count = sum(values), len(values)
        # Rounding may lift a sum of shares above their number.
        low, high = wilson_interval(min(total, count), count)
        return cls(total / count if count else 0.0, low, high, count)


def pass_at_k(completions: int, correct: int, k: int) -> float:
    """Estimates without bias how likely it is that at least one of ``k`` completions of a sample is right.

    Args:
        completions: How many were sampled, ``n``.
        correct: How many of them are right, ``c``.
        k: 1 to ``n``.

    Returns:
        ``1 - C(n - c, k) / C(n, k)``, as the product ``1 - Π (1 - k / i)`` over ``i`` from ``n - c + 1`` to ``n``,
        which stays within floats; 1 where ``n - c < k``.

    Raises:
        ValueError: ``k`` is not in 1 to ``n``, or ``c`` not in 0 to ``n``.

    Example:
        >>> round(pass_at_k(10, 3, 5), 6)
        0.916667

    Source:
        Chen et al., Evaluating Large Language Models Trained on Code (2021), equation 1; the estimator of MATH-Beyond
        (from-paper-text, second-hand).
    """
    if not 1 <= k <= completions:
        raise ValueError(f"k is {k} with {completions} completions; give 1 to {completions}, or sample more")
    if not 0 <= correct <= completions:
        raise ValueError(f"{correct} of {completions} completions are right; that must be 0 to {completions}")
    if completions - correct < k:
        return 1.0
    missed = 1.0
    for drawn in range(completions - correct + 1, completions + 1):
        missed *= 1.0 - k / drawn
    return 1.0 - missed


def mean_pass_at_k(outcomes: Sequence[Sequence[bool]], k: int) -> Share:
    """Averages ``pass_at_k`` over samples.

    Args:
        outcomes: Of each sample, whether each of its completions is right.
        k: 1 to the fewest completions of a sample.

    Raises:
        ValueError: ``k`` is out of its range.
    """
    return Share.of([pass_at_k(len(one), sum(one), k) for one in outcomes])


@dataclass(frozen=True)
class ExpansionReport:
    """What a model solves with ``k`` completions, beside what a base model solves with as many.

    Source:
        MATH-Beyond: expansion is ``R(π)`` without ``R(q)``, shrinkage the reverse, preservation what is in both, where
        ``R`` holds the samples with at least one right completion of ``k`` (from-paper-text, second-hand).
    """

    k: int
    """Completions of each sample that are looked at, the first ones."""
    samples: int
    """Samples in all, ``|D|``."""
    expansion: frozenset[str]
    """Solved by the model and not by the base."""
    shrinkage: frozenset[str]
    """Solved by the base and not by the model."""
    preservation: frozenset[str]
    """Solved by both."""
    consolidation: float | None
    """Mean share of right completions of the model on what both solve; None where there is nothing."""
    base_consolidation: float | None
    """That of the base, on the same samples."""

    @property
    def pass_at_k(self) -> float:
        """Share of samples that the model solves."""
        return (len(self.expansion) + len(self.preservation)) / self.samples

    @property
    def expansion_rate(self) -> float:
        """Share of all samples that the model solves and the base does not."""
        return len(self.expansion) / self.samples

    @property
    def unsolved_expansion_rate(self) -> float | None:
        """Share of what the base does not solve that the model solves; None where the base solves all."""
        unsolved = self.samples - len(self.shrinkage) - len(self.preservation)
        return len(self.expansion) / unsolved if unsolved else None


def expansion_report(
    model: Mapping[str, Sequence[bool]], base: Mapping[str, Sequence[bool]], k: int
) -> ExpansionReport:
    """Compares what a model and a base solve with ``k`` completions.

    Args:
        model: Of each sample by id, whether each of the model's completions is right.
        base: The same of the base, on the same samples.
        k: Completions that are looked at, 1 or more.

    Raises:
        UserError: The samples differ, there are none, or one has fewer than ``k`` completions.
    """
    if model.keys() != base.keys() or not model:
        apart = sorted(model.keys() ^ base.keys())
        raise UserError(
            f"the model was asked {len(model)} samples and the base {len(base)}, and {len(apart)} are of one alone"
            f"{f' ({apart[0]!r})' if apart else ''}; compare completions of the same samples"
        )
    for name, outcomes in (("model", model), ("base", base)):
        short = next((one for one in outcomes if len(outcomes[one]) < k), None)
        if k < 1 or short is not None:
            raise UserError(f"k is {k}, but the {name} has fewer completions of sample {short!r}; lower k")
    solved = {one for one in model if any(model[one][:k])}
    solved_by_base = {one for one in base if any(base[one][:k])}
    both = solved & solved_by_base
    return ExpansionReport(
        k=k,
        samples=len(model),
        expansion=frozenset(solved - solved_by_base),
        shrinkage=frozenset(solved_by_base - solved),
        preservation=frozenset(both),
        consolidation=_mean_right(model, both, k),
        base_consolidation=_mean_right(base, both, k),
    )


def _mean_right(outcomes: Mapping[str, Sequence[bool]], samples: set[str], k: int) -> float | None:
    shares = [sum(outcomes[one][:k]) / k for one in sorted(samples)]
    return sum(shares) / len(shares) if shares else None
