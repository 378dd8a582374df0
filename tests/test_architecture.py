"""Keeps the arrows between the rooms of the package, and the order of the tree, by reading sources with ``ast``.

Each check is a function over sources given as text, so that it is first shown a fault and must report it.
"""

import ast
import fnmatch
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from lit_vlm.command_line.catalogue import REQUIRED

ROOT = Path(__file__).parent.parent

# What each room may import from the others. Floors 1 and 2 first, then the parts, which do not know each other.
SHARED = {"interfaces", "functional", "parsing"}
PARTS = {
    "advantages", "data", "decoding", "environments", "evaluation", "gradients", "merging", "models", "objectives",
    "rewards", "rollouts", "synthesis",
}  # fmt: skip
ARROWS = {
    "interfaces": {"interfaces"},
    "functional": SHARED,
    "parsing": SHARED,
    **{part: {*SHARED, part} for part in PARTS},
    "callbacks": {*SHARED, "callbacks"},
    "paradigms": {*SHARED, *PARTS, "paradigms"},
    "health": {*SHARED, *PARTS, "callbacks.vision_probes", "paradigms", "health"},
    "command_line": {*SHARED, "callbacks", "command_line", "paradigms.base", "data.vlm_data_module"},
}
# Single files of a room that may do more than their neighbours, and why.
EXTRA_ARROWS = {
    # The bundled model's tokenizer is made from the texts of the embedded tasks.
    "command_line.tiny": {"models.tiny_vlm", "data"},
    # The bundled candidates are the bundled model's own completions of the embedded tasks.
    "command_line.own_candidates": {"data", "models", "rollouts"},
    # Attempts at the focus scenes are what a model writes at an embedded task.
    "command_line.focus_attempts": {"data", "models", "rollouts", "synthesis"},
    # A step is repeated by the Trainer, without data or recipe of its own.
    "command_line.repeat": {"paradigms.policy_module", "paradigms.repeated_fault"},
    # An export reads a run's checkpoint, without a Trainer and so without a paradigm.
    "command_line.export": {"models.model_export"},
    # It hands the checks what they are made with, and shows what they found.
    "command_line.doctor": {"health"},
    # A merge has no Trainer and so no paradigm; what it is given comes from a checkpoint.
    "command_line.merge": {"merging", "models.checkpoint_tensors", "models.linear_names"},
}
COMMAND_LINE_FILES = {"cli", "__main__"}

# Foreign libraries, and the rooms or files where each may come in. The standard library and torch may go everywhere.
ANYWHERE = {*sys.stdlib_module_names, "torch"}
DOORS = {
    "PIL": {"functional", "data", "synthesis", "callbacks", "rollouts.vllm_server.backend"},
    "bitsandbytes": {"models"},
    "datasets": {"data"},
    "decord": {"functional.media"},
    "huggingface_hub": {"models"},
    "jsonargparse": {"command_line"},
    "lightning": {"interfaces", "data", "paradigms", "callbacks", "command_line"},
    "math_verify": {"parsing"},
    "matplotlib": {"callbacks"},
    "numpy": {"functional", "data", "models", "evaluation", "callbacks"},
    "peft": {"models"},
    "httpx2": {"paradigms"},
    "pyarrow": {"functional.ledger_files", "data"},
    "rich": {"callbacks", "command_line"},
    "rouge_score": {"parsing"},
    "safetensors": {
        "functional.safetensors_folder",
        "models",
        "merging",
        "rollouts.vllm_server",
        "rollouts.weight_transport",
    },
    "sklearn": {"data"},
    "tensorboard": {"callbacks"},
    "tokenizers": {"models"},
    "torchmetrics": {"evaluation"},
    "torchvision": {"models"},
    "transformers": {"models"},
    "vllm": {"rollouts.vllm_server"},
    "yaml": {"command_line"},
}

TOP_FOLDERS = {"lit_vlm", "recipes", "callbacks", "tests", "benchmarks", ".ci"}
LONGEST_FILE, LONGEST_RECIPE = 400, 60  # lines
# Files with nothing to test: a call, protocols, fields, an exception, abstract methods.
WITHOUT_TEST = {
    "lit_vlm/__main__.py",
    *(
        f"lit_vlm/interfaces/{name}.py"
        for name in (
            "capabilities",
            "comparisons",
            "errors",
            "ledgers",
            "policy_roles",
            "roles",
            "run_module",
            "weights",
        )
    ),
}


def package_files() -> Iterator[str]:
    """Yields the package's files from the root, those behind the link ``lit_vlm/callbacks`` once, by their own path."""
    for folder in ("lit_vlm", "callbacks"):
        for file in sorted((ROOT / folder).rglob("*.py")):
            path = file.relative_to(ROOT).as_posix()
            if not path.startswith("lit_vlm/callbacks/"):
                yield path


