"""A wrapped source passes everything on."""

import torch

from lit_vlm.interfaces.weights import ModelReference, TensorSource
from lit_vlm.models.checkpoint_tensors import open_checkpoint
from lit_vlm.models.wrapped_tensors import WrappedTensors


def test_everything_is_passed_on() -> None:
    inner = open_checkpoint(ModelReference("tiny"))
    wrapped = WrappedTensors(inner)
    assert (wrapped.label, wrapped.folder, wrapped.configuration) == (inner.label, inner.folder, inner.configuration)
    assert wrapped.names == inner.names
    name = wrapped.names[0]
    assert (wrapped.shape(name), wrapped.dtype(name)) == (inner.shape(name), inner.dtype(name))
    assert wrapped.vocabulary() == inner.vocabulary()
    assert wrapped.digests() == inner.digests()
    with wrapped.opened() as source:
        assert source is wrapped
        assert torch.equal(source.read(name), inner.read(name))
    # So that no method of the interface is forgotten, which would raise only when it is used.
    assert not WrappedTensors.__abstractmethods__
    assert TensorSource.__abstractmethods__ <= vars(WrappedTensors).keys()


class Opened(WrappedTensors):
    """Notes whether it is open."""

    is_open = False

    def opened(self):  # type: ignore[no-untyped-def]
        self.is_open = True
        return super().opened()


def test_what_is_wrapped_is_opened_too() -> None:
    inner = Opened(open_checkpoint(ModelReference("tiny")))
    with WrappedTensors(inner).opened():
        assert inner.is_open
