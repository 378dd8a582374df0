import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import RewardOutput
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.rewards.function_reward import FunctionReward
from lit_vlm.rewards.reward_pool import NOT_ASKED, RewardPool
from lit_vlm.rewards.reward_run import RewardRun

SOURCE = """
import os, re, sys, time

def unruly(completion):
    print("noise")
    text = completion.text
    if text == "hang":
        re.match(r"(a+)+$", "a" * 60 + "b")
    if text == "loop":
        while True: pass
    if text == "crash":
        os._exit(3)
    if text == "raise":
        raise KeyError("no such thing")
    if text == "read":
        return float(len(sys.stdin.read()))
    return float(len(text))
"""


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Two workers that ask an unruly function; they are started outside the tests' own time."""
    folder = tmp_path_factory.mktemp("rewards")
    (folder / "unruly_rewards.py").write_text(SOURCE)
    sys.path.insert(0, str(folder))
    yield RewardPool(FunctionReward("unruly_rewards.unruly"), workers=2, timeout=2.0)
    sys.path.remove(str(folder))


def outcomes(pool, complete, texts):
    answers = pool.ask([([complete(text)], RewardContext()) for text in texts])
    return [answer if isinstance(answer, str) else float(answer.total[0]) for answer in answers]


@pytest.mark.slow
def test_bad_completions_are_named_and_the_others_keep_their_scores(pool, complete):
    texts = ["a", "hang", "bb", "raise", "crash", "loop", "ccc", "read"]
    started = time.monotonic()
    given = outcomes(pool, complete, texts)
    assert time.monotonic() - started < 120
    assert [given[row] for row in (0, 2, 6, 7)] == [1.0, 2.0, 3.0, 0.0]
    assert given[1] == given[5] == "took longer than 2 s"
    assert "KeyError" in given[3]
    assert "ended its process" in given[4]


@pytest.mark.slow
def test_workers_are_kept_between_questions_and_end_with_the_pool(pool, complete):
    copy = pickle.loads(pickle.dumps(pool))
    assert outcomes(copy, complete, ["a"]) == [1.0]
    worker = copy._idle.get_nowait()
    copy._idle.put(worker)
    assert outcomes(copy, complete, ["bb"]) == [2.0]
    assert copy._idle.qsize() == 1
    del copy
    with pytest.raises(ProcessLookupError):
        os.kill(worker.process_id, 0)


@pytest.mark.slow
def test_no_worker_is_left_where_the_asking_process_was_killed(pool, complete, tmp_path):
    source = (
        "import os, signal, sys, threading, time\n"
        f"sys.path[:] = {sys.path!r}\n"
        "from lit_vlm.functional import worker_process\n"
        "from lit_vlm.interfaces.records import Completion, Sample\n"
        "from lit_vlm.interfaces.rollouts import RewardContext\n"
        "from lit_vlm.rewards.function_reward import FunctionReward\n"
        "from lit_vlm.rewards.reward_pool import RewardPool\n"
        "pool = RewardPool(FunctionReward('unruly_rewards.unruly'), workers=1, timeout=2.0)\n"
        "ask = lambda text: pool.ask([([Completion(Sample('s', ()), '', text, None)], RewardContext())])\n"
        "ask('a')\n"
        "print(*[worker.process_id for worker in worker_process._alive], flush=True)\n"
        "threading.Thread(target=ask, args=('hang',)).start()\n"
        "time.sleep(0.5)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    (tmp_path / "asking.py").write_text(source)
    # The worker shares standard error: without a file of its own, waiting for the output would wait for the worker.
    done = subprocess.run(
        [sys.executable, str(tmp_path / "asking.py")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    worker = Path(f"/proc/{int(done.stdout)}/stat")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and worker.exists() and worker.read_text().rpartition(")")[2].split()[0] != "Z":
        time.sleep(0.1)
    assert time.monotonic() < deadline


@pytest.mark.slow
def test_a_reward_that_a_process_cannot_load_is_a_clear_error(complete, tmp_path, monkeypatch):
    (tmp_path / "vanishing_rewards.py").write_text("def one(completion):\n    return 1.0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    reward = FunctionReward("vanishing_rewards.one")
    (tmp_path / "vanishing_rewards.py").unlink()
    reward = RewardPool(reward, workers=1, timeout=5.0)
    # The settings alone travel; the function is found when it is first wanted.
    answer = reward.ask([([complete("a")], RewardContext())])[0]
    assert "vanishing_rewards" in answer


def test_a_reward_that_cannot_be_pickled_is_refused(complete):
    class Local(FunctionReward):
        pass

    with pytest.raises(UserError, match="Local cannot go to a process of its own"):
        RewardPool(Local("math.sqrt"), 1, 1.0).ask([([complete("a")], RewardContext())])


@pytest.mark.slow
def test_one_that_hangs_on_all_completions_is_given_up_after_the_first(pool, complete):
    questions = [([complete("loop")], RewardContext()) for _ in range(40)]
    started = time.monotonic()
    answers = pool.ask(questions, to_the_end=False)
    assert time.monotonic() - started < 60  # and not forty times two seconds over two workers
    assert answers[0] == "took longer than 2 s"
    assert answers[-1] == NOT_ASKED
    run = RewardRun(RewardOutput(torch.zeros(40)), dict(enumerate(answers)))
    with pytest.raises(UserError, match=r"'slow' took longer than 2 s, on sample 's' \(and [1-4] more completions"):
        run.stop_at_faults("slow", [complete("loop")] * 40)