def texts(folder: str, suffix: str) -> dict[str, str]:
    """Reads all files of a folder, by path from the root."""
    files = sorted((ROOT / folder).rglob(f"*{suffix}"))
    return {file.relative_to(ROOT).as_posix(): file.read_text(encoding="utf-8") for file in files}


def module_of(path: str) -> str:
    """Names a file's place in the package, as ``data.embedded`` for ``lit_vlm/data/embedded.py``."""
    module = path.removesuffix(".py").removesuffix("/__init__").removeprefix("lit_vlm/").replace("/", ".")
    return f"command_line.{module}" if module in COMMAND_LINE_FILES else module


def imports(path: str, source: str) -> Iterator[str]:
    """Yields the full names that a file imports, relative ones resolved, wherever in the file they stand."""
    package = ["lit_vlm", *path.removeprefix("lit_vlm/").split("/")[:-1]]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*package[: len(package) + 1 - node.level], node.module] if node.level else [node.module]
            yield from (".".join(filter(None, [*base, alias.name])) for alias in node.names)


def is_within(module: str, rooms: Iterable[str]) -> bool:
    """Tells whether a module is one of the given rooms or files, or lies in one."""
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


def forbidden_imports(path: str, source: str) -> list[str]:
    """Lists the imports that the table of arrows or the table of doors does not allow."""
    module = module_of(path)
    room = module.partition(".")[0]
    if path == "lit_vlm/__init__.py":
        allowed = set()
    elif room in ARROWS:
        allowed = ARROWS[room] | EXTRA_ARROWS.get(module, set())
    else:
        return [f"{path}: the folder {room!r} has no floor; give it one in ARROWS, or move the file"]
    faults = []
    for name in imports(path, source):
        library, _, inner = name.partition(".")
        if library == "lit_vlm":
            target = f"command_line.{inner}" if inner.partition(".")[0] in COMMAND_LINE_FILES else inner
            if not is_within(target, {*allowed, "__version__"}):
                faults.append(f"{path} imports {name}; {room} may import {', '.join(sorted(allowed))}")
        elif library not in ANYWHERE and not is_within(module, DOORS.get(library, ())):
            faults.append(f"{path} imports {name}; its doors are {', '.join(sorted(DOORS.get(library, ()))) or 'none'}")
    return faults


def unnamed_parts(sources: Mapping[str, str], readers: Iterable[str]) -> list[str]:
    """Lists public classes of parts, paradigms and callbacks that no recipe or test names.

    A class that its own room uses (a base, a record, a helper) is a piece of another part and not asked for.
    """
    words = set(re.findall(r"\w+", "\n".join(readers)))
    trees = {path: ast.parse(source) for path, source in sources.items()}
    rooms = {path: module_of(path).partition(".")[0] for path in sources}
    uses = {(rooms[path], node.id) for path, tree in trees.items() for node in ast.walk(tree) if type(node) is ast.Name}
    return [
        f"{path}: no recipe and no test names {node.name}"
        for path, tree in trees.items()
        if rooms[path] in PARTS | {"paradigms", "callbacks"}
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
        if node.name not in words and (rooms[path], node.name) not in uses
    ]


def recipes_without_about(recipes: Mapping[str, str]) -> list[str]:
    """Lists recipes that do not say what they are; leaves under ``recipes/models`` are parts of recipes."""
    faults = []
    for path, text in recipes.items():
        about = yaml.safe_load(text).get("about") or {}
        missing = [key for key in REQUIRED if not (isinstance(about.get(key), str) and about[key].strip())]
        if missing and not path.startswith("recipes/models/"):
            faults.append(f"{path}: about lacks {', '.join(missing)}")
    return faults


def mirrored_test(path: str) -> str:
    """Names the test file of a file."""
    folder, _, name = path.removeprefix("lit_vlm/").rpartition("/")
    return "/".join(filter(None, ["tests", folder, f"test_{name}"]))


def files_without_test(paths: Iterable[str], tests: Iterable[str]) -> list[str]:
    """Lists files of the package that have no test file of their own."""
    present = set(tests)
    wanted = [path for path in paths if not path.endswith("__init__.py") and path not in WITHOUT_TEST]
    return [f"{path}: there is no {mirrored_test(path)}" for path in wanted if mirrored_test(path) not in present]


def misnamed_files(paths: Iterable[str]) -> list[str]:
    """Lists files whose name says nothing."""
    return [f"{path}: name the file after its idea" for path in paths if re.search(r"(^|/)(test_)?utils?\.py$", path)]


