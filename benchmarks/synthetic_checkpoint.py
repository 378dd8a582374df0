"""Checkpoints of any size with random weights, written tensor by tensor: a Qwen2 text model, or a Qwen2.5-VL.

Names, shapes and files are those that transformers writes, so that it and others load them; the tokenizer and what else
lies beside the weights is that of the bundled model. Numbers are normal, cut from a drawn block that is long but not as
long as the largest checkpoints; a donor is its base with noise added in float32, from a block of another length, so
that differences repeat nowhere that matters.

    python benchmarks/synthetic_checkpoint.py FOLDER --gigabytes 2 --family qwen2_5_vl --change_seed 1
"""

import argparse
import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

BLOCK, CHANGES = 2**22 - 3, 2**22 - 17
"""Numbers in the drawn blocks; without a common divisor."""
PIECE = 2**22
"""Numbers that are made and written at a time."""
DTYPES = {"float32": ("F32", torch.float32), "bfloat16": ("BF16", torch.bfloat16), "float16": ("F16", torch.float16)}
BESIDE = ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Sizes:
    """What the model is made of."""

    hidden: int = 64
    intermediate: int = 176
    layers: int = 4
    heads: int = 4
    key_value_heads: int = 2
    vocabulary: int = 704
    tied: bool = False
    vision_depth: int = 0
    """0 for a text model."""
    vision_hidden: int = 64
    vision_intermediate: int = 128

    @property
    def key_value(self) -> int:
        """Width of keys and of values."""
        return self.hidden // self.heads * self.key_value_heads


SHAPED = {
    "qwen2": Sizes(2048, 11008, 36, 16, 2, 151936),
    "qwen2_5_vl": Sizes(2048, 11008, 36, 16, 2, 151936, True, 32, 1280, 3420),
}
"""Proportions of checkpoints that are given by their size alone: those of 3B models."""


