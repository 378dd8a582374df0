"""Ways by which whole weights reach servers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

from safetensors.torch import save

from lit_vlm.interfaces.policy_roles import WeightBucket
from lit_vlm.rollouts.vllm_client import ServerState
from lit_vlm.rollouts.vllm_pool import VLLMPool


class WeightTransport(ABC):
    """Hands whole weights to servers, bucket by bucket; those that are lost on the way are left out of the rest.

    Args:
        pool: The servers.
        seconds: Longest wait for a server to take a bucket.
    """

    def __init__(self, pool: VLLMPool, seconds: float) -> None:
        self._pool = pool
        self._seconds = seconds
        self._addresses: list[str] = []

    def begin(self, states: Mapping[str, ServerState]) -> None:
        """Announces weights.

        Args:
            states: Of the servers that are to have them, by address.

        Raises:
            UserError: No server is left.
        """
        self._addresses = self._pool.tell(lambda client: client.begin_weights(self._seconds), list(states))

    @abstractmethod
    def send(self, bucket: WeightBucket) -> None:
        """Hands over some weights.

        Raises:
            UserError: No server is left.
        """

    def finish(self, version: int) -> None:
        """Says that all weights are there, and their number.

        Raises:
            UserError: No server is left.
        """
        self._pool.tell(lambda client: client.finish_weights(version, self._seconds), self._addresses)


class HTTPTransport(WeightTransport):
    """Sends weights as the bodies of requests, through main memory."""

    def send(self, bucket: WeightBucket) -> None:
        """Hands over some weights; see ``WeightTransport``."""
        body = to_safetensors(bucket)
        self._addresses = self._pool.tell(lambda client: client.send_bucket(body, self._seconds), self._addresses)


def to_safetensors(bucket: WeightBucket) -> bytes:
    """Writes weights as a safetensors file holds them."""
    tensors = {name: value.cpu().contiguous() for name, value in bucket.tensors.items()}
    return save(tensors, metadata=dict(bucket.metadata))
