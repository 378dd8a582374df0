"""Numbers as people read them, for progress lines and reports."""

import math


def duration_text(seconds: float) -> str:
    """Writes a duration as hours, minutes and seconds.

    Args:
        seconds: Any finite number; below zero counts as zero.

    Example:
        >>> duration_text(7.2), duration_text(192), duration_text(7505)
        ('7 s', '3 min 12 s', '2 h 05 min')
    """
    whole = max(0, round(seconds))
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def compact_number(value: float) -> str:
    """Writes a count or a rate with three digits or so.

    Example:
        >>> compact_number(8.25), compact_number(941.6), compact_number(12345), compact_number(2_500_000)
        ('8.2', '942', '12.3k', '2.5M')
    """
    if not math.isfinite(value):
        return str(value)
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        # 999.95e3 would be written as 1000.0k.
        if abs(value) >= unit * 0.99995:
            return f"{value / unit:.1f}{name}"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}"


def percent_text(share: float) -> str:
    """Writes a share in [0, 1] as a percentage.

    Example:
        >>> percent_text(0.7124)
        '71.2 %'
    """
    return f"{100 * share:.1f} %"


def bounds_text(low: float, high: float) -> str:
    """Writes the bounds of a share as percentages.

    Example:
        >>> bounds_text(0.679, 0.743)
        '67.9 to 74.3'
    """
    return f"{100 * low:.1f} to {100 * high:.1f}"
