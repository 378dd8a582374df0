import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.families.family import MediaCounts
from lit_vlm.models.families.llava import Llava


def processor(strategy="default", crop=True):
    images = SimpleNamespace(crop_size={"height": 32, "width": 16}, do_center_crop=crop)
    return SimpleNamespace(
        patch_size=8,
        num_additional_image_tokens=1,
        vision_feature_select_strategy=strategy,
        image_token="<image>",
        image_processor=images,
    )


@pytest.mark.parametrize(("strategy", "rows"), [("default", 8), ("full", 9)])
def test_patches_are_rows_and_the_class_token_where_it_is_kept(strategy, rows):
    pixels = {"pixel_values": torch.zeros(3, 3, 32, 16)}
    assert Llava().feature_rows(processor(strategy), pixels) == MediaCounts(3 * rows, 0)
    assert Llava().image_text(processor(strategy), 640, 480, 1) == "<image>" * rows


def test_images_that_are_not_cropped_have_no_one_size():
    assert Llava().image_text(processor(crop=False), 640, 480, 1) is None


@pytest.mark.parametrize("lacking", [("patch_size",), ("patch_size", "vision_feature_select_strategy")])
def test_an_early_checkpoint_is_told_what_its_processor_lacks(lacking, family_folder, tmp_path):
    shutil.copytree(family_folder("llava"), tmp_path / "early")
    path = tmp_path / "early" / "processor_config.json"
    settings = {name: value for name, value in json.loads(path.read_text()).items() if name not in lacking}
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=f"processor_config.json lacks {' and '.join(lacking)}; add to it"):
        Backbone(str(tmp_path / "early")).load_encoder()
