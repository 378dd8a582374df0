"""mergekit's side of the benchmarks of merging: does what it is told over a pipe, in an interpreter that has mergekit.

A request has ``config`` as in mergekit's YAML and ``out`` for a merge by ``run_merge``, or ``extract`` with a list of
words for ``mergekit-extract-lora``. ``uniforms`` names a file of random numbers, tensor by tensor and donor by donor,
that masks are drawn with in place of torch's.
"""

import contextlib
import sys
from collections.abc import Iterator

import torch
from answering import answer_requests
from mergekit.config import MergeConfiguration
from mergekit.io.tasks import LoaderCache
from mergekit.merge import run_merge
from mergekit.merge_methods import generalized_task_arithmetic as arithmetic
from mergekit.options import MergeOptions
from mergekit.scripts import extract_lora
from safetensors import safe_open


@contextlib.contextmanager
def drawn_with(path: str | None) -> Iterator[None]:
    """Draws masks with given numbers in [0, 1): what lies below a probability is kept."""
    if path is None:
        yield
        return
    kept = arithmetic.GeneralizedTaskArithmeticMerge.merge_group, torch.bernoulli
    waiting = []

    def merge_group(self, group, /, **parameters):
        # A density of 1 or more draws nothing.
        waiting[:] = [
            file.get_tensor(f"{group.metadata.name} {place}")
            for place, entry in enumerate(group.non_base)
            if parameters["density"][entry.id] < 1
        ]
        merged = kept[0](self, group, **parameters)
        if waiting:
            raise RuntimeError(f"{len(waiting)} masks of {group.metadata.name} were not drawn")
        return merged

    def bernoulli(probabilities):
        return (waiting.pop(0).reshape(probabilities.shape) < probabilities).to(probabilities.dtype)

    with safe_open(path, framework="pt") as file:
        arithmetic.GeneralizedTaskArithmeticMerge.merge_group, torch.bernoulli = merge_group, bernoulli
        try:
            yield
        finally:
            arithmetic.GeneralizedTaskArithmeticMerge.merge_group, torch.bernoulli = kept


def work(request: dict) -> None:
    """Does what is asked for."""
    # Its cache of open checkpoints lives as long as the process.
    LoaderCache.loaders.clear()
    if "extract" in request:
        extract_lora.main(request["extract"], standalone_mode=False)
    else:
        options = MergeOptions(quiet=True, **request.get("options", {}))
        with drawn_with(request.get("uniforms")):
            run_merge(MergeConfiguration.model_validate(request["config"]), request["out"], options)


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    answer_requests(work)
