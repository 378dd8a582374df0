import queue
import time

import pytest
from torch.utils.data import Dataset

from lit_vlm.data import worker_processes
from lit_vlm.data.worker_processes import report_start, start_reading
from lit_vlm.interfaces.errors import UserError


class Squares(Dataset):
    def __getitem__(self, number):
        return number**2


@pytest.fixture
def hanging_once(monkeypatch, tmp_path):
    """Makes worker 1 hang before its first line, as a fork may, until its process was replaced once."""

    def hang(has_started, worker):
        if worker == 1 and not (tmp_path / "hung").exists():
            (tmp_path / "hung").touch()
            time.sleep(1000)
        report_start(has_started, worker)

    monkeypatch.setattr(worker_processes, "report_start", hang)
    monkeypatch.setattr(worker_processes, "START_SECONDS", 1.0)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_answers_come_in_order(workers):
    data, answers = start_reading(Squares, range(20), num_workers=workers, seed=0)
    assert isinstance(data, Squares)
    assert list(answers) == [number**2 for number in range(20)]


def test_workers_that_hang_before_they_start_are_replaced(hanging_once, tmp_path):
    built = []
    data, answers = start_reading(lambda: built.append(Squares()) or built[-1], range(9), num_workers=2, seed=0)
    assert (tmp_path / "hung").exists()
    assert len(built) == 2
    assert data is built[1]
    assert list(answers) == [number**2 for number in range(9)]


def test_workers_that_never_start_end_in_one_line(monkeypatch):
    monkeypatch.setattr(worker_processes, "report_start", lambda has_started, worker: time.sleep(1000))
    monkeypatch.setattr(worker_processes, "START_SECONDS", 0.2)
    with pytest.raises(UserError, match=r"did not start within .* give data\.num_workers 0"):
        start_reading(Squares, range(9), num_workers=1, seed=0)


def test_a_worker_that_is_found_missing_ends_the_run_with_one_line():
    def source():
        yield 1
        raise RuntimeError("DataLoader worker (pid(s) 7) exited unexpectedly") from queue.Empty()

    answers = worker_processes._told_of_dead_workers(source())
    assert next(answers) == 1
    with pytest.raises(UserError, match=r"died \(DataLoader worker \(pid\(s\) 7\) exited unexpectedly\), most often"):
        next(answers)
