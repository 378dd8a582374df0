"""Builds the bundled tiny VLM: a Qwen2.5-VL of about two million parameters with its own tokenizer and processor.

The folder ``lit_vlm/models/tiny`` holds the trained result. Its weights come from ``recipes/tiny``; this file makes
everything else (configuration, tokenizer, chat template, processors) and random first weights, so that the whole can
be made again from nothing. Architecture after Bai et al., Qwen2.5-VL Technical Report (2025), scaled down.
"""

import itertools
from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLProcessor,
    Qwen2VLImageProcessor,
    Qwen2VLVideoProcessor,
)

TINY_FOLDER = Path(__file__).parent / "tiny"

PAD, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE, VIDEO = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (PAD, TURN_START, TURN_END, VISION_START, VISION_END, IMAGE, VIDEO)
ANSWER_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
# Single digits keep arithmetic and coordinates learnable; words keep one leading space, as in GPT-2's pattern.
WORD_PATTERN = r" ?\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]|\s+"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- if message['content'] is string -%}
{{- message['content'] -}}
{%- else -%}
{%- for part in message['content'] -%}
{%- if part['type'] == 'image' -%}
{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
{%- elif part['type'] == 'video' -%}
{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
{%- else -%}
{{- part['text'] -}}
{%- endif -%}
{%- endfor -%}
{%- endif -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def train_tokenizer(corpus: Iterable[str], vocabulary_size: int = 768) -> PreTrainedTokenizerFast:
    """Trains a byte-level BPE tokenizer: any text can be written, the corpus in few tokens.

    Args:
        corpus: Texts whose words become tokens.
        vocabulary_size: Tokens in all, special ones included; at least 300.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size - len(ANSWER_TAGS),
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    # The answer tags are ordinary text that happens to be one token: they must survive decoding.
    tokenizer.add_tokens([AddedToken(tag, normalized=False, special=False) for tag in ANSWER_TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=TURN_END,
        extra_special_tokens=[token for token in SPECIAL_TOKENS if token not in (PAD, TURN_END)],
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def tiny_configuration(tokenizer: PreTrainedTokenizerFast, text_width: int = 128) -> Qwen2_5_VLConfig:
    """Describes the tiny Qwen2.5-VL: 64 x 64 pixels become 16 image tokens."""
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": text_width,
            "intermediate_size": 3 * text_width,
            "num_hidden_layers": 4,
            "num_attention_heads": text_width // 32,
            "num_key_value_heads": text_width // 32,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": token_id(TURN_END),
            "pad_token_id": token_id(PAD),
            "tie_word_embeddings": True,
            "initializer_range": 0.05,
        },
        vision_config={
            "depth": 3,
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_heads": 4,
            "patch_size": 8,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 64,
            "fullatt_block_indexes": [0, 1, 2],
            "out_hidden_size": text_width,
            "initializer_range": 0.05,
        },
        image_token_id=token_id(IMAGE),
        video_token_id=token_id(VIDEO),
        vision_start_token_id=token_id(VISION_START),
        vision_end_token_id=token_id(VISION_END),
        tie_word_embeddings=True,
    )


def build_tiny_vlm(folder: Path, corpus: Iterable[str], seed: int = 0) -> None:
    """Writes a tiny VLM with random weights that plain ``from_pretrained`` and ``AutoProcessor`` load.

    Args:
        folder: Where to write; made if absent.
        corpus: Texts for the tokenizer.
        seed: Seed of the random weights.
    """
    # The template's own words become single tokens, as they start every row.
    roles = ["system\n", "user\n", "assistant\n"] * 1000
    tokenizer = train_tokenizer(itertools.chain(corpus, roles))
    pixels = {"shortest_edge": 32 * 32, "longest_edge": 128 * 128}
    patches = {"patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "size": pixels}
    statistics = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(**patches, **statistics),
        video_processor=Qwen2VLVideoProcessor(**patches, **statistics, fps=2, min_frames=2, max_frames=8),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(tiny_configuration(tokenizer))
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=128
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
