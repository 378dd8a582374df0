from dataclasses import replace

import torch

from lit_vlm.health.template_prefix import template_prefix
from tests.health.health_material import different_samples, with_encoder


def test_prompts_that_rows_begin_with_pass(make_subject):
    found = template_prefix(make_subject())
    assert (found.status, found.told[:9]) == ("pass", "4 prompts")


def test_a_prompt_with_another_last_token_fails(make_subject):
    subject = make_subject()

    def other_end(samples):
        batch = subject.encoder.encode_prompts(samples)
        ids = batch.input_ids.clone()
        ids[:, -1] += 1
        return replace(batch, input_ids=ids)

    found = template_prefix(with_encoder(subject, encode_prompts=other_end))
    assert found.status == "fail"
    assert "the prompt reads" in found.told


def test_a_longer_prompt_fails(make_subject):
    subject = make_subject()

    def longer(samples):
        batch = subject.encoder.encode_prompts(samples)
        ids = torch.cat([batch.input_ids, torch.full((len(batch), 1), 7)], 1)
        return replace(batch, input_ids=ids, attention_mask=torch.ones_like(ids))

    assert template_prefix(with_encoder(subject, encode_prompts=longer)).status == "fail"


def test_samples_without_an_answer_have_no_row(make_subject):
    samples = [replace(sample, messages=sample.messages[:1], answer=None) for sample in different_samples(2)]
    assert template_prefix(make_subject(samples=samples)).status == "not applicable"
