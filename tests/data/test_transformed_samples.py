from dataclasses import dataclass, replace

import pytest

from lit_vlm.data.transformed_samples import EvaluatedSamples, ExpandedSamples, PreparedSamples
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Preference, Sample, assistant_message, user_message
from lit_vlm.interfaces.roles import SampleTransform


class Numbers:
    """Sample ``i`` is named ``i``; the third cannot be read."""

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == 3:
            raise BadSampleError("line 3", "broken")
        return Sample(str(index), (user_message(f"what is {index}?"),))


@dataclass(frozen=True)
class Repeat(SampleTransform):
    """Makes ``index`` samples of each."""

    most: int = 9

    def __call__(self, sample):
        return [replace(sample, id=f"{sample.id}/{part}") for part in range(min(int(sample.id), self.most))]

    def for_evaluation(self, sample):
        return replace(sample, id=f"{sample.id}/evaluated")


def test_each_sample_gives_none_one_or_several_in_order():
    samples = ExpandedSamples(Numbers(), Repeat())
    assert len(samples) == 0 + 1 + 2 + 1 + 4
    assert [samples[index].id for index in (0, 1, 2)] == ["1/0", "2/0", "2/1"]
    assert [samples[index].id for index in range(4, 8)] == [f"4/{part}" for part in range(4)]
    assert samples.left_out == 1
    with pytest.raises(IndexError):
        samples[8]


def test_a_broken_sample_is_reported_where_it_is_asked_for():
    with pytest.raises(BadSampleError, match="broken"):
        ExpandedSamples(Numbers(), Repeat())[3]


def test_nothing_at_all_is_an_error():
    class Two(Numbers):
        def __len__(self):
            return 2

    with pytest.raises(UserError, match="data.transform: Repeat makes nothing"):
        ExpandedSamples(Two(), Repeat(most=0))


def test_evaluation_has_one_for_each():
    samples = EvaluatedSamples(Numbers(), Repeat())
    assert len(samples) == 5
    assert samples[2].id == "2/evaluated"


def test_the_system_prompt_stands_before_the_prompts_of_all_steps():
    question = (user_message("where?"),)
    steps = (
        Preference((assistant_message("a"),), (assistant_message("b"),)),
        Preference((assistant_message("a"),), (assistant_message("b"),), prompt=question),
    )
    prepared = PreparedSamples([Sample("s", question, preferences=steps)], "think")[0]
    assert prepared.messages[0].text == "think"
    assert prepared.preferences[0].prompt is None
    assert [message.role for message in prepared.preferences[1].prompt] == ["system", "user"]
    assert PreparedSamples([prepared], "other")[0] == prepared
    assert PreparedSamples([Sample("s", question)], None)[0].messages == question


@dataclass(frozen=True)
class Dated(SampleTransform):
    """Writes the epoch into the id."""

    def __call__(self, sample):
        return [sample]

    def in_epoch(self, sample, epoch):
        return [replace(sample, id=f"{sample.id} in {epoch}")]


def test_a_transform_may_know_the_epoch():
    samples = ExpandedSamples([Sample("s", (user_message("?"),))], Dated())
    assert samples[0].id == "s"
    assert [samples.at(0, epoch).id for epoch in (0, 3)] == ["s in 0", "s in 3"]
    assert PreparedSamples(samples, None).at(0, 3).id == "s in 3"
    with pytest.raises(IndexError):
        samples.at(1, 0)


def test_transforms_that_do_not_care_make_the_same_in_every_epoch():
    samples = ExpandedSamples(Numbers(), Repeat())
    assert samples.at(2, 5) == samples[2]
    assert PreparedSamples(Numbers(), "think").at(2, 5) == PreparedSamples(Numbers(), "think")[2]
