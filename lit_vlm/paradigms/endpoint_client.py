"""Asks an OpenAI-compatible chat-completions endpoint: patient with its faults, bounded in pace and cost."""

from __future__ import annotations

import math
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from lit_vlm.functional.random_streams import random_stream
from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.endpoint_cache import AnswerCache, request_key
from lit_vlm.paradigms.endpoint_limits import Pace, RequestBudget, RequestLimits, Spending, Use
from lit_vlm.parsing.chat_answers import ChatAnswer, GarbageAnswerError, error_message, read_chat_answer

RETRIED = frozenset({408, 409, 429})
"""Answers, beside those from 500 on, after which a request is sent again."""
PERMANENT = frozenset({401, 402, 403, 404, 405})
"""Answers that every other request would be given too."""
CHARACTERS_A_TOKEN = 4
TOKENS_A_PICTURE = 1000
"""What prompts are taken to use before the endpoint has counted them."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


class FailedAnswerError(Exception):
    """Says why a request has no usable answer."""

    def __init__(self, reason: str, *, answered: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.answered = answered
        """Whether the endpoint answered with success, though nothing useful."""


@dataclass(frozen=True)
class Endpoint:
    """Where a model is asked."""

    url: str
    """Address of the interface, such as ``http://localhost:8000/v1``; ``/chat/completions`` is added."""
    model: str
    """Name of the model there."""
    api_key_variable: str | None = None
    """Name of the environment variable that holds the key, such as ``OPENAI_API_KEY``; None where none is needed."""

    def __post_init__(self) -> None:
        address = re.fullmatch(r"https?://[^\s/?#@]+[^\s?#]*", self.url)
        if address is None or "@" in self.url:
            # The address is not repeated: it may hold a password.
            raise UserError(
                "endpoint.url is no plain address; give one such as http://localhost:8000/v1, the key in "
                "endpoint.api_key_variable"
            )
        if not self.model.strip():
            raise UserError("endpoint.model is empty; name the model as the endpoint does")
        if self.api_key_variable is not None and not _VARIABLE.fullmatch(self.api_key_variable):
            # Not repeated either: somebody may have given the key itself.
            raise UserError(
                "endpoint.api_key_variable is no name of an environment variable; put the key into one and name that, "
                "such as OPENAI_API_KEY"
            )

    @property
    def address(self) -> str:
        """Where requests are sent."""
        return f"{self.url.rstrip('/')}/chat/completions"

    def key(self) -> str | None:
        """Reads the key.

        Raises:
            UserError: The variable is not set, or holds what no header can.
        """
        if self.api_key_variable is None:
            return None
        key = os.environ.get(self.api_key_variable, "").strip()
        if not key or not key.isascii() or not key.isprintable():
            raise UserError(
                f"endpoint.api_key_variable: the environment variable {self.api_key_variable} "
                f"{'holds no key' if key else 'is not set'}; export it before the run"
            )
        return key


@dataclass(frozen=True)
class ChatRequest:
    """One completion that is asked for."""

    body: dict[str, Any]
    """As the protocol has it."""
    index: int
    """Number of the completion among those of the same prompt."""
    max_tokens: int
    """Longest completion."""

    @property
    def most(self) -> Use:
        """Estimates the tokens of the prompt, and tells the most of the completion."""
        characters = pictures = 0
        for message in self.body["messages"]:
            content = message["content"]
            for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
                characters += len(part.get("text", ""))
                pictures += part["type"] != "text"
        prompt = math.ceil(characters / CHARACTERS_A_TOKEN) + pictures * TOKENS_A_PICTURE
        return Use(prompt, self.max_tokens)


