"""vLLM's side of ``vllm_load.py``: generates as it is told over a pipe, in an interpreter that has vLLM.

A request has ``model``, the folder to load, ``adapter``, a folder in PEFT's format or null, with its ``rank``,
``prompts`` with a ``text`` and the path of an ``image`` each, and how many ``new_tokens`` to generate greedily. The
answer has, for each prompt, the tokens that the model was given, those it generated, and their log-probabilities.
"""

import os
import sys
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from answering import answer_requests
from PIL import Image
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


def work(request: dict[str, Any]) -> dict[str, Any]:
    """Loads a folder, and generates."""
    adapter = request["adapter"]
    lora = {"enable_lora": True, "max_lora_rank": request["rank"]} if adapter else {}
    model = LLM(
        model=request["model"], dtype="float32", max_model_len=1024, enforce_eager=True, seed=0,
        limit_mm_per_prompt={"image": 1}, enable_prefix_caching=False, **lora,
    )  # fmt: skip
    prompts = [
        {"prompt": prompt["text"], "multi_modal_data": {"image": Image.open(prompt["image"]).convert("RGB")}}
        for prompt in request["prompts"]
    ]
    chosen = LoRARequest("adapter", 1, adapter) if adapter else None
    greedy = SamplingParams(temperature=0.0, max_tokens=request["new_tokens"], logprobs=0)
    found = []
    for done in model.generate(prompts, greedy, lora_request=chosen, use_tqdm=False):
        output = done.outputs[0]
        tokens = list(output.token_ids)
        log_probs = [place[token].logprob for place, token in zip(output.logprobs, tokens, strict=True)]
        found.append({"prompt": list(done.prompt_token_ids), "tokens": tokens, "log_probs": log_probs})
    model.llm_engine.engine_core.shutdown()
    return {"found": found}


if __name__ == "__main__":
    torch.set_num_threads(int(sys.argv[1]))
    answer_requests(work)
