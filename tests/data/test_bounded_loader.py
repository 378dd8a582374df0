import gc
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch
from torch.utils.data import Dataset

from lit_vlm.data.bounded_loader import BoundedLoader
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Sample

BATCHES = [[3 * batch + row for row in range(3)] for batch in range(12)]

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Samples(Dataset):
    """Sample ``i`` has id ``i``; reading takes longer for some, so that workers finish out of turn."""

    def __getitem__(self, index):
        if index % 4 == 0:
            time.sleep(0.002)
        if index == 16:
            raise BadSampleError("line 16", "it is no JSON")
        return Sample(id=str(index), messages=())


def encode(samples):
    ids = torch.tensor([[int(sample.id)] for sample in samples])
    return PromptBatch(ids, torch.ones_like(ids), {"pixels": torch.zeros(1000)}, tuple(samples))


def note_state(samples):
    """Writes into a batch which process made it, how it is seeded, and how many threads it has."""
    draws = torch.tensor([torch.initial_seed(), random.getrandbits(40), int(numpy.random.randint(2**31))])
    info = torch.utils.data.get_worker_info()
    return PromptBatch(draws[None], torch.tensor([[info.id, torch.get_num_threads()]]), {})


def refuse(samples):
    if any(sample.id == "20" for sample in samples):
        raise UserError("the processor does not belong to this model")
    return encode(samples)


def loader(workers=0, collate=encode, **options):
    return BoundedLoader(Samples(), collate, num_workers=workers, **options)


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("prefetch_bytes", [1, 2**30])
def test_batches_and_their_order_do_not_depend_on_workers_or_the_bound(workers, prefetch_bytes):
    readings = list(loader(workers, prefetch_bytes=prefetch_bytes).read(BATCHES))
    assert [reading.batch.input_ids[:, 0].tolist() for reading in readings] == [
        [index for index in batch if index != 16] for batch in BATCHES
    ]
    assert [bad.origin for reading in readings for bad in reading.dropped] == ["line 16"]


def test_each_worker_has_its_own_streams_and_one_thread():
    def states(seed, epoch=0):
        readings = list(loader(2, note_state, seed=seed).read(BATCHES[:4], epoch))
        assert {int(reading.batch.attention_mask[0, 1]) for reading in readings} == {1}
        # The first batch of each worker.
        return {
            int(reading.batch.attention_mask[0, 0]): reading.batch.input_ids[0].tolist() for reading in readings[:2]
        }

    seen = [states(seed=0), states(seed=1), states(seed=0, epoch=1)]
    assert all(sorted(workers) == [0, 1] for workers in seen)
    for source in range(3):  # torch, random, numpy
        assert len({draws[source] for workers in seen for draws in workers.values()}) == 6
    assert states(seed=0) == seen[0]


def test_reading_leaves_the_global_stream_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    list(loader(0).read(BATCHES))
    list(loader(1).read(BATCHES))
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_mistake_of_the_user_comes_as_it_was_raised(workers):
    faults = [reading.fault for reading in loader(workers, refuse).read(BATCHES) if reading.fault is not None]
    assert [str(fault) for fault in faults] == ["the processor does not belong to this model"]


@pytest.mark.parametrize("limit", [1, 9000, 30000])
def test_no_more_bytes_wait_than_the_bound_says(limit, monkeypatch):
    from lit_vlm.data import bounded_loader

    gates = []

    class Watched(bounded_loader.PrefetchGate):
        def __init__(self, *args):
            super().__init__(*args)
            gates.append(self)

    monkeypatch.setattr(bounded_loader, "PrefetchGate", Watched)
    bounded = loader(3, prefetch_bytes=limit)
    most = 0
    for epoch in range(2):
        for reading in bounded.read(BATCHES, epoch):
            size = reading.size
            assert size > 4000
            for _ in range(5):
                time.sleep(0.002)
                most = max(most, gates[-1].waiting_bytes)
        assert gates[-1].waiting_bytes == 0
    assert size // 2 < most <= max(limit, size)
    # A second epoch knows the size from the first.
    assert gates[1].largest >= size


def test_leaving_early_ends_the_workers_at_once(monkeypatch):
    # torch waits as long for a worker that does not end, 5 s by default.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 60.0)
    bounded = loader(2, prefetch_bytes=1)
    source = bounded.read(BATCHES)
    next(source)
    start = time.monotonic()
    source.close()
    assert time.monotonic() - start < 30
    assert multiprocessing.active_children() == []


def die(samples):
    """Dies as a process does that the system kills for want of memory."""
    if any(sample.id == "18" for sample in samples):
        os.kill(os.getpid(), signal.SIGKILL)
    return encode(samples)


def error_of_a_fork(work):
    """Runs something in a process of its own, as torch tells of a dead worker by a signal, at any moment; returns its
    error, and how many processes it has left."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            work()
            told = "no error"
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        gc.collect()  # the error held the readers
        os.write(write, f"{told}: {len(multiprocessing.active_children())} left".encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return told


@pytest.mark.parametrize("prefetch_bytes", [1, 2**30])
def test_a_worker_that_is_killed_ends_the_run_with_one_line(prefetch_bytes):
    start = time.monotonic()
    told = error_of_a_fork(lambda: list(loader(2, die, prefetch_bytes=prefetch_bytes).read(BATCHES)))
    assert time.monotonic() - start < 30
    assert re.fullmatch(
        r"UserError: a process that reads data died \(.*Killed\), most often for want of memory;.*: 0 left", told
    )


def fail(samples):
    raise RuntimeError("a fault of the program")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_of_the_program_stays_one(workers):
    with pytest.raises(RuntimeError, match="a fault of the program"):
        list(loader(workers, fail).read(BATCHES))


SCRIPT = """
import multiprocessing, sys, time
sys.path.insert(0, {tests!r})
import test_bounded_loader as shared
source = shared.loader(2, prefetch_bytes=1).read(shared.BATCHES)
next(source)
print(*[child.pid for child in multiprocessing.active_children()], flush=True)
time.sleep(600)
"""


def is_running(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_end_when_the_training_process_is_killed():
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True, env=environment
    )
    workers = [int(word) for word in process.stdout.readline().split()]
    assert len(workers) == 2
    assert all(map(is_running, workers))
    process.kill()
    process.wait()
    process.stdout.close()
    end = time.monotonic() + 60
    while any(map(is_running, workers)):
        assert time.monotonic() < end
        time.sleep(0.1)
