import threading

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.endpoint_limits import BudgetSpentError, Pace, RequestBudget, Spending, Use


class Clock:
    """Time that passes by sleeping alone."""

    def __init__(self):
        self.now = 100.0
        self.slept = []

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        self.slept.append(round(seconds, 9))
        self.now += seconds


def test_the_price_is_of_a_million_tokens():
    assert RequestBudget(input_price=3.0, output_price=15.0).price(2_000_000, 100_000) == 7.5


def test_requests_are_counted_before_they_are_sent():
    spending = Spending(RequestBudget(requests=2))
    for _ in range(2):
        spending.reserve(Use(10, 10))
    with pytest.raises(BudgetSpentError, match="2 requests of 2"):
        spending.reserve(Use(0, 0))


def test_the_token_budget_holds_whatever_is_answered():
    spending = Spending(RequestBudget(tokens=100))
    spending.reserve(Use(30, 50))
    spending.settle(Use(30, 50), Use(20, 10))
    assert spending.used.tokens == 30
    spending.reserve(Use(20, 50))  # exactly 100 at most
    spending.settle(Use(20, 50), Use(20, 50))
    with pytest.raises(BudgetSpentError, match="100 tokens of 100"):
        spending.reserve(Use(1, 0))


def test_a_request_waits_for_what_those_under_way_leave():
    spending = Spending(RequestBudget(tokens=100))
    spending.reserve(Use(0, 80))
    done = threading.Event()

    def second():
        spending.reserve(Use(0, 50))
        done.set()

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    assert not done.wait(0.02)
    spending.settle(Use(0, 80), Use(0, 5))
    assert done.wait(5)
    thread.join()
    assert spending.requests == 2


def test_money_is_counted_by_the_prices():
    spending = Spending(RequestBudget(cost=1.0, input_price=1.0, output_price=2.0))
    spending.reserve(Use(500_000, 100_000))
    spending.settle(Use(500_000, 100_000), Use(500_000, 100_000))
    assert spending.cost == pytest.approx(0.7)
    with pytest.raises(BudgetSpentError, match="0.7 of 1 in money"):
        spending.reserve(Use(500_000, 0))
    spending.reserve(Use(100_000, 100_000))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"requests": -1}, "budget.requests"),
        ({"tokens": float("nan")}, "budget.tokens"),
        ({"cost": float("inf")}, "budget.cost"),
        ({"input_price": -0.1}, "budget.input_price"),
        ({"cost": 5.0}, "without prices"),
    ],
)
def test_budgets_that_cannot_be_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        RequestBudget(**options)


def test_requests_a_minute_are_spaced_evenly():
    clock = Clock()
    pace = Pace(requests_per_minute=30, clock=clock, sleep=clock.sleep)
    for _ in range(3):
        pace.wait(1000)
    assert clock.slept == [2.0, 2.0]


def test_tokens_a_minute_space_long_requests_further():
    clock = Clock()
    pace = Pace(requests_per_minute=60, tokens_per_minute=600, clock=clock, sleep=clock.sleep)
    pace.wait(30)  # 3 s by tokens, 1 s by requests
    pace.wait(5)  # 0.5 s by tokens
    pace.wait(5)
    assert clock.slept == [3.0, 1.0]


def test_tokens_that_were_not_needed_are_given_back():
    clock = Clock()
    pace = Pace(tokens_per_minute=60, clock=clock, sleep=clock.sleep)
    pace.wait(10)
    pace.correct(-6)
    pace.wait(1)
    assert clock.slept == [4.0]


def test_time_that_has_passed_is_not_waited_for():
    clock = Clock()
    pace = Pace(requests_per_minute=60, clock=clock, sleep=clock.sleep)
    pace.wait(1)
    clock.now += 10
    pace.wait(1)
    assert clock.slept == []


def test_a_hold_keeps_every_request_back():
    clock = Clock()
    pace = Pace(clock=clock, sleep=clock.sleep)
    pace.hold(7)
    pace.wait(1)
    assert clock.slept == [7.0]


def test_without_limits_nothing_waits():
    clock = Clock()
    pace = Pace(clock=clock, sleep=clock.sleep)
    for _ in range(100):
        pace.wait(10**6)
    assert clock.slept == []
