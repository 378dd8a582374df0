"""Reads answers of OpenAI-compatible chat-completions endpoints, trusting nothing in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lit_vlm.interfaces.records import FinishReason

_SHOWN = 60  # characters of an answer in a message


class GarbageAnswerError(ValueError):
    """Says why an answer cannot be used."""


@dataclass(frozen=True)
class ChatAnswer:
    """What an endpoint answered to one request."""

    text: str
    finish_reason: FinishReason | None = None
    """None where the endpoint does not say."""
    log_probs: tuple[float, ...] = ()
    """Of each token of the completion, in nats; empty where the endpoint gives none."""
    prompt_tokens: int | None = None
    """As the endpoint counts them; None where it does not."""
    completion_tokens: int | None = None
    model: str = ""
    """The name under which the endpoint answered."""
    version: str = ""
    """The endpoint's own mark of its version (``system_fingerprint``)."""


def read_chat_answer(body: str | bytes) -> ChatAnswer:
    """Reads the body of an answer: the first choice's text, why it ended, and what is known of its tokens.

    Raises:
        GarbageAnswerError: It is no JSON, lacks choices, says nothing, or a field is of the wrong type.

    Example:
        >>> read_chat_answer('{"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}').text
        '4'
    """
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError) as fault:
        raise GarbageAnswerError(f"the answer is no JSON: {_shown(body)}") from fault
    choices = payload.get("choices") if isinstance(payload, dict) else None
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise GarbageAnswerError(f"the answer has no choices: {_shown(body)}")
    choice = choices[0]
    usage = payload.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    return ChatAnswer(
        text=_text(choice.get("message")),
        finish_reason=_finish_reason(choice.get("finish_reason")),
        log_probs=_log_probs(choice.get("logprobs")),
        prompt_tokens=_count(counts.get("prompt_tokens")),
        completion_tokens=_count(counts.get("completion_tokens")),
        model=_name(payload.get("model")),
        version=_name(payload.get("system_fingerprint")),
    )


def error_message(body: str | bytes) -> str:
    """Finds what an endpoint says went wrong, on one line, shortened; empty where it says nothing.

    Example:
        >>> error_message('{"error": {"message": "no such model", "code": 404}}')
        'no such model'
    """
    try:
        payload = json.loads(body)
    except (ValueError, RecursionError):
        return _shown(body)
    error = payload.get("error", payload) if isinstance(payload, dict) else payload
    told = error.get("message", error.get("detail")) if isinstance(error, dict) else error
    return _shown(told) if isinstance(told, str | bytes) else _shown(body)


def _text(message: object) -> str:
    if not isinstance(message, dict):
        raise GarbageAnswerError("the choice has no message")
    text = message.get("content")
    if not isinstance(text, str) and isinstance(message.get("refusal"), str):
        raise GarbageAnswerError(f"the endpoint refused: {_shown(message['refusal'])}")
    if not isinstance(text, str):
        raise GarbageAnswerError(f"the message's content is {type(text).__name__}, not text")
    if not text.strip():
        raise GarbageAnswerError("the message's content is empty")
    try:
        text.encode()
    except UnicodeEncodeError as fault:
        raise GarbageAnswerError("the message's content holds half a character") from fault
    return text


def _finish_reason(reason: object) -> FinishReason | None:
    if reason is None:
        return None
    if reason not in ("stop", "length"):
        raise GarbageAnswerError(f"the answer ended by {_shown(str(reason))}")
    return "stop" if reason == "stop" else "length"


def _log_probs(given: object) -> tuple[float, ...]:
    tokens = given.get("content") if isinstance(given, Mapping) else None
    if tokens is None:
        return ()
    values: list[Any] = [token.get("logprob") if isinstance(token, dict) else None for token in _listed(tokens)]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        raise GarbageAnswerError("logprobs holds a token without a number")
    if not all(math.isfinite(value) for value in values):
        raise GarbageAnswerError("logprobs holds a number that is not finite")
    return tuple(float(value) for value in values)


def _listed(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise GarbageAnswerError("logprobs.content is no list")
    return value


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _name(value: object) -> str:
    return value if isinstance(value, str) else ""


def _shown(body: str | bytes) -> str:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else body
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
