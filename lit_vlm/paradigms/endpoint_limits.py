"""How fast an endpoint may be asked, and how much it may cost."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from lit_vlm.interfaces.errors import UserError

MILLION = 1_000_000


class BudgetSpentError(Exception):
    """Says which limit of the budget the next request would exceed."""


@dataclass(frozen=True)
class RequestLimits:
    """How patiently and how fast an endpoint is asked; no answer depends on it."""

    timeout_seconds: float = 120.0
    """Longest silence of the endpoint before a request is given up and sent again."""
    attempts: int = 6
    """How often a request is sent at most."""
    backoff_seconds: float = 1.0
    """Wait before the second attempt; it doubles with each, and is shortened by up to a half at random."""
    longest_wait_seconds: float = 120.0
    """Longest wait before an attempt, also where the endpoint asks for more (``Retry-After``)."""
    concurrency: int = 8
    """Most requests under way at a time."""
    requests_per_minute: float | None = None
    """Most requests; None for any number."""
    tokens_per_minute: float | None = None
    """Most tokens, prompts included, as estimated before a request and corrected after it; None for any number."""
    failures_in_a_row: int = 10
    """Requests without an answer, one after another, from which on the run is given up."""

    def __post_init__(self) -> None:
        for name in ("attempts", "concurrency", "failures_in_a_row"):
            if getattr(self, name) < 1:
                raise UserError(f"limits.{name} is {getattr(self, name)}; give at least 1")
        for name in ("timeout_seconds", "requests_per_minute", "tokens_per_minute"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UserError(f"limits.{name} is {value}; give more than 0")
        for name in ("backoff_seconds", "longest_wait_seconds"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"limits.{name} is {getattr(self, name)}; give 0 or more")


@dataclass(frozen=True)
class RequestBudget:
    """The most that one run may use; what is read from the cache costs nothing."""

    requests: int | None = None
    """Most requests, repeated ones included; None for any number."""
    tokens: int | None = None
    """Most tokens, those of prompts included; None for any number."""
    cost: float | None = None
    """Most money, in the currency of the prices; None for any amount."""
    input_price: float = 0.0
    """Of a million tokens of prompts."""
    output_price: float = 0.0
    """Of a million tokens of completions."""

    def __post_init__(self) -> None:
        for name in ("requests", "tokens", "cost"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"budget.{name} is {value}; give 0 or more, or null for any")
        for name in ("input_price", "output_price"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UserError(f"budget.{name} is {getattr(self, name)}; give the price of a million tokens")
        if self.cost is not None and not self.input_price and not self.output_price:
            raise UserError("budget.cost is given without prices; add budget.input_price and budget.output_price")

    def price(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Tells what so many tokens cost.

        Example:
            >>> RequestBudget(input_price=2.0, output_price=10.0).price(1000, 100)
            0.003
        """
        return (prompt_tokens * self.input_price + completion_tokens * self.output_price) / MILLION


@dataclass(frozen=True)
class Use:
    """Tokens of one request or of several."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        """Those of prompts and completions."""
        return self.prompt_tokens + self.completion_tokens


class Spending:
    """Counts what requests use and refuses those that would go over the budget; threads may share it.

    A request under way is counted as the most that it may use, so that the budget holds whatever is answered.

    Args:
        budget: The limits.
    """

    def __init__(self, budget: RequestBudget) -> None:
        self.budget = budget
        self.requests = 0
        """Sent so far."""
        self.used = Use()
        """Of requests that were answered."""
        self._under_way = Use()
        self._open = 0
        self._changed = threading.Condition()

    @property
    def cost(self) -> float:
        """Of requests that were answered, by the prices given."""
        return self.budget.price(self.used.prompt_tokens, self.used.completion_tokens)

    def reserve(self, most: Use) -> None:
        """Counts a request that is about to be sent; waits where it depends on requests under way.

        Raises:
            BudgetSpentError: It might go over the budget.
        """
        with self._changed:
            while True:
                if self.budget.requests is not None and self.requests + 1 > self.budget.requests:
                    raise BudgetSpentError(f"{self.requests:,} requests of {self.budget.requests:,}")
                excess = self._excess(most)
                if excess is None:
                    break
                if not self._open:
                    raise BudgetSpentError(excess)
                self._changed.wait()
            self.requests += 1
            self._open += 1
            self._under_way = _sum(self._under_way, most)

    def settle(self, most: Use, used: Use) -> None:
        """Puts what a request has used in the place of what was reserved for it."""
        with self._changed:
            self._open -= 1
            self._under_way = _sum(self._under_way, Use(-most.prompt_tokens, -most.completion_tokens))
            self.used = _sum(self.used, used)
            self._changed.notify_all()

    def _excess(self, most: Use) -> str | None:
        """Says how much is used, where a request might go over a limit."""
        budget, held = self.budget, _sum(self.used, self._under_way, most)
        if budget.tokens is not None and held.tokens > budget.tokens:
            return f"{self.used.tokens:,} tokens of {budget.tokens:,}"
        if budget.cost is not None and budget.price(held.prompt_tokens, held.completion_tokens) > budget.cost:
            return f"{self.cost:.4g} of {budget.cost:g} in money"
        return None


class Pace:
    """Spaces requests evenly, so that neither limit a minute is passed; threads may share it.

    Args:
        requests_per_minute: Most requests; None for any number.
        tokens_per_minute: Most tokens; None for any number.
        clock: Tells seconds, from any start.
        sleep: Waits that many seconds.
    """

    def __init__(
        self,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._seconds_a_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_a_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._clock = clock
        self._sleep = sleep
        self._free = -math.inf
        self._lock = threading.Lock()

    def wait(self, tokens: int) -> None:
        """Waits for the turn of a request of about so many tokens."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._free)
            self._free = turn + max(self._seconds_a_request, tokens * self._seconds_a_token)
        if turn > now:
            self._sleep(turn - now)

    def correct(self, tokens: int) -> None:
        """Lets requests come later by so many tokens that were not expected, or earlier by a negative number."""
        with self._lock:
            self._free += tokens * self._seconds_a_token

    def hold(self, seconds: float) -> None:
        """Lets no request begin for so many seconds."""
        with self._lock:
            self._free = max(self._free, self._clock() + seconds)


def _sum(*uses: Use) -> Use:
    return Use(sum(use.prompt_tokens for use in uses), sum(use.completion_tokens for use in uses))
