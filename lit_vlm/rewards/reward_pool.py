"""Slow or unruly rewards in processes of their own, each question with a time limit."""

from __future__ import annotations

import json
import os
import pickle
import queue
import sys
import threading
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from lit_vlm.functional.worker_process import WorkerProcess
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.rewards.reward_worker import packed, unpacked

START_SECONDS = 120.0
"""Longest wait for a process to load its libraries and the reward."""

NOT_ASKED = "was not asked any more"
"""In the place of an answer, where an earlier question has failed."""

Question = tuple[Sequence[Completion], RewardContext]
"""Completions that are scored together, with what is known beside them."""


class RewardPool:
    """Asks a reward in worker processes, started with the first question and kept.

    A worker that does not answer in time is killed, also in the midst of C code, and another takes its place; the other
    questions keep their answers. Each process (a rank, say) has workers of its own; they end with it.

    Args:
        reward: What to ask; it must be picklable and importable by name, so not defined in the main script.
        workers: How many processes, at least 1.
        timeout: Seconds for each completion.
    """

    def __init__(self, reward: Reward, workers: int, timeout: float) -> None:
        self._settings = (reward, workers, timeout)
        self._claim()

    def __reduce__(self) -> tuple[type[RewardPool], tuple[Reward, int, float]]:
        # Copies, also those in other processes, start workers of their own.
        return type(self), self._settings

    def ask(self, questions: Sequence[Question], *, to_the_end: bool = True) -> list[RewardOutput | str]:
        """Answers each question by what the reward returned, or by what went wrong.

        Args:
            questions: Any number.
            to_the_end: Whether to go on after a fault; if not, later questions are answered by ``NOT_ASKED``.

        Raises:
            UserError: A worker could not start or load the reward.
        """
        if self._owner != os.getpid():
            self._claim()  # forked: the workers are the parent's
        executor = ThreadPoolExecutor(max_workers=self._settings[1])
        has_failed = threading.Event()

        def answer(question: Question) -> RewardOutput | str:
            if has_failed.is_set() and not to_the_end:
                return NOT_ASKED
            found = self._answer(question)
            if isinstance(found, str):
                has_failed.set()
            return found

        try:
            return list(executor.map(answer, questions))
        finally:
            executor.shutdown(cancel_futures=True)

    def _claim(self) -> None:
        self._owner = os.getpid()
        self._idle: queue.SimpleQueue[WorkerProcess] = queue.SimpleQueue()
        # At the pool's end its workers are idle: `ask` has returned.
        weakref.finalize(self, _stop_all, self._idle)

    def _answer(self, question: Question) -> RewardOutput | str:
        completions, context = question
        seconds = self._settings[2] * len(completions)
        worker = self._worker()
        answered = False
        output: RewardOutput | None = None
        fault: str | None = None
        try:
            worker.write(packed((seconds, completions, context)), seconds)
            output, fault = unpacked(worker.read(seconds))
            answered = True
        except TimeoutError:
            fault = f"took longer than {seconds:g} s"
        except (EOFError, ConnectionError):
            fault = "ended its process (a crash, or not enough memory)"
        finally:
            # A late reply would be taken for that of the next question.
            if answered:
                self._idle.put(worker)
            else:
                worker.stop()
        return fault or output or "returned nothing"

    def _worker(self) -> WorkerProcess:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return self._started()

    def _started(self) -> WorkerProcess:
        reward = self._settings[0]
        try:
            settings = packed(reward)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise UserError(
                f"the reward {type(reward).__name__} cannot go to a process of its own, as a time limit needs: {error}"
            ) from error
        worker = WorkerProcess(Path(__file__).with_name("reward_worker.py"), shows_errors=True)
        fault: str | None = "ended before it was ready"
        try:
            worker.write(json.dumps(sys.path).encode(), START_SECONDS)
            worker.write(settings, START_SECONDS)
            fault = unpacked(worker.read(START_SECONDS))[1]
        except (TimeoutError, EOFError, ConnectionError) as error:
            raise UserError(f"a process for the reward {type(reward).__name__} did not start: {error!r}") from error
        finally:
            if fault is not None:
                worker.stop()
        if fault is not None:
            raise UserError(
                f"a process of its own could not load the reward {type(reward).__name__}: it {fault}. With a time "
                "limit, a reward must stand in a module that can be imported, not in the main script"
            )
        return worker


def _stop_all(idle: queue.SimpleQueue[WorkerProcess]) -> None:
    while not idle.empty():
        idle.get_nowait().stop()
