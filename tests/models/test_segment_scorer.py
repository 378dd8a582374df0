import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.segment_classifier import DESCRIPTION, HEAD, SegmentClassifier, save_segment_classifier
from lit_vlm.models.segment_encoding import SegmentEncoder
from lit_vlm.models.segment_scorer import FolderSegmentScorer
from tests.models.segment_material import completed, described, system

TEXTS = ["i see 7. no digit. yes.", "no.", "i see 7"]
COUNTS = [3, 1, 1]


def saved(base: Path, folder: Path, encoder: Any, **options: Any) -> list[torch.Tensor]:
    """Saves a model and returns how it judged ``TEXTS`` before."""
    backbone = Backbone(str(base), **options)
    classifier = SegmentClassifier(backbone.load_model(encoder)).eval()
    with torch.no_grad():
        for name, value in classifier.named_parameters():
            if "lora_B" in name:  # zero at first, so that the adapter would change nothing
                value.normal_(generator=torch.Generator().manual_seed(0))
    save_segment_classifier(classifier, backbone, "attribute", encoder, folder)
    samples = [described(text, [0] * count) for text, count in zip(TEXTS, COUNTS, strict=True)]
    with torch.no_grad():
        judged = classifier.judge(SegmentEncoder(encoder.processor, "attribute").encode(samples))
    return list(judged.logits.softmax(-1).split(COUNTS))


@pytest.fixture(scope="module")
def whole(
    random_tiny_folder: Path, random_tiny_encoder: Any, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[torch.Tensor]]:
    folder = tmp_path_factory.mktemp("scorer")
    return folder, saved(random_tiny_folder, folder, random_tiny_encoder)


def scorer(folder: Path, **options: Any) -> FolderSegmentScorer:
    return FolderSegmentScorer(str(folder), "attribute", device="cpu", **options)


@pytest.mark.parametrize("batch_size", [1, 2, 8])
def test_a_loaded_model_judges_as_the_saved_one(whole: tuple[Path, list[torch.Tensor]], batch_size: int) -> None:
    folder, expected = whole
    found = scorer(folder, batch_size=batch_size)([completed(text) for text in TEXTS])
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=0)
        torch.testing.assert_close(mine.sum(-1), torch.ones(len(mine)))


@pytest.mark.parametrize("export", ["adapter", "merged"])
def test_an_adapter_is_loaded_onto_its_base_model(
    random_tiny_folder: Path, random_tiny_encoder: Any, tmp_path: Path, export: Any
) -> None:
    adapter = AdapterSettings(rank=2, alpha=2, export=export)
    expected = saved(random_tiny_folder, tmp_path, random_tiny_encoder, adapter=adapter)
    assert (tmp_path / "adapter_model.safetensors").is_file() == (export == "adapter")
    found = scorer(tmp_path)([completed(text) for text in TEXTS])
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


def test_a_blank_completion_has_nothing_to_judge(whole: tuple[Path, list[torch.Tensor]]) -> None:
    judge = scorer(whole[0])
    assert [tuple(found.shape) for found in judge([completed(""), completed("no."), completed(" ")])] == [
        (0, 3),
        (1, 3),
        (0, 3),
    ]
    assert judge([]) == []


def test_system_turns_are_those_of_the_scorer(whole: tuple[Path, list[torch.Tensor]]) -> None:
    plain, instructed = completed("no."), completed("no.", before=[system("Think in <think></think>.")])
    (expected,) = scorer(whole[0])([plain])
    (found,) = scorer(whole[0])([instructed])
    assert torch.equal(found, expected)
    (other,) = scorer(whole[0], system_prompt="Think in <think></think>.")([plain])
    assert not torch.equal(other, expected)


def test_token_texts_join_to_what_the_tokenizer_decodes(
    whole: tuple[Path, list[torch.Tensor]], random_tiny_encoder: Any
) -> None:
    ids = [*random_tiny_encoder.tokenise("i see 7. é no"), random_tiny_encoder.tokenizer.eos_token_id]
    texts = scorer(whole[0]).token_texts(ids)
    assert len(texts) == len(ids)
    assert "".join(texts) == "i see 7. é no"
    assert scorer(whole[0]).token_texts([]) == []


def test_a_completion_that_does_not_fit_is_refused_by_name(whole: tuple[Path, list[torch.Tensor]]) -> None:
    judge = scorer(whole[0], max_tokens=30)
    with pytest.raises(UserError, match="row 7: .*max_tokens"):
        judge([completed("i see 7. " * 20, "row 7")])


def test_a_folder_that_is_no_such_model_is_refused(whole: tuple[Path, list[torch.Tensor]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"no {DESCRIPTION} in .*exported to"):
        scorer(tmp_path)([completed("no.")])
    with pytest.raises(UserError, match=r"hallucination is 'relation', but the model in .* judges 'attribute'"):
        FolderSegmentScorer(str(whole[0]), "relation")([completed("no.")])
    (tmp_path / DESCRIPTION).write_text("{")
    with pytest.raises(UserError, match="is no JSON"):
        scorer(tmp_path)([completed("no.")])


def test_a_head_that_is_missing_damaged_or_of_another_model_is_refused(
    random_tiny_folder: Path, random_tiny_encoder: Any, tmp_path: Path
) -> None:
    for path in random_tiny_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    (tmp_path / DESCRIPTION).write_text(json.dumps({"hallucination": "attribute", "checkpoint": None}))
    with pytest.raises(UserError, match=f"there is no {HEAD}"):
        scorer(tmp_path)([completed("no.")])
    (tmp_path / HEAD).write_bytes(b"\x01")
    with pytest.raises(UserError, match="damaged or cut short"):
        scorer(tmp_path)([completed("no.")])
    save_file({"weight": torch.zeros(3, 7), "bias": torch.zeros(3)}, tmp_path / HEAD)
    with pytest.raises(UserError, match=r"\(3, 7\).*this model needs"):
        scorer(tmp_path)([completed("no.")])


@pytest.mark.parametrize("name", ["batch_size", "max_tokens"])
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(UserError, match=f"{name} of a segment scorer is 0"):
        FolderSegmentScorer("folder", "attribute", **{name: 0})


def test_nothing_is_read_before_the_first_completion() -> None:
    assert FolderSegmentScorer("no such folder", "existence").kind == "existence"
