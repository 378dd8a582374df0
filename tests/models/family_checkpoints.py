"""Builds a tiny checkpoint with random weights of each model family, as plain transformers loads it.

Every family has its own processor class and a chat template in its customary style; images of 32 x 32 pixels cost a
handful of tokens. Weights are well below a megabyte.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

from lit_vlm.models.tiny_vlm import CHAT_TEMPLATE
from tests.models.family_templates import (
    GEMMA_TEMPLATE,
    IDEFICS_TEMPLATE,
    INTERNVL_TEMPLATE,
    LLAMA_TEMPLATE,
    LLAVA_TEMPLATE,
    ONEVISION_TEMPLATE,
    QWEN_TEXT_TEMPLATE,
)

WIDTH = 32
HALF = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}
CORPUS = ["Which digit is this? i see 7. yes no user assistant system User: what happens here? it glows."] * 5

CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
ROW_COLUMN = tuple(f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7))


@dataclass(frozen=True)
class Words:
    """Special tokens of a tokenizer, by what they are for."""

    special: tuple[str, ...]
    padding: str
    end: str
    begin: str | None = None
    named: dict[str, str] = field(default_factory=dict)
    """Attributes of the tokenizer that a processor asks for."""


def tiny_tokenizer(words: Words) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300 + len(words.special),
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in words.special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=words.padding,
        eos_token=words.end,
        bos_token=words.begin,
        extra_special_tokens=words.named,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )


def text_settings(tokenizer: PreTrainedTokenizerFast, kind: str = "", **options: Any) -> dict[str, Any]:
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 4096,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.1,
        **options,
    }
    return {"model_type": kind, **settings} if kind else settings


def siglip_settings(image_size: int, patch_size: int, kind: str = "siglip_vision_model") -> dict[str, Any]:
    return {
        "model_type": kind,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": image_size,
        "patch_size": patch_size,
        "initializer_range": 0.1,
        "vision_use_head": False,
    }


Built = tuple[Any, Any]
"""A model and its processor (or, of a text-only model, its tokenizer)."""

_QWEN_WORDS = Words(
    (*CHATML, "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>"), CHATML[0], CHATML[2]
)


def _qwen_vl(name: str, vision: dict[str, Any], text: dict[str, Any], patch_size: int = 8) -> Built:
    tokenizer = tiny_tokenizer(_QWEN_WORDS)
    token_id = tokenizer.convert_tokens_to_ids
    video_processor = "Qwen3VLVideoProcessor" if name == "Qwen3VL" else "Qwen2VLVideoProcessor"
    pixels = {"shortest_edge": 16 * 16, "longest_edge": 64 * 64}
    patches = {"patch_size": patch_size, "merge_size": 2, "temporal_patch_size": 2}
    video_pixels = {"shortest_edge": 16 * 16, "longest_edge": 16 * 64 * 64}
    processor = getattr(transformers, {"Qwen2_5_VL": "Qwen2_5_VLProcessor"}.get(name, f"{name}Processor"))(
        image_processor=transformers.Qwen2VLImageProcessor(**patches, size=pixels, **HALF),
        video_processor=getattr(transformers, video_processor)(**patches, size=video_pixels, **HALF),
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
    configuration = getattr(transformers, f"{name}Config")(
        text_config=text_settings(tokenizer, **text),
        vision_config={
            "num_heads": 2,
            "patch_size": patch_size,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "initializer_range": 0.1,
            "depth": 2,
            **vision,
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(configuration), processor


_ROTARY = {"rope_type": "default", "rope_theta": 1000.0, "mrope_section": [2, 3, 3]}


def _qwen2_vl() -> Built:
    return _qwen_vl("Qwen2VL", {"embed_dim": WIDTH, "hidden_size": WIDTH, "mlp_ratio": 2}, {"rope_parameters": _ROTARY})


def _qwen2_5_vl() -> Built:
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "out_hidden_size": WIDTH,
        "window_size": 32,
        "fullatt_block_indexes": [1],
    }
    return _qwen_vl("Qwen2_5_VL", vision, {"rope_parameters": _ROTARY})


def _qwen3_vl() -> Built:
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "out_hidden_size": WIDTH,
        "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0],
    }
    return _qwen_vl("Qwen3VL", vision, {"head_dim": 16, "rope_parameters": {**_ROTARY, "mrope_interleaved": True}})


def _idefics_words(*more: str) -> Words:
    special = (*CHATML, "<end_of_utterance>", "<fake_token_around_image>", "<global-img>", "<image>", *more)
    return Words((*special, *ROW_COLUMN), CHATML[2], "<end_of_utterance>", begin=CHATML[1])


def _smolvlm() -> Built:
    tokenizer = tiny_tokenizer(_idefics_words("<video>"))
    sizes = {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}, **HALF}
    processor = transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(**sizes),
        video_processor=transformers.SmolVLMVideoProcessor(**sizes, fps=1, num_frames=8),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    configuration = transformers.SmolVLMConfig(
        text_config=text_settings(tokenizer, "llama"),
        vision_config=siglip_settings(32, 8, "smolvlm_vision"),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.SmolVLMForConditionalGeneration(configuration), processor


def _idefics3() -> Built:
    tokenizer = tiny_tokenizer(_idefics_words())
    processor = transformers.Idefics3Processor(
        image_processor=transformers.Idefics3ImageProcessor(
            size={"longest_edge": 64}, max_image_size={"longest_edge": 32}, **HALF
        ),
        tokenizer=tokenizer,
        image_seq_len=4,
        chat_template=IDEFICS_TEMPLATE,
    )
    configuration = transformers.Idefics3Config(
        text_config=text_settings(tokenizer, "llama"),
        vision_config=siglip_settings(32, 8, "idefics3_vision"),
        scale_factor=2,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
    )
    return transformers.Idefics3ForConditionalGeneration(configuration), processor


def _llava() -> Built:
    words = Words(("<s>", "</s>", "<pad>", "<image>"), "<pad>", "</s>", begin="<s>")
    tokenizer = tiny_tokenizer(words)
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, **HALF
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=LLAVA_TEMPLATE,
    )
    configuration = transformers.LlavaConfig(
        text_config=text_settings(tokenizer, "llama"),
        vision_config={**siglip_settings(32, 8, "clip_vision_model"), "projection_dim": WIDTH},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=16,
    )
    return transformers.LlavaForConditionalGeneration(configuration), processor


def _llava_onevision() -> Built:
    tokenizer = tiny_tokenizer(Words((*CHATML, "<image>", "<video>"), CHATML[0], CHATML[2]))
    grid = [[32, 32], [32, 64], [64, 32], [64, 64]]
    size = {"size": {"height": 32, "width": 32}, **HALF}
    processor = transformers.LlavaOnevisionProcessor(
        image_processor=transformers.LlavaOnevisionImageProcessor(**size, image_grid_pinpoints=grid),
        video_processor=transformers.LlavaOnevisionVideoProcessor(**size),
        tokenizer=tokenizer,
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=ONEVISION_TEMPLATE,
    )
    configuration = transformers.LlavaOnevisionConfig(
        text_config=text_settings(tokenizer, "qwen2"),
        vision_config=siglip_settings(32, 8),
        image_grid_pinpoints=grid,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<video>"),
    )
    return transformers.LlavaOnevisionForConditionalGeneration(configuration), processor


def _internvl() -> Built:
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = tiny_tokenizer(Words((*CHATML, *named.values()), CHATML[0], CHATML[2], named=named))
    size = {"size": {"height": 32, "width": 32}, **HALF}
    processor = transformers.InternVLProcessor(
        image_processor=transformers.GotOcr2ImageProcessor(**size, crop_to_patches=True, min_patches=1, max_patches=4),
        video_processor=transformers.InternVLVideoProcessor(**size),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=INTERNVL_TEMPLATE,
    )
    configuration = transformers.InternVLConfig(
        text_config=text_settings(tokenizer, "qwen2"),
        vision_config={
            **siglip_settings(32, 8, "internvl_vision"),
            "image_size": [32, 32],
            "patch_size": [8, 8],
            "layer_scale_init_value": 1.0,
        },
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return transformers.InternVLForConditionalGeneration(configuration), processor


def _gemma3() -> Built:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    special = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *named.values())
    tokenizer = tiny_tokenizer(Words(special, "<pad>", "<eos>", begin="<bos>", named=named))
    processor = transformers.Gemma3Processor(
        image_processor=transformers.Gemma3ImageProcessor(size={"height": 32, "width": 32}, **HALF),
        tokenizer=tokenizer,
        image_seq_length=4,
        chat_template=GEMMA_TEMPLATE,
    )
    token_id = tokenizer.convert_tokens_to_ids
    configuration = transformers.Gemma3Config(
        text_config=text_settings(tokenizer, head_dim=16, sliding_window=64, query_pre_attn_scalar=16),
        vision_config=siglip_settings(32, 8),
        mm_tokens_per_image=4,
        image_token_id=token_id("<image_soft_token>"),
        boi_token_id=token_id("<start_of_image>"),
        eoi_token_id=token_id("<end_of_image>"),
    )
    model = transformers.Gemma3ForConditionalGeneration(configuration)
    # Drawn as zeros, which would make all images alike.
    torch.nn.init.normal_(model.model.multi_modal_projector.mm_input_projection_weight, std=0.1)
    return model, processor


def _qwen2() -> Built:
    tokenizer = tiny_tokenizer(Words(CHATML, CHATML[0], CHATML[2]))
    tokenizer.chat_template = QWEN_TEXT_TEMPLATE
    return transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**text_settings(tokenizer))), tokenizer


def _llama() -> Built:
    special = ("<|begin_of_text|>", "<|eot_id|>", "<|pad|>", "<|start_header_id|>", "<|end_header_id|>")
    tokenizer = tiny_tokenizer(Words(special, "<|pad|>", "<|eot_id|>", begin="<|begin_of_text|>"))
    tokenizer.chat_template = LLAMA_TEMPLATE
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**text_settings(tokenizer))), tokenizer


_BUILDERS: dict[str, Callable[[], Built]] = {
    "qwen2_vl": _qwen2_vl,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "smolvlm": _smolvlm,
    "idefics3": _idefics3,
    "llava": _llava,
    "llava_onevision": _llava_onevision,
    "internvl": _internvl,
    "gemma3": _gemma3,
    "qwen2": _qwen2,
    "llama": _llama,
}
FAMILIES = tuple(_BUILDERS)
TEXT_ONLY = ("qwen2", "llama")
WITH_VIDEO = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "smolvlm", "llava_onevision", "internvl")
"""The others take no video: LLaVA, Idefics3 and Gemma 3 have no video processor."""


def build_family_checkpoint(family: str, folder: Path) -> None:
    """Writes configuration, weights (safetensors), tokenizer, processor and chat template of a family.

    Args:
        family: One of ``FAMILIES``.
        folder: Where to write; made if absent.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = _BUILDERS[family]()
    tokenizer = getattr(processor, "tokenizer", processor)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, max_new_tokens=16
    )
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
