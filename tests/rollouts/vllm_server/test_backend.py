"""What can be tested of the backend without vLLM; ``test_real_vllm.py`` has the rest."""

import asyncio
import base64
import io
import json
import sys
import threading
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from lit_vlm.rollouts.vllm_server.backend import VLLMBackend


class Engine:
    """Stands in for vLLM's engine."""

    def __init__(self):
        self.asked, self.calls, self.unused, self.missing, self.is_emptied = [], [], [], [], True
        self.errored, self.stuck, self.faults = False, False, [None, None]
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(model="m", dtype=torch.bfloat16, max_model_len=64),
            parallel_config=SimpleNamespace(world_size=2, data_parallel_size=1),
            device_config=SimpleNamespace(device_type="cpu"),
        )

    async def collective_rpc(self, method, args=()):
        self.calls.append(method)
        if self.stuck:
            await asyncio.sleep(60)
        if method in ("lit_vlm_join_group", "lit_vlm_receive_bucket"):
            self.asked.append(args)
            return self.faults
        return [{"lit_vlm_adapter_faults": self.unused, "lit_vlm_finish_weights": self.missing}.get(method)]

    async def add_lora(self, request):
        self.calls.append(json.loads(Path(request.lora_path, "adapter_config.json").read_text())["r"])
        return True

    async def reset_prefix_cache(self):
        self.calls.append("emptied")
        return self.is_emptied

    async def reset_encoder_cache(self):
        self.calls.append("images forgotten")

    async def generate(self, prompt, parameters, name, lora_request):
        self.asked.append((prompt, parameters, lora_request))
        if self.stuck:
            await asyncio.sleep(60)
        one = SimpleNamespace(
            token_ids=[parameters.seed], logprobs=[{parameters.seed: SimpleNamespace(logprob=-0.5)}],
            finish_reason="stop",
        )  # fmt: skip
        yield SimpleNamespace(outputs=[one], prompt_token_ids=[1, 9, 9])

    def shutdown(self):
        self.calls.append("ended")


@pytest.fixture
def made(tmp_path, monkeypatch):
    engine = Engine()
    modules = {
        "vllm": {"SamplingParams": SimpleNamespace, "__version__": "0"},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(FINAL_ONLY=2)},
        "vllm.lora.request": {
            "LoRARequest": lambda name, number, path, load_inplace: SimpleNamespace(
                lora_path=path, load_inplace=load_inplace
            )
        },
        "vllm.engine.arg_utils": {"AsyncEngineArgs": SimpleNamespace},
        "vllm.v1.engine.async_llm": {"AsyncLLM": SimpleNamespace(from_engine_args=lambda arguments: engine)},
    }
    for name in ("vllm.lora", "vllm.engine", "vllm.v1", "vllm.v1.engine"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    for name, members in modules.items():
        module = ModuleType(name)
        vars(module).update(members)
        monkeypatch.setitem(sys.modules, name, module)
    backend = VLLMBackend({"model": "m", "enable_lora": True, "max_lora_rank": 8}, tmp_path, "extension")
    yield backend, engine
    backend.close()


def request(**fields):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "PNG")
    sampling = {
        "max_tokens": 3, "temperature": 1.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0,
        "stop": [], "end_token_ids": [2], "never": [9],
    }  # fmt: skip
    picture = base64.b64encode(buffer.getvalue()).decode()
    whole = {"token_ids": [1, 9], "images": [picture], "processor": {"size": 1}, "sampling": sampling, "seeds": [5, 6]}
    return {**whole, **fields}


def test_each_seed_is_a_request_of_its_own_with_the_same_image(made):
    backend, engine = made
    answer = backend.generate(request(), threading.Event())
    assert answer["token_ids"] == [1, 9, 9]
    assert [one["token_ids"] for one in answer["completions"]] == [[5], [6]]
    assert answer["completions"][0]["log_probs"] == [-0.5]
    (first, parameters, _), (second, _, _) = engine.asked
    assert first["multi_modal_uuids"] == second["multi_modal_uuids"]
    assert first["mm_processor_kwargs"] == {"size": 1}
    assert first["multi_modal_data"]["image"][0].size == (4, 4)
    assert parameters.logit_bias == {9: -100.0}
    assert (parameters.ignore_eos, parameters.stop_token_ids, parameters.detokenize) == (True, [2], False)
    backend.generate(request(images=[], processor={}), threading.Event())
    assert "multi_modal_data" not in engine.asked[-1][0]


