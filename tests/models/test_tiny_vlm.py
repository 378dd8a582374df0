import json

import pytest
import torch

from lit_vlm.models.tiny_vlm import ANSWER_TAGS, SPECIAL_TOKENS, TINY_FOLDER, build_tiny_vlm, train_tokenizer


def test_any_text_survives_the_tokenizer(random_tiny_encoder):
    for text in ("i see 7.", "Grüße, 世界! 🙂", " two  spaces\nand lines", "<think>a</think><answer>12</answer>"):
        ids = random_tiny_encoder.tokenizer(text)["input_ids"]
        assert random_tiny_encoder.decode(ids) == text


def test_numbers_are_read_digit_by_digit():
    tokenizer = train_tokenizer(["12 34 1234 56"] * 100, 320)
    assert tokenizer.tokenize("1234") == ["1", "2", "3", "4"]


def test_tags_and_special_tokens_are_one_token_each(random_tiny_encoder):
    for token in (*ANSWER_TAGS, *SPECIAL_TOKENS):
        assert len(random_tiny_encoder.tokenizer(token)["input_ids"]) == 1


def test_a_build_can_be_repeated_to_the_byte(tmp_path):
    for name in ("first", "second"):
        build_tiny_vlm(tmp_path / name, ["i see 7."] * 10, seed=3)
    for name in ("model.safetensors", "tokenizer.json", "config.json", "processor_config.json"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


@pytest.fixture(scope="module")
def bundled():
    from transformers import AutoModelForImageTextToText, AutoProcessor

    return AutoModelForImageTextToText.from_pretrained(TINY_FOLDER), AutoProcessor.from_pretrained(TINY_FOLDER)


def test_the_bundled_model_is_small_and_of_its_architecture(bundled):
    model, processor = bundled
    assert type(model).__name__ == "Qwen2_5_VLForConditionalGeneration"
    assert sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000
    assert (TINY_FOLDER / "model.safetensors").stat().st_size <= 10_000_000
    assert processor.chat_template
    assert json.loads((TINY_FOLDER / "config.json").read_text())["model_type"] == "qwen2_5_vl"


def test_the_bundled_model_reads_several_images_and_a_video(bundled):
    from PIL import Image

    model, processor = bundled
    content = [{"type": "image"}, {"type": "image"}, {"type": "video"}, {"type": "text", "text": "What do you see?"}]
    text = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False
    )
    frames = [Image.new("RGB", (64, 64), (60 * index, 0, 0)) for index in range(4)]
    inputs = processor(
        text=[text],
        images=[Image.new("RGB", (64, 64)), Image.new("RGB", (96, 48))],
        videos=[frames],
        video_metadata=[{"fps": 2.0, "total_num_frames": 4, "frames_indices": [0, 1, 2, 3]}],
        do_sample_frames=False,
        return_tensors="pt",
    )
    with torch.no_grad():
        output = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert output.shape[1] > inputs["input_ids"].shape[1]
