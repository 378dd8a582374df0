import os
import subprocess
import sys
import time

import pytest

from lit_vlm.functional.worker_process import WorkerProcess

ECHO = "import sys\nfor line in sys.stdin:\n    print(line.strip().upper(), flush=True)\n"
ENDLESS = "import re, sys\nsys.stdin.readline()\nre.match(r'(a+)+$', 'a' * 60 + 'b')\n"


def script(tmp_path, source):
    path = tmp_path / "worker.py"
    path.write_text(source)
    return path


def is_alive(process_id):
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return True


def test_each_line_is_answered_however_long(tmp_path):
    worker = WorkerProcess(script(tmp_path, ECHO))
    try:
        for text in (b"one", b"x" * 300_000, b"three"):
            worker.write(text, 30)
            assert worker.read(30) == text.upper()
    finally:
        worker.stop()


def test_a_worker_that_hangs_in_c_code_is_killed_in_time(tmp_path):
    worker = WorkerProcess(script(tmp_path, ENDLESS))
    worker.write(b"go", 30)
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        worker.read(0.3)
    worker.stop()
    assert time.monotonic() - started < 20
    assert not is_alive(worker.process_id)
    worker.stop()


def test_a_worker_that_ended_is_told_from_a_slow_one(tmp_path):
    worker = WorkerProcess(script(tmp_path, "pass"))
    with pytest.raises((EOFError, ConnectionError)):
        worker.read(30)
    worker.stop()


def test_children_of_a_worker_are_killed_along(tmp_path):
    source = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print(child.pid, flush=True)\ntime.sleep(60)\n"
    )
    worker = WorkerProcess(script(tmp_path, source))
    child = int(worker.read(30))
    worker.stop()
    deadline = time.monotonic() + 20
    # An orphan is reaped by the system's first process, or stays as a zombie where that one does not care.
    while time.monotonic() < deadline and is_alive(child):
        with open(f"/proc/{child}/stat") as stat:
            if stat.read().rpartition(")")[2].split()[0] == "Z":
                return
        time.sleep(0.05)
    assert not is_alive(child)


def test_a_worker_ends_with_its_process(tmp_path):
    path = script(tmp_path, ECHO)
    source = (
        "import sys; from pathlib import Path; from lit_vlm.functional.worker_process import WorkerProcess;"
        f"worker = WorkerProcess(Path({str(path)!r})); print(worker.process_id)"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=120, check=True)
    assert done.stderr == ""
    assert not is_alive(int(done.stdout))