def long_files(sources: Mapping[str, str], longest: int = LONGEST_FILE) -> list[str]:
    """Lists files with more than ``longest`` lines."""
    lengths = {path: len(source.splitlines()) for path, source in sources.items()}
    return [f"{path}: {length} lines, {longest} at most" for path, length in lengths.items() if length > longest]


def foreign_folders(folders: Iterable[str], ignore_file: str) -> list[str]:
    """Lists top-level folders that are neither ours nor ignored by git."""
    ignored = [line.strip().strip("/") for line in ignore_file.splitlines() if line.strip()] + [".git"]
    return [
        folder
        for folder in folders
        if folder not in TOP_FOLDERS and not any(fnmatch.fnmatch(folder, pattern) for pattern in ignored)
    ]


def expect_none(faults: Iterable[str]) -> None:
    """Fails with every fault on a line of its own."""
    told = "\n".join(faults)
    assert not told, told


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """Every file of the package, by path."""
    found = {path: (ROOT / path).read_text(encoding="utf-8") for path in package_files()}
    assert sum(path.startswith("lit_vlm/") for path in found) > 30
    assert sum(path.startswith("callbacks/") for path in found) > 3
    return found


@pytest.mark.parametrize(
    ("path", "line", "told"),
    [
        ("lit_vlm/interfaces/x.py", "from lit_vlm.functional.boxes import area", "lit_vlm.functional.boxes"),
        ("lit_vlm/functional/x.py", "import lit_vlm.data.embedded", "lit_vlm.data.embedded"),
        ("lit_vlm/rewards/x.py", "from lit_vlm.models.backbone import Backbone", "lit_vlm.models.backbone"),
        ("lit_vlm/rewards/x.py", "from lit_vlm import models", "lit_vlm.models"),
        ("lit_vlm/rewards/x.py", "from ..models import backbone", "lit_vlm.models.backbone"),
        ("lit_vlm/rewards/x.py", "from .. import models", "lit_vlm.models"),
        ("lit_vlm/rewards/deep/x.py", "from ...models import backbone", "lit_vlm.models.backbone"),
        ("lit_vlm/rewards/__init__.py", "from ..models import backbone", "lit_vlm.models.backbone"),
        ("lit_vlm/rewards/x.py", "def f():\n    from lit_vlm.data import embedded", "lit_vlm.data.embedded"),
        ("callbacks/x.py", "from lit_vlm.paradigms.sft import SFTModule", "lit_vlm.paradigms.sft"),
        ("callbacks/x.py", "from lit_vlm.data.embedded import EmbeddedDataModule", "lit_vlm.data.embedded"),
        ("lit_vlm/models/x.py", "from lit_vlm.paradigms.base import VLMModule", "lit_vlm.paradigms.base"),
        ("lit_vlm/paradigms/x.py", "from lit_vlm.callbacks.progress import Progress", "lit_vlm.callbacks.progress"),
        ("lit_vlm/cli.py", "from lit_vlm.paradigms.sft import SFTModule", "lit_vlm.paradigms.sft"),
        ("lit_vlm/data/x.py", "from lit_vlm.cli import main", "lit_vlm.cli.main"),
        ("lit_vlm/__init__.py", "from lit_vlm.cli import main", "lit_vlm.cli.main"),
        ("lit_vlm/paradigms/x.py", "import transformers", "transformers; its doors are models"),
        ("lit_vlm/data/x.py", "from peft import LoraConfig", "peft.LoraConfig; its doors are models"),
        ("lit_vlm/rollouts/x.py", "import vllm", "vllm; its doors are rollouts.vllm_server"),
        ("lit_vlm/models/x.py", "import lightning.pytorch", "lightning.pytorch; its doors are"),
        ("lit_vlm/models/x.py", "import einops", "einops; its doors are none"),
        ("lit_vlm/cleverness/x.py", "", "'cleverness' has no floor"),
    ],
)
def test_a_forbidden_import_is_reported(path, line, told):
    (fault,) = forbidden_imports(path, line)
    assert path in fault
    assert told in fault


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("lit_vlm/rewards/x.py", "import json\nimport torch\nfrom lit_vlm.parsing.answers import check_answer"),
        ("lit_vlm/rewards/x.py", "from lit_vlm.rewards.answer_correctness import AnswerCorrectness"),
        ("lit_vlm/rewards/x.py", "from . import answer_correctness\nfrom .answer_correctness import AnswerCorrectness"),
        ("lit_vlm/paradigms/x.py", "from lit_vlm.models.backbone import Backbone\nfrom lightning import Trainer"),
        ("callbacks/x.py", "from lit_vlm.callbacks.progress import Progress\nfrom .progress import Progress"),
        ("lit_vlm/rollouts/vllm_server/x.py", "from vllm import LLM"),
        ("lit_vlm/cli.py", "from lit_vlm import __version__\nfrom lit_vlm.command_line.closest import did_you_mean"),
        ("lit_vlm/command_line/x.py", "from lit_vlm.cli import VERBS\nfrom lit_vlm.paradigms import base"),
    ],
)
def test_an_allowed_import_is_not_reported(path, line):
    assert forbidden_imports(path, line) == []


