"""Where checkpoints are found, without a network."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import errors
from huggingface_hub.utils import filter_repo_objects

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.models import checkpoint_folder
from lit_vlm.models.checkpoint_folder import local_folder
from lit_vlm.models.tiny_vlm import TINY_FOLDER


def test_the_bundled_model_and_folders_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local_folder(ModelReference("tiny")) == TINY_FOLDER
    assert local_folder(ModelReference(str(tmp_path))) == tmp_path
    (tmp_path / "organisation" / "model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert local_folder(ModelReference("organisation/model")) == Path("organisation/model")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_folder(ModelReference("~/organisation")) == tmp_path / "organisation"


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "a/b/c", "nowhere"])
def test_a_folder_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(UserError, match=f"no folder '{name}'"):
        local_folder(ModelReference(name))


@pytest.mark.parametrize("bundled", [True, False])
def test_a_folder_has_no_revisions(tmp_path: Path, bundled: bool) -> None:
    with pytest.raises(UserError, match="revision is 'main'"):
        local_folder(ModelReference("tiny" if bundled else str(tmp_path), revision="main"))


def test_a_hub_id_is_fetched_without_code_or_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(checkpoint_folder, "snapshot_download", fetch)
    assert local_folder(ModelReference("organisation/model", revision="v1")) == tmp_path
    assert (asked["name"], asked["revision"]) == ("organisation/model", "v1")
    files = ["model.safetensors", "config.json", "tokenizer.model", "chat_template.jinja", "merges.txt"]
    others = ["pytorch_model.bin", "modeling.py", "original/model.safetensors", "consolidated.safetensors", "README.md"]
    patterns = {name: asked[name] for name in ("allow_patterns", "ignore_patterns")}
    assert list(filter_repo_objects(files + others, **patterns)) == files


RESPONSE: Any = SimpleNamespace(headers={}, request=None)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (errors.LocalEntryNotFoundError("offline"), "the hub cannot be reached"),
        (errors.RepositoryNotFoundError("404", response=RESPONSE), "no model 'organisation/model'"),
        (errors.GatedRepoError("403", response=RESPONSE), "accepted its terms"),
        (errors.RevisionNotFoundError("404", response=RESPONSE), "no revision 'v1'"),
        (errors.HFValidationError("bad"), "nor a hub id"),
        (errors.HfHubHTTPError("500", response=RESPONSE), "cannot be fetched"),
        (OSError("No space left on device"), "No space left"),
    ],
)
def test_faults_of_the_hub_are_told_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, fault: Exception, message: str
) -> None:
    def fetch(name: str, **options: Any) -> str:
        raise fault

    monkeypatch.setattr(checkpoint_folder, "snapshot_download", fetch)
    with pytest.raises(UserError, match=message):
        local_folder(ModelReference("organisation/model", revision="v1"))


def test_offline_an_unknown_hub_id_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="the hub cannot be reached"):
        local_folder(ModelReference("organisation/model"))