def decoder_weights(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names of a text model on disk, with shapes."""
    hidden, key_value = sizes.hidden, sizes.key_value
    yield "model.embed_tokens.weight", (sizes.vocabulary, hidden)
    for layer in range(sizes.layers):
        start = f"model.layers.{layer}."
        for name, width in (("q", hidden), ("k", key_value), ("v", key_value)):
            yield f"{start}self_attn.{name}_proj.weight", (width, hidden)
            yield f"{start}self_attn.{name}_proj.bias", (width,)
        yield f"{start}self_attn.o_proj.weight", (hidden, hidden)
        for name in ("gate", "up"):
            yield f"{start}mlp.{name}_proj.weight", (sizes.intermediate, hidden)
        yield f"{start}mlp.down_proj.weight", (hidden, sizes.intermediate)
        for name in ("input", "post_attention"):
            yield f"{start}{name}_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not sizes.tied:
        yield "lm_head.weight", (sizes.vocabulary, hidden)


def vision_weights(sizes: Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names of a Qwen2.5-VL's vision tower on disk, with shapes."""
    if not sizes.vision_depth:
        return
    hidden, inner, merged = sizes.vision_hidden, sizes.vision_intermediate, 4 * sizes.vision_hidden
    yield "visual.patch_embed.proj.weight", (hidden, 3, 2, 14, 14)
    for layer in range(sizes.vision_depth):
        start = f"visual.blocks.{layer}."
        for name, shape in (
            ("attn.qkv", (3 * hidden, hidden)),
            ("attn.proj", (hidden, hidden)),
            ("mlp.gate_proj", (inner, hidden)),
            ("mlp.up_proj", (inner, hidden)),
            ("mlp.down_proj", (hidden, inner)),
        ):
            yield f"{start}{name}.weight", shape
            yield f"{start}{name}.bias", shape[:1]
        for name in ("norm1", "norm2"):
            yield f"{start}{name}.weight", (hidden,)
    yield "visual.merger.ln_q.weight", (hidden,)
    for place, width in ((0, merged), (2, sizes.hidden)):
        yield f"visual.merger.mlp.{place}.weight", (width, merged)
        yield f"visual.merger.mlp.{place}.bias", (width,)


def weights(sizes: Sizes) -> list[tuple[str, tuple[int, ...]]]:
    """Names on disk in order, with shapes."""
    return [*vision_weights(sizes), *decoder_weights(sizes)]


def numbers(sizes: Sizes) -> int:
    """Counts the model's parameters, those on disk."""
    return sum(math.prod(shape) for _, shape in weights(sizes))


def of_size(family: str, gigabytes: float, bytes_a_number: int = 2) -> Sizes:
    """Sizes of a 3B model's proportions; layers of all parts are left out, and for less than 2 GB vocabulary too."""
    shaped = asdict(SHAPED[family])
    wanted = gigabytes * 1e9 / bytes_a_number
    if gigabytes < 2:
        shaped["vocabulary"] = 32000
    for layers in range(1, 200):
        vision = round(shaped["vision_depth"] * min(1, layers / 36))
        found = Sizes(**{**shaped, "layers": layers, "vision_depth": max(vision, 1) if shaped["vision_depth"] else 0})
        if numbers(found) >= wanted:
            return found
    raise SystemExit(f"{gigabytes} GB are too many")


def configuration(sizes: Sizes, dtype: str) -> dict[str, object]:
    """What config.json says."""
    text = {
        "hidden_size": sizes.hidden,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.key_value_heads,
        "vocab_size": sizes.vocabulary,
        "tie_word_embeddings": sizes.tied,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "bos_token_id": None,
        "eos_token_id": 2,
    }
    if not sizes.vision_depth:
        rope = {"rope_type": "default", "rope_theta": 1000000.0}
        return {
            **text, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "dtype": dtype,
            "rope_parameters": rope,
        }  # fmt: skip
    quarter = sizes.hidden // sizes.heads // 8
    rope = {
        "rope_type": "default",
        "rope_theta": 1000000.0,
        "mrope_section": [2 * quarter - (quarter + quarter // 2), quarter + quarter // 2, 2 * quarter],
    }
    vision = {
        "model_type": "qwen2_5_vl",
        "depth": sizes.vision_depth,
        "hidden_size": sizes.vision_hidden,
        "intermediate_size": sizes.vision_intermediate,
        "num_heads": 4 if sizes.vision_hidden < 1024 else 16,
        "out_hidden_size": sizes.hidden,
        "patch_size": 14,
    }
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "dtype": dtype,
        "tie_word_embeddings": sizes.tied,
        "image_token_id": 5,
        "video_token_id": 6,
        "vision_start_token_id": 3,
        "vision_end_token_id": 4,
        "text_config": {**text, "model_type": "qwen2_5_vl_text", "dtype": dtype, "rope_parameters": rope},
        "vision_config": vision,
    }


class Numbers:
    """Gives pieces of weights.

    Args:
        seed: Of the base.
        change_seed: Of what is added to it; None for the base itself.
        change: Standard deviation of that.
    """

    def __init__(self, seed: int, change_seed: int | None, change: float) -> None:
        draw = torch.Generator().manual_seed(seed)
        self._base = torch.randn(BLOCK, generator=draw) * 0.02
        self._changes = None
        if change_seed is not None:
            draw = torch.Generator().manual_seed(1_000_003 + change_seed)
            self._changes = torch.randn(CHANGES, generator=draw) * change

    def piece(self, start: int, count: int, centre: float) -> Tensor:
        """Numbers from ``start`` on, counted over all weights; float32."""
        found = cut(self._base, start, count) + centre
        return found if self._changes is None else found.add_(cut(self._changes, start, count))


def cut(block: Tensor, start: int, count: int) -> Tensor:
    """Reads from a block that goes round."""
    found = torch.empty(count)
    done = 0
    while done < count:
        at = (start + done) % len(block)
        step = min(count - done, len(block) - at)
        found[done : done + step] = block[at : at + step]
        done += step
    return found


def shards(sizes: Sizes, bytes_a_number: int, largest: float) -> list[list[tuple[str, tuple[int, ...]]]]:
    """Deals weights out to files."""
    found, held = [[]], 0
    for name, shape in weights(sizes):
        size = math.prod(shape) * bytes_a_number
        if found[-1] and held + size > largest:
            found.append([])
            held = 0
        found[-1].append((name, shape))
        held += size
    return found


def write(
    folder: Path, sizes: Sizes, dtype: str = "bfloat16", seed: int = 0, change_seed: int | None = None,
    change: float = 0.002, largest_shard: float = 2e9,
) -> int:  # fmt: skip
    """Writes a checkpoint.

    Args:
        folder: New or empty.
        sizes: Of the model.
        dtype: A name in ``DTYPES``.
        seed: Checkpoints of one seed differ by their changes only.
        change_seed: Which changes; None for the base.
        change: Standard deviation of the changes; that of the weights is 0.02.
        largest_shard: In bytes.

    Returns:
        Bytes of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    short, kind = DTYPES[dtype]
    drawn = Numbers(seed, change_seed, change)
    dealt = shards(sizes, kind.itemsize, largest_shard)
    places, start, total = {}, 0, 0
    for place, names in enumerate(dealt, 1):
        name = "model.safetensors" if len(dealt) == 1 else f"model-{place:05d}-of-{len(dealt):05d}.safetensors"
        header, at = {"__metadata__": {"format": "pt"}}, 0
        for weight, shape in names:
            end = at + math.prod(shape) * kind.itemsize
            header[weight] = {"dtype": short, "shape": shape, "data_offsets": [at, end]}
            places[weight], at = name, end
        words = json.dumps(header).encode()
        words += b" " * (-len(words) % 8)
        with (folder / name).open("wb") as file:
            file.write(len(words).to_bytes(8, "little") + words)
            for weight, shape in names:
                count = math.prod(shape)
                # Norms lie about 1.
                centre = 1.0 if len(shape) == 1 and not weight.endswith("bias") else 0.0
                for done in range(0, count, PIECE):
                    piece = drawn.piece(start + done, min(PIECE, count - done), centre).to(kind)
                    file.write(piece.view(torch.uint8).numpy().data)
                start += count
        total += at
    if len(dealt) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1))
    (folder / "config.json").write_text(json.dumps(configuration(sizes, dtype), indent=1))
    copy_beside(folder, bool(sizes.vision_depth))
    return total


def copy_beside(folder: Path, with_vision: bool) -> None:
    """Copies the bundled model's tokenizer and the like."""
    bundled = Path(__file__).parents[1] / "lit_vlm" / "models" / "tiny"
    for name in (*BESIDE, *(["processor_config.json"] if with_vision else [])):
        shutil.copy(bundled / name, folder / name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--family", choices=tuple(SHAPED), default="qwen2")
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="bfloat16")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--change_seed", type=int, help="makes a donor of the base with this --seed")
    parser.add_argument("--change", type=float, default=0.002)
    parser.add_argument("--largest_shard", type=float, default=2e9, help="in bytes")
    options = vars(parser.parse_args())
    folder, family, size = (options.pop(name) for name in ("folder", "family", "gigabytes"))
    sizes = of_size(family, size, DTYPES[options["dtype"]][1].itemsize)
    total = write(folder, sizes, **options)
    print(f"{total / 1e9:.2f} GB, {sizes}")


if __name__ == "__main__":
    main()
