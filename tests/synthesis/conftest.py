"""Samples with graded candidates."""

from dataclasses import replace

import pytest

from lit_vlm.interfaces.records import Candidate, Message, Sample, TextPart, assistant_message


def candidate(text, model="policy", **scores):
    """A completion with its grades."""
    return Candidate((assistant_message(text),), scores, model)


@pytest.fixture(name="candidate")
def candidate_fixture():
    """The candidate factory."""
    return candidate


@pytest.fixture
def graded(make_sample):
    """Makes a sample of candidates; ``reference`` says None for a prompt alone."""

    def make(*candidates, reference="<think>i see 7.</think><answer>7</answer>", sample_id="s") -> Sample:
        sample = replace(make_sample("", "7", sample_id=sample_id), candidates=tuple(candidates))
        ending = () if reference is None else (Message("assistant", (TextPart(reference),)),)
        return replace(sample, messages=(*sample.prompt, *ending))

    return make


def texts(pair):
    """What a pair prefers to what."""
    return tuple("".join(message.text for message in side) for side in (pair.chosen, pair.rejected))


@pytest.fixture(name="texts")
def texts_fixture():
    """Reads the two texts of a pair."""
    return texts
