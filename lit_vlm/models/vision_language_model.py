"""The policy: a Hugging Face model with the passes that paradigms need.

Legend: ``B`` rows, ``L`` padded tokens, ``N`` label tokens, ``H`` hidden width, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from lit_vlm.functional.chunked_log_probs import DEFAULT_CHUNK_TOKENS, chunked_log_probs
from lit_vlm.interfaces.batches import PromptBatch, TokenScores
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import GeneratingPolicy, WeightBucket
from lit_vlm.interfaces.records import IGNORED_LABEL
from lit_vlm.models.adapters import has_adapter, save_adapter
from lit_vlm.models.completion_scoring import CompletionScores, completion_features, score_rollouts
from lit_vlm.models.decoding_state import CachedRows, begin_rows
from lit_vlm.models.decoding_trial import must_repeat_prompts
from lit_vlm.models.generating import (
    any_of_all_ranks,
    context_tokens,
    end_token_ids,
    evaluating,
    is_sharded,
    most_of_all_ranks,
)
from lit_vlm.models.generation_settings import GenerationSettings
from lit_vlm.models.media_features import MediaFeatures, count_encodings, encode_media, takes_features
from lit_vlm.models.parts import Part, module_parts, part_of
from lit_vlm.models.sharding import forget_order, gather, release, require_gradients_of_inputs, shard
from lit_vlm.models.shared_weights import shared_adapter_rank, weight_buckets
from lit_vlm.models.stand_in import StandIn, in_step
from lit_vlm.models.tuning import PartModules, set_training_mode, trained_parts


class VisionLanguageModel(nn.Module, GeneratingPolicy):
    """Wraps a Hugging Face image-text-to-text or causal language model.

    Args:
        model: The Hugging Face model, with a language head.
        media_token_ids: Placeholder ids that must never be generated.
        padding_id: Id that fills generated rows after their end.
        parts: The modules of each part; found where not given. What is trained is settled before this is built.
    """

    passes: tuple[str, ...] = ("score", "score_rollouts", "completion_features", "encode_media")
    """Methods that read the weights, in training too: where these are cut up, ranks call them together."""

    def __init__(
        self, model: Any, *, media_token_ids: list[int], padding_id: int, parts: PartModules | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.parts = module_parts(model) if parts is None else parts
        self.trained_parts = trained_parts(model, self.parts)
        self.media_token_ids = media_token_ids
        self.padding_id = padding_id
        self.shares_prompts: bool | None = None
        """Whether completions of a prompt share its computation; decided where it is first asked for."""
        self.dropout = True
        """Whether parts that train leave activations out at random, where their configuration says so."""
        self.stand_in: StandIn | None = None
        """What a rank runs for others where weights are cut up by ``cut_up``; None where they are whole."""
        self._gathered = 0
        self._repeats_prompts: bool | None = None
        self._is_sharded: bool | None = None

    @property
    def vocabulary_size(self) -> int:
        """Rows of the output embedding, ``V``."""
        return int(self.model.get_output_embeddings().weight.shape[0])

    @property
    def hidden_width(self) -> int:
        """Numbers of a hidden state, ``H``."""
        return int(self.model.config.get_text_config().hidden_size)

    def part_of(self, name: str) -> Part:
        """Tells which part a parameter of this module belongs to."""
        return part_of(name.removeprefix("model."), self.parts)

    def train(self, mode: bool = True) -> VisionLanguageModel:
        """Sets the mode of the parts that train; frozen ones stay in evaluation mode, without dropout."""
        super().train(mode)
        if mode:
            set_training_mode(self.model, self.parts, self.trained_parts, dropout=self.dropout)
        return self

    def vision_parameters(self) -> Iterator[nn.Parameter]:
        """Yields the parameters of the vision tower and projector; none for text-only models."""
        for name, parameter in self.model.named_parameters():
            if part_of(name, self.parts) in ("vision", "projector"):
                yield parameter

    def hidden_states(self, batch: PromptBatch) -> Tensor:
        """Runs the backbone without its head.

        Returns:
            Last hidden states, shape ``(B, L, H)``.
        """
        output = self.model.base_model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **batch.visual
        )
        return cast(Tensor, output.last_hidden_state)

    def own_states(self, batch: PromptBatch) -> Tensor:
        """Runs the backbone as ``hidden_states`` does, but for no rows, where ``in_step`` has run it for others."""
        if len(batch) or self.stand_in is None:
            return self.hidden_states(batch)
        return torch.zeros(*batch.input_ids.shape, self.hidden_width, device=batch.input_ids.device)

    def score(self, batch: PromptBatch, chunk_tokens: int = DEFAULT_CHUNK_TOKENS) -> TokenScores:
        """Scores the label tokens of a batch; no logits are made for any other position.

        Args:
            batch: Right-padded rows with labels.
            chunk_tokens: Label tokens whose logits exist at one time.

        Raises:
            UserError: A label lies outside the vocabulary, or the batch has no labels at all.
        """
        if batch.labels is None:
            raise UserError("this batch has no labels; encode samples with their completions")
        tie = in_step(self, count_encodings(batch), has_rows=len(batch) > 0)
        targets = batch.labels[:, 1:]
        labelled = targets != IGNORED_LABEL
        rows, columns = labelled.nonzero(as_tuple=True)
        chosen = targets[rows, columns]  # (N,)
        outside = (chosen < 0) | (chosen >= self.vocabulary_size)
        if bool(outside.any()):
            raise UserError(
                f"label {int(chosen[outside][0])} lies outside the vocabulary of {self.vocabulary_size} tokens; "
                "the tokenizer does not belong to this model"
            )
        hidden = self.own_states(batch)
        head = self.model.get_output_embeddings()
        log_probs, is_top = chunked_log_probs(
            hidden[rows, columns], head.weight, getattr(head, "bias", None), chosen, chunk_tokens
        )
        log_probs = log_probs + tie
        if self.training:
            log_probs = log_probs + self.touch_unused()
        if not len(chosen):
            # An empty selection has no graph of its own; the step must still reach every parameter.
            log_probs = log_probs + 0.0 * hidden.sum()
        return TokenScores(log_probs, rows, is_top, batch.weights)

    def touch_unused(self) -> Tensor | float:
        """Ties vision tower and projector into every step, so that data-parallel ranks agree on what has gradients.

        A step may lack images on one rank only, and some towers have layers that no step uses.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return 0.0
        return self.touch(self.vision_parameters())

    def pass_of_nothing(self) -> Tensor | float:
        """Returns a zero whose gradient reaches all that trains, on a rank that has nothing to read.

        Where weights are cut up it computes along with the other ranks.
        """
        if self.stand_in is not None:
            return in_step(self, 0, has_rows=False)
        return self.touch(self.parameters())

    def touch(self, parameters: Iterable[nn.Parameter]) -> Tensor | float:
        """Returns a zero whose gradient, zeros too, reaches all of these parameters that train.

        Of weights that are cut up passes do so themselves.
        """
        if self.stand_in is not None:
            return 0.0
        sums = [parameter.sum().float() for parameter in parameters if parameter.requires_grad]
        return 0.0 * torch.stack(sums).sum() if sums else 0.0

    @property
    def end_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a completion."""
        return end_token_ids(self.model)

    @property
    def unsampled_token_ids(self) -> tuple[int, ...]:
        """Placeholders of media, and padding unless it ends completions too."""
        padding = () if self.padding_id in self.end_token_ids else (self.padding_id,)
        return (*self.media_token_ids, *padding)

    @property
    def context_tokens(self) -> int | None:
        """Most tokens of a prompt with its completion."""
        return context_tokens(self.model)

    @contextmanager
    def decoding(self) -> Iterator[None]:
        """Opens a context without gradients and in evaluation mode, in which each rank has all weights.

        Where they are cut up, all ranks must open and leave it together; within it none waits for another. So it is
        with contexts within each other, of which only the outermost gathers.
        """
        with self.evaluating():
            self.gather()
            try:
                yield
            finally:
                self.release()

    def evaluating(self) -> AbstractContextManager[None]:
        """Opens a context without gradients and in evaluation mode; weights that are cut up stay so."""
        return evaluating(self)

    @property
    def is_gathered(self) -> bool:
        """Whether weights that are cut up lie open on every rank for now."""
        return self._gathered > 0

    def cut_up(self, mesh: DeviceMesh, compute_dtype: torch.dtype | None, stand_in: StandIn) -> None:
        """Spreads the weights over ranks; see ``sharding.shard``.

        Args:
            mesh: The ranks.
            compute_dtype: Type that weights are gathered in; None for their own.
            stand_in: What a rank runs for others.
        """
        shard(self, mesh, compute_dtype, self.passes)
        if {"vision", "projector"} & self.trained_parts:
            require_gradients_of_inputs(self.model.get_input_embeddings())
        self.stand_in = stand_in

    def gather(self) -> None:
        """Puts weights that are cut up together on each rank, until as many calls of ``release``; on all together."""
        if self.stand_in is not None:
            if not self._gathered:
                gather(self)
            self._gathered += 1

    def release(self) -> None:
        """Lets go of what ``gather`` put together."""
        if self.stand_in is not None:
            self._gathered -= 1
            if self._gathered:
                forget_order(self)
            else:
                release(self)

    def prefill(self, prompts: PromptBatch, repeats: int, media: object | None = None) -> CachedRows:
        """Reads each prompt once, and makes ``repeats`` rows of it; see ``decoding_state.begin_rows``.

        Args:
            prompts: ``P`` left-padded prompts with their media.
            repeats: Rows of each.
            media: The ``MediaFeatures`` of their media; None reads the pixels.
        """
        if self._repeats_prompts is None:
            self._repeats_prompts = must_repeat_prompts(self.model, prompts)
        features = cast(MediaFeatures | None, media)
        return begin_rows(self.model, prompts, repeats, features, repeat_prompts=self._repeats_prompts)

    def any_rank(self, decodes: bool) -> bool:
        """Tells whether this rank must run one more pass, for itself or for others that hold its weights."""
        return any_of_all_ranks(decodes, next(self.parameters()).device) if self._waits else decodes

    def padded(self, passes: list[Tensor]) -> list[Tensor]:
        """Adds passes of nothing, where this rank has fewer than others that hold its weights.

        Args:
            passes: Rows of each pass; one at least.
        """
        if not self._waits:
            return passes
        most = most_of_all_ranks(len(passes), next(self.parameters()).device)
        return [*passes, *[passes[0][:0]] * (most - len(passes))]

    @property
    def _waits(self) -> bool:
        """Whether no rank can run a pass alone."""
        if self._is_sharded is None:
            self._is_sharded = is_sharded(self)
        return self._is_sharded and not self.is_gathered

    @torch.no_grad()
    def generate(self, batch: PromptBatch, settings: GenerationSettings) -> list[list[int]]:
        """Continues each prompt.

        Args:
            batch: Left-padded prompts.
            settings: How to decode.

        Returns:
            Completion ids of each row, the end-of-turn token included where it was reached.
        """
        with self.decoding():
            output = self.model.generate(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                **batch.visual,
                **settings.options(),
                suppress_tokens=list(self.unsampled_token_ids) or None,
                pad_token_id=self.padding_id,
                use_cache=True,
                # Left to itself, transformers would have ranks wait for each other wherever weights were cut up.
                synced_gpus=False if self.is_gathered else None,
            )
        end_ids = set(self.end_token_ids)
        return [_cut(row, end_ids) for row in output[:, batch.input_ids.shape[1] :].tolist()]

    def encode_media(self, prompts: PromptBatch) -> MediaFeatures | None:
        """Runs vision tower and projector; see ``media_features.encode_media``."""
        in_step(self, count_encodings(prompts) if takes_features(self.model) else 0, has_rows=True)
        return encode_media(self.model, prompts)

    def score_rollouts(
        self, prompts: PromptBatch, token_ids: Tensor, mask: Tensor, prompt_of: Tensor, **options: Any
    ) -> CompletionScores:
        """Scores completions of prompts, token by token; see ``completion_scoring.score_rollouts``."""
        return score_rollouts(self, prompts, token_ids, mask, prompt_of, **options)

    def completion_features(
        self, prompts: PromptBatch, token_ids: Tensor, mask: Tensor, prompt_of: Tensor, **options: Any
    ) -> Tensor:
        """Sums up each completion in one state, shape ``(B, H)``; see ``completion_scoring.completion_features``."""
        return completion_features(self, prompts, token_ids, mask, prompt_of, **options)

    @property
    def weight_source(self) -> str:
        """Folder or hub id that the weights were loaded from."""
        return str(self.model.config._name_or_path)

    def shared_adapter_rank(self) -> int | None:
        """Tells what is handed to programs that sample with a copy; see ``shared_weights.shared_adapter_rank``."""
        return shared_adapter_rank(self.model, self.parts)

    def weight_buckets(self, dtype: torch.dtype, most_bytes: int, *, keep: bool) -> Iterator[WeightBucket]:
        """Yields the weights, or the adapter, piece by piece; see ``shared_weights.weight_buckets``."""
        return weight_buckets(self.model, dtype, most_bytes, keep=keep)

    def save(self, folder: Path, state: Mapping[str, Tensor] | None = None) -> None:
        """Writes weights (safetensors) and configuration as a Hugging Face folder, or the adapter in PEFT's format.

        Args:
            folder: Where to write.
            state: The weights of ``model``, or those that train of one with an adapter; None for those in memory.
        """
        if has_adapter(self.model):
            save_adapter(self.model, folder, state)
        else:
            self.model.save_pretrained(folder, state_dict=state)


def _cut(ids: list[int], end_ids: set[int]) -> list[int]:
    """Drops what follows the first end token."""
    for position, token_id in enumerate(ids):
        if token_id in end_ids:
            return ids[: position + 1]
    return ids
