from dataclasses import replace

import pytest
import torch

from lit_vlm.health.data_records import (
    accepted_answers,
    read_samples,
    readable_records,
    rewarded_answers,
    whole_rows,
)
from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Answer, BadSample, RewardOutput
from lit_vlm.interfaces.roles import Reward
from tests.health.health_material import different_samples, on_policy, with_encoder


class Records:
    """Three samples, of which the second cannot be read."""

    def __len__(self):
        return 3

    def __getitem__(self, index):
        if index == 1:
            raise BadSampleError("data.jsonl, line 2", "no messages")
        return different_samples(3)[index]


class Constant(Reward):
    def __init__(self, value):
        self.value = value

    def __call__(self, completions, context=None):
        return RewardOutput(torch.full((len(completions),), self.value))


def test_records_that_cannot_be_read_are_told():
    samples, bad = read_samples(Records(), 10)
    assert [sample.id for sample in samples] == ["s0", "s2"]
    found = readable_records(samples, bad)
    assert found.status == "fail"
    assert "data.jsonl, line 2: no messages" in found.told
    assert readable_records(samples, []).status == "pass"
    assert readable_records([], []).status == "fail"
    assert len(read_samples(Records(), 1)[0]) == 1
    assert bad == [BadSample("data.jsonl, line 2", "no messages")]


@pytest.mark.parametrize("kind", ["supervised", "on_policy"])
def test_a_row_that_is_too_long_fails(kind, make_subject):
    subject = make_subject(on_policy) if kind == "on_policy" else make_subject()
    assert whole_rows(subject).status == "pass"
    found = whole_rows(with_encoder(subject, max_tokens=10))
    assert found.status == "fail"
    assert "4 are too long, the first 's0'" in found.told


def test_a_sample_that_cannot_be_encoded_fails(make_subject):
    subject = make_subject()

    def refuse(sample):
        raise BadSampleError("row 1", "no picture")

    found = whole_rows(with_encoder(subject, count_tokens=refuse))
    assert (found.status, found.told) == ("fail", "row 1: no picture")


def test_answers_that_the_verifier_accepts_pass(make_subject):
    assert accepted_answers(make_subject()).status == "pass"


def test_an_answer_that_the_completion_contradicts_fails(make_subject):
    samples = different_samples(2)
    samples[1] = replace(samples[1], answer=Answer("number", "8"))
    found = accepted_answers(make_subject(samples=samples))
    assert found.status == "fail"
    assert "1 of 2" in found.told
    assert "wanted '8'" in found.told


def test_samples_without_answers_are_not_verified(make_subject):
    samples = [replace(sample, answer=None) for sample in different_samples(2)]
    assert accepted_answers(make_subject(samples=samples)).status == "not applicable"


def test_right_completions_must_earn_more(make_subject):
    subject = make_subject(on_policy)
    assert rewarded_answers(subject).status == "pass"
    subject.module.reward = Constant(1.0)
    assert rewarded_answers(subject).status == "fail"
    subject.module.reward = Constant(float("nan"))
    assert "applies to none" in rewarded_answers(subject).told
    subject.module.reward = None
    assert rewarded_answers(subject).status == "not applicable"
