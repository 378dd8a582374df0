import multiprocessing
import os
import signal
import time

import pytest

from lit_vlm.functional.dead_workers import dead_worker_error, lost_answer_error


def raised(text, cause=None):
    try:
        raise RuntimeError(text) from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (raised("DataLoader worker (pid 7) is killed by signal: Killed. "), "DataLoader worker (pid 7) is killed by "),
        (
            raised(
                "DataLoader worker (pid(s) 7) exited unexpectedly", RuntimeError("it was killed by signal: Bus.\nx")
            ),
            "it was killed by signal: Bus)",
        ),
        (raised("DataLoader worker (pid(s) 7) exited unexpectedly"), "exited unexpectedly)"),
    ],
)
def test_the_death_of_a_worker_is_told_with_its_reason(error, reason):
    told = str(dead_worker_error(error))
    assert told.startswith("a process that reads data died (")
    assert reason in told
    assert told.endswith("or the size of batches")


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), ValueError("DataLoader worker (pid 7) died")])
def test_other_errors_are_left_alone(error):
    assert dead_worker_error(error) is None


def end_by_signal():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def start():
    """Starts processes, and ends them."""
    started = []

    def begin(work, *values):
        process = multiprocessing.get_context("fork").Process(target=work, args=values)
        process.start()
        started.append(process)
        return process

    yield begin
    for process in started:
        process.kill()
        process.join()


def test_an_answer_that_breaks_off_with_its_worker_is_told_as_its_death(start):
    living, dying = start(time.sleep, 60), start(end_by_signal)
    for error in (ConnectionResetError("reset"), EOFError(), FileNotFoundError("a socket")):
        assert "ended: Killed), most often" in str(lost_answer_error(error, [living, dying]))
    failing = start(os._exit, 3)
    assert "ended: status 3)" in str(lost_answer_error(EOFError(), [failing]))
    assert "died (DataLoader worker (pid 7)" in str(lost_answer_error(raised("DataLoader worker (pid 7) left"), []))


def test_an_error_of_the_data_themselves_is_left_alone(start):
    assert lost_answer_error(FileNotFoundError("page.png"), [start(time.sleep, 60)]) is None
    assert lost_answer_error(FileNotFoundError("page.png"), []) is None
    assert lost_answer_error(raised("shapes differ"), [start(end_by_signal)]) is None
