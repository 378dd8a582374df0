"""Compares the data path with the usual collator of supervised vision fine-tuning, on data made here.

Both read the same samples in the same batches: JPEG files and conversations from JSON Lines, decoded, rendered with the
chat template, tokenised, processed and padded, with labels. Ours is ``ChatDataModule`` and the encoder of the bundled
tiny VLM, which learns completions only. The peer is one processor call a batch in the collator of a ``DataLoader``,
with labels on all but padding and images; TRL's own collator is a second peer where ``trl`` can be imported. The
rounds take turns, each epoch starts its own workers, and medians are reported, of the ratios within a round too.

Besides: the share of padding of each way to put batches together, the bytes that wait with and without the bound, and
the time to the first batch.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import random
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from lit_vlm.data import bounded_loader
from lit_vlm.data.batch_plans import padding_share
from lit_vlm.data.chat_data_module import ChatDataModule
from lit_vlm.data.prefetch_gate import PrefetchGate
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.processor_encoder import ProcessorEncoder

WORDS = ("the", "a", "red", "blue", "small", "cup", "tree", "left", "of", "which", "what", "how", "many", "seven")
OURS = "lit-vlm"
Pass = Callable[[int], Iterator[Any]]
"""Serves the batches of one epoch, given a number of workers."""


def write_data(folder: Path, samples: int, largest_side: int) -> Path:
    """Writes conversations with no, one, or two images of mixed sizes, and texts of mixed lengths."""
    stream = random.Random(0)
    noise = numpy.random.default_rng(0)

    def words(least: int, most: int) -> str:
        return " ".join(stream.choices(WORDS, k=round(least * (most / least) ** stream.random())))

    lines = []
    for index in range(samples):
        names = [f"{index}_{number}.jpg" for number in range(stream.choices((0, 1, 2), (10, 75, 15))[0])]
        for name in names:
            width, height = (stream.randint(largest_side // 6, largest_side) for _ in range(2))
            # Smooth colours with some grain, so that a file is about as large as a photograph's.
            coarse = noise.integers(0, 256, (height // 16 + 2, width // 16 + 2, 3), dtype=numpy.uint8)
            smooth = numpy.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), "int16")
            grain = noise.integers(-8, 9, (height, width, 1), dtype=numpy.int16)
            Image.fromarray((smooth + grain).clip(0, 255).astype("uint8")).save(folder / name, quality=85)
        question = "<image>" * len(names) + words(4, 80)
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": words(2, 250)}]
        lines.append(json.dumps({"messages": turns, "images": names}) + "\n")
    path = folder / "train.jsonl"
    path.write_text("".join(lines), encoding="utf-8")
    return path


def ours(path: Path, encoder: ProcessorEncoder, **options: Any) -> ChatDataModule:
    """Opens the data as a run does."""
    return ChatDataModule(str(path), encoder, validation_share=0, **options)


class Conversations(Dataset[dict[str, Any]]):
    """The same conversations as a peer's trainer holds them: parsed records, whose images a worker decodes."""

    def __init__(self, path: Path) -> None:
        self._folder = path.parent
        self._records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self._records[index]
        images = [Image.open(self._folder / name).convert("RGB") for name in record["images"]]
        asked, answered = record["messages"]
        content = [{"type": "image"} for _ in images]
        content.append({"type": "text", "text": asked["content"].replace("<image>", "")})
        answer = [{"type": "text", "text": answered["content"]}]
        return {
            "messages": [{"role": "user", "content": content}, {"role": "assistant", "content": answer}],
            "images": images,
        }