def test_imports_follow_the_arrows_and_use_the_doors(sources):
    assert sum(len(list(imports(path, source))) for path, source in sources.items()) > 100
    expect_none(fault for path, source in sources.items() for fault in forbidden_imports(path, source))


def test_every_extra_arrow_belongs_to_a_file(sources):
    assert set(EXTRA_ARROWS) <= {module_of(path) for path in sources}
    assert set(sources) >= WITHOUT_TEST


def test_a_part_that_nobody_names_is_reported():
    part = {
        "lit_vlm/rewards/x.py": "class Known: ...\nclass Record: ...\nclass Forgotten:\n    f: Record\nclass _Own: ...",
        "lit_vlm/paradigms/y.py": "from lit_vlm.rewards.x import Forgotten\nprint(Forgotten)",
        "lit_vlm/functional/z.py": "class Helper: ...",
    }
    readers = ["class_path: lit_vlm.rewards.x.Known", "Forgottenness"]
    assert unnamed_parts(part, readers) == ["lit_vlm/rewards/x.py: no recipe and no test names Forgotten"]


def test_every_part_is_named_by_a_recipe_or_a_test(sources):
    readers = [*texts("recipes", ".yaml").values(), *texts("tests", ".py").values()]
    assert len(readers) > 30
    expect_none(unnamed_parts(sources, readers))


def test_a_recipe_that_does_not_say_what_it_is_is_reported():
    whole = "about: {method: SFT, paper: none, fidelity: confirmed}"
    recipes = {
        "recipes/a.yaml": "model: SFTModule",
        "recipes/b.yaml": "about: {method: SFT, paper: '', fidelity: confirmed}",
        "recipes/c.yaml": whole,
        "recipes/models/leaf.yaml": "checkpoint: tiny",
    }
    assert recipes_without_about(recipes) == [
        "recipes/a.yaml: about lacks method, paper, fidelity",
        "recipes/b.yaml: about lacks paper",
    ]


def test_every_recipe_says_what_it_is_in_a_few_lines():
    recipes = texts("recipes", ".yaml")
    assert len(recipes) > 2
    expect_none([*recipes_without_about(recipes), *long_files(recipes, LONGEST_RECIPE)])


def test_a_file_without_a_test_is_reported():
    paths = ["lit_vlm/data/x.py", "lit_vlm/cli.py", "callbacks/y.py", "lit_vlm/data/__init__.py"]
    assert files_without_test(paths, ["tests/test_cli.py"]) == [
        "lit_vlm/data/x.py: there is no tests/data/test_x.py",
        "callbacks/y.py: there is no tests/callbacks/test_y.py",
    ]


def test_every_file_has_its_test_file(sources):
    expect_none(files_without_test(sources, texts("tests", ".py")))


def test_a_file_that_is_named_after_nothing_is_reported():
    assert len(misnamed_files(["lit_vlm/data/utils.py", "tests/data/test_utils.py", "util.py"])) == 3
    assert misnamed_files(["lit_vlm/data/futile.py", "lit_vlm/data/embedded.py"]) == []


def test_a_file_that_is_too_long_is_reported():
    assert long_files({"a.py": "\n" * 401, "b.py": "\n" * 400}) == ["a.py: 401 lines, 400 at most"]


def test_files_are_short_and_named_after_an_idea(sources):
    everything = {**sources, **texts("tests", ".py"), **texts("benchmarks", ".py")}
    assert len(everything) > 60
    expect_none([*misnamed_files(everything), *long_files(everything)])


def test_a_foreign_top_folder_is_reported():
    folders = ["lit_vlm", ".git", ".venv", "lit_vlm.egg-info", "scripts", ".github"]
    assert foreign_folders(folders, ".venv/\n*.egg-info/\n") == ["scripts", ".github"]


def test_the_root_holds_our_folders_and_no_other():
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    assert folders >= TOP_FOLDERS - {"benchmarks"}
    expect_none(foreign_folders(sorted(folders), (ROOT / ".gitignore").read_text(encoding="utf-8")))
