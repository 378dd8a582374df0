"""What tests of passes that are cut share: memory that runs out where a test says so, and gradients to compare."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from lit_vlm.models.vision_language_model import VisionLanguageModel


def of_batch(*arguments):
    return len(arguments[0])


def of_completions(prompts, token_ids, *_):
    return len(token_ids)


def limit(patch: pytest.MonkeyPatch, method, most, rows_of=of_batch):
    """Lets a method of the policy run out of memory above a number of rows; returns the rows it was asked for."""
    original, asked = getattr(VisionLanguageModel, method), []

    def limited(self, *arguments, **options):
        rows = rows_of(*arguments)
        asked.append(rows)
        if rows > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return original(self, *arguments, **options)

    patch.setattr(VisionLanguageModel, method, limited)
    return asked


def fail_once_in_backward(patch: pytest.MonkeyPatch):
    """Lets memory run out at the end of the next backward pass; returns a list that is emptied to do so again."""
    backward, failed = torch.Tensor.backward, []

    def scarce(self, *arguments, **options):
        backward(self, *arguments, **options)
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("no memory after some gradients")

    patch.setattr(torch.Tensor, "backward", scarce)
    return failed


class Gradients(Callback):
    """Keeps the gradients of every step; weights after Adam would show the sign of mere rounding."""

    def __init__(self):
        self.steps = []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        named = pl_module.named_parameters()
        self.steps.append({name: value.grad.clone() for name, value in named if value.grad is not None})


def assert_close(found, wanted):
    assert len(found.steps) == len(wanted.steps)
    for ours, theirs in zip(found.steps, wanted.steps, strict=True):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], atol=2e-5, rtol=1e-3, msg=name)
