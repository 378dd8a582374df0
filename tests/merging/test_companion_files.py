import json

import pytest

from lit_vlm.merging.companion_files import copy_companions, write_configuration

WANTED = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
]
UNWANTED = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "modeling_own.py",
    "optimizer.pt",
    "pytorch_model.bin",
    "README.md",
    "tokenization_own.py",
    "tokenizer.pkl",
    "tokenizer_weights.bin",
    "training_args.json",
]


@pytest.fixture
def folder(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in (*WANTED, *UNWANTED):
        (source / name).write_text(name)
    return source


def test_tokenizer_and_processor_are_copied_and_nothing_else(folder, tmp_path):
    destination = tmp_path / "out"
    destination.mkdir()
    assert copy_companions(folder, destination) == sorted(WANTED)
    assert sorted(path.name for path in destination.iterdir()) == sorted(WANTED)
    assert all((destination / name).read_text() == name for name in WANTED)


def test_further_chat_templates_lie_in_a_folder(folder, tmp_path):
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("t")
    (folder / "additional_chat_templates" / "own.py").write_text("t")
    destination = tmp_path / "out"
    destination.mkdir()
    assert "additional_chat_templates/tools.jinja" in copy_companions(folder, destination)
    assert [path.name for path in (destination / "additional_chat_templates").iterdir()] == ["tools.jinja"]


def test_a_link_becomes_a_file(folder, tmp_path):
    blob = tmp_path / "blob"
    blob.write_text("words")
    (folder / "vocab.txt").symlink_to(blob)
    destination = tmp_path / "out"
    destination.mkdir()
    copy_companions(folder, destination)
    assert not (destination / "vocab.txt").is_symlink()
    assert (destination / "vocab.txt").read_text() == "words"


def written(tmp_path, configuration, **options):
    write_configuration(configuration, tmp_path, **options)
    return json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))


def test_the_configuration_is_the_targets(tmp_path):
    configuration = {"model_type": "x", "text_config": {"dtype": "bfloat16", "tie_word_embeddings": True}, "ä": "ö"}
    assert written(tmp_path, configuration) == configuration


def test_plain_weights_are_not_called_quantised_and_code_is_not_named(tmp_path):
    configuration = {"model_type": "x", "quantization_config": {"bits": 4}, "auto_map": {"AutoModel": "own.Model"}}
    assert written(tmp_path, configuration) == {"model_type": "x"}


def test_the_type_is_told_wherever_it_stands(tmp_path):
    configuration = {"torch_dtype": "float32", "text_config": {"dtype": "float32"}, "vision": {"dtype": None}}
    told = written(tmp_path, configuration, dtype="bfloat16")
    assert told == {"torch_dtype": "bfloat16", "text_config": {"dtype": "bfloat16"}, "vision": {"dtype": None}}
    assert configuration["torch_dtype"] == "float32"


def test_untying_sets_every_flag(tmp_path):
    told = written(tmp_path, {"text_config": {"tie_word_embeddings": True}}, untie=True)
    assert told == {"text_config": {"tie_word_embeddings": False}, "tie_word_embeddings": False}
