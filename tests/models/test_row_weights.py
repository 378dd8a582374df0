import math
from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Message, Sample, SampleMeta, TextPart, assistant_message
from lit_vlm.models.row_weights import check_weights, row_weights


def sample(weight, sample_id="s", origin=""):
    messages = (Message("user", (TextPart("which digit is this?"),)), assistant_message("i see 7."))
    return Sample(sample_id, messages, weight=weight, meta=SampleMeta(origin=origin))


def test_weights_of_one_are_not_kept():
    assert row_weights([sample(1.0), sample(1.0)]) is None
    assert row_weights([]) is None


def test_one_other_weight_keeps_them_all_in_order():
    weights = row_weights([sample(1.0), sample(12.1825), sample(0.0)])
    assert weights.dtype == torch.float32
    assert weights.tolist() == pytest.approx([1.0, 12.1825, 0.0])


@pytest.mark.parametrize("weight", [-0.5, math.nan, math.inf, -math.inf])
def test_a_weight_that_nothing_can_be_learnt_by_is_refused_by_the_samples_name(weight):
    with pytest.raises(BadSampleError, match=rf"'odd' is {weight}; give a number from 0 on") as raised:
        check_weights([sample(1.0), sample(weight, "odd", "turns.jsonl, line 12")])
    assert raised.value.origin == "turns.jsonl, line 12"


def test_a_batch_carries_the_weights_of_the_rows_that_were_kept(random_tiny_encoder, make_sample):
    kept, weighty = make_sample("a", "1"), replace(make_sample("b", "2"), weight=3.0)
    silent = Sample("silent", (Message("user", (TextPart("which digit is this?"),)),), weight=7.0)
    batch = random_tiny_encoder.encode([kept, silent, weighty])
    assert len(batch) == 2
    assert [bad.origin for bad in batch.dropped] == ["silent"]
    assert batch.weights.tolist() == [1.0, 3.0]
    assert random_tiny_encoder.encode([kept]).weights is None


def test_weights_change_no_count_of_the_step(random_tiny_encoder, make_sample):
    samples = [make_sample("a", "1"), make_sample("bb", "2")]
    plain = random_tiny_encoder.encode(samples)
    weighted = random_tiny_encoder.encode([samples[0], replace(samples[1], weight=0.0)])
    assert weighted.count() == plain.count()
    assert torch.equal(weighted.labels, plain.labels)


def test_the_encoder_refuses_an_infinite_weight(random_tiny_encoder, image_sample):
    with pytest.raises(BadSampleError, match="the weight of sample 's' is inf"):
        random_tiny_encoder.encode([replace(image_sample, weight=math.inf)])


def test_no_samples_make_a_batch_without_weights(random_tiny_encoder):
    assert random_tiny_encoder.encode([]).weights is None


def test_the_policy_hands_the_weights_to_the_loss(random_tiny_model, random_tiny_encoder, make_sample):
    samples = [make_sample("a", "1"), replace(make_sample("a", "1"), weight=2.5)]
    batch = random_tiny_encoder.encode(samples)
    assert random_tiny_model.score(batch).weights.tolist() == [1.0, 2.5]
    assert random_tiny_model.score(random_tiny_encoder.encode(samples[:1])).weights is None
