from dataclasses import replace

import pytest
import torch

from lit_vlm.command_line.encoded_rows import encode_row, without_limit
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import IGNORED_LABEL, Sample, user_message


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_row_is_what_the_encoder_makes_of_the_sample(split, make_sample, random_tiny_encoder):
    sample = make_sample("i see 7.", "7", images=2)
    batch = random_tiny_encoder.encode([sample])
    row = encode_row(random_tiny_encoder, sample, split)
    assert list(row.token_ids) == batch.input_ids[0].tolist()
    assert list(row.trained) == (batch.labels[0] != IGNORED_LABEL).tolist()
    assert sum(row.trained) == batch.count().labels > 0


def test_a_question_without_an_answer_is_a_row_for_evaluation_only(random_tiny_encoder):
    sample = Sample("q", (user_message("Which digit is this?"),))
    row = encode_row(random_tiny_encoder, sample, "validation")
    assert row.token_ids
    assert not any(row.trained)
    with pytest.raises(BadSampleError, match="no completion"):
        encode_row(random_tiny_encoder, sample, "train")


def test_the_first_token_is_never_trained_and_padding_is_no_token(image_sample):
    class Padded:
        def encode(self, samples):
            ids = torch.tensor([[5, 6, 7, 0]])
            return PromptBatch(ids, torch.tensor([[1, 1, 1, 0]]), {}, tuple(samples), labels=ids)

    row = encode_row(Padded(), image_sample, "train")
    assert row.token_ids == (5, 6, 7)
    assert row.trained == (False, True, True)


def test_a_sample_that_a_run_leaves_out_is_bad_at_its_place(make_sample, random_tiny_folder):
    from lit_vlm.models.backbone import Backbone

    encoder = Backbone(str(random_tiny_folder)).load_encoder(max_tokens=20)
    sample = make_sample("i see 7.", "7")
    sample = replace(sample, meta=replace(sample.meta, origin="rows.jsonl, line 4"))
    with pytest.raises(BadSampleError) as caught:
        encode_row(encoder, sample, "train")
    assert caught.value.origin == "rows.jsonl, line 4"
    with pytest.raises(UserError, match="max_tokens"):
        encode_row(encoder, sample, "validation")


def test_an_encoder_without_limit_cuts_nothing_and_leaves_the_first_as_it_was(make_sample, random_tiny_folder):
    from lit_vlm.models.backbone import Backbone

    sample = make_sample("i see 7. " * 50, "7")
    encoder = Backbone(str(random_tiny_folder)).load_encoder(max_tokens=100)
    whole = encode_row(without_limit(encoder), sample, "train")
    cut = encode_row(encoder, sample, "train")
    assert len(cut.token_ids) == encoder.max_tokens == 100 < len(whole.token_ids)
    assert whole.token_ids[:100] == cut.token_ids
