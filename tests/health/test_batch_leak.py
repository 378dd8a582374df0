from dataclasses import replace

import torch

from lit_vlm.health.batch_leak import batch_leak
from lit_vlm.interfaces.records import IGNORED_LABEL
from tests.health.health_material import different_samples, with_encoder, with_policy


def test_rows_that_do_not_see_each_other_pass(make_subject):
    found = batch_leak(make_subject())
    assert found.status == "pass"
    assert "share a prompt" in found.told


def test_an_encoder_that_packs_samples_into_a_row_fails(make_subject):
    subject = make_subject()
    encoder = subject.encoder

    def shifted(samples):
        """Puts another sample's answer in front of the last label of each row."""
        batch = encoder.encode(samples)
        if len(samples) == 1:
            return batch
        ids = batch.input_ids.clone()
        for row in range(1, len(samples)):
            last = int((batch.labels[row] != IGNORED_LABEL).nonzero().max())
            ids[row, last - 3 : last] = batch.input_ids[row - 1, last - 5]
        return replace(batch, input_ids=ids)

    found = batch_leak(with_encoder(subject, encode=shifted))
    assert found.status == "fail"


def test_attention_that_reaches_another_completion_fails(make_subject):
    subject = make_subject()
    policy = subject.policy

    def leaking(prompts, token_ids, mask, prompt_of, **options):
        scores = policy.score_rollouts(prompts, token_ids, mask, prompt_of, **options)
        if len(token_ids) > 1:
            scores.log_probs = scores.log_probs + 0.01 * scores.log_probs.mean(0, keepdim=True) * mask
        return scores

    found = batch_leak(with_policy(subject, score_rollouts=leaking))
    assert found.status == "fail"
    assert "another's" in found.mend


def test_one_sample_alone_is_nothing_to_compare(make_subject):
    assert batch_leak(make_subject(samples=different_samples(1))).status == "not applicable"


def test_questions_without_completions_are_compared_by_their_answers(make_subject):
    samples = [replace(sample, messages=sample.messages[:1]) for sample in different_samples(3)]
    found = batch_leak(make_subject(samples=samples))
    assert (found.status, "3 samples" in found.told) == ("pass", True)
    assert torch.is_grad_enabled()
