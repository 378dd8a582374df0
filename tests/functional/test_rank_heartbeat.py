import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch.distributed
from torch.distributed import TCPStore

from lit_vlm.functional import rank_heartbeat
from lit_vlm.functional.rank_heartbeat import (
    HeartbeatTimes,
    RankHeartbeat,
    ended_by,
    is_broken_collective,
    shared_store,
)

TIMES = HeartbeatTimes(beat=0.05, silence=1.0, silence_when_cut_off=0.4, grace=0.3)
LONG = 10.0


@pytest.fixture
def ends(capfd):
    """Tells with which status the process of a rank would have ended."""
    return []


@pytest.fixture
def ranks(ends):
    """Makes ranks within this process, rank 0 with the store first."""
    made, store = [], TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))

    def make(count, **options):
        for rank in range(count):
            own = store if rank == 0 else TCPStore("127.0.0.1", store.port, is_master=False, wait_for_workers=False)
            made.append(RankHeartbeat(own, rank, count, times=TIMES, **(options if rank == 0 else {})))
            made[-1]._exit = ends.append  # also long after the test
            made[-1].start()
        return made

    yield make
    for heartbeat in made:
        heartbeat._stop.set()


def wait_for(condition, seconds=LONG):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.01)


def silence(heartbeat):
    """What a killed or frozen process does: nothing any more."""
    heartbeat._stop.set()
    heartbeat._hurry.set()


@pytest.mark.slow
def test_ranks_that_live_are_left_alone_however_long_they_take(ranks, ends):
    made = ranks(3)
    time.sleep(3 * TIMES.silence)
    assert [heartbeat.verdict for heartbeat in made] == [None] * 3
    finished = []
    for heartbeat in made:
        threading.Thread(target=lambda h=heartbeat: (h.finish(), finished.append(h.rank)), daemon=True).start()
    wait_for(lambda: sorted(finished) == [0, 1, 2])
    time.sleep(TIMES.silence)
    assert [heartbeat.verdict for heartbeat in made] == [None] * 3
    assert ends == []


@pytest.mark.slow
def test_rank_0_waits_for_the_others_before_it_takes_the_store_away(ranks, ends):
    first, second = ranks(2)
    done = threading.Thread(target=first.finish)
    done.start()
    time.sleep(2 * TIMES.silence)
    assert done.is_alive()
    second.finish()
    done.join(LONG)
    assert not done.is_alive()
    assert ends == []


@pytest.mark.parametrize("gone", [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_silent_rank_is_named_with_what_it_was_doing_on_all_others(ranks, ends, gone, capfd):
    made = ranks(3)
    made[gone].enter("the rollout of step 7")
    wait_for(lambda: all(o._heard[gone].phase.startswith("the rollout") for o in (made[0],) if gone))
    time.sleep(5 * TIMES.beat)
    silence(made[gone])
    others = [heartbeat for heartbeat in made if heartbeat.rank != gone]
    wait_for(lambda: all(heartbeat.verdict for heartbeat in others))
    wanted = f"rank {gone} has given no sign of life for 1 s; it was last heard of in the rollout of step 7"
    assert {heartbeat.verdict for heartbeat in others} == {wanted}
    wait_for(lambda: len(ends) == 2)
    assert capfd.readouterr().err.count(f"lit-vlm: error: {wanted}") == 2


def test_an_error_of_one_rank_reaches_all(ranks, ends):
    made = ranks(3)
    made[2].enter("the rewards of step 3")
    made[2].fail("the reward 'slow' took longer than 1 s")
    wait_for(lambda: all(heartbeat.verdict for heartbeat in made))
    wanted = "rank 2 stopped during the rewards of step 3: the reward 'slow' took longer than 1 s"
    assert {heartbeat.verdict for heartbeat in made} == {wanted}


def test_an_error_of_rank_0_reaches_all_before_the_store_is_gone(ranks, ends):
    made = ranks(2)
    made[0].fail("no")
    assert made[1].verdict == "rank 0 stopped during the start: no"


def test_who_is_cut_off_soon_learns_who_is_gone(ranks, ends):
    first, second, third = ranks(3)
    silence(second)
    answers = []
    for heartbeat in (first, third):
        threading.Thread(target=lambda h=heartbeat: answers.append(h.ask()), daemon=True).start()
    wait_for(lambda: len(answers) == 2, seconds=3.0)
    assert set(answers) == {"rank 1 has given no sign of life for 0 s; it was last heard of in the start"}


def test_who_is_cut_off_though_all_live_is_told_so(ranks, ends):
    first, second = ranks(2)
    assert first.ask() is None
    assert second.verdict is None


def test_a_process_that_was_killed_is_named_at_once(ranks, ends):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    first, second = ranks(2, children=[child])
    os.kill(child.pid, signal.SIGKILL)
    wait_for(lambda: first.verdict is not None, seconds=2.0)
    assert first.verdict == "rank 1 died, last heard of in the start: its process was killed by signal 9"


@pytest.mark.slow
def test_processes_that_do_not_end_are_ended(ranks, ends):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    first, second, third = ranks(3, children=[child])
    silence(third)
    wait_for(lambda: child.poll() == -signal.SIGKILL)
    assert ends[0] == rank_heartbeat.EXIT_STATUS


def test_a_rank_that_was_held_up_itself_judges_nobody(ranks, ends, monkeypatch):
    first, second = ranks(2)
    time.sleep(4 * TIMES.beat)
    true, skipped = time.monotonic, [0.0]
    monkeypatch.setattr(rank_heartbeat.time, "monotonic", lambda: true() + skipped[0])
    skipped[0] = 100.0  # as after the process had been stopped
    time.sleep(4 * TIMES.beat)
    assert first.verdict is None
    assert second.verdict is None


def test_ends_are_told_apart():
    assert ended_by(-11) == "its process was killed by signal 11"
    assert ended_by(2) == "its process ended with status 2"


@pytest.mark.parametrize(
    ("error", "is_one"),
    [
        (RuntimeError("[../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:3"), True),
        (torch.distributed.DistBackendError("NCCL communicator was aborted"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("gloo"), False),
    ],
)
def test_broken_collectives_are_told_from_errors_of_the_rank_itself(error, is_one):
    assert is_broken_collective(error) is is_one


def test_ranks_find_the_store_of_the_first():
    ports = []

    def share(port):
        ports.append(port or ports[0])
        return ports[-1]

    first = shared_store(0, "127.0.0.1", share, 5.0)
    second = shared_store(1, "127.0.0.1", share, 5.0)
    first.set("a", "b")
    assert second.get("a") == b"b"
