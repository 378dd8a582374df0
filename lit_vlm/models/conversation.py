"""Renders a sample with a model's chat template and cuts it into what is read and what is learnt."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from transformers.utils.chat_template_utils import jinja2

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import ImagePart, Message, Sample, TextPart, VideoPart

PROBE = "probe"


@dataclass(frozen=True)
class Segment:
    """A run of rendered text that is tokenised on its own, as it is at generation."""

    text: str
    trained: bool
    images: tuple[int, ...] = ()
    """Indices into ``Sample.images``, in the order they are shown."""
    videos: tuple[int, ...] = ()
    """Indices into ``Sample.videos``, in the order they are shown."""


def origin_of(sample: Sample) -> str:
    """Says where a sample stands: its file and line or row, or else its id."""
    return sample.meta.origin or sample.id


class ConversationRenderer:
    """Applies the chat template of a processor or tokenizer.

    Text of the data never acts as a control token: a turn marker or media placeholder written in a question is broken
    up before the template sees it.

    Args:
        template_owner: The processor or tokenizer whose template it is.
        tokenizer: The tokenizer, for its special tokens.
        media_tokens: Tokens that stand for media.
        text_only: Whether the model reads text only; its template then takes strings.
        begin: Token that every row begins with, added where the template does not write it.
        choose_template: Tells the template by whether the sample shows a video; None leaves it to the owner.

    Raises:
        UserError: There is no chat template, or it cannot render a question with its answer.
    """

    def __init__(
        self,
        template_owner: Any,
        tokenizer: Any,
        media_tokens: Sequence[str],
        *,
        text_only: bool = False,
        begin: str = "",
        choose_template: Callable[[bool], str | None] | None = None,
    ) -> None:
        if not getattr(template_owner, "chat_template", None):
            raise UserError("this checkpoint has no chat template; add chat_template.jinja or choose an instruct model")
        self._template_owner = template_owner
        self._text_only = text_only
        self._choose_template = choose_template or _owners_choice
        self._begin = ""
        self._control_tokens: list[str] = []
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {str(token) for token in (*tokenizer.all_special_tokens, *media_tokens)}
        special |= {str(token) for token in added if token.special}
        turns = (Message("user", (TextPart("a"),)), Message("assistant", (TextPart(PROBE),)))
        try:
            probe = self._render(turns, False, self._choose_template(False))
        except (jinja2.exceptions.TemplateError, TypeError) as fault:
            raise UserError(
                f"the chat template of this checkpoint cannot render a question with its answer ({fault}); "
                "give the checkpoint a chat_template.jinja for its processor"
            ) from fault
        self._begin = "" if probe.startswith(begin) else begin
        # Other special tokens, such as grounding marks, may be meant; those that steer the template may not.
        steering = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token, *media_tokens}
        self._control_tokens = sorted(
            (token for token in special if token in probe or token in steering), key=len, reverse=True
        )
        after_turn = probe.rpartition(PROBE)[2].lstrip()
        self._end_of_turn: str = next(
            (token for token in self._control_tokens if after_turn.startswith(token)), tokenizer.eos_token
        )

    def prompt_segments(self, sample: Sample) -> list[Segment]:
        """Renders the prompt, ending where the model's answer begins.

        Raises:
            BadSampleError: The template refuses the conversation.
        """
        return [_segment(self._rendering(sample)(len(sample.prompt), True), False, sample.prompt)]

    def segments(self, sample: Sample) -> list[Segment]:
        """Renders the whole conversation; assistant turns marked ``train`` become trained segments.

        A trained segment ends with the end-of-turn token; what the template puts after it is not learnt.

        Raises:
            BadSampleError: The template refuses the conversation, leaves out a part of a trained turn, or rewrites
                earlier turns when later ones follow, so that no span can be located.
        """
        render = self._rendering(sample)
        whole = render(len(sample.messages), False)
        segments = []
        done = 0  # characters of ``whole`` already cut
        first_message = 0
        for position, message in enumerate(sample.messages):
            if not (message.role == "assistant" and message.train):
                continue
            read, start = self._start_of_turn(sample, render, whole, position, done)
            end = self._end_of_common(sample, whole, render(position + 1, False))
            turn = whole[start:end]
            marker = turn.rfind(self._end_of_turn)
            learnt = turn.rstrip() + self._end_of_turn if marker < 0 else turn[: marker + len(self._end_of_turn)]
            self._check_complete(sample, message, read, learnt)
            segments.append(_segment(read, False, sample.messages[first_message:position]))
            segments.append(_segment(learnt, True, (message,)))
            done = end if marker < 0 else start + len(learnt)
            first_message = position + 1
        if first_message < len(sample.messages):
            segments.append(_segment(whole[done:], False, sample.messages[first_message:]))
        return segments

    def _start_of_turn(
        self, sample: Sample, render: Callable[[int, bool], str], whole: str, position: int, done: int
    ) -> tuple[str, int]:
        """Finds what is read since ``done`` before a turn is generated, and where the turn's text begins in ``whole``.

        Some templates write another space after the role of a past turn than after that of the one to be generated;
        what is learnt must follow what is read at generation.
        """
        prompt = render(position, True)
        if whole.startswith(prompt):
            return whole[done : len(prompt)], len(prompt)
        before = render(position, False)
        header = prompt[len(before) :].split() if prompt.startswith(before) and whole.startswith(before) else []
        pattern = r"\s*".join(["", *map(re.escape, header), ""])
        found = re.compile(pattern).match(whole, len(before)) if header else None
        if found is None:
            # Either earlier turns differ, which this tells, or the turn begins otherwise than one to be generated.
            self._end_of_common(sample, whole, before)
            raise BadSampleError(
                origin_of(sample),
                f"the chat template prompts for an assistant's turn with {prompt[len(before) :]!r}, but writes this "
                "turn without it; begin the completion so, or change the checkpoint's chat_template.jinja",
            )
        return whole[done : len(before)] + prompt[len(before) :], found.end()

    def _end_of_common(self, sample: Sample, whole: str, part: str) -> int:
        if not whole.startswith(part):
            raise BadSampleError(
                origin_of(sample),
                "the chat template changes earlier turns when later ones follow, so the completion cannot be located; "
                "train on the last assistant turn only (data.train_on last), or change the checkpoint's "
                "chat_template.jinja to one that only appends",
            )
        return len(part)

    def _check_complete(self, sample: Sample, message: Message, read: str, learnt: str) -> None:
        """Refuses a template that leaves out what should be learnt, as some do with reasoning.

        What the template prompts for may be the beginning of the turn, and spaces may differ.
        """
        before, text = _without_spaces(read), _without_spaces(self._without_control_tokens(message.text))
        found = (before + _without_spaces(learnt)).rfind(text)
        if text and (found < 0 or found + len(text) <= len(before)):
            raise BadSampleError(
                origin_of(sample),
                f"the chat template leaves out a part of an assistant's turn, of which {learnt[:80]!r} is left; change "
                "the checkpoint's chat_template.jinja",
            )

    def _rendering(self, sample: Sample) -> Callable[[int, bool], str]:
        """Returns what renders the first turns of a sample, all by one template, by how many and whether to go on."""
        parts = [part for message in sample.messages for part in message.content]
        if self._text_only and not all(isinstance(part, TextPart) for part in parts):
            raise BadSampleError(
                origin_of(sample),
                "this model reads text only, but the sample has images or videos; choose a vision-language checkpoint",
            )
        template = self._choose_template(any(isinstance(part, VideoPart) for part in parts))

        @cache
        def render(count: int, open_turn: bool) -> str:
            if not count:
                raise BadSampleError(
                    origin_of(sample),
                    "the conversation begins with an assistant's turn, which follows nothing that could be read; "
                    "put a user's turn before it",
                )
            try:
                return self._render(sample.messages[:count], open_turn, template)
            except jinja2.exceptions.TemplateError as fault:
                reason = f"the chat template refuses the conversation: {fault}"
                raise BadSampleError(origin_of(sample), reason) from fault

        return render

    def _render(self, messages: Sequence[Message], open_turn: bool, template: str | None) -> str:
        conversation = [{"role": message.role, "content": self._content(message)} for message in messages]
        options = {} if template is None else {"chat_template": template}
        rendered = self._template_owner.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=open_turn, **options
        )
        return self._begin + str(rendered)

    def _content(self, message: Message) -> str | list[dict[str, str]]:
        if self._text_only:
            return self._without_control_tokens(message.text)
        parts = []
        for part in message.content:
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": self._without_control_tokens(part.text)})
            else:
                parts.append({"type": "image" if isinstance(part, ImagePart) else "video"})
        return parts

    def _without_control_tokens(self, text: str) -> str:
        for token in self._control_tokens:
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def _without_spaces(text: str) -> str:
    return "".join(text.split())


def _owners_choice(shows_video: bool) -> None:
    """Leaves the template to its owner."""


def _segment(text: str, trained: bool, messages: Sequence[Message]) -> Segment:
    parts = [part for message in messages for part in message.content]
    return Segment(
        text,
        trained,
        images=tuple(part.index for part in parts if isinstance(part, ImagePart)),
        videos=tuple(part.index for part in parts if isinstance(part, VideoPart)),
    )
