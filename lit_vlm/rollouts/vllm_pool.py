"""Several servers as one: prompts go where the fewest wait, and elsewhere where a server is lost."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rollouts.vllm_client import ServerLostError, ServerState, VLLMClient

PROMPTS_AT_ONCE = 64
"""Sent to a server at one time; it puts them into batches itself."""

logger = logging.getLogger(__name__)


class VLLMPool:
    """Servers that hold the same weights.

    Args:
        clients: One a server, one at least.
        seconds: Longest wait for an answer.
    """

    def __init__(self, clients: Sequence[VLLMClient], seconds: float) -> None:
        self.clients = tuple(clients)
        self.seconds = seconds
        self._lock = threading.Lock()
        self._waiting = {client.address: 0 for client in clients}
        self._lost: dict[str, str] = {}

    @property
    def lost(self) -> dict[str, str]:
        """Servers that are of no use for now, each with its reason."""
        with self._lock:
            return dict(self._lost)

    def forget_losses(self) -> None:
        """Lets servers that were lost take part again."""
        with self._lock:
            self._lost.clear()

    def states(self) -> dict[str, ServerState]:
        """Asks all servers what they have, also those that were lost; those that answer take part again.

        Raises:
            UserError: None answers.
        """
        found = self._of_each(lambda client: client.state(), self.clients)
        return {client.address: state for client, state in found}

    def tell(self, work: Callable[[VLLMClient], None], addresses: Sequence[str]) -> list[str]:
        """Has several servers do the same at one time, such as to take weights.

        Args:
            work: What each is to do.
            addresses: Which.

        Returns:
            Those that did it.

        Raises:
            UserError: No server is left, or one refuses.
        """
        clients = [client for client in self.clients if client.address in addresses]
        return [client.address for client, _ in self._of_each(work, clients)]

    def generate(self, requests: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Has prompts continued, each by whichever server; one that is lost hands its prompts to the others.

        Raises:
            UserError: No server is left, or one refuses a request.
        """
        if not requests:
            return []
        workers = min(len(requests), PROMPTS_AT_ONCE * len(self.clients))
        executor = ThreadPoolExecutor(workers, thread_name_prefix="vllm")
        try:
            return list(executor.map(self._generate, requests))
        finally:
            executor.shutdown(wait=True, cancel_futures=True)

    def _generate(self, request: dict[str, Any]) -> dict[str, Any]:
        while True:
            client = self._take()
            try:
                return client.generate(request, self.seconds)
            except ServerLostError as fault:
                self._lose(fault)
            finally:
                with self._lock:
                    self._waiting[client.address] -= 1

    def _take(self) -> VLLMClient:
        with self._lock:
            left = [client for client in self.clients if client.address not in self._lost]
            if not left:
                raise self._none_left()
            client = min(left, key=lambda client: self._waiting[client.address])
            self._waiting[client.address] += 1
            return client

    def _of_each(
        self, work: Callable[[VLLMClient], Any], clients: Sequence[VLLMClient]
    ) -> list[tuple[VLLMClient, Any]]:
        done = []
        with ThreadPoolExecutor(max(len(clients), 1)) as executor:
            futures = [(client, executor.submit(work, client)) for client in clients]
            for client, future in futures:
                try:
                    done.append((client, future.result()))
                except ServerLostError as fault:
                    self._lose(fault)
                else:
                    with self._lock:
                        self._lost.pop(client.address, None)
        with self._lock:
            if not done and len(self._lost) == len(self.clients):
                raise self._none_left()
        return done

    def _lose(self, fault: ServerLostError) -> None:
        with self._lock:
            is_news = fault.address not in self._lost
            self._lost[fault.address] = str(fault).removeprefix(f"{fault.address}: ")
            others = len(self.clients) - len(self._lost)
        if is_news:
            logger.warning("the vLLM server at %s; %d others go on", fault, others)

    def _none_left(self) -> UserError:
        told = "; ".join(f"{address}: {reason}" for address, reason in self._lost.items())
        return UserError(
            f"no vLLM server is left ({told}); look at what they wrote, start them again, and resume from the last "
            "checkpoint"
        )
