import multiprocessing
import threading
import time

from lit_vlm.data.prefetch_gate import PrefetchGate


class Worker(threading.Thread):
    """Makes batches of given sizes through a gate; batch ``number`` of ``step`` workers is its own."""

    def __init__(self, gate, sizes, first, step):
        super().__init__(daemon=True)
        self.gate, self.sizes, self.first, self.step = gate, sizes, first, step
        self.made = []
        self.start()

    def run(self):
        for number in range(self.first, len(self.sizes), self.step):
            reserved = self.gate.enter(number)
            self.gate.finish(reserved, self.sizes[number])
            self.made.append(number)


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def drain(gate, sizes, workers):
    """Takes every batch in order; returns the most bytes ever inside."""
    most = 0
    for number, size in enumerate(sizes):
        wait_for(lambda number=number: any(number in worker.made for worker in workers))
        most = max(most, gate.waiting_bytes)
        gate.leave(size)
    return most


def test_equal_batches_never_pass_the_limit_and_all_come():
    sizes = [100] * 40
    for limit in (350, 250, 100, 10):
        gate = PrefetchGate(limit)
        workers = [Worker(gate, sizes, first, 3) for first in range(3)]
        assert drain(gate, sizes, workers) <= max(limit, 100)
        assert gate.waiting_bytes == 0


def test_a_worker_waits_while_there_is_no_room():
    gate = PrefetchGate(250, largest=100)
    worker = Worker(gate, [100] * 5, 0, 1)
    wait_for(lambda: len(worker.made) == 2)
    time.sleep(0.05)
    assert worker.made == [0, 1]
    gate.leave(100)
    wait_for(lambda: len(worker.made) == 3)
    gate.close()
    worker.join(timeout=20)
    assert worker.made == [0, 1, 2, 3, 4]


def test_the_second_batch_waits_until_the_size_of_the_first_is_known():
    gate = PrefetchGate(10**9)
    assert gate.enter(0) == 0
    second = Worker(gate, [7, 7], 1, 2)
    time.sleep(0.05)
    assert second.made == []
    gate.finish(0, 7)
    wait_for(lambda: second.made == [1])
    assert gate.largest == 7


def test_batches_are_let_in_by_their_number():
    gate = PrefetchGate(10**9, largest=1)
    later = Worker(gate, [1, 1], 1, 2)
    time.sleep(0.05)
    assert later.made == []
    gate.enter(0)
    wait_for(lambda: later.made == [1])


def test_a_batch_larger_than_the_limit_goes_alone():
    sizes = [100, 900, 900, 100, 900]
    gate = PrefetchGate(150)
    workers = [Worker(gate, sizes, first, 2) for first in range(2)]
    assert drain(gate, sizes, workers) == 900


def test_the_count_holds_across_processes():
    gate = PrefetchGate(1000, largest=10)
    process = multiprocessing.Process(target=lambda: gate.finish(gate.enter(0), 64))
    process.start()
    process.join()
    assert (gate.waiting_bytes, gate.largest) == (64, 64)


def test_a_gate_closes_though_a_dead_worker_holds_its_lock():
    gate = PrefetchGate(1000)
    gate._lock.acquire()
    closing = threading.Thread(target=gate.close, daemon=True)
    closing.start()
    closing.join(timeout=20)
    assert not closing.is_alive()
    gate._lock.release()
    assert gate.enter(7) == 0
