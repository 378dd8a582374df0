import os
import subprocess
import sys
import time
from pathlib import Path

from lit_vlm.functional.parent_watch import end_with_parent

CHILD = """
import time
from lit_vlm.functional.parent_watch import end_with_parent
assert end_with_parent(seconds=0.1, poll=0.05) is not None
print("ready", flush=True)
time.sleep(600)
"""
PARENT = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
time.sleep(600)
"""


def test_a_rank_ends_where_its_parent_is_killed():
    environment = {**os.environ, "LOCAL_RANK": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-c", PARENT, CHILD]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.3)
        process.kill()
        # The child holds the pipe until it ends.
        assert b"the process that started this rank has died" in process.stdout.read()


def test_a_process_that_is_no_rank_is_left_alone(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    assert end_with_parent() is None
