import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import IGNORED_LABEL
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.segment_classifier import DESCRIPTION, HEAD, SegmentClassifier, save_segment_classifier
from lit_vlm.models.segment_encoding import SegmentEncoder
from tests.models.segment_material import described

SAMPLES = [described("i see 7. no digit. yes.", [1, 0, -1]), described("no.", [-1])]


@pytest.fixture
def classifier(random_tiny_model: Any) -> SegmentClassifier:
    return SegmentClassifier(random_tiny_model).eval()


@pytest.fixture
def batch(random_tiny_encoder: Any) -> PromptBatch:
    return SegmentEncoder(random_tiny_encoder.processor, "relation").encode(SAMPLES)


def test_each_end_is_judged_from_its_own_hidden_state(classifier: SegmentClassifier, batch: PromptBatch) -> None:
    with torch.no_grad():
        judged = classifier.judge(batch)
        hidden = classifier.hidden_states(batch)
    assert judged.logits.shape == (4, 3)
    assert judged.logits.dtype == torch.float32
    assert judged.classes.tolist() == [2, 1, 0, 0]
    assert judged.rows.tolist() == [0, 0, 0, 1]
    expected = classifier.segment_head(hidden[batch.labels != IGNORED_LABEL])
    torch.testing.assert_close(judged.logits, expected)


def test_gradients_reach_hidden_states_at_ends_only(
    classifier: SegmentClassifier, batch: PromptBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = []
    original = classifier.hidden_states

    def watched(given: PromptBatch) -> torch.Tensor:
        hidden = original(given)
        hidden.retain_grad()
        kept.append(hidden)
        return hidden

    monkeypatch.setattr(classifier, "hidden_states", watched)
    judged = classifier.judge(batch)
    nn.functional.cross_entropy(judged.logits, judged.classes).backward()
    (hidden,) = kept
    reached = hidden.grad.abs().sum(-1) > 0
    assert torch.equal(reached, batch.labels != IGNORED_LABEL)


def test_no_logits_of_words_are_made(
    classifier: SegmentClassifier, batch: PromptBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("the language head ran")

    monkeypatch.setattr(classifier.model.get_output_embeddings(), "forward", refuse)
    classifier.judge(batch)


def test_a_row_is_judged_alike_alone_and_in_company(
    classifier: SegmentClassifier, batch: PromptBatch, random_tiny_encoder: Any
) -> None:
    alone = SegmentEncoder(random_tiny_encoder.processor, "relation").encode(SAMPLES[1:])
    with torch.no_grad():
        torch.testing.assert_close(
            classifier.judge(alone).logits, classifier.judge(batch).logits[3:], atol=1e-5, rtol=0
        )


def test_a_batch_without_ends_still_has_a_graph(classifier: SegmentClassifier, batch: PromptBatch) -> None:
    batch.labels = torch.full_like(batch.input_ids, IGNORED_LABEL)
    judged = classifier.judge(batch)
    assert judged.logits.shape == (0, 3)
    nn.functional.cross_entropy(judged.logits, judged.classes, reduction="sum").backward()
    assert classifier.segment_head.weight.grad is not None


def test_a_batch_without_labels_is_refused(classifier: SegmentClassifier, batch: PromptBatch) -> None:
    batch.labels = None
    with pytest.raises(UserError, match="no labels"):
        classifier.judge(batch)


def test_the_first_weights_of_the_head_follow_the_seed(random_tiny_model: Any) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (SegmentClassifier(random_tiny_model, seed).segment_head.weight for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_language_head_of_its_own_is_frozen(random_tiny_model: Any) -> None:
    tied = SegmentClassifier(random_tiny_model)
    assert tied.model.get_output_embeddings().weight.requires_grad
    width = tied.segment_head.in_features
    random_tiny_model.model.set_output_embeddings(nn.Linear(width, 9, bias=False))
    classifier = SegmentClassifier(random_tiny_model)
    assert not classifier.model.get_output_embeddings().weight.requires_grad
    assert classifier.model.get_input_embeddings().weight.requires_grad
    assert "head" not in classifier.trained_parts


def test_the_new_head_is_a_part_of_the_head(classifier: SegmentClassifier) -> None:
    parts = {name: classifier.part_of(name) for name, _ in classifier.named_parameters()}
    assert parts["segment_head.weight"] == parts["segment_head.bias"] == "head"
    assert set(parts.values()) >= {"vision", "language"}


def test_a_saved_model_holds_safetensors_and_says_what_it_judges(
    classifier: SegmentClassifier, random_tiny_folder: Path, random_tiny_encoder: Any, tmp_path: Path
) -> None:
    backbone = Backbone(str(random_tiny_folder), max_pixels=4096)
    save_segment_classifier(classifier, backbone, "relation", random_tiny_encoder, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"model.safetensors", HEAD, DESCRIPTION, "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")) for name in names)
    description = json.loads((tmp_path / "model" / DESCRIPTION).read_text())
    assert description["hallucination"] == "relation"
    assert description["checkpoint"] is None  # the folder is the whole model
    assert description["max_pixels"] == 4096
