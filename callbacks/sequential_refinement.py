"""How well a policy answers when it is asked again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lit_vlm.callbacks.asked_samples import AskedSamples
from lit_vlm.callbacks.readable_numbers import percent_text
from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.functional.majority_vote import vote_is_right
from lit_vlm.functional.next_turn import FEEDBACK, next_turn
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, Sample, Split

PREFIX = "turns/"
TURN, MAJORITY, ORACLE = f"{PREFIX}exact_match_", f"{PREFIX}majority_", f"{PREFIX}oracle_"


class SequentialRefinement(AskedSamples):
    """Asks held-out questions in several turns: after each answer the policy hears that it is wrong, and tries again.

    It hears so whether it is or not, since nobody knows who asks a new question. At the end of each validation and
    test, logged with the same prefix (``validation/`` or ``test/``), each with ``_low`` and ``_high``, the bounds of
    its 95 % interval, and ``_total``, with the number of turns as ``k``:

    - ``turns/exact_match_1`` ... ``turns/exact_match_k``: share of right answers at each turn;
    - ``turns/majority_2`` ... ``turns/majority_k``: of the answers that most of the first turns gave; of those that
      tie the one that was given first. A turn without a readable answer has no vote;
    - ``turns/oracle_2`` ... ``turns/oracle_k``: of questions answered right at any of the first turns, as if the
      dialogue stopped there.

    Completions are decoded as in validation. Questions without an answer to compare with do not count. Random streams
    are left as they were.

    Args:
        turns: Turns of each dialogue, at least 2.
        feedback: What the user says of each answer; the same as in training.
        samples: Samples of the split that are asked, at most, from the first on.
        batch_size: Samples that are asked at once.

    Source:
        Qu et al., Recursive Introspection: Teaching Language Model Agents How to Self-Improve (RISE, 2024), section 5:
        evaluation without and with an oracle (from-paper-text). How ties are settled is ours.
    """

    def __init__(self, turns: int = 3, feedback: str = FEEDBACK, samples: int = 256, batch_size: int = 64) -> None:
        if turns < 2:
            raise UserError(f"SequentialRefinement.turns is {turns}; give at least 2")
        if not feedback.strip():
            raise UserError("SequentialRefinement.feedback is empty; give what the user says of each answer")
        super().__init__(samples, batch_size)
        self.turns = turns
        self.feedback = feedback

    def tell(self, sums: Sequence[float], split: Split, total: int) -> tuple[dict[str, float], str]:
        """Makes shares of the counts.

        Raises:
            UserError: No sample has an answer to compare with.
        """
        asked, *right = map(round, sums)
        if not asked:
            raise UserError(
                f"SequentialRefinement: none of the {total} {split} samples has an answer to compare with; leave it "
                "out, or give other data"
            )
        figures = figures_of(asked, right)
        by_turn = ", ".join(percent_text(figures[f"{TURN}{turn}"]) for turn in range(1, self.turns + 1))
        return figures, (
            f"in {self.turns} turns, {asked} questions | right by turn {by_turn} | majority "
            f"{percent_text(figures[f'{MAJORITY}{self.turns}'])} | stopping when right "
            f"{percent_text(figures[f'{ORACLE}{self.turns}'])}"
        )

    def ask(self, pl_module: Any, samples: Sequence[Sample]) -> Tensor:
        """Asks samples in all turns; returns how many count, and the sums of each kind by turn."""
        dialogues: list[list[Completion]] = [[] for _ in samples]
        asked = list(samples)
        for turn in range(self.turns):
            if turn:
                asked = [
                    next_turn(sample, dialogue[-1].text, self.feedback)
                    for sample, dialogue in zip(asked, dialogues, strict=True)
                ]
            for dialogue, completion in zip(dialogues, pl_module.complete(asked), strict=True):
                dialogue.append(completion)
        counted = [dialogue for dialogue in dialogues if dialogue[0].verdict is not None]
        rows = torch.zeros(3, self.turns, dtype=torch.float64)
        for dialogue in counted:
            answers = [_answer(completion) for completion in dialogue]
            right = [completion.verdict is not None and completion.verdict.correct for completion in dialogue]
            for turn in range(self.turns):
                rows[0, turn] += right[turn]
                rows[1, turn] += vote_is_right(answers[: turn + 1], right)
                rows[2, turn] += any(right[: turn + 1])
        return torch.cat([torch.tensor([float(len(counted))], dtype=torch.float64), rows.flatten()])


def _answer(completion: Completion) -> str | None:
    """Reads what a completion votes for; None where its answer is empty or could not be read."""
    return None if completion.verdict is None else (completion.verdict.parsed or "").strip() or None


def figures_of(asked: int, right: Sequence[int]) -> dict[str, float]:
    """Makes shares with their intervals of counts.

    Args:
        asked: Questions, 1 or more.
        right: Right answers by turn, right majorities by turn, right at any turn so far by turn.
    """
    turns = len(right) // 3
    figures: dict[str, float] = {}
    for kind, name in enumerate((TURN, MAJORITY, ORACLE)):
        for turn in range(1, turns + 1):
            if kind and turn == 1:
                continue  # all three are the same at the first turn
            count = right[kind * turns + turn - 1]
            low, high = wilson_interval(count, asked)
            figures[f"{name}{turn}"] = count / asked
            figures |= {f"{name}{turn}_low": low, f"{name}{turn}_high": high, f"{name}{turn}_total": float(asked)}
    return figures
