"""Runs a script that trains on one or several processes."""

import atexit
import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]


def run_script(text, out, *arguments):
    """Runs a script with its arguments, the last one the file that it saves to; returns what it saved."""
    script = out.with_suffix(".py")
    script.write_text(text.format(root=str(ROOT)))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [sys.executable, str(script), *map(str, arguments), str(out)],
        check=True,
        env=environment,
        timeout=300,
        capture_output=True,
    )
    return torch.load(out, weights_only=True)


def run_ranks(text, out, ranks, *arguments, seconds=240, environments=None):
    """Does the same on so many ranks, in forks of a process that has imported what is slow to import.

    The Trainer must be told as many devices, or whatever fits the variables of each rank that ``environments`` names. A
    rank that fails, or is not done in time, ends all, with its output.
    """
    script = out.with_suffix(".py")
    script.write_text(text.format(root=str(ROOT)))
    server = _server()
    words = [*map(str, arguments), str(out)]
    told = {"script": str(script), "arguments": words, "ranks": ranks, "seconds": seconds, "environments": environments}
    server.stdin.write(json.dumps(told) + "\n")
    server.stdin.flush()
    codes = json.loads(server.stdout.readline())
    if any(codes):
        logs = [Path(f"{script}.{rank}.log").read_text(errors="replace")[-3000:] for rank in range(ranks)]
        raise AssertionError(f"exit codes {codes} within {seconds} s\n" + "\n----\n".join(logs))
    return torch.load(out, weights_only=True)


@functools.cache
def _server():
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("process_ranks.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(process.kill)
    return process
