"""Memory that is used again."""

import threading

import pytest
import torch

from lit_vlm.functional.recycled_memory import SMALLEST, RecycledMemory

COUNT = SMALLEST  # numbers of a tensor that is large enough in every type


def test_memory_of_a_tensor_that_is_gone_is_used_again():
    memory = RecycledMemory()
    tensor = memory.empty((COUNT,), torch.float32)
    address = tensor.data_ptr()
    del tensor
    assert memory.empty((COUNT // 4, 2), torch.bfloat16).data_ptr() == address


@pytest.mark.parametrize(
    "part",
    [
        lambda tensor: tensor[3:5],
        lambda tensor: tensor.view(torch.uint8),
        lambda tensor: tensor.view(4, -1).T,
        lambda tensor: tensor.detach().numpy(),
    ],
    ids=["slice", "other type", "turned", "array"],
)
def test_memory_is_kept_while_a_part_of_the_tensor_lives(part):
    memory = RecycledMemory()
    tensor = memory.empty((COUNT,), torch.float32)
    address, kept = tensor.data_ptr(), part(tensor)
    del tensor
    other = memory.empty((COUNT,), torch.float32)
    assert other.data_ptr() != address
    del kept
    assert memory.empty((COUNT,), torch.float32).data_ptr() == address


def test_tensors_in_use_never_share_memory():
    memory = RecycledMemory()
    tensors = [memory.empty((COUNT,), torch.int32).fill_(value) for value in range(4)]
    assert [int(tensor.unique()) for tensor in tensors] == [0, 1, 2, 3]


def test_shape_and_type_are_those_asked_for():
    memory = RecycledMemory()
    for shape in ((), (0, 3), (5,), (1024, 1025)):
        for dtype in (torch.float32, torch.bfloat16, torch.uint8, torch.bool):
            tensor = memory.empty(shape, dtype)
            assert (tuple(tensor.shape), tensor.dtype, tensor.is_contiguous()) == (shape, dtype, True)


def test_a_tensor_outlives_what_gave_it_out():
    memory = RecycledMemory()
    tensor = memory.empty((COUNT,), torch.float32).fill_(7.0)
    del memory
    assert bool((tensor == 7).all())


def test_what_is_held_is_no_more_than_what_was_in_use_at_one_time():
    memory = RecycledMemory()
    for size in range(1, 9):
        del (tensor := [memory.empty((COUNT * size,), torch.uint8)])[:]
    assert len(tensor) == 0
    assert len(memory._free) == 1


def test_threads_may_use_it_at_the_same_time():
    memory, wrong = RecycledMemory(), []

    def use(value):
        for _ in range(50):
            tensor = memory.empty((COUNT // 4,), torch.int32).fill_(value)
            if not bool((tensor == value).all()):
                wrong.append(value)

    threads = [threading.Thread(target=use, args=(value,)) for value in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
