import pytest

from lit_vlm.functional.dead_workers import dead_worker_error


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
