from dataclasses import replace

import pytest
from torch.utils.data import Dataset

from lit_vlm.data.digits_reasoning import DigitsReasoning
from lit_vlm.data.knights_and_knaves import KnightsAndKnavesGenerator
from lit_vlm.data.shape_scenes import ShapeScenes
from lit_vlm.data.training_arms import TrainingArms
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import Sample, SampleMeta

BAD = 4


class Samples(Dataset):
    """Twelve samples of three tasks and four levels; one cannot be read."""

    def __init__(self, **changes):
        self.changes = changes
        self.read = []

    def __len__(self):
        return 12

    def __getitem__(self, index):
        self.read.append(index)
        if index == BAD:
            raise BadSampleError(f"line {index}", "it is no JSON")
        meta = SampleMeta(category="cab"[index % 3], difficulty=(9, 10, 11, 2)[index % 4], origin=f"line {index}")
        sample = Sample(f"s{index}", (), meta=meta)
        return self.changes[str(index)](sample) if str(index) in self.changes else sample


def arms(samples, refuse=lambda bad: None):
    return TrainingArms(samples, refuse)


def test_arms_are_sorted_and_part_the_samples():
    samples = Samples()
    found = arms(samples)
    tasks, levels, each = (found.indices(by) for by in ("category", "difficulty", "sample"))
    assert list(tasks.items()) == [("a", [1, 7, 10]), ("b", [2, 5, 8, 11]), ("c", [0, 3, 6, 9])]
    assert list(levels) == ["2", "9", "10", "11"]
    assert each["s7"] == [7]
    for kind in (tasks, levels, each):
        assert sorted(sum(kind.values(), [])) == [index for index in range(12) if index != BAD]
    assert samples.read == list(range(12))  # once, in order


def test_bad_samples_are_handed_over_before_any_arm_is_told():
    refused = []
    arms(Samples(), refused.extend).indices("category")
    assert [(bad.origin, bad.reason) for bad in refused] == [("line 4", "it is no JSON")]

    def stop(bad):
        raise BadSampleError(bad[0].origin, "not one")

    found = arms(Samples(), stop)
    for _ in range(2):
        with pytest.raises(BadSampleError, match="line 4: not one"):
            found.indices("category")


@pytest.mark.parametrize(
    ("by", "change", "told"),
    [
        ("category", lambda sample: replace(sample, meta=replace(sample.meta, category="")), "line 6 has no category"),
        ("difficulty", lambda sample: replace(sample, meta=replace(sample.meta, difficulty=None)), "has no difficulty"),
        ("sample", lambda sample: replace(sample, id=""), "line 6 has no id, .* data.columns.id"),
    ],
)
def test_a_sample_that_does_not_say_its_arm_is_named(by, change, told):
    found = arms(Samples(**{"6": change}))
    with pytest.raises(UserError, match=f"data: the training sample .*{told}"):
        found.indices(by)
    assert found.indices("category" if by != "category" else "difficulty")


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="drawn by 'colour'; choose one of category, difficulty, sample"):
        arms(Samples()).indices("colour")


@pytest.mark.parametrize("data", [DigitsReasoning, ShapeScenes])
def test_embedded_tasks_tell_their_arms_without_drawing(data, monkeypatch):
    from lit_vlm.data import digits_reasoning, shape_scenes

    whole = data(train_size=40, levels=(1, 2, 5), seed=3)
    expected = {by: arms(list(whole.samples("train"))).indices(by) for by in ("category", "difficulty", "sample")}
    for module, name in ((digits_reasoning, "draw_page"), (shape_scenes, "draw_scene")):
        monkeypatch.setattr(module, name, None)
    for by, indices in expected.items():
        assert whole.arms(by) == {name: len(of_arm) for name, of_arm in indices.items()}
        assert list(whole.arms(by)) == list(indices)


@pytest.mark.parametrize("perturbation", [None, "flip_role"])
def test_outlines_of_puzzles_agree_with_the_puzzles(perturbation):
    generator = KnightsAndKnavesGenerator(people=(2, 3), perturbation=perturbation)
    for split in ("train", "test"):
        for index in range(20):
            whole, outline = generator.sample(split, index), generator.outline(split, index)
            told = (outline.id, outline.meta.category, outline.meta.difficulty, outline.meta.split)
            assert told == (whole.id, whole.meta.category, whole.meta.difficulty, whole.meta.split)
            assert outline.messages == ()
