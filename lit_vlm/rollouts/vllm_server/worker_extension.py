"""What vLLM's workers do beside their own work: take weights, and tell log-probabilities at a temperature.

vLLM puts this class under its own worker class; each method is called by name in every worker. It imports vLLM within
methods, as it is read before vLLM has settled its platform.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from .bucket_receiver import BucketReceiver
from .flat_weights import Described
from .weight_group import Place

LEAST_TEMPERATURE = 1e-5
"""Below it vLLM takes the likeliest token."""


class WeightReceiver:
    """Methods that are added to a worker."""

    model_runner: Any
    vllm_config: Any
    device: torch.device
    lit_vlm_receiver: BucketReceiver
    lit_vlm_wanted: set[str]
    lit_vlm_loaded: set[str]
    lit_vlm_is_loading: bool = False

    def lit_vlm_temper(self) -> None:
        """Has log-probabilities be those of the logits over the temperature, before any token is ruled out.

        vLLM tells them either at temperature 1, or after top-p and top-k.
        """
        temper(self.model_runner.sampler)

    def lit_vlm_begin_weights(self) -> None:
        """Prepares all layers for new weights, however their present ones are packed."""
        from vllm.model_executor.model_loader.reload.layerwise import initialize_layerwise_reload

        if self.lit_vlm_is_loading:
            # vLLM would mix what came before the break with what comes now.
            self._lit_vlm_end_loading()
        self._lit_vlm_own_receiver().begin()
        model = self.model_runner.get_model()
        self.lit_vlm_wanted = {name.replace(".base_layer.", ".") for name, _ in model.named_parameters()}
        self.lit_vlm_loaded = set()
        self.lit_vlm_is_loading = True
        with self._lit_vlm_settings():
            initialize_layerwise_reload(model)

    def lit_vlm_load_bucket(self, path: str) -> None:
        """Loads the weights of a file, by the names that a checkpoint has."""
        self._lit_vlm_load(read_weights(path))

    def lit_vlm_join_group(self, place: dict[str, Any]) -> str | None:
        """Comes to the trainer's group, at the place of the server's first worker or after it.

        Returns:
            Why the group did not come about; None where it did.
        """
        first = Place(**place)
        own = replace(first, rank=first.rank + int(self.vllm_config.parallel_config.rank))
        with _common_nccl_settings(own):
            return self._lit_vlm_own_receiver().join(own, self.device)

    def lit_vlm_receive_bucket(self, number: int, described: Described) -> str | None:
        """Takes a bucket from the group, and loads it unless it was loaded before.

        Returns:
            Why it did not come; None where it did.
        """
        return self._lit_vlm_own_receiver().receive(number, described, self._lit_vlm_load)

    def lit_vlm_finish_weights(self) -> list[str]:
        """Packs the new weights as the old ones were.

        Returns:
            Weights of the model that did not come.
        """
        self._lit_vlm_end_loading()
        with self._lit_vlm_settings():
            pack_shared(self.model_runner.get_model())
        self.model_runner.reset_lora_state()
        return sorted(self.lit_vlm_wanted - self.lit_vlm_loaded)

    def lit_vlm_adapter_faults(self, adapter_id: int) -> list[str]:
        """Names layers of a loaded adapter that belong to no layer of the model, and so would do nothing."""
        return unused_layers(self.model_runner.lora_manager._adapter_manager, adapter_id)

    def _lit_vlm_own_receiver(self) -> BucketReceiver:
        # vLLM gives this class no time to set anything up.
        if not hasattr(self, "lit_vlm_receiver"):
            self.lit_vlm_receiver = BucketReceiver()
        return self.lit_vlm_receiver

    def _lit_vlm_end_loading(self) -> None:
        from vllm.model_executor.model_loader.reload.layerwise import finalize_layerwise_reload

        with self._lit_vlm_settings():
            finalize_layerwise_reload(self.model_runner.get_model(), self.vllm_config.model_config)
        self.lit_vlm_is_loading = False

    def _lit_vlm_load(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        with self._lit_vlm_settings():
            self.lit_vlm_loaded |= set(self.model_runner.get_model().load_weights(weights))

    def _lit_vlm_settings(self) -> AbstractContextManager[None]:
        from vllm.config import set_current_vllm_config

        return set_current_vllm_config(self.vllm_config)  # type: ignore[no-any-return]


def _common_nccl_settings(place: Place) -> AbstractContextManager[None]:
    """Takes back settings of NCCL that vLLM has made for its own groups, and that the trainer does not have."""
    if place.backend != "nccl":
        return nullcontext()
    from vllm.utils.nccl import unpinned_nccl_env

    return unpinned_nccl_env()  # type: ignore[no-any-return]


def read_weights(path: str) -> Iterator[tuple[str, Tensor]]:
    """Yields the weights of a safetensors file, copied, since the file goes while some may wait for others."""
    with safe_open(path, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - no mapping
            yield name, file.get_tensor(name).clone()


def pack_shared(model: torch.nn.Module) -> None:
    """Packs weights that several layers share once more, for each of them.

    A head that is the embeddings gets no weights of its own, so that vLLM leaves what it has packed for it from the
    earlier ones.
    """
    layers: dict[int, list[torch.nn.Module]] = {}
    for layer in model.modules():
        weight = layer._parameters.get("weight")
        if weight is not None and hasattr(layer, "quant_method"):
            layers.setdefault(id(weight), []).append(layer)
    for sharing in layers.values():
        if len(sharing) > 1:
            for layer in sharing:
                layer.quant_method.process_weights_after_loading(layer)  # type: ignore[operator, union-attr]


def unused_layers(manager: Any, adapter_id: int) -> list[str]:
    """Names layers of an adapter that no module of the model takes up.

    vLLM passes them by without a word.

    Raises:
        RuntimeError: The adapter is not there, or has no layers at all.
    """
    adapter = manager.get_adapter(adapter_id)
    if adapter is None or not adapter.loras:
        raise RuntimeError("vLLM holds no layers of the adapter that it was given")
    return sorted(set(adapter.loras) - set(manager.modules))


def temper(sampler: Any) -> None:
    """Makes a sampler's raw log-probabilities those at each row's own temperature.

    Args:
        sampler: vLLM's, with the mode ``raw_logprobs``.

    Raises:
        RuntimeError: It is not built as expected.
    """
    if not callable(getattr(sampler, "compute_logprobs", None)) or sampler.logprobs_mode != "raw_logprobs":
        raise RuntimeError("this vLLM computes log-probabilities elsewhere than expected; take one that was tried")
    forward: Callable[..., Any] = sampler.forward
    temperatures: list[Tensor | None] = [None]

    def noting(logits: Tensor, sampling_metadata: Any, *values: Any, **options: Any) -> Any:
        temperatures[0] = None if sampling_metadata.all_greedy else sampling_metadata.temperature
        return forward(logits, sampling_metadata, *values, **options)

    def compute(logits: Tensor) -> Tensor:
        scores, temperature = logits.float(), temperatures[0]
        if temperature is not None:
            scores = scores / torch.where(temperature < LEAST_TEMPERATURE, 1.0, temperature)[:, None]
        return scores.log_softmax(-1)

    sampler.forward = noting
    sampler.compute_logprobs = compute
