"""Runs functions in threads that stand for ranks and add tensors up over each other."""

import threading

import torch


class Ranks:
    """Adds a tensor up over all threads, in place, as a collective does."""

    def __init__(self, count):
        self.barrier = threading.Barrier(count, timeout=60)
        self.lock = threading.Lock()
        self.given = []

    def __call__(self, value):
        with self.lock:
            self.given.append(value.clone())
        self.barrier.wait()
        # In one order on all of them, so that they all round alike.
        total = torch.stack(self.given).sum(0)
        if self.barrier.wait() == 0:
            self.given = []
        self.barrier.wait()
        return value.copy_(total)


def run_as_ranks(*functions):
    """Calls each function, in a thread of its own, with what adds up over them; returns their results."""
    ranks, results = Ranks(len(functions)), [None] * len(functions)

    def run(place):
        results[place] = functions[place](ranks)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
