"""What an installation holds: links that resolve, a wheel with everything in it, one version, one command."""

import email
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import lit_vlm

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LINKS = ("callbacks", "recipes")


def run(*arguments: str, folder: Path = ROOT, **variables: str) -> str:
    """Runs this Python in a process of its own, with more environment variables, and returns what it printed."""
    outcome = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    """The wheel of a copy of the tree, built without network; a copy, as old build folders would be packed too."""
    copy = tmp_path_factory.mktemp("wheel") / "checkout"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("lit_vlm", *LINKS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    run("-c", "from setuptools import build_meta; build_meta.build_wheel('dist')", folder=copy)
    (path,) = (copy / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        yield archive


def files_below(folder: str, suffix: str) -> set[str]:
    """The paths of a folder's files, relative to it."""
    found = {file.relative_to(ROOT / folder).as_posix() for file in (ROOT / folder).rglob(f"*{suffix}")}
    assert found, f"{folder} holds no {suffix} files"
    return found


@pytest.mark.parametrize("name", LINKS)
def test_the_link_in_the_package_leads_to_the_folder_at_the_root(name):
    link = ROOT / "lit_vlm" / name
    assert link.is_symlink(), f"{link} is no symbolic link; 'make links' makes it where your tools dropped it"
    assert os.readlink(link) == f"../{name}"
    assert link.resolve() == (ROOT / name).resolve()


@pytest.mark.parametrize(
    ("folder", "suffix"), [("callbacks", ".py"), ("recipes", ".yaml"), ("models/tiny", ""), ("data/bundled", ".xz")]
)
def test_the_wheel_holds_what_is_no_ordinary_module(wheel, folder, suffix):
    source = folder if folder in LINKS else f"lit_vlm/{folder}"
    missing = {f"lit_vlm/{folder}/{file}" for file in files_below(source, suffix)} - set(wheel.namelist())
    assert missing == set()


def test_the_wheel_holds_the_weights_and_the_processor_of_the_bundled_model(wheel):
    tiny = {Path(name).name for name in wheel.namelist() if name.startswith("lit_vlm/models/tiny/")}
    assert tiny >= {"config.json", "model.safetensors", "tokenizer.json", "processor_config.json"}


def test_the_wheel_holds_all_modules_and_nothing_of_the_checkout(wheel):
    modules = {f"lit_vlm/{file}" for file in files_below("lit_vlm", ".py")}
    assert set(wheel.namelist()) >= modules | {"lit_vlm/py.typed"}
    assert {name.split("/")[0] for name in wheel.namelist()} == {"lit_vlm", f"lit_vlm-{lit_vlm.__version__}.dist-info"}


def test_the_wheel_is_small_enough_to_send_around(wheel):
    assert sum(entry.compress_size for entry in wheel.infolist()) < 20e6  # bytes


def test_the_wheel_tells_its_licence_python_and_command(wheel):
    info = f"lit_vlm-{lit_vlm.__version__}.dist-info"
    metadata = email.message_from_bytes(wheel.read(f"{info}/METADATA"))
    assert metadata["Requires-Python"] == PROJECT["requires-python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert b"Apache License" in wheel.read(f"{info}/licenses/LICENSE")
    assert b"lit-vlm = lit_vlm.cli:main" in wheel.read(f"{info}/entry_points.txt")


def test_the_command_runs_straight_from_the_wheel(wheel, tmp_path):
    wheel.extractall(tmp_path)
    # -P and the folder given by hand: the checkout must not lend its modules.
    path = {"PYTHONPATH": str(tmp_path)}
    program = "import lit_vlm.callbacks; print(lit_vlm.callbacks.__file__)"
    found = run("-P", "-c", program, folder=tmp_path, **path).strip()
    assert found == str(tmp_path / "lit_vlm" / "callbacks" / "__init__.py")
    catalogue = run("-P", "-m", "lit_vlm", "recipes", folder=tmp_path, **path)
    assert any(line.startswith("quickstart ") for line in catalogue.splitlines())


def test_the_version_is_the_same_everywhere():
    installed = importlib.metadata.version("lit-vlm")
    assert lit_vlm.__version__ == PROJECT["version"] == installed, "run 'make setup' after a change of version"


def test_the_console_script_tells_the_version():
    script = Path(sys.executable).parent / "lit-vlm"
    printed = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert printed == f"lit-vlm {lit_vlm.__version__}\n"


def test_running_the_module_tells_the_version_too():
    assert run("-m", "lit_vlm", "--version") == f"lit-vlm {lit_vlm.__version__}\n"


def test_videos_can_be_opened_whichever_distribution_brings_decord():
    # decord and decord2 install the same module; a process of its own, as both start threads when loaded.
    assert run("-c", "import decord; print(decord.VideoReader.__name__)") == "VideoReader\n"
