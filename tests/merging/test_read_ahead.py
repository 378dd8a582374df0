import threading

import pytest

from lit_vlm.merging.read_ahead import read_ahead


def test_items_come_in_order_and_none_is_lost():
    assert list(read_ahead(iter(range(7)))) == list(range(7))
    assert list(read_ahead([])) == []


def test_items_that_count_as_false_do_not_end_it():
    assert list(read_ahead([0, None, "", False])) == [0, None, "", False]


def test_it_is_exactly_one_item_ahead():
    fetched = []
    second = threading.Event()
    third = threading.Event()

    def items():
        for number in range(4):
            fetched.append(number)
            {1: second, 2: third}.get(number, threading.Event()).set()
            yield number

    stream = read_ahead(items())
    assert next(stream) == 0
    assert second.wait(5)
    assert not third.wait(0.05)
    assert fetched == [0, 1]
    assert next(stream) == 1
    assert third.wait(5)
    stream.close()


def test_what_fetching_raises_arrives_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("broken")

    stream = read_ahead(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_leaving_off_early_closes_the_source():
    closed = threading.Event()

    def items():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    stream = read_ahead(items())
    next(stream)
    stream.close()
    del stream
    assert closed.wait(5)


def test_an_item_is_let_go_when_the_next_is_asked_for():
    import weakref

    class Item: ...

    stream = read_ahead(Item() for _ in range(3))
    first = next(stream)
    gone = weakref.ref(first)
    del first
    assert gone() is None
    stream.close()