def test_what_nobody_waits_for_any_more_is_given_up(made):
    backend, engine = made
    engine.stuck = True
    given_up = threading.Event()
    threading.Timer(0.2, given_up.set).start()
    assert backend.generate(request(), given_up) == {}


def test_images_that_are_no_png_are_refused(made):
    backend, _ = made
    with pytest.raises(Exception, match="cannot identify"):
        backend.generate(request(images=[base64.b64encode(b"GIF89a").decode()]), threading.Event())


def adapter(folder, name="a.safetensors"):
    save_file({"x": torch.ones(1)}, folder / name, metadata={"adapter_config": json.dumps({"r": 4})})
    return folder / name


def test_an_adapter_takes_the_place_of_the_last_and_caches_are_emptied(made, tmp_path):
    backend, engine = made
    engine.calls.clear()
    backend.load_adapter(adapter(tmp_path))
    assert engine.calls == [4, "lit_vlm_adapter_faults", "emptied"]
    backend.generate(request(), threading.Event())
    first = engine.asked[-1][2]
    assert not first.load_inplace
    backend.load_adapter(adapter(tmp_path))
    assert len(list(tmp_path.glob("adapter-*"))) == 1
    assert backend.state()["max_lora_rank"] == 8


def test_an_adapter_that_would_do_nothing_is_refused(made, tmp_path):
    backend, engine = made
    engine.unused.append("visual.blocks.0")
    with pytest.raises(RuntimeError, match=r"pass by 1 layers of the adapter, such as visual\.blocks\.0"):
        backend.load_adapter(adapter(tmp_path))


def test_weights_must_be_whole_and_caches_empty(made, tmp_path):
    backend, engine = made
    engine.calls.clear()
    backend.begin_weights()
    backend.load_bucket(tmp_path / "b")
    backend.finish_weights()
    assert engine.calls == [
        "lit_vlm_begin_weights", "lit_vlm_load_bucket", "lit_vlm_finish_weights", "images forgotten", "emptied",
    ]  # fmt: skip
    engine.is_emptied = False
    with pytest.raises(RuntimeError, match="did not empty its cache"):
        backend.finish_weights()
    engine.missing.append("head")
    with pytest.raises(RuntimeError, match="1 weights that vLLM's model has did not come, such as head"):
        backend.finish_weights()


def test_the_fault_of_any_worker_is_that_of_the_group(made):
    backend, engine = made
    assert backend.join_group({"name": "g"}) is None
    assert backend.receive_bucket(3, [["a", "float32", [1]]]) is None
    assert engine.asked == [({"name": "g"},), (3, [["a", "float32", [1]]])]
    engine.faults[1] = "gone"
    assert backend.join_group({"name": "g"}) == backend.receive_bucket(4, []) == "gone"
    engine.vllm_config.parallel_config.data_parallel_size = 2
    with pytest.raises(RuntimeError, match="data_parallel_size is 2; start a server for each copy"):
        backend.join_group({"name": "g"})


def test_an_engine_that_has_ended_says_so(made):
    backend, engine = made
    told = backend.state()
    assert (told["dtype"], told["workers"], told["device"]) == ("bfloat16", 2, "cpu")
    engine.errored = True
    with pytest.raises(RuntimeError, match="has ended"):
        backend.state()


def test_what_an_engine_does_not_answer_any_more_is_not_waited_for(made):
    backend, engine = made
    engine.stuck = True
    threading.Timer(0.2, lambda: setattr(engine, "errored", True)).start()
    with pytest.raises(RuntimeError, match="has ended"):
        backend.begin_weights()
