"""Our side of the benchmarks of merging: runs ``lit-vlm merge`` as it is told over a pipe.

Every line read is a request in JSON: ``arguments``, the words behind ``lit-vlm merge``. Every line written is the
answer.
"""

import json
import os
import sys
import time

import torch

from lit_vlm.command_line import merge


def answer(request: dict) -> dict:
    """Does what is asked for, and times it."""
    start = time.perf_counter(), time.process_time()
    if merge.run("merge", request["arguments"]):
        raise SystemExit("the merge failed")
    return {"seconds": time.perf_counter() - start[0], "processor_seconds": time.process_time() - start[1]}


def main() -> None:
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    torch.set_num_threads(int(sys.argv[1]))
    out.write(json.dumps({"ready": True}) + "\n")
    out.flush()
    for line in sys.stdin:
        out.write(json.dumps(answer(json.loads(line))) + "\n")
        out.flush()


if __name__ == "__main__":
    main()