class PlainCollator:
    """Renders, tokenises and processes a whole batch in one call of the processor."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self._image_token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)

    def __call__(self, examples: Sequence[dict[str, Any]]) -> dict[str, Any]:
        texts = [self._processor.apply_chat_template(example["messages"], tokenize=False) for example in examples]
        images = [image for example in examples for image in example["images"]]
        batch = dict(self._processor(text=texts, images=images or None, padding=True, return_tensors="pt"))
        labels = batch["input_ids"].clone()
        labels[batch["attention_mask"] == 0] = -100
        labels[labels == self._image_token] = -100
        return {**batch, "labels": labels}


def peers(path: Path, processor: Any, batches: list[list[int]]) -> dict[str, Pass]:
    """Makes what ours is compared with."""
    collators: dict[str, Any] = {"plain collator": PlainCollator(processor)}
    if importlib.util.find_spec("trl") is not None:
        from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling  # type: ignore[import-not-found]

        collators["TRL's collator"] = DataCollatorForVisionLanguageModeling(processor)
    conversations = Conversations(path)

    def serve(collator: Any) -> Pass:
        return lambda workers: iter(
            DataLoader(conversations, batch_sampler=batches, collate_fn=collator, num_workers=workers)  # type: ignore[arg-type]
        )

    return {name: serve(collator) for name, collator in collators.items()}


def count(batch: Any) -> tuple[int, int]:
    """Counts the samples and tokens of a batch."""
    mask = batch.attention_mask if hasattr(batch, "samples") else batch["attention_mask"]
    return len(mask), int(mask.sum())


def processor_seconds() -> float:
    """Sums what this process and the workers that have ended used."""
    return sum(os.times()[:4])


def timed(serve: Pass, workers: int) -> tuple[dict[str, float], int, int]:
    """Runs one epoch.

    Returns:
        Seconds by the clock, of the processors, and to the first batch; samples; tokens.
    """
    start, used = time.perf_counter(), processor_seconds()
    first = samples = tokens = 0.0
    for batch in serve(workers):
        first = first or time.perf_counter() - start
        rows, length = count(batch)
        samples, tokens = samples + rows, tokens + length
    spent = {"clock": time.perf_counter() - start, "processors": processor_seconds() - used, "first": first}
    return spent, int(samples), int(tokens)


def compare(contenders: dict[str, Pass], workers: int, rounds: int) -> None:
    """Lets the contenders take turns and prints a row for each."""
    spent: dict[str, list[dict[str, float]]] = {name: [] for name in contenders}
    served = {}
    for _ in range(rounds):
        for name, serve in contenders.items():
            seconds, samples, tokens = timed(serve, workers)
            spent[name].append(seconds)
            served[name] = (samples, tokens)
    # Peers keep the line break that the template puts after the last turn; ours ends with what is learnt.
    if len({samples for samples, _ in served.values()}) != 1 or any(
        not 0 <= tokens - served[OURS][1] <= samples for samples, tokens in served.values()
    ):
        raise SystemExit(f"the contenders served different samples or tokens: {served}")
    for name, (samples, tokens) in served.items():
        clock = statistics.median(one["clock"] for one in spent[name])
        first = statistics.median(one["first"] for one in spent[name])
        against = [
            statistics.median(theirs[kind] / mine[kind] for theirs, mine in zip(spent[name], spent[OURS], strict=True))
            for kind in ("clock", "processors")
        ]
        print(
            f"| {workers} | {name} | {samples / clock:,.0f} | {tokens / clock:,.0f} | {against[0]:.2f} |"
            f" {against[1]:.2f} | {1000 * first:,.0f} |",
            flush=True,
        )


def padding(path: Path, encoder: ProcessorEncoder, batch_size: int) -> None:
    """Prints how much of the batches is padding, and how long counting the tokens takes."""
    data = ours(path, encoder, batching="length_grouped", batch_size=batch_size)
    start = time.perf_counter()
    data.train_batches(world_size=1)
    seconds = time.perf_counter() - start
    lengths = [length or 0 for length in data._token_lengths().lengths]
    budget = batch_size * sum(lengths) // len(lengths)
    print(f"\ntokens of a sample: {min(lengths)} to {max(lengths)}, mean {sum(lengths) / len(lengths):.0f}")
    print(f"counting the tokens of all {len(lengths)} samples, 2 workers: {seconds:.1f} s\n")
    print("| batching | batches an epoch | padding |\n| --- | --- | --- |")
    budgeted = {"batch_size": None, "max_batch_tokens": max(max(lengths), budget)}
    for batching, options in (("fixed", {}), ("length_grouped", {}), ("token_budget", budgeted)):
        other = ours(path, encoder, **{"batching": batching, "batch_size": batch_size, **options})
        other._lengths = data._lengths
        batches = other._plan(0, 1).batches(0)
        print(f"| {batching} | {len(batches)} | {100 * padding_share(batches, lengths):.1f} % |")


def waiting(path: Path, encoder: ProcessorEncoder, batch_size: int, workers: int) -> None:
    """Prints the most bytes that wait for a training that is slower than the workers."""
    gates: list[PrefetchGate] = []

    class WatchedGate(PrefetchGate):
        def __init__(self, limit: int, largest: int = 0) -> None:
            super().__init__(limit, largest)
            gates.append(self)

    bounded_loader.PrefetchGate = WatchedGate  # type: ignore[misc]
    print(f"\n| prefetch_bytes ({workers} workers) | most bytes waiting | largest batch |\n| --- | --- | --- |")
    largest = 0
    for name in ("no bound", "2 batches", "1 byte"):
        limit = {"no bound": 2**50, "2 batches": 2 * largest, "1 byte": 1}[name]
        loader = ours(path, encoder, batch_size=batch_size, num_workers=workers, prefetch_bytes=limit)
        most = 0
        for _ in loader.train_dataloader():
            for _ in range(10):
                time.sleep(0.01)
                most = max(most, gates[-1].waiting_bytes)
        largest = gates[-1].largest
        print(f"| {name} | {most / 2**20:.2f} MiB | {largest / 2**20:.2f} MiB |", flush=True)
    bounded_loader.PrefetchGate = PrefetchGate  # type: ignore[misc]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--largest-side", type=int, default=768, help="of the images, in pixels")
    parser.add_argument("--image-tokens", type=int, default=256, help="most of an image (a token is 16 x 16 pixels)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", "This DataLoader will create")

    encoder = Backbone("tiny").load_encoder()
    encoder.processor.image_processor.size["longest_edge"] = 256 * options.image_tokens
    with tempfile.TemporaryDirectory() as name:
        path = write_data(Path(name), options.samples, options.largest_side)
        start = time.perf_counter()
        data = ours(path, encoder, batch_size=options.batch_size)
        plan = data._plan(0, 1)
        print(f"opening {options.samples} records: {1000 * (time.perf_counter() - start):.0f} ms\n")

        def serve(workers: int) -> Iterator[Any]:
            data.num_workers = workers
            return iter(data.train_dataloader())

        contenders = {OURS: serve, **peers(path, encoder.processor, plan.batches(0))}
        for contender in contenders.values():
            next(contender(0))  # the first call builds caches
        print("| workers | | samples/s | tokens/s | time / ours | processor time / ours | first batch, ms |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for workers in options.workers:
            compare(contenders, workers, options.rounds)
        padding(path, encoder, options.batch_size)
        waiting(path, encoder, options.batch_size, max(options.workers))


if __name__ == "__main__":
    main()
