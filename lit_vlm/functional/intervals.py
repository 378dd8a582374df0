"""Intervals for measured proportions."""

from math import sqrt
from statistics import NormalDist


def wilson_interval(successes: float, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Computes the Wilson score interval of a proportion.

    Unlike the usual mean plus or minus two standard errors it stays within [0, 1] and keeps a width at 0 and at 1, so
    that 20 right of 20 do not look certain.

    Args:
        successes: Rows that succeeded, 0 to ``total``. Where rows are shares in [0, 1] themselves, their sum: numbers
            in [0, 1] never vary more than zeros and ones of the same mean, so that the interval is then too wide
            rather than too narrow.
        total: Rows in all.
        confidence: Share of such intervals that hold the true proportion, in (0, 1).

    Returns:
        Lower and upper bound, without unit; (0, 1) where there are no rows.

    Raises:
        ValueError: ``successes`` is not in 0 to ``total``, or ``confidence`` not in (0, 1).

    Example:
        >>> wilson_interval(0, 0)
        (0.0, 1.0)

    Source:
        Wilson, Probable Inference, the Law of Succession, and Statistical Inference (1927); without continuity
        correction.
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes is {successes} of a total of {total}; it must be in 0 to the total")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; it must be above 0 and below 1, as 0.95")
    if total == 0:
        return 0.0, 1.0
    deviations = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / total
    weight = deviations**2 / total
    centre = (share + weight / 2) / (1 + weight)
    reach = deviations * sqrt(share * (1 - share) / total + weight / (4 * total)) / (1 + weight)
    # At the ends the bound is exactly 0 or 1; rounding would leave a crumb.
    low = 0.0 if successes == 0 else centre - reach
    high = 1.0 if successes == total else centre + reach
    return low, high