class EndpointClient:
    """Sends requests; threads may share it.

    What fails for the moment is sent again after a wait that doubles, or after as long as ``Retry-After`` says: no
    answer in time, a broken connection, the codes 408, 409, 429 and those from 500 on. The key stands in a header of
    requests and nowhere else; messages have it blotted out.

    Args:
        endpoint: Where.
        limits: How patiently, and how fast.
        budget: The most that may be used.
        cache: Where answers are looked up first and kept; None asks always.
        clock: Tells seconds, from any start.
        sleep: Waits that many seconds; None waits on the clock of the machine, until ``close`` at the longest.
        transport: What carries requests; None for the network.

    Raises:
        UserError: The key is not there.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        limits: RequestLimits = RequestLimits(),
        budget: RequestBudget = RequestBudget(),
        cache: AnswerCache | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
        transport: httpx2.BaseTransport | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.limits = limits
        self.spending = Spending(budget)
        self.from_cache = 0
        """Requests whose answer was on disk."""
        self._cache = cache
        self._closed = threading.Event()
        self._sleep = self._closed.wait if sleep is None else sleep
        self._pace = Pace(limits.requests_per_minute, limits.tokens_per_minute, clock=clock, sleep=self._sleep)
        self._key = endpoint.key()
        self._lock = threading.Lock()
        self._failed_in_a_row = 0
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        connections = httpx2.Limits(max_connections=limits.concurrency, max_keepalive_connections=limits.concurrency)
        self._http = httpx2.Client(
            headers=headers,
            timeout=limits.timeout_seconds,
            limits=connections,
            transport=transport,
            verify=endpoint.url.startswith("https"),  # certificates are slow to load, and no use otherwise
        )

    def close(self) -> None:
        """Ends the connections; requests that wait are not sent any more."""
        self._closed.set()
        self._http.close()

    def ask(self, request: ChatRequest) -> ChatAnswer:
        """Returns the answer to a request, from disk where it was asked before.

        Raises:
            FailedAnswerError: There is no usable answer.
            BudgetSpentError: The budget does not allow for it.
            UserError: No request can succeed: the key, the address or the model's name is wrong, or too many requests
                one after another had no answer.
        """
        key = request_key(self.endpoint.address, request.body, request.index)
        known = None if self._cache is None else self._cache.find(key)
        if known is not None:
            with self._lock:
                self.from_cache += 1
            return known
        try:
            answer = self._answered(request, key)
        except FailedAnswerError as failure:
            self._count(failure)
            raise
        self._count(None)
        if self._cache is not None:
            self._cache.keep(key, answer)
        return answer

    def _answered(self, request: ChatRequest, key: str) -> ChatAnswer:
        fault = ""
        for attempt in range(self.limits.attempts):
            if self._closed.is_set():
                break
            response, fault = self._sent(request)
            if response is not None and response.status_code not in RETRIED and response.status_code < 500:
                return self._read(response)
            if attempt + 1 < self.limits.attempts:
                self._wait(attempt, key, response)
        raise FailedAnswerError(f"{fault}, {self.limits.attempts} times", answered=False)

    def _count(self, failure: FailedAnswerError | None) -> None:
        """Counts what had no answer at all, one after another.

        Raises:
            UserError: Too many.
        """
        with self._lock:
            self._failed_in_a_row = self._failed_in_a_row + 1 if failure and not failure.answered else 0
            if failure is None or self._failed_in_a_row < self.limits.failures_in_a_row:
                return
        raise UserError(
            f"{self.endpoint.address} gave no answer to {self._failed_in_a_row} requests one after another, the last "
            f"by {failure.reason}; what was written is kept: run again when it answers"
        ) from failure

    def _sent(self, request: ChatRequest) -> tuple[httpx2.Response | None, str]:
        """Sends a request once; returns what came back, and what is wrong with it."""
        most = request.most
        self._pace.wait(most.tokens)
        self.spending.reserve(most)
        used = Use()
        try:
            response = self._http.post(self.endpoint.address, json=request.body)
            if response.is_success:
                used = _use(response, most)
        except httpx2.TimeoutException:
            return None, f"no answer within {self.limits.timeout_seconds:g} s"
        except httpx2.RequestError as fault:
            return None, self._blotted(f"no connection ({type(fault).__name__}: {fault})")
        finally:
            self.spending.settle(most, used)
            self._pace.correct(used.tokens - most.tokens)
        return response, f"code {response.status_code}: {self._blotted(error_message(response.content))}"

    def _read(self, response: httpx2.Response) -> ChatAnswer:
        """Reads an answer that is no use asking for again."""
        code, endpoint = response.status_code, self.endpoint
        told = self._blotted(error_message(response.content)) if not response.is_success else ""
        if code in PERMANENT:
            mend = {
                401: "check the key in endpoint.api_key_variable",
                402: "the account has no credit",
                403: "the key may not use this model",
                404: "check endpoint.url and endpoint.model",
                405: "check endpoint.url",
            }[code]
            raise UserError(f"{endpoint.address} answers {code} to requests for {endpoint.model!r}: {told}; {mend}")
        if response.is_redirect:
            raise UserError(f"{endpoint.address} answers {code}, that it moved; give the new address in endpoint.url")
        if not response.is_success:
            raise FailedAnswerError(f"code {code}: {told}", answered=False)
        try:
            return read_chat_answer(response.content)
        except GarbageAnswerError as fault:
            raise FailedAnswerError(self._blotted(str(fault)), answered=True) from fault

    def _wait(self, attempt: int, key: str, response: httpx2.Response | None) -> None:
        jitter = random_stream("endpoint_backoff", key, attempt).uniform(0.5, 1.0)
        # Bounded before it is raised to a power, which would leave the range of numbers.
        wait = self.limits.backoff_seconds * 2.0 ** min(attempt, 60) * jitter
        asked = None if response is None else retry_after(response.headers.get("Retry-After"))
        if asked is not None:
            self._pace.hold(min(asked, self.limits.longest_wait_seconds))
            wait = max(wait, asked)
        self._sleep(min(wait, self.limits.longest_wait_seconds))

    def _blotted(self, text: str) -> str:
        """Leaves the key out of a text that the endpoint has written."""
        return text if self._key is None else text.replace(self._key, "***")


def retry_after(value: str | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> float | None:
    """Reads the header of that name: seconds, or a date; None where there is none or it is neither.

    Example:
        >>> retry_after("2.5"), retry_after("soon"), retry_after(None)
        (2.5, None, None)
    """
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            date = parsedate_to_datetime(value)
        except ValueError:
            return None
        seconds = (date.replace(tzinfo=date.tzinfo or UTC) - now()).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _use(response: httpx2.Response, most: Use) -> Use:
    """Reads the tokens of an answer; what is not told is taken to be what was reserved."""
    try:
        answer = read_chat_answer(response.content)
    except GarbageAnswerError:
        return most
    return Use(
        most.prompt_tokens if answer.prompt_tokens is None else answer.prompt_tokens,
        most.completion_tokens if answer.completion_tokens is None else answer.completion_tokens,
    )
