"""Our side of the benchmarks of merging: runs ``lit-vlm merge`` as it is told over a pipe.

Every request has ``arguments``, the words behind ``lit-vlm merge``.
"""

import sys

import torch
from answering import answer_requests

from lit_vlm.command_line import merge


def work(request: dict) -> None:
    """Merges as it is asked to."""
    if merge.run("merge", request["arguments"]):
        raise SystemExit("the merge failed")


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    answer_requests(work)
