"""vLLM behind the service: one engine, in an event loop of its own.

vLLM is imported within functions, so that this file can be read where it is not installed.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import io
import itertools
import json
import os
import shutil
import threading
from collections.abc import Coroutine
from concurrent.futures import wait
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from safetensors import safe_open

ADAPTER_ID = 1
NEVER = -100.0
"""Bias that no token survives."""
ENDED = "vLLM's engine has ended"
POLL_SECONDS = 0.5
END_SECONDS = 30.0
T = TypeVar("T")


class VLLMBackend:
    """Samples with vLLM.

    Args:
        options: Of vLLM's engine.
        folder: For adapters, which vLLM reads from files.
        extension: Dotted path of the class that its workers are to have.
    """

    def __init__(self, options: dict[str, Any], folder: Path, extension: str) -> None:
        self._folder = folder
        self._adapter: Any = None
        self._engine: Any = None
        self._numbers = itertools.count()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._max_lora_rank = int(options.get("max_lora_rank", 0)) if options.get("enable_lora") else 0
        self._engine = self._run(_started(options, extension))
        self._run(self._engine.collective_rpc("lit_vlm_temper"))

    def close(self) -> None:
        """Ends the engine and its processes."""
        self._loop.call_soon_threadsafe(self._engine.shutdown)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(END_SECONDS)
        if not self._loop.is_running():
            self._loop.close()

    def state(self) -> dict[str, Any]:
        """Describes the model.

        Raises:
            RuntimeError: The engine's process is gone.
        """
        if self._engine.errored:
            raise RuntimeError(ENDED)
        settings = self._engine.vllm_config.model_config
        cluster = self._engine.vllm_config.parallel_config
        return {
            "model": str(settings.model),
            "dtype": str(settings.dtype).removeprefix("torch."),
            "max_tokens": int(settings.max_model_len),
            "max_lora_rank": self._max_lora_rank,
            "vllm": vllm_version(),
            "workers": int(cluster.world_size),
            "device": str(self._engine.vllm_config.device_config.device_type),
        }

    def generate(self, request: dict[str, Any], given_up: threading.Event) -> dict[str, Any]:
        """Continues a prompt; its images are read and processed once for all completions."""
        prompt: dict[str, Any] = {"prompt_token_ids": [int(token) for token in request["token_ids"]]}
        if request["images"]:
            pictures = [base64.b64decode(image, validate=True) for image in request["images"]]
            prompt["multi_modal_data"] = {"image": [_opened(picture) for picture in pictures]}
            names = [hashlib.sha256(picture).hexdigest() for picture in pictures]
            options = request["processor"]
            if options:
                prompt["mm_processor_kwargs"] = options
                names = [f"{name}-{json.dumps(options, sort_keys=True)}" for name in names]
            prompt["multi_modal_uuids"] = {"image": names}
        parameters = [_parameters(request["sampling"], int(seed)) for seed in request["seeds"]]
        return self._run(self._completed(prompt, parameters, given_up))

    def begin_weights(self) -> None:
        """Prepares for buckets of weights."""
        self._adapter = None
        self._run(self._engine.collective_rpc("lit_vlm_begin_weights"))

    def load_bucket(self, path: Path) -> None:
        """Takes the weights of a file."""
        self._run(self._engine.collective_rpc("lit_vlm_load_bucket", args=(str(path),)))

    def join_group(self, place: dict[str, Any]) -> str | None:
        """Has all workers come to the trainer's group.

        Raises:
            RuntimeError: The model is there several times, so that not all workers would be heard.
        """
        copies = self._engine.vllm_config.parallel_config.data_parallel_size
        if copies > 1:
            raise RuntimeError(f"data_parallel_size is {copies}; start a server for each copy, or send weights by http")
        return self._fault_of_workers("lit_vlm_join_group", place)

    def receive_bucket(self, number: int, described: list[Any]) -> str | None:
        """Takes weights from the group."""
        return self._fault_of_workers("lit_vlm_receive_bucket", number, described)

    def finish_weights(self) -> None:
        """Makes the weights whole, and forgets what was computed with earlier ones.

        Raises:
            RuntimeError: Weights of the model did not come, or a cache could not be emptied.
        """
        missing = self._run(self._engine.collective_rpc("lit_vlm_finish_weights"))[0]
        if missing:
            raise RuntimeError(
                f"{len(missing)} weights that vLLM's model has did not come, such as {', '.join(missing[:3])}"
            )
        self._run(self._engine.reset_encoder_cache())
        self._forget()

    def load_adapter(self, path: Path) -> None:
        """Puts an adapter in place of an earlier one.

        Raises:
            RuntimeError: vLLM would pass by some of its layers, or was started without adapters.
        """
        if not self._max_lora_rank:
            raise RuntimeError("the server was started without adapters; give it --max_lora_rank")
        folder = self._folder / f"adapter-{next(self._numbers)}"
        folder.mkdir()
        with safe_open(path, framework="pt") as file:
            (folder / "adapter_config.json").write_text(file.metadata()["adapter_config"], encoding="utf-8")
        shutil.copyfile(path, folder / "adapter_model.safetensors")
        if not self._run(self._engine.add_lora(_adapter(folder, replaces=True))):
            raise RuntimeError("vLLM did not load the adapter")
        unused = self._run(self._engine.collective_rpc("lit_vlm_adapter_faults", args=(ADAPTER_ID,)))[0]
        if unused:
            raise RuntimeError(
                f"vLLM would pass by {len(unused)} layers of the adapter, such as {unused[0]}, for which its model has "
                "no place"
            )
        if self._adapter is not None:
            shutil.rmtree(self._adapter.lora_path)
        self._adapter = _adapter(folder, replaces=False)
        self._forget()

    def _fault_of_workers(self, method: str, *values: Any) -> str | None:
        """Returns the first fault that a worker tells."""
        told: list[str | None] = self._run(self._engine.collective_rpc(method, args=values))
        return next((fault for fault in told if fault is not None), None)

    def _forget(self) -> None:
        if not self._run(self._engine.reset_prefix_cache()):
            raise RuntimeError("vLLM did not empty its cache of prompts, which earlier weights computed")

    async def _completed(
        self, prompt: dict[str, Any], parameters: list[Any], given_up: threading.Event
    ) -> dict[str, Any]:
        # The first request leaves the processed images in vLLM's cache, where the others find them.
        tasks = [asyncio.create_task(self._one(dict(prompt), each)) for each in parameters]
        try:
            pending = set(tasks)
            while pending and not given_up.is_set():
                done, pending = await asyncio.wait(pending, timeout=POLL_SECONDS, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        if given_up.is_set():
            return {}
        outputs = [output for output in ended if not isinstance(output, BaseException)]
        return {"token_ids": list(outputs[0].prompt_token_ids), "completions": [_described(each) for each in outputs]}

    async def _one(self, prompt: dict[str, Any], parameters: Any) -> Any:
        name = f"{os.getpid()}-{next(self._numbers)}"
        found = None
        async for output in self._engine.generate(prompt, parameters, name, lora_request=self._adapter):
            found = output
        return found

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        done = asyncio.run_coroutine_threadsafe(work, self._loop)
        while not wait([done], POLL_SECONDS).done:
            # What an engine was asked that then died may never be answered.
            if self._engine is not None and self._engine.errored:
                done.cancel()
                raise RuntimeError(ENDED)
        return done.result()


async def _started(options: dict[str, Any], extension: str) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    return AsyncLLM.from_engine_args(
        AsyncEngineArgs(**options, worker_extension_cls=extension, logprobs_mode="raw_logprobs")
    )


def _adapter(folder: Path, *, replaces: bool) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest("policy", ADAPTER_ID, str(folder), load_inplace=replaces)


def _opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content), formats=["PNG"]).convert("RGB")


def vllm_version() -> str:
    """Returns the version of vLLM."""
    import vllm

    return str(vllm.__version__)


def _parameters(sampling: dict[str, Any], seed: int) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        max_tokens=sampling["max_tokens"],
        temperature=sampling["temperature"],
        top_p=sampling["top_p"],
        top_k=sampling["top_k"],
        min_p=sampling["min_p"],
        repetition_penalty=sampling["repetition_penalty"],
        stop=sampling["stop"],
        include_stop_str_in_output=True,
        # The trainer's model says what ends a completion.
        ignore_eos=True,
        stop_token_ids=sampling["end_token_ids"],
        logit_bias=dict.fromkeys(sampling["never"], NEVER) or None,
        detokenize=bool(sampling["stop"]),
        logprobs=0,
        seed=seed,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _described(output: Any) -> dict[str, Any]:
    completion = output.outputs[0]
    tokens = list(completion.token_ids)
    log_probs = [place[token].logprob for place, token in zip(completion.logprobs, tokens, strict=True)]
    return {"token_ids": tokens, "log_probs": log_probs, "finish": completion.finish_reason}
