from pathlib import Path

import pytest

from lit_vlm.functional.whole_folder import check_replaceable, whole_folder
from lit_vlm.interfaces.errors import UserError


def fill(folder: Path, text: str = "new") -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(text)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "deep" / "out") as made:
        fill(made)
        assert not (tmp_path / "deep" / "out").exists()
    assert names(tmp_path / "deep") == ["out"]
    assert (tmp_path / "deep" / "out" / "config.json").read_text() == "new"


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt])
def test_what_was_begun_is_removed(tmp_path: Path, fault: type[BaseException]) -> None:
    fill(tmp_path / "out", "old")

    def stopped() -> None:
        with whole_folder(tmp_path / "out", overwrite=True) as made:
            fill(made)
            raise fault

    with pytest.raises(fault):
        stopped()
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "config.json").read_text() == "old"


def test_what_a_kill_has_left_is_swept_away(tmp_path: Path) -> None:
    fill(tmp_path / ".out.exporting")
    with whole_folder(tmp_path / "out") as made:
        assert not made.exists()
        fill(made)
    assert names(tmp_path) == ["out"]


def test_a_model_is_replaced_only_where_that_is_wanted(tmp_path: Path) -> None:
    fill(tmp_path / "out", "old")
    with pytest.raises(UserError, match="exists and is not empty"), whole_folder(tmp_path / "out"):
        pass
    with whole_folder(tmp_path / "out", overwrite=True) as made:
        fill(made)
    assert names(tmp_path) == ["out"]
    assert (tmp_path / "out" / "config.json").read_text() == "new"


def test_nothing_else_than_a_model_is_ever_replaced(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "thesis.txt").touch()
    fill(tmp_path / "run")
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "a.ckpt").touch()
    (tmp_path / "link").symlink_to(tmp_path / "notes")
    (tmp_path / "file").touch()
    for name in ("notes", "run", "link", "file"):
        with pytest.raises(UserError, match="is not replaced"):
            check_replaceable(tmp_path / name, overwrite=True)
    check_replaceable(tmp_path / "nothing", overwrite=True)
