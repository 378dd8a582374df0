"""Serves ``processes.run_ranks``: imports what is slow to import once, and forks the ranks of each script it is told.

Reads a JSON line for each run, the arguments of ``run``, and answers with one: the exit codes.
Nothing is computed here, since a process that has computed gradients cannot be forked.
"""

import json
import os
import runpy
import signal
import socket
import sys
import time
import traceback

os.environ.update(OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="", TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1")

import bitsandbytes  # noqa: F401
import lightning.pytorch.cli  # noqa: F401
import peft  # noqa: F401
import pytest  # noqa: F401
import torch.distributed.checkpoint.state_dict  # noqa: F401
import torch.distributed.fsdp  # noqa: F401
from transformers import AutoModelForImageTextToText, AutoProcessor, Qwen2_5_VLForConditionalGeneration  # noqa: F401


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def run_rank(script, arguments, rank, environment):
    log = os.open(f"{script}.{rank}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.update(environment)
    sys.argv = [script, *arguments]
    code = 0
    try:
        runpy.run_path(script, run_name="__main__")
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def run(script, arguments, ranks, seconds, environments=None):
    """Runs a script on so many ranks; Lightning's own environment of one node tells them apart, or another."""
    port = str(free_port())
    waiting = {}
    for rank in range(ranks):
        environment = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port} if ranks > 1 else {}
        if environments is not None:
            environment |= environments[rank]
        elif ranks > 1:
            environment |= {"NODE_RANK": "0", "LOCAL_RANK": str(rank)}
        child = os.fork()
        if not child:
            run_rank(script, arguments, rank, environment)
        waiting[child] = rank
    codes, end = [None] * ranks, time.monotonic() + seconds
    while waiting:
        for child in list(waiting):
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                codes[waiting.pop(child)] = os.waitstatus_to_exitcode(status)
        if time.monotonic() > end or any(codes):
            for child in waiting:
                os.kill(child, signal.SIGKILL)
        time.sleep(0.02)
    return codes


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)
