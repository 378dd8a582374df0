import sys
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lit_vlm.rollouts.vllm_server.weight_group import Place
from lit_vlm.rollouts.vllm_server.worker_extension import (
    WeightReceiver,
    pack_shared,
    read_weights,
    temper,
    unused_layers,
)


class Sampler(nn.Module):
    """Computes log-probabilities as vLLM's does: of the raw logits, by a method that can be replaced."""

    logprobs_mode = "raw_logprobs"

    def forward(self, logits, sampling_metadata):
        return self.compute_logprobs(logits)

    @staticmethod
    def compute_logprobs(logits):
        return logits.log_softmax(-1)


def test_log_probabilities_are_those_at_each_rows_temperature():
    sampler, logits = Sampler(), torch.randn(3, 7)
    temper(sampler)
    # vLLM writes 0 for a row that takes the likeliest token; its log-probabilities are those at temperature 1.
    metadata = SimpleNamespace(all_greedy=False, temperature=torch.tensor([0.5, 2.0, 0.0]))
    expected = torch.stack([logits[0] / 0.5, logits[1] / 2, logits[2]]).log_softmax(-1)
    torch.testing.assert_close(sampler(logits, metadata), expected)
    greedy = SimpleNamespace(all_greedy=True, temperature=None)
    torch.testing.assert_close(sampler(logits, greedy), logits.log_softmax(-1))
    assert sampler(logits.bfloat16(), greedy).dtype == torch.float32


@pytest.mark.parametrize("sampler", [SimpleNamespace(), SimpleNamespace(compute_logprobs=len, logprobs_mode="other")])
def test_a_sampler_of_another_build_is_refused(sampler):
    with pytest.raises(RuntimeError, match="take one that was tried"):
        temper(sampler)


def test_layers_of_an_adapter_that_nothing_takes_up_are_found():
    adapters = {1: SimpleNamespace(loras={"a": 1, "b": 1}), 2: SimpleNamespace(loras={})}
    manager = SimpleNamespace(get_adapter=adapters.get, modules={"a": None, "c": None})
    assert unused_layers(manager, 1) == ["b"]
    for absent in (2, 3):
        with pytest.raises(RuntimeError, match="no layers of the adapter"):
            unused_layers(manager, absent)


def test_weights_are_read_as_copies(tmp_path):
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.ones(2), "y": torch.zeros(1)}, path)
    found = dict(read_weights(str(path)))
    path.unlink()
    assert found["x"].tolist() == [1, 1]
    assert set(found) == {"x", "y"}


def test_layers_that_share_a_weight_are_packed_again():
    packed = []

    class Method:
        def process_weights_after_loading(self, layer):
            packed.append(layer)

    model = nn.ModuleDict({name: nn.Linear(2, 2, bias=False) for name in ("embeddings", "head", "other", "plain")})
    model["head"].weight = model["embeddings"].weight
    for name in ("embeddings", "head", "other"):
        model[name].quant_method = Method()
    pack_shared(model)
    assert packed == [model["embeddings"], model["head"]]


class Model(nn.Module):
    """Loads weights by name, and tells which they were."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.adapted = nn.ModuleDict({"base_layer": nn.Linear(2, 2, bias=False)})

    def load_weights(self, weights):
        return {name for name, _ in weights}


def test_a_worker_names_the_weights_that_did_not_come(tmp_path, monkeypatch):
    done = []
    for name in ("vllm", "vllm.model_executor", "vllm.model_executor.model_loader"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name in ("vllm.model_executor.model_loader.reload", "vllm.model_executor.model_loader.reload.layerwise"):
        module = ModuleType(name)
        module.initialize_layerwise_reload = lambda model: done.append("begun")
        module.finalize_layerwise_reload = lambda model, settings: done.append("packed")
        monkeypatch.setitem(sys.modules, name, module)
    settings = ModuleType("vllm.config")
    settings.set_current_vllm_config = lambda given: nullcontext()
    monkeypatch.setitem(sys.modules, "vllm.config", settings)

    model = Model()
    worker = WeightReceiver()
    worker.vllm_config = SimpleNamespace(model_config=None)
    worker.model_runner = SimpleNamespace(
        get_model=lambda: model, reset_lora_state=lambda: done.append("adapters forgotten"), sampler=Sampler()
    )
    save_file({"inner.weight": torch.ones(2, 2), "adapted.weight": torch.ones(1)}, tmp_path / "first")
    save_file({"inner.bias": torch.ones(2)}, tmp_path / "second")
    for buckets, missing in ((("first",), ["inner.bias"]), (("first", "second"), [])):
        worker.lit_vlm_begin_weights()
        for bucket in buckets:
            worker.lit_vlm_load_bucket(str(tmp_path / bucket))
        assert worker.lit_vlm_finish_weights() == missing
    assert done == ["begun", "packed", "adapters forgotten"] * 2
    done.clear()
    worker.lit_vlm_begin_weights()
    worker.lit_vlm_load_bucket(str(tmp_path / "second"))
    worker.lit_vlm_begin_weights()
    worker.lit_vlm_load_bucket(str(tmp_path / "first"))
    assert worker.lit_vlm_finish_weights() == ["inner.bias"], "what came before the break does not count"
    assert done == ["begun", "packed", "begun", "packed", "adapters forgotten"]
    assert worker.lit_vlm_receive_bucket(1, []) == "the worker is in no group"
    worker.lit_vlm_temper()
    assert "forward" in vars(worker.model_runner.sampler)


@pytest.mark.parametrize("backend", ["gloo", "nccl"])
def test_workers_of_a_server_take_places_one_after_another(monkeypatch, backend):
    places, unpinned = [], []

    class Receiver:
        def join(self, place, device):
            places.append((place.rank, place.backend, device, tuple(unpinned)))
            return "gone"

    @contextmanager
    def unpinned_nccl_env():
        unpinned.append("as the trainer has it")
        yield
        unpinned.clear()

    module = ModuleType("vllm.utils.nccl")
    module.unpinned_nccl_env = unpinned_nccl_env
    for name in ("vllm", "vllm.utils"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "vllm.utils.nccl", module)
    place = Place("127.0.0.1", 1, "g", 3, 5, backend, 1.0)
    for rank in (0, 1):
        worker = WeightReceiver()
        worker.lit_vlm_receiver, worker.device = Receiver(), torch.device("cpu")
        worker.vllm_config = SimpleNamespace(parallel_config=SimpleNamespace(rank=rank))
        assert worker.lit_vlm_join_group(asdict(place)) == "gone"
    pinned = () if backend == "gloo" else ("as the trainer has it",)
    assert places == [(rank, backend, torch.device("cpu"), pinned) for rank in (3, 4)]
