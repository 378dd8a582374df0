import logging
import signal
import threading
import time

import pytest

from lit_vlm.functional.time_limit import TimeLimitError, time_limit


def wait_for_ever():
    while True:
        try:
            time.sleep(60)
        except Exception:
            pytest.fail("it took the end for an error of its own")


def test_what_waits_for_ever_ends_at_the_limit(caplog):
    start = time.monotonic()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(TimeLimitError, match="the judge took longer than 0.3 s"),
        time_limit("the judge", 0.1, 0.3),
    ):
        wait_for_ever()
    assert time.monotonic() - start < 10
    assert "the judge has been running for 0 s" in caplog.text


def test_what_ends_in_time_leaves_nothing_behind(caplog):
    before = signal.getsignal(signal.SIGALRM)
    with time_limit("the judge", 60.0, 0.2):
        value = 3
    time.sleep(0.3)
    assert value == 3
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert not caplog.records


def test_an_error_passes_through():
    with pytest.raises(KeyError), time_limit("the judge", 60.0, 60.0):
        raise KeyError("own")
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_in_other_threads_there_is_the_warning_only(caplog):
    def run():
        with time_limit("the judge", 0.05, 0.1):
            time.sleep(0.3)
        finished.append(True)

    finished = []
    with caplog.at_level(logging.WARNING):
        thread = threading.Thread(target=run)
        thread.start()
        thread.join()
    assert finished == [True]
    assert "the judge has been running" in caplog.text
