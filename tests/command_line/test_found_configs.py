import pytest

from lit_vlm.command_line.found_configs import with_found_configs
from lit_vlm.interfaces.errors import UserError


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in {
        "run": "model: X",
        "merge": "merge: {}",
        "nested": "config: other.yaml",
        "part": "a: 1",
    }.items():
        (tmp_path / f"{name}.yaml").write_text(content)
    return tmp_path


@pytest.mark.parametrize("words", [["--config", "quickstart"], ["--config=quickstart"], ["-c", "quickstart"]])
def test_names_become_files(words):
    found, (path,) = with_found_configs("fit", ["--a", "1", *words, "--b"])
    assert path.name == "quickstart.yaml"
    assert found[0:2] == ["--a", "1"]
    assert found[-1] == "--b"
    assert found[-2].removeprefix("--config=") == str(path)


def test_several_keep_their_order(files):
    _, paths = with_found_configs("fit", ["--config", "part.yaml", "--config=run.yaml"])
    assert [path.name for path in paths] == ["part.yaml", "run.yaml"]


@pytest.mark.parametrize(
    ("verb", "words", "told"),
    [
        ("fit", ["--config"], "must follow"),
        ("fit", ["--config", "gone"], "no such file or recipe"),
        ("fit", ["--config", "nested.yaml"], "may not hold 'config'"),
        ("fit", ["--config", "merge.yaml"], "lit-vlm merge --config merge.yaml --output"),
        ("merge", ["--config", "run.yaml"], "lit-vlm fit --config run.yaml"),
    ],
)
def test_what_cannot_be_used_is_refused(files, verb, words, told):
    with pytest.raises(UserError, match=told):
        with_found_configs(verb, words)


def test_a_part_goes_with_every_verb(files):
    for verb in ("fit", "merge"):
        assert with_found_configs(verb, ["--config", "part.yaml"])[0] == ["--config", "part.yaml"]
    assert with_found_configs("merge", ["--config", "merge.yaml"])[0] == ["--config", "merge.yaml"]
