import multiprocessing
import os
import subprocess
import sys
import threading
import time

import pytest

from lit_vlm.parsing import math_equivalence
from lit_vlm.parsing.math_equivalence import MathCounts, is_formula, math_counts, math_equal

PATIENCE = 60.0
"""Seconds for comparisons that must succeed however busy the machine is."""


@pytest.fixture(scope="module")
def helper():
    """Starts the helper outside the tests' own time."""
    math_equal("x", "y", PATIENCE)


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [("x^2", " $x^2$ "), ("0.50", "1/2"), ("\u22125", "-5.0"), ("\\boxed{5}", "5"), ("gibberish ]", "gibberish ]")],
)
def test_equal_texts_and_plain_numbers_need_no_helper(prediction, gold):
    before = math_counts().asked
    assert math_equal(prediction, gold)
    assert math_counts().asked == before


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("5", "6"),
        ("0.3333333", "1/3"),
        ("1e400", "1e401"),
        ("", ""),
        ("", "5"),
        ("the cup is red", "5"),
        ("x" * 2000, "5"),
        ("$5$ or $6$", "5"),
        ("\\boxed{5}\\boxed{6}", "6"),
    ],
)
def test_what_is_unequal_at_sight_needs_no_helper(prediction, gold):
    before = math_counts().asked
    assert not math_equal(prediction, gold)
    assert math_counts().asked == before


@pytest.mark.parametrize(
    ("prediction", "gold"),
    [
        ("\\frac{1}{2}", "0.5"),
        ("(x+1)^2", "x^2+2x+1"),
        ("sqrt(8)", "2\\sqrt{2}"),
        ("x = 5", "5"),
        ("2, 1", "\\{1, 2\\}"),
        ("2^{10}", "1024"),
    ],
)
def test_formulas_of_the_same_value_are_equal(helper, prediction, gold):
    assert math_equal(prediction, gold, PATIENCE)


@pytest.mark.parametrize("gold", ["5", "6", "56", "30"])
@pytest.mark.parametrize(
    "prediction",
    [
        "5 or 6",
        "5, 6",
        "5 and 6",
        "5 \\text{ or } 6",
        "either 5 or 6",
        "\\{5, 6\\}",
        "5 maybe 6",
        "x=5, x=6",
        "5 \\pm 1",
    ],
)
def test_an_answer_that_names_several_numbers_equals_none(helper, prediction, gold):
    assert not math_equal(prediction, gold, PATIENCE)


@pytest.mark.parametrize(
    "prediction",
    ["9**9**9", "1e99999", "\\frac{1}{0}", "\\infty", "nan", "\\", "}{", "\x00", "\ud800", "[" * 60, "import os"],
)
def test_hostile_formulas_are_unequal_and_do_not_raise(helper, prediction):
    assert not math_equal(prediction, "5", PATIENCE)


@pytest.mark.parametrize(
    ("text", "readable"),
    [("1,234", True), ("$\\frac12$", True), ("x=3", True), ("\\{1,2\\}", True), ("\\frac{", False), ("", False)],
)
def test_a_formula_is_told_from_what_cannot_be_read(helper, text, readable):
    assert is_formula(text) == readable


def test_any_thread_may_ask(helper):
    answers = []
    threads = [
        threading.Thread(
            target=lambda number=number: answers.append(math_equal(f"\\frac{{{number}}}{{2}}", "1.5", PATIENCE))
        )
        for number in (3, 4, 3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [False, True, True]


def test_a_timeout_that_is_not_above_zero_is_refused():
    with pytest.raises(ValueError, match="must be above 0"):
        math_equal("1", "1", timeout_seconds=0)


def test_an_endless_computation_is_stopped_counted_and_unequal(helper):
    before = math_counts()
    started = time.perf_counter()
    assert not math_equal("9^{9^{9}}", "5", timeout_seconds=0.3)
    assert time.perf_counter() - started < 30
    after = math_counts()
    # The machine's memory may end the helper before its clock does; both are counted.
    assert (after.timeouts + after.crashes) - (before.timeouts + before.crashes) == 1
    assert after.asked == before.asked + 1


@pytest.mark.slow
def test_the_helper_is_started_again_after_it_was_stopped():
    math_equal("9^{9^{9}}", "5", timeout_seconds=0.3)
    assert math_equal("\\frac{1}{2}", "0.5", PATIENCE)


@pytest.mark.slow
def test_a_helper_that_was_killed_counts_as_a_crash(helper):
    assert math_equal("\\frac{1}{2}", "0.5", PATIENCE)
    before = math_counts()
    math_equivalence._service._helper._process.kill()
    assert not math_equal("\\frac{1}{2}", "0.5", PATIENCE)
    assert math_counts().crashes == before.crashes + 1
    assert math_equal("\\frac{1}{2}", "0.5", PATIENCE)


def _compare_in_child(results):
    results.put((math_counts(), math_equal("\\frac{1}{2}", "0.5", PATIENCE), math_counts().asked))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on, where threads run
def test_a_forked_daemonic_child_has_a_helper_of_its_own(helper):
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=_compare_in_child, args=(results,), daemon=True)
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0
    assert results.get() == (MathCounts(), True, 1)
    assert math_equal("\\frac{1}{2}", "0.5", PATIENCE)


@pytest.mark.slow
def test_the_interpreter_ends_at_once_and_takes_its_helper_along():
    script = (
        "from lit_vlm.parsing import math_equivalence as m; m.math_equal('x', 'y', 60);"
        "print(m._service._helper.process_id)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=PATIENCE, check=True)
    with pytest.raises(ProcessLookupError):
        os.kill(int(done.stdout), 0)
    assert done.stderr == ""
