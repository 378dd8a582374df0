"""Rewards responses sub-sentence by sub-sentence, by models that find hallucinations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from lit_vlm.functional.segment_rewards import faithfulness, segment_token_rewards
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.interfaces.segments import SegmentScorer
from lit_vlm.parsing.segments import segment_end_tokens

RewardForm = Literal["per_token", "total"]


@dataclass(frozen=True)
class WeightedScorer:
    """A model that judges one kind of hallucination, among others."""

    scorer: SegmentScorer
    """What judges."""
    weight: float = 1.0
    """Factor of its scores."""


@dataclass(frozen=True)
class SegmentReward(Reward):
    """Adds the weighted scores of all sub-sentences, each the probability of faithful less that of hallucinated.

    A response without any text scores 0. The parts of the sum are details, by kind of hallucination.

    Source:
        Jing and Du, FGAIF: Aligning Large Vision-Language Models with Fine-grained AI Feedback (2024) (reconstructed:
        the authors' PPO trainer is not published in readable form). Scores from classes and weights of 1 are ours.
    """

    scorers: list[WeightedScorer]
    """One for each kind of hallucination that is to be judged, each kind once."""
    form: RewardForm = "total"
    """``per_token``: each sub-sentence's score on the token that ends it, as PPO takes it; ``total``: one sum for the
    response, as GRPO takes it. Where tokens are not known, as in validation, it is the sum in either case."""

    def __post_init__(self) -> None:
        if self.form not in get_args(RewardForm):
            raise UserError(f"form is {self.form!r}; give one of {', '.join(get_args(RewardForm))}")
        kinds = [item.scorer.kind for item in self.scorers]
        if not kinds or len(set(kinds)) < len(kinds):
            raise UserError(f"scorers judge {kinds}; give one or more, each for a kind of hallucination of its own")

    def __call__(self, completions: Sequence[Completion], context: RewardContext = RewardContext()) -> RewardOutput:
        """Judges each completion.

        Raises:
            UserError: A scorer cannot judge, or reads other text from the tokens than the policy wrote.
        """
        by_kind = [[faithfulness(found) for found in item.scorer(completions)] for item in self.scorers]
        weights = torch.tensor([item.weight for item in self.scorers])
        scores = [torch.stack(rows) for rows in zip(*by_kind, strict=True)]  # (K, S) each
        parts = torch.stack([row.sum(1) for row in scores]) if scores else torch.zeros(0, len(weights))  # (B, K)
        details = {str(item.scorer.kind): parts[:, place] for place, item in enumerate(self.scorers)}
        if self.form == "total" or not context.token_ids:
            return RewardOutput(parts @ weights, details)
        per_token = tuple(
            self._on_tokens(completion, row, weights, ids)
            for completion, row, ids in zip(completions, scores, context.token_ids, strict=True)
        )
        return RewardOutput(torch.zeros(len(completions)), details, per_token)

    def _on_tokens(self, completion: Completion, scores: Tensor, weights: Tensor, token_ids: Sequence[int]) -> Tensor:
        for item in self.scorers:
            texts = item.scorer.token_texts(token_ids)
            if "".join(texts) != completion.text:
                raise UserError(
                    f"the model that judges {item.scorer.kind} reads other text from the tokens of sample "
                    f"{completion.sample.id!r} than the policy wrote; give one with the policy's tokenizer, or form "
                    "total"
                )
        return segment_token_rewards(scores, weights, segment_end_tokens(texts), len(token_ids))
