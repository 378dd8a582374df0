import pytest

from lit_vlm.command_line import short_names
from lit_vlm.command_line.short_names import class_index, import_named_classes
from lit_vlm.interfaces.errors import UserError


def test_parts_and_callbacks_are_found_without_importing_them():
    index = class_index()
    assert index["SFTModule"] == ("lit_vlm.paradigms.sft",)
    assert index["Progress"] == ("lit_vlm.callbacks.progress",)
    assert "Sample" not in index


def test_a_class_path_of_ours_that_does_not_exist_gets_the_closest_names():
    with pytest.raises(UserError, match=r"no class lit_vlm\.paradigms\.sft\.SFTModul; did you mean 'SFTModule'"):
        import_named_classes([], [{"model": {"class_path": "lit_vlm.paradigms.sft.SFTModul"}}])
    with pytest.raises(UserError, match=r"SFTModule is in lit_vlm\.paradigms\.sft"):
        import_named_classes([], [{"model": {"class_path": "lit_vlm.paradigms.base.SFTModule"}}])


def test_class_paths_of_others_are_left_to_the_parser():
    import_named_classes(["Nobody"], [{"callbacks": [{"class_path": "my_callbacks.Mine"}]}])


def test_a_name_defined_twice_must_be_written_out(monkeypatch):
    monkeypatch.setattr(short_names, "class_index", lambda: {"Twice": ("a", "b")})
    with pytest.raises(UserError, match=r"Twice is not unique; write a\.Twice or b\.Twice"):
        import_named_classes(["--model", "Twice"], [])


def test_a_value_that_is_a_name_alone_is_found_in_a_recipe(monkeypatch):
    imported = []
    monkeypatch.setattr(short_names.importlib, "import_module", imported.append)
    import_named_classes([], [{"about": {"method": "TIES"}, "merge": {"operation": "TaskArithmetic", "base": "tiny"}}])
    assert imported == ["lit_vlm.merging.task_arithmetic"]
