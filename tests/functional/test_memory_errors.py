import pytest
import torch

from lit_vlm.functional.memory_errors import free_memory, is_out_of_memory


def test_the_allocator_of_the_cpu_says_what_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory"),
    ],
)
def test_want_of_memory_is_recognised(error):
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"),
        OSError("cannot allocate memory"),
        ValueError("out of memory"),
        KeyboardInterrupt(),
    ],
)
def test_other_errors_are_not(error):
    assert not is_out_of_memory(error)


def test_what_nothing_refers_to_is_let_go_of():
    class Held:
        pass

    import weakref

    one, two = Held(), Held()
    one.other, two.other = two, one
    gone = weakref.ref(one)
    del one, two
    free_memory()
    assert gone() is None
