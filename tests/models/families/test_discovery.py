import re
from pathlib import Path

import pytest

from lit_vlm.models import families
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.families.discovery import family_of, known_families
from lit_vlm.models.families.family import Family
from tests.models.family_checkpoints import FAMILIES, TEXT_ONLY


def test_every_file_of_the_folder_is_found():
    declared = {
        model_type
        for file in Path(families.__path__[0]).glob("*.py")
        for found in re.findall(r"^    model_types = \((.*)\)$", file.read_text(), re.MULTILINE)
        for model_type in re.findall(r'"(\w+)"', found)
    }
    assert set(known_families()) == declared
    assert set(FAMILIES) - set(TEXT_ONLY) == declared


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in TEXT_ONLY])
def test_a_processor_leads_to_its_family(family, family_folder):
    processor = Backbone(str(family_folder(family))).load_encoder().processor
    assert family in family_of(processor).model_types


def test_a_processor_of_ones_own_follows_the_one_it_derives_from(family_folder):
    processor = Backbone(str(family_folder("gemma3"))).load_encoder().processor
    own = type("OwnProcessor", (type(processor),), {"__module__": "my_models.processing"})
    assert family_of(own.__new__(own)) is known_families()["gemma3"]


def test_an_unknown_processor_follows_the_general_rules():
    assert type(family_of(object())) is Family


def test_two_files_for_one_model_type_are_refused(monkeypatch, tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}_family.py").write_text(
            "from lit_vlm.models.families.family import Family\n\n\n"
            f"class {name.title()}(Family):\n    model_types = ('twice',)\n"
        )
    monkeypatch.setattr(families, "__path__", [str(tmp_path)])
    known_families.cache_clear()
    try:
        with pytest.raises(ValueError, match="two files .* claim the model type 'twice'"):
            known_families()
    finally:
        known_families.cache_clear()
