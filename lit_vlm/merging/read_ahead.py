"""Fetches the next item while the present one is used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def read_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Yields items in their order; one thread is at most one item ahead.

    What fetching an item raises is raised where that item would have been yielded. Leaving off early waits for the
    item under way and lets go of the rest.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="read-ahead") as thread:
        following = _fetch(thread, iterator)
        while found := following.result():
            following = _fetch(thread, iterator)
            yield found.pop()


def _fetch(thread: ThreadPoolExecutor, iterator: Iterator[Item]) -> Future[list[Item]]:
    # A list, so that the item can be taken out of what the future still holds.
    return thread.submit(lambda: list(islice(iterator, 1)))
