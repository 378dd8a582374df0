from dataclasses import replace

import torch

from lit_vlm.health.feature_counts import feature_counts
from tests.health.health_material import with_encoder


def test_images_whose_placeholders_have_features_pass(make_subject):
    found = feature_counts(make_subject())
    assert found.status == "pass"
    assert "4 samples" in found.told


def test_text_alone_is_nothing_to_count(make_subject, make_sample):
    assert feature_counts(make_subject(samples=[make_sample("a", "7", images=0)])).status == "not applicable"


def test_a_processor_that_drops_an_image_fails(make_subject):
    subject = make_subject()

    def without_images(samples):
        bare = []
        for sample in samples:
            turns = [
                replace(turn, content=tuple(part for part in turn.content if hasattr(part, "text")))
                for turn in sample.messages
            ]
            bare.append(replace(sample, messages=tuple(turns), images=()))
        return subject.encoder.encode_prompts(bare)

    found = feature_counts(with_encoder(subject, encode_prompts=without_images))
    assert found.status == "fail"
    assert "0 placeholder tokens" in found.told
    assert "processor" in found.mend


def test_a_placeholder_too_many_fails(make_subject):
    subject = make_subject()
    placeholder = subject.encoder.media_token_ids[0]

    def one_more(samples):
        batch = subject.encoder.encode_prompts(samples)
        ids = torch.cat([batch.input_ids, torch.full((len(batch), 1), placeholder)], 1)
        return replace(batch, input_ids=ids, attention_mask=torch.ones_like(ids))

    assert feature_counts(with_encoder(subject, encode_prompts=one_more)).status == "fail"
