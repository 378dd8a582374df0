"""Servers without a model that take weights, each in a process of its own, which may die or stand still.

``python weight_holders.py`` imports torch once, and forks a server for each JSON line of options that it reads, the
arguments of ``WeightHolder``; it answers with a line, the port and the process.
"""

import hashlib
import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch

from lit_vlm.rollouts.vllm_server.bucket_receiver import BucketReceiver
from lit_vlm.rollouts.vllm_server.service import Server, Service
from lit_vlm.rollouts.vllm_server.weight_group import Place


class WeightHolder:
    """A backend whose workers are threads that keep what they are given.

    Args:
        workers: Number of workers.
        dies_at: Number of the bucket at which the process is killed.
        dies_loading: Whether that is after the bucket came.
        stops_at: Number of the bucket at which it stands still.
        refuses_at: Number of the bucket that it cannot load.
    """

    def __init__(self, workers=1, dies_at=0, dies_loading=False, stops_at=0, refuses_at=0):
        self.receivers = [BucketReceiver() for _ in range(workers)]
        self.weights = [{} for _ in range(workers)]
        self.loads = 0
        self.dies_at, self.dies_loading, self.stops_at, self.refuses_at = dies_at, dies_loading, stops_at, refuses_at

    def state(self):
        return {
            "model": "m", "dtype": "bfloat16", "max_tokens": 64, "max_lora_rank": 0, "vllm": "0",
            "workers": len(self.receivers), "device": "cpu",
        }  # fmt: skip

    def generate(self, request, given_up):
        return {"weights": [{name: digest(value) for name, value in one.items()} for one in self.weights],
                "loads": self.loads}  # fmt: skip

    def begin_weights(self):
        for receiver, weights in zip(self.receivers, self.weights, strict=True):
            receiver.begin()
            weights.clear()
        self.loads = 0

    def join_group(self, place):
        first = Place(**place)
        return self.of_each(
            lambda worker: self.receivers[worker].join(replace(first, rank=first.rank + worker), torch.device("cpu"))
        )

    def receive_bucket(self, number, described):
        if number == self.stops_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        if number == self.dies_at and not self.dies_loading:
            os.kill(os.getpid(), signal.SIGKILL)

        def load(worker, weights):
            if number == self.dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            if number == self.refuses_at:
                raise RuntimeError("out of memory")
            self.weights[worker].update(weights)
            self.loads += worker == 0

        return self.of_each(
            lambda worker: self.receivers[worker].receive(number, described, lambda weights: load(worker, weights))
        )

    def finish_weights(self):
        pass

    def of_each(self, work):
        with ThreadPoolExecutor(len(self.receivers)) as executor:
            return next((fault for fault in executor.map(work, range(len(self.receivers))) if fault), None)


def digest(tensor):
    content = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {list(tensor.shape)} {hashlib.sha256(content).hexdigest()}"


def serve(told, write):
    server = Server(("127.0.0.1", told.pop("port", 0)), Service(WeightHolder(**told)))
    os.write(write, json.dumps({"port": server.server_address[1], "process": os.getpid()}).encode() + b"\n")
    threading.Thread(target=end_with, args=(os.getppid(),), daemon=True).start()
    server.serve_forever()


def end_with(parent):
    while os.getppid() == parent:
        threading.Event().wait(0.5)
    os._exit(0)


if __name__ == "__main__":
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        if not os.fork():
            serve(json.loads(line), 1)
