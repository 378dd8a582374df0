"""What a ledger says of its model: pass@k, majority vote, and what it solves beside another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lit_vlm.callbacks.readable_numbers import bounds_text, percent_text
from lit_vlm.functional.ledger_files import read_columns
from lit_vlm.functional.majority_vote import vote_is_right
from lit_vlm.functional.pass_at_k import ExpansionReport, Share, expansion_report, mean_pass_at_k

ALL_UP_TO = 16
"""Completions of a sample up to which every pass@k is told; of more the powers of two and the last."""


@dataclass(frozen=True)
class LedgerSummary:
    """Figures of a ledger."""

    samples: int
    completions: int
    judged: int
    """Samples whose completions were compared with an answer; all shares are over these."""
    pass_at: Mapping[int, Share] = field(default_factory=dict)
    """pass@k by ``k``; nothing where no sample was judged."""
    majority: Share | None = None
    """Share of samples whose majority vote is right; None where there is one completion of each."""
    unparsed: float = 0.0
    """Share of judged completions in which no answer was found."""
    expansion: ExpansionReport | None = None
    """Beside a base."""

    def to_json(self) -> dict[str, Any]:
        """A record of all figures."""
        shares = {f"pass@{k}": share for k, share in self.pass_at.items()}
        if self.majority is not None:
            shares["majority_vote"] = self.majority
        record: dict[str, Any] = {
            "samples": self.samples,
            "completions": self.completions,
            "judged_samples": self.judged,
            "unparsed": self.unparsed,
            **{name: asdict(share) for name, share in shares.items()},
        }
        report = self.expansion
        if report is not None:
            record["expansion"] = {
                "k": report.k,
                "samples": report.samples,
                **{name: sorted(getattr(report, name)) for name in ("expansion", "shrinkage", "preservation")},
                "expansion_rate": report.expansion_rate,
                "unsolved_expansion_rate": report.unsolved_expansion_rate,
                "consolidation": report.consolidation,
                "base_consolidation": report.base_consolidation,
            }
        return record

    def lines(self) -> list[str]:
        """Words the figures, a line each."""
        if not self.judged:
            return ["no completion has an answer to be compared with"]
        shares = [(f"pass@{k}", share) for k, share in self.pass_at.items()]
        if self.majority is not None:
            shares.append(("majority vote", self.majority))
        width = max(len(name) for name, _ in shares)
        lines = [f"of {self.judged:,} samples, in % with 95 % intervals:"]
        lines += [
            f"  {name:<{width}}  {100 * share.value:5.1f} ({bounds_text(share.low, share.high)})"
            for name, share in shares
        ]
        lines.append(f"  no answer found in {percent_text(self.unparsed)} of the completions")
        return lines + (self._expansion_lines(self.expansion) if self.expansion is not None else [])

    def _expansion_lines(self, report: ExpansionReport) -> list[str]:
        of_unsolved = report.unsolved_expansion_rate
        share = "" if of_unsolved is None else f", {percent_text(of_unsolved)} of what the base does not solve"
        lines = [
            f"beside the base, with {report.k} completions of each sample:",
            f"  solved by this model alone  {len(report.expansion):,} ({percent_text(report.expansion_rate)}{share})",
            f"  solved by the base alone    {len(report.shrinkage):,}",
            f"  solved by both              {len(report.preservation):,}",
        ]
        if report.consolidation is not None and report.base_consolidation is not None:
            lines.append(
                f"  right completions of these  {percent_text(report.consolidation)}, of the base "
                f"{percent_text(report.base_consolidation)}"
            )
        return lines


def summarise_ledger(folder: Path, base: Path | None = None) -> LedgerSummary:
    """Reads the verdicts of a ledger and counts.

    Args:
        folder: Of the ledger.
        base: Ledger of a base model on the same samples; compared with as many completions as both have.

    Raises:
        UserError: A ledger cannot be read, or the base's samples are others.
    """
    completions = unparsed = 0
    samples: set[str] = set()
    answers: dict[str, list[str | None]] = {}
    outcomes: dict[str, list[bool]] = {}
    for row in read_columns(folder, ["sample_id", "correct", "parsed"]):
        completions += 1
        samples.add(row["sample_id"])
        if row["correct"] is not None:
            unparsed += row["parsed"] is None
            answers.setdefault(row["sample_id"], []).append(row["parsed"])
            outcomes.setdefault(row["sample_id"], []).append(row["correct"])
    if not outcomes:
        return LedgerSummary(len(samples), completions, 0)
    count = min(map(len, outcomes.values()))
    votes = [float(vote_is_right(answers[one], outcomes[one])) for one in outcomes]
    return LedgerSummary(
        samples=len(samples),
        completions=completions,
        judged=len(outcomes),
        pass_at={k: mean_pass_at_k(list(outcomes.values()), k) for k in told_numbers(count)},
        majority=Share.of(votes) if count > 1 else None,
        unparsed=unparsed / sum(map(len, outcomes.values())),
        expansion=None if base is None else _beside(outcomes, base),
    )


def told_numbers(completions: int) -> list[int]:
    """Lists the ``k`` whose pass@k are told.

    Example:
        >>> told_numbers(3), told_numbers(100)
        ([1, 2, 3], [1, 2, 4, 8, 16, 32, 64, 100])
    """
    if completions <= ALL_UP_TO:
        return list(range(1, completions + 1))
    powers = [2**power for power in range(completions.bit_length())]
    return [*(power for power in powers if power < completions), completions]


def _beside(outcomes: dict[str, list[bool]], base: Path) -> ExpansionReport:
    others: dict[str, list[bool]] = {}
    for row in read_columns(base, ["sample_id", "correct"]):
        if row["correct"] is not None:
            others.setdefault(row["sample_id"], []).append(row["correct"])
    k = min(map(len, [*outcomes.values(), *others.values()]))
    return expansion_report(outcomes, others, k)
