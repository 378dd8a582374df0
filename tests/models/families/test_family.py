from types import SimpleNamespace

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.families.family import Family, MediaCounts, grid_rows, video_metadata


def test_a_grid_has_a_row_for_each_square_of_patches():
    grids = torch.tensor([[1, 4, 6], [3, 2, 2]])
    assert grid_rows(grids, SimpleNamespace(merge_size=2)) == (24 + 12) // 4


def test_rows_are_counted_by_grid_or_by_tile():
    patcher = SimpleNamespace(merge_size=1)
    processor = SimpleNamespace(image_processor=patcher, video_processor=patcher, image_seq_length=5)
    pixels = torch.zeros(3, 3, 8, 8)
    grids = {"image_grid_thw": torch.tensor([[1, 2, 3]]), "video_grid_thw": torch.tensor([[2, 2, 2]])}
    assert Family().feature_rows(processor, {"pixel_values": pixels}) == MediaCounts(15, 0)
    assert Family().feature_rows(processor, {"pixel_values": pixels, **grids}) == MediaCounts(6, 8)
    assert Family().feature_rows(processor, {}) == MediaCounts()


@pytest.mark.parametrize("visual", [{"pixel_values": torch.zeros(1, 3, 8, 8)}, {"pixel_values_videos": torch.zeros(1)}])
def test_a_processor_may_tell_too_little(visual):
    assert Family().feature_rows(SimpleNamespace(), visual) is None


def test_a_model_that_compares_nothing_is_refused_without_rules_of_its_family():
    model = SimpleNamespace(base_model=SimpleNamespace(), config=SimpleNamespace(model_type="odd"))
    with pytest.raises(UserError, match="its model type 'odd' needs a file in lit_vlm/models/families"):
        Family().check_model(model)
    own = Family()
    own.model_types = ("odd",)
    own.check_model(model)
    model.base_model.get_placeholder_mask = None
    Family().check_model(model)


def test_tensors_of_all_runs_are_put_one_after_another():
    first, second, third = ({"pixel_values": torch.full((count, 2), count)} for count in (1, 2, 3))
    joined = Family().join([[first, second], [], [third, {"image_grid_thw": torch.ones(1, 3)}]])
    assert joined["pixel_values"][:, 0].tolist() == [1, 2, 2, 3, 3, 3]
    assert joined["image_grid_thw"].shape == (1, 3)
    assert Family().join([[], []]) == {}


def test_tensors_that_do_not_fit_together_are_named():
    with pytest.raises(UserError, match="'pixel_values' has the shapes"):
        Family().join([[{"pixel_values": torch.zeros(1, 3, 4, 4)}, {"pixel_values": torch.zeros(1, 3, 4, 8)}]])


def test_pixels_are_padded_where_the_model_is_told_their_sizes():
    sized = [
        {"pixel_values": torch.ones(1, 2, height, 4), "image_sizes": torch.tensor([[height, 4]])} for height in (3, 5)
    ]
    joined = Family().join([[run] for run in sized])
    assert joined["pixel_values"].shape == (2, 2, 5, 4)
    assert joined["pixel_values"].sum(dim=(1, 3)).tolist() == [[8] * 3 + [0] * 2, [8] * 5]
    with pytest.raises(UserError, match="'pixel_values' has the shapes"):
        Family().join([[{**sized[0]}], [{"pixel_values": sized[1]["pixel_values"]}]])


@pytest.mark.parametrize(("rule", "counts"), [("never", [2, 3]), ("turn", [3, 3]), ("always", [6, 6])])
def test_frames_are_repeated_evenly_where_a_family_needs_it(rule, counts):
    family = Family()
    family.even_frames = rule
    videos = [([0, 1], 1.0), ([0, 1, 2], 3.0)]
    evened = family.even(videos, 6)
    assert [len(frames) for frames, _ in evened] == counts
    for (frames, rate), (before, rate_before) in zip(evened, videos, strict=True):
        assert frames == sorted(frames)
        assert set(frames) == set(before)
        assert len(frames) / rate == pytest.approx(len(before) / rate_before)  # the same seconds
    assert family.even([], 6) == []


def test_sampled_frames_are_described_as_they_are():
    assert video_metadata(4, 2.0) == {
        "fps": 2.0,
        "total_num_frames": 4,
        "frames_indices": [0, 1, 2, 3],
        "duration": 2.0,
    }
