"""Samples completions with the policy itself, reading each prompt and each image once.

Legend: ``P`` prompts, ``G`` completions of each, ``B`` of all, ``T`` tokens of the longest completion.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import DecodingState, GeneratingPolicy, RolloutEngine
from lit_vlm.interfaces.records import Answer, Completion, Verdict
from lit_vlm.interfaces.roles import SampleEncoder
from lit_vlm.interfaces.rollouts import Rollouts
from lit_vlm.parsing.answers import check_answer
from lit_vlm.rollouts.growing_rows import GrowingRows
from lit_vlm.rollouts.row_random import row_seeds
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.rollouts.stop_strings import StopStrings, check_stop_strings
from lit_vlm.rollouts.token_sampler import TokenSampler

Judge = Callable[[str, Answer], Verdict]
"""Compares the text of a completion with an answer."""


@dataclass(frozen=True)
class HFRolloutEngine(RolloutEngine):
    """Prefills ``P`` rows, then decodes ``P * G`` that share what was read; finished rows leave at once.

    A completion depends on its prompt, its prompt's seed and its index in the group, but for the rounding of sums that
    a batch's size changes; not on its neighbours, and not on how prompts are spread over ranks.
    """

    sampling: SamplingSettings = SamplingSettings()
    """How to sample."""
    judge: Judge = check_answer
    """Finds and compares answers; samples without an answer have no verdict."""

    @property
    def temperature(self) -> float:
        """The sampling temperature."""
        return self.sampling.temperature

    @property
    def max_new_tokens(self) -> int:
        """Longest completion, in tokens."""
        return self.sampling.max_new_tokens

    def check(self, policy: GeneratingPolicy, encoder: SampleEncoder) -> None:
        """Refuses stop strings that the tokenizer cannot write, and completions as long as the model's context.

        Raises:
            UserError: As said.
        """
        check_stop_strings(self.sampling.stop_strings, encoder)
        self._check_length(policy, 1, "a prompt")

    @torch.no_grad()
    def __call__(
        self,
        policy: GeneratingPolicy,
        encoder: SampleEncoder,
        prompts: PromptBatch,
        group_size: int,
        seeds: Sequence[int],
        media: object | None = None,
    ) -> Rollouts:
        """Samples ``group_size`` completions of each prompt; see ``RolloutEngine``.

        Raises:
            UserError: A prompt leaves too little of the model's context, or ``group_size`` is below 1.
            ValueError: There are not as many seeds as prompts.
        """
        of_rows = row_seeds(seeds, len(prompts), group_size, prompts.input_ids.device)
        lengths = prompts.attention_mask.sum(1)
        longest = int(lengths.argmax())
        self._check_length(policy, int(lengths[longest]), f"the prompt of sample {prompts.samples[longest].id!r}")
        start = time.perf_counter()
        with policy.decoding():
            state = policy.prefill(prompts, group_size, media)
            prefilled = time.perf_counter()
            rows = self._decode(policy, encoder, prompts, state, of_rows)
        decoded = time.perf_counter()
        return self._rollouts(encoder, prompts, rows, group_size, (start, prefilled, decoded))

    def _check_length(self, policy: GeneratingPolicy, prompt: int, name: str) -> None:
        most = policy.context_tokens
        if most is not None and prompt + self.sampling.max_new_tokens > most:
            raise UserError(
                f"{name} has {prompt} tokens or more, and sampling.max_new_tokens is {self.sampling.max_new_tokens}, "
                f"but the model's context holds {most}; lower max_new_tokens, model.max_tokens or the pixel budget"
            )

    def _decode(
        self,
        policy: GeneratingPolicy,
        encoder: SampleEncoder,
        prompts: PromptBatch,
        state: DecodingState,
        seeds: Tensor,
    ) -> GrowingRows:
        device = prompts.input_ids.device
        sampler = TokenSampler(self.sampling, seeds, policy.unsampled_token_ids)
        owners = torch.arange(len(prompts), device=device).repeat_interleave(len(seeds) // len(prompts))
        sampler.hold(prompts.input_ids[owners], prompts.attention_mask[owners], state.logits.shape[1])
        rows = GrowingRows(
            count=len(owners),
            most=self.sampling.max_new_tokens,
            end_token_ids=policy.end_token_ids,
            padding_id=policy.padding_id,
            stops=StopStrings(self.sampling.stop_strings, encoder.decode),
            device=device,
        )
        while True:
            draw = sampler(state.logits, rows.length)
            kept = rows.append(draw)
            if not policy.any_rank(rows.is_growing):
                return rows
            token_ids = draw.token_ids
            if not rows.is_growing:
                # Other ranks need this one for their passes: any token of any row does.
                kept = torch.zeros(1, dtype=torch.int64, device=device)
            if kept is not None:
                state.select(kept)
                sampler.select(kept)
                token_ids = token_ids[kept]
            state.advance(token_ids)

    def _rollouts(
        self,
        encoder: SampleEncoder,
        prompts: PromptBatch,
        rows: GrowingRows,
        group_size: int,
        times: tuple[float, float, float],
    ) -> Rollouts:
        texts = rows.finish()
        mask = rows.mask
        start, prefilled, decoded = times
        sums = rows.log_probs.sum(1).tolist()
        seconds = (decoded - start) / len(texts)
        completions: list[Completion] = []
        for row, (text, count) in enumerate(zip(texts, mask.sum(1).tolist(), strict=True)):
            sample = prompts.samples[row // group_size]
            described = completions[-1].prompt if row % group_size else encoder.describe_prompt(sample)
            verdict = None if sample.answer is None else self.judge(text, sample.answer)
            completions.append(Completion(sample, described, text, verdict, sums[row], count, seconds))
        return Rollouts(
            prompts=prompts,
            prompt_of=_owners(len(prompts), group_size, mask.device),
            token_ids=rows.token_ids,
            mask=mask,
            log_probs=rows.log_probs,
            is_truncated=rows.is_truncated,
            completions=tuple(completions),
            entropies=rows.entropies,
            seconds={
                "prefill": prefilled - start,
                "decode": decoded - prefilled,
                "text": time.perf_counter() - decoded,
            },
        )


def _owners(prompts: int, group_size: int, device: torch.device) -> Tensor:
    return torch.arange(prompts, device=device).repeat_interleave(group_size)
