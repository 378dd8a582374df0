"""Sends weights to the workers of all servers at once, through a process group of their own."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor
from torch.distributed import TCPStore

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import WeightBucket
from lit_vlm.rollouts.vllm_client import NotInGroupError, ServerLostError, ServerState, VLLMClient
from lit_vlm.rollouts.vllm_pool import VLLMPool
from lit_vlm.rollouts.vllm_server.flat_weights import describe_weights, pack_weights
from lit_vlm.rollouts.vllm_server.weight_group import GroupBrokenError, Place, WeightGroup, gather, open_store
from lit_vlm.rollouts.weight_transport import WeightTransport

GRACE_SECONDS = 10.0
"""What a server has, after the group's own limit, to say over HTTP that the group broke."""
MOST_BREAKS = 2
"""Times that a group may break for a bucket without a server being lost."""

logger = logging.getLogger(__name__)


class BroadcastTransport(WeightTransport):
    """Broadcasts weights, as flat tensors, from this process to all workers; HTTP tells what is in them.

    Where a server dies, the group breaks for all. It is formed anew with those that are left, and the bucket is sent
    again, which a worker that has it already takes without loading it. A server that comes back takes part from the
    next ``begin`` on. Where all are on GPUs, the numbers go from GPU to GPU by NCCL, else through main memory by Gloo.

    Args:
        pool: The servers.
        seconds: Longest wait for the group to form, and for a bucket to arrive.
        address: Of this machine, as the servers' workers reach it.
        port: Where the group meets; 0 takes a free one.
    """

    def __init__(self, pool: VLLMPool, seconds: float, address: str, port: int = 0) -> None:
        super().__init__(pool, seconds)
        self._meeting = address, port
        self._store: TCPStore | None = None
        self._states: dict[str, ServerState] = {}
        self._group: WeightGroup | None = None
        self._members: list[str] = []
        self._number = 0
        self._fault = ""

    def begin(self, states: Mapping[str, ServerState]) -> None:
        """Announces weights, and keeps the group if all are in it still; see ``WeightTransport``."""
        super().begin(states)
        self._states, self._number = dict(states), 0
        if self._group is not None:
            name = self._group.place.name
            if self._members != self._addresses or any(states[one].group != name for one in self._members):
                self._leave()

    def send(self, bucket: WeightBucket) -> None:
        """Hands over some weights; see ``WeightTransport``.

        Raises:
            UserError: No server is left, or no group comes about with those that are.
        """
        self._number += 1
        device = self._device_of(bucket)
        described, flat = describe_weights(bucket.tensors), pack_weights(bucket.tensors, device)
        if self._group is not None and self._group.device != device:
            self._leave()
        breaks = 0
        while True:
            earlier = self._addresses
            group = self._group or self._form(device)
            if group is not None and self._broadcast(group, flat, described):
                return
            breaks = breaks + 1 if self._addresses == earlier else 0
            if breaks == MOST_BREAKS:
                raise UserError(
                    f"the trainer and the vLLM servers cannot keep a process group ({self._fault}); give "
                    f"model.engine.broadcast_address the address by which servers reach this machine (it is "
                    f"{self._meeting[0]}), or choose model.engine.transport http"
                )

    def _device_of(self, bucket: WeightBucket) -> torch.device:
        device = next(iter(bucket.tensors.values())).device
        is_direct = device.type == "cuda" and all(self._states[one].device == "cuda" for one in self._addresses)
        return device if is_direct else torch.device("cpu")

    def _form(self, device: torch.device) -> WeightGroup | None:
        """Has all servers come to a group, and returns it if it came about."""
        store = self._store = self._store or self._opened_store()
        places, ranks = {}, 1
        for address in self._addresses:
            places[address] = ranks
            ranks += self._states[address].workers
        own = Place(
            address=self._meeting[0],
            port=store.port,
            name=secrets.token_hex(16),
            rank=0,
            size=ranks,
            backend="nccl" if device.type == "cuda" else "gloo",
            seconds=self._seconds,
        )

        def ask(client: VLLMClient) -> None:
            client.join_group(asdict(replace(own, rank=places[client.address])), self._seconds + GRACE_SECONDS)

        def meet(failed: threading.Event) -> None:
            self._group = gather(store, own, device, failed)

        self._members = self._addresses
        start = time.perf_counter()
        if self._together(ask, meet) and self._group is not None:
            logger.info(
                "formed a group of the trainer and %d workers of %d vLLM servers by %s in %.1f s",
                ranks - 1,
                len(places),
                own.backend,
                time.perf_counter() - start,
            )
        return self._group

    def _broadcast(self, group: WeightGroup, flat: Tensor, described: list[list[Any]]) -> bool:
        """Sends a bucket; tells whether all who are left have it."""

        def ask(client: VLLMClient) -> None:
            client.receive_bucket(self._number, described, self._seconds + GRACE_SECONDS)

        return self._together(ask, lambda failed: group.broadcast(flat, failed))

    def _together(self, ask: Callable[[VLLMClient], None], own: Callable[[threading.Event], None]) -> bool:
        """Asks all servers to do their part while this process does its own; leaves the group where one is not done.

        Args:
            ask: A server's part, by HTTP.
            own: Is given what is set once a server fails.

        Returns:
            Whether those that are left did theirs.

        Raises:
            UserError: No server is left.
        """
        failed = threading.Event()
        faults: list[str] = []

        def told(client: VLLMClient) -> None:
            try:
                ask(client)
            except NotInGroupError as fault:
                faults.append(str(fault))
                failed.set()
            except (ServerLostError, UserError):
                failed.set()
                raise

        left: list[str] = []
        try:
            with ThreadPoolExecutor(1) as executor:
                asked = executor.submit(self._pool.tell, told, self._addresses)
                try:
                    own(failed)
                except GroupBrokenError as fault:
                    faults.append(str(fault))
                left = asked.result()
        finally:
            if faults or left != self._members:
                self._leave()
            self._fault = faults[0] if faults else self._fault
        self._addresses = left
        return not faults

    def _opened_store(self) -> TCPStore:
        try:
            return open_store(*self._meeting, self._seconds)
        except OSError as fault:
            raise UserError(
                f"model.engine.broadcast_address {self._meeting[0]} cannot be listened at, port {self._meeting[1]} "
                f"({fault.strerror or fault}); give an address of this machine and a free port"
            ) from fault

    def _leave(self) -> None:
        if self._group is not None:
            self._group.close()
            self._group = None
