"""Whether two formulas are equal, by the math_verify package, in a process of its own that can be killed.

math_verify stops long computations by SIGALRM, which works on the main thread only and not inside one long
multiplication. Here it runs in a ``WorkerProcess`` with a wall clock and a memory limit: any thread may ask; each
process starts its own helper with its first question (some seconds, for sympy).
"""

import functools
import importlib.util
import json
import os
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from lit_vlm.functional.worker_process import WorkerProcess
from lit_vlm.interfaces.errors import UserError
from lit_vlm.parsing.answer_text import peel
from lit_vlm.parsing.plain_numbers import parse_number, unify_signs

MAXIMUM_CHARACTERS = 1000
"""Longer formulas are unequal to everything but themselves."""
START_SECONDS = 120.0
"""Longest wait for the helper process to load its libraries."""


@dataclass(frozen=True)
class MathCounts:
    """How often this process asked its helper, and how that failed."""

    asked: int = 0
    """Comparisons that needed the helper."""
    timeouts: int = 0
    """Comparisons stopped by the clock and counted as unequal."""
    crashes: int = 0
    """Comparisons that ended the helper (memory, nesting) and counted as unequal."""


def math_equal(prediction: str, gold: str, timeout_seconds: float = 3.0) -> bool:
    r"""Says whether two formulas, in LaTeX or as one types them, have the same value.

    Equal texts are equal, two plain numbers are compared exactly, and a text without digits or LaTeX equals no plain
    number; none of these needs the helper. Otherwise each text is read as *one* formula and compared symbolically and
    numerically, to 6 decimals. Of an equation ``x = 5`` the right side counts.

    Args:
        prediction: The model's formula, without the sentence around it.
        gold: The true formula.
        timeout_seconds: Wall clock for the comparison; the time a new helper takes to start comes on top.

    Returns:
        True where found equal; False where found unequal, unreadable, empty, too long, timed out or crashed
        (``math_counts`` tells these last two).

    Raises:
        UserError: The math_verify package is missing.
        ValueError: ``timeout_seconds`` is not above 0.

    Example:
        >>> math_equal("0.50", "1/2"), math_equal("5 or 6", "5 or 6"), math_equal("0.51", "1/2")
        (True, True, False)
    """
    if not timeout_seconds > 0:
        raise ValueError(f"timeout_seconds is {timeout_seconds}; it must be above 0")
    prediction, gold = unify_signs(peel(prediction)), unify_signs(peel(gold))
    if not prediction or not gold:
        return False
    if prediction == gold:
        return True
    given, wanted = parse_number(prediction), parse_number(gold)
    if given is not None and wanted is not None:
        return given == wanted
    # Words cannot have a plain number's value, and an untrained model writes little else.
    if wanted is not None and not any(character in "0123456789\\" for character in prediction):
        return False
    # A dollar or a box that does not wrap the whole is one formula beside another.
    several = any("$" in text or "\\boxed" in text for text in (prediction, gold))
    if several or max(len(prediction), len(gold)) > MAXIMUM_CHARACTERS:
        return False
    return _service.ask(prediction, gold, timeout_seconds)


@functools.lru_cache(maxsize=4096)
def is_formula(text: str, timeout_seconds: float = 60.0) -> bool:
    r"""Says whether a text can be read as one formula or number, so that ``math_equal`` can compare it by value.

    Meant for true answers: they deserve patience, a model's formulas do not.

    Raises:
        UserError: The math_verify package is missing.

    Example:
        >>> is_formula("1,234"), is_formula("")
        (True, False)
    """
    text = unify_signs(peel(text))
    if parse_number(text) is not None:
        return True
    if not text or "$" in text or "\\boxed" in text or len(text) > MAXIMUM_CHARACTERS:
        return False
    return _service.ask(text, text, timeout_seconds)


def math_counts() -> MathCounts:
    """Reads the counts of this process since its start."""
    return _service.counts


def _new_helper() -> WorkerProcess:
    if importlib.util.find_spec("math_verify") is None:
        raise UserError("comparing formulas needs the math_verify package, which is missing; install math-verify")
    return WorkerProcess(Path(__file__).with_name("math_worker.py"))


class _Service:
    """Keeps one helper for this process and asks it one question at a time."""

    def __init__(self) -> None:
        self.counts = MathCounts()
        self._lock = threading.Lock()
        self._helper: WorkerProcess | None = None

    def ask(self, prediction: str, gold: str, seconds: float) -> bool:
        """Asks the helper, started where there is none."""
        with self._lock:
            helper = self._started()
            self.counts = replace(self.counts, asked=self.counts.asked + 1)
            reply: object = None
            try:
                request = {"prediction": prediction, "gold": gold, "seconds": seconds}
                helper.write(json.dumps(request).encode(), seconds)
                reply = json.loads(helper.read(seconds))
            except TimeoutError:
                self.counts = replace(self.counts, timeouts=self.counts.timeouts + 1)
            except (EOFError, ConnectionError):
                self.counts = replace(self.counts, crashes=self.counts.crashes + 1)
            finally:
                # Also after Ctrl-C: a reply that comes later would be taken for that of the next question.
                if reply is None:
                    self._stop()
            return reply is True

    def after_fork(self) -> None:
        """Starts afresh in a forked child: the helper is the parent's, and another thread may have held the lock."""
        self.counts = MathCounts()
        self._lock = threading.Lock()
        self._helper = None

    def _started(self) -> WorkerProcess:
        if self._helper is None:
            self._helper = _new_helper()
            ready: object = None
            try:
                ready = self._helper.read(START_SECONDS)
            except (TimeoutError, EOFError, ConnectionError) as error:
                raise RuntimeError(
                    f"the helper process that compares formulas did not start within {START_SECONDS:g} s or ended; "
                    "run `python -m lit_vlm.parsing.math_worker` to see why"
                ) from error
            finally:
                if ready is None:
                    self._stop()
        return self._helper

    def _stop(self) -> None:
        if self._helper is not None:
            self._helper.stop()
            self._helper = None


_service = _Service()
os.register_at_fork(after_in_child=_service.after_fork)
