"""Builds a tiny checkpoint with random weights of model families that have no file of their own."""

from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from tests.models.family_checkpoints import (
    CHATML,
    HALF,
    WIDTH,
    Built,
    Words,
    siglip_settings,
    text_settings,
    tiny_tokenizer,
)

TEMPLATE = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' -}}
{%- for part in message['content'] -%}{{- part['text'] if part['type'] == 'text' else IMAGE -}}{%- endfor -%}
{{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


def _template(image_token: str) -> str:
    return TEMPLATE.replace("IMAGE", repr(image_token))


def _llava_next() -> Built:
    tokenizer = tiny_tokenizer(Words((*CHATML, "<image>"), CHATML[0], CHATML[2]))
    grid = [[32, 64], [64, 32], [64, 64]]
    processor = transformers.LlavaNextProcessor(
        image_processor=transformers.LlavaNextImageProcessor(
            size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=grid, **HALF
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>"),
    )
    configuration = transformers.LlavaNextConfig(
        text_config=text_settings(tokenizer, "mistral"),
        vision_config={**siglip_settings(32, 8, "clip_vision_model"), "projection_dim": WIDTH},
        image_grid_pinpoints=grid,
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return transformers.LlavaNextForConditionalGeneration(configuration), processor


def _mistral3() -> Built:
    marks = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    tokenizer = tiny_tokenizer(Words((*CHATML, *marks), CHATML[0], CHATML[2]))
    processor = transformers.PixtralProcessor(
        image_processor=transformers.PixtralImageProcessor(
            size={"longest_edge": 64}, patch_size={"height": 8, "width": 8}, **HALF
        ),
        tokenizer=tokenizer,
        patch_size=8,
        spatial_merge_size=2,
        chat_template=_template("[IMG]"),
    )
    vision = {
        "model_type": "pixtral",
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": WIDTH // 2,
        "image_size": 64,
        "patch_size": 8,
        "initializer_range": 0.1,
    }
    configuration = transformers.Mistral3Config(
        text_config=text_settings(tokenizer, "mistral", head_dim=16),
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        tie_word_embeddings=False,
    )
    return transformers.Mistral3ForConditionalGeneration(configuration), processor


def _mllama() -> Built:
    tokenizer = tiny_tokenizer(Words((*CHATML, "<|image|>"), CHATML[0], CHATML[2], begin=CHATML[1]))
    processor = transformers.MllamaProcessor(
        image_processor=transformers.MllamaImageProcessor(size={"height": 32, "width": 32}, max_image_tiles=4, **HALF),
        tokenizer=tokenizer,
        chat_template=_template("<|image|>"),
    )
    vision = {
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_global_layers": 1,
        "attention_heads": 2,
        "vision_output_dim": 2 * WIDTH,
        "image_size": 32,
        "patch_size": 8,
        "intermediate_layers_indices": [1],
    }
    text = text_settings(tokenizer, "mllama_text_model", cross_attention_layers=[1])
    configuration = transformers.MllamaConfig(
        text_config=text, vision_config=vision, image_token_index=tokenizer.convert_tokens_to_ids("<|image|>")
    )
    return transformers.MllamaForConditionalGeneration(configuration), processor


_BUILDERS: dict[str, Callable[[], Built]] = {"llava_next": _llava_next, "mistral3": _mistral3, "mllama": _mllama}
FED_BY_GENERAL_RULES = ("llava_next", "mistral3")


def build_unknown_checkpoint(family: str, folder: Path) -> None:
    """Writes a checkpoint of a family without a file of its own, as ``build_family_checkpoint`` does."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, processor = _BUILDERS[family]()
    model.generation_config.eos_token_id = processor.tokenizer.eos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
