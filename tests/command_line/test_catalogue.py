from pathlib import Path

import pytest

from lit_vlm.command_line import catalogue
from lit_vlm.command_line.catalogue import find_config, read_yaml, shipped_recipes
from lit_vlm.interfaces.errors import UserError


def test_every_recipe_says_what_it_is():
    recipes = shipped_recipes()
    assert "quickstart" in [recipe.name for recipe in recipes]
    for recipe in recipes:
        assert set(catalogue.REQUIRED) <= set(recipe.about)
        assert recipe.paradigm
        assert recipe.data
    assert not any(recipe.name.startswith("models/") for recipe in recipes)


@pytest.mark.parametrize(
    "name", ["quickstart", "quickstart.yaml", "recipes/quickstart.yaml", "tiny/pretrain", "pretrain"]
)
def test_a_recipe_is_found_by_name_from_anywhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name).is_file()


def test_a_file_of_the_users_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quickstart").write_text("a: 1")
    assert find_config("quickstart") == Path("quickstart")


def test_an_unknown_recipe_gets_the_closest_names():
    with pytest.raises(UserError, match="no such file or recipe; did you mean 'quickstart'"):
        find_config("quickstrat")


def test_a_name_shared_by_two_recipes_must_be_given_whole(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.yaml").write_text("about: {method: m, paper: p, fidelity: f}")
    monkeypatch.setattr(catalogue, "RECIPES_FOLDER", tmp_path)
    with pytest.raises(UserError, match="several recipes have this name: a/same, b/same"):
        find_config("same")
    assert find_config("a/same").parent.name == "a"


def test_broken_yaml_is_named_with_its_place(tmp_path):
    file = tmp_path / "broken.yaml"
    file.write_text("model:\n  a: [1,\n  b: 2\n")
    with pytest.raises(UserError, match=r"broken\.yaml, line 4, column 1"):
        read_yaml(file)
    file.write_text("- a list")
    with pytest.raises(UserError, match="a configuration is a mapping"):
        read_yaml(file)


def test_a_missing_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(catalogue, "RECIPES_FOLDER", tmp_path / "gone")
    with pytest.raises(UserError, match="recipes folder is missing"):
        shipped_recipes()
