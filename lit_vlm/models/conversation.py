"""Renders a sample with a model's chat template and cuts it into what is read and what is learnt."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import ImagePart, Message, Sample, TextPart, VideoPart


@dataclass(frozen=True)
class Segment:
    """A run of rendered text that is tokenised on its own, as it is at generation."""

    text: str
    trained: bool
    images: tuple[int, ...] = ()
    """Indices into ``Sample.images``, in the order they are shown."""
    videos: tuple[int, ...] = ()
    """Indices into ``Sample.videos``, in the order they are shown."""


class ConversationRenderer:
    """Applies the chat template of a processor or tokenizer.

    Text of the data never acts as a control token: a turn marker or media placeholder written in a question is broken
    up before the template sees it.
    """

    def __init__(self, template_owner: Any, tokenizer: Any, media_tokens: Sequence[str]) -> None:
        if not getattr(template_owner, "chat_template", None):
            raise UserError("this checkpoint has no chat template; add chat_template.jinja or choose an instruct model")
        self._template_owner = template_owner
        self._end_of_turn = tokenizer.eos_token
        probe = self._render((Message("user", (TextPart("a"),)), Message("assistant", (TextPart("b"),))), False)
        special = {str(token) for token in (*tokenizer.all_special_tokens, *media_tokens)}
        # Other special tokens, such as grounding marks, may be meant; those that steer the template may not.
        steering = {tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token, *media_tokens}
        self._control_tokens = sorted(
            (token for token in special if token in probe or token in steering), key=len, reverse=True
        )

    def prompt_segments(self, sample: Sample) -> list[Segment]:
        """Renders the prompt, ending where the model's answer begins."""
        return [_segment(self._render(sample.prompt, True), False, sample.prompt)]

    def segments(self, sample: Sample) -> list[Segment]:
        """Renders the whole conversation; assistant turns marked ``train`` become trained segments.

        A trained segment ends with the end-of-turn token; what the template puts after it is not learnt.

        Raises:
            UserError: The template rewrites earlier turns when later ones follow, so that no span can be located.
        """
        whole = self._render(sample.messages, False)
        segments = []
        done = 0  # characters of ``whole`` already cut
        first_message = 0
        for position, message in enumerate(sample.messages):
            if not (message.role == "assistant" and message.train):
                continue
            start = self._end_of_common(whole, sample.messages[:position], True)
            end = self._end_of_common(whole, sample.messages[: position + 1], False)
            turn = whole[start:end]
            marker = turn.rfind(self._end_of_turn)
            learnt = turn.rstrip() + self._end_of_turn if marker < 0 else turn[: marker + len(self._end_of_turn)]
            segments.append(_segment(whole[done:start], False, sample.messages[first_message:position]))
            segments.append(_segment(learnt, True, (message,)))
            done = end if marker < 0 else start + len(learnt)
            first_message = position + 1
        if first_message < len(sample.messages):
            segments.append(_segment(whole[done:], False, sample.messages[first_message:]))
        return segments

    def _end_of_common(self, whole: str, messages: Sequence[Message], open_turn: bool) -> int:
        part = self._render(messages, open_turn)
        if not whole.startswith(part):
            raise UserError(
                "the chat template changes earlier turns when later ones follow, so the completion cannot be located; "
                "mark only the last assistant turn for training, or use a template that only appends"
            )
        return len(part)

    def _render(self, messages: Sequence[Message], open_turn: bool) -> str:
        conversation = [{"role": message.role, "content": self._content(message)} for message in messages]
        rendered = self._template_owner.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=open_turn
        )
        return str(rendered)

    def _content(self, message: Message) -> list[dict[str, str]]:
        parts = []
        for part in message.content:
            if isinstance(part, TextPart):
                parts.append({"type": "text", "text": self._without_control_tokens(part.text)})
            else:
                parts.append({"type": "image" if isinstance(part, ImagePart) else "video"})
        return parts

    def _without_control_tokens(self, text: str) -> str:
        for token in getattr(self, "_control_tokens", ()):
            text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def _segment(text: str, trained: bool, messages: Sequence[Message]) -> Segment:
    parts = [part for message in messages for part in message.content]
    return Segment(
        text,
        trained,
        images=tuple(part.index for part in parts if isinstance(part, ImagePart)),
        videos=tuple(part.index for part in parts if isinstance(part, VideoPart)),
    )
