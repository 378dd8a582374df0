from typing import Any

import pytest
import torch

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import IGNORED_LABEL, assistant_message, user_message
from lit_vlm.models.segment_encoding import SegmentEncoder, label_segments
from tests.models.segment_material import described


@pytest.fixture
def encoder(random_tiny_encoder: Any) -> SegmentEncoder:
    return SegmentEncoder(random_tiny_encoder.processor, "existence", max_tokens=256)


def labelled(batch: PromptBatch, row: int) -> list[tuple[int, int]]:
    """The labelled places of a row with their labels."""
    places = (batch.labels[row] != IGNORED_LABEL).nonzero().squeeze(1).tolist()
    return [(place, int(batch.labels[row, place])) for place in places]


def test_only_the_ends_of_sub_sentences_are_labelled_with_their_classes(
    encoder: SegmentEncoder, random_tiny_encoder: Any
) -> None:
    samples = [described("i see 7. no digit. yes.", [1, 0, -1]), described("i see no digit.", [-1])]
    batch = encoder.encode(samples)
    assert [label for _, label in labelled(batch, 0)] == [2, 1, 0]
    assert [label for _, label in labelled(batch, 1)] == [0]
    for row in (0, 1):
        for place, _ in labelled(batch, row):
            assert encoder.decode([int(batch.input_ids[row, place])]) == "."
    assert batch.count().labels == 4
    assert batch.count().sequences == 2
    plain = random_tiny_encoder.encode(samples)
    assert torch.equal(batch.input_ids, plain.input_ids)
    assert torch.equal(batch.attention_mask, plain.attention_mask)


def test_a_response_without_a_sentence_end_is_labelled_at_its_last_token(encoder: SegmentEncoder) -> None:
    batch = encoder.encode([described("i see 7", [1])])
    ((place, label),) = labelled(batch, 0)
    assert label == 2
    assert int(batch.input_ids[0, place]) == encoder.tokenizer.eos_token_id


def test_evaluation_batches_are_labelled_alike(encoder: SegmentEncoder) -> None:
    samples = [described("i see 7. no digit.", [1, -1])]
    assert torch.equal(encoder.encode_evaluation(samples).complete.labels, encoder.encode(samples).labels)
    assert encoder.encode_evaluation(samples).prompts.labels is None


def test_only_the_last_turn_is_judged(encoder: SegmentEncoder) -> None:
    before = (user_message("Which digit is this?"), assistant_message("i see 7. yes."))
    batch = encoder.encode([described("no digit.", [-1], before=before)])
    ((place, label),) = labelled(batch, 0)
    assert label == 0
    text = encoder.tokenizer.decode(batch.input_ids[0, : place + 1])
    assert text.endswith("no digit.")


@pytest.mark.parametrize("labels", [[1], [1, 1, 1], []])
def test_a_sample_with_another_number_of_labels_is_refused_by_name(encoder: SegmentEncoder, labels: list[int]) -> None:
    samples = [described("yes.", [1]), described("i see 7. no digit.", labels, "row 4")]
    wanted = rf"row 4: its response has 2 sub-sentences, but {len(labels)} labels"
    with pytest.raises(BadSampleError, match=wanted):
        encoder.encode(samples)
    with pytest.raises(BadSampleError, match=wanted):
        encoder.encode_evaluation(samples)


def test_a_response_that_is_cut_off_is_refused(encoder: SegmentEncoder) -> None:
    sample = described("i see 7. no digit. yes.", [1, 0, -1], "row 4")
    whole = encoder.encode([sample])
    encoder.max_tokens = whole.input_ids.shape[1] - 5
    with pytest.raises(BadSampleError, match=r"row 4: .*model\.max_tokens"):
        encoder.encode([sample])


def test_two_ends_at_one_token_are_refused(encoder: SegmentEncoder) -> None:
    class OneToken:
        def decode(self, token_ids: Any) -> str:
            return "".join({5: "i see. yes.", 6: " no."}[token_id] for token_id in token_ids)

    ids = torch.tensor([[1, 5, 6]])
    batch = PromptBatch(ids, torch.ones_like(ids), {}, (described("", []),), torch.tensor([[IGNORED_LABEL, 5, 6]]))
    with pytest.raises(BadSampleError, match="two sub-sentences of its response end at one token"):
        label_segments(OneToken(), batch, [[0, 1, 2]])  # type: ignore[arg-type]
    with pytest.raises(BadSampleError, match="has 3 sub-sentences, but 2 labels"):
        label_segments(OneToken(), batch, [[0, 1]])  # type: ignore[arg-type]
    batch.labels = None
    with pytest.raises(ValueError, match="no labels"):
        label_segments(OneToken(), batch, [[0, 1]])  # type: ignore[arg-type]


def test_no_samples_give_a_batch_with_nothing_to_judge(encoder: SegmentEncoder) -> None:
    assert encoder.encode([]).count().labels == 0
