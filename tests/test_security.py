"""The rules of safety, each with the tests that hold it; those that no other file tests are tested here.

1. Checkpoints are read as safetensors or by ``weights_only``; nothing in a file is run while it is read.
2. Code that comes with a checkpoint runs only by ``model.backbone.trust_remote_code``, which the log names.
3. Data are parsed, never evaluated or unpickled; no text becomes a shell's command.
4. Paths in data sets and checkpoints stay within their folder; archives are not unpacked.
5. Images, videos, lines and rows have limits, and what exceeds them is a bad sample with a name.
6. Keys go into the header of a request and nowhere else; addresses are http or https.
"""

import ast
import io
import os
import pickle
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image

from lit_vlm.data.records.json_file import JsonFile
from lit_vlm.data.records.json_lines import JsonLines
from lit_vlm.data.records.json_text import DEEPEST, parse_record
from lit_vlm.data.records.media_references import MediaRoots, image_reference, video_reference
from lit_vlm.data.records.record_files import open_file
from lit_vlm.functional.checkpoint_files import read_checkpoint
from lit_vlm.functional.media import open_image, open_video
from lit_vlm.functional.safetensors_folder import SafetensorsFolder
from lit_vlm.functional.training_checkpoint import open_training_checkpoint
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import MediaRef, VideoRef

ROOT = Path(__file__).parent.parent
ELSEWHERE = {
    "functional/test_sharded_metadata.py": (
        "test_a_description_that_would_run_something_is_refused_and_does_not",
        "test_an_entry_that_would_run_something_is_refused_and_does_not",
        "test_files_elsewhere_are_not_read",
        "test_a_link_to_a_file_elsewhere_is_not_read",
    ),
    "models/test_backbone.py": ("test_weights_that_are_not_safetensors_are_refused",),
    "functional/test_media.py": ("test_a_path_may_not_leave_its_root", "test_an_image_bomb_is_refused_by_its_header"),
    "data/records/test_media_references.py": (
        "test_nothing_is_downloaded",
        "test_a_prefix_does_not_let_a_path_out_of_its_root",
    ),
    "data/records/test_json_lines.py": ("test_an_endless_line_is_refused_without_being_read",),
    "functional/test_training_card.py": ("test_it_holds_no_path_of_the_machine_and_no_secret",),
    "paradigms/test_endpoint.py": ("test_the_command_line_writes_a_ledger_and_no_key",),
    "paradigms/test_endpoint_client.py": (
        "test_the_key_is_nowhere_but_in_the_header",
        "test_a_redirect_is_not_followed_with_the_key",
        "test_a_key_in_the_place_of_its_name_is_refused_and_not_repeated",
    ),
}
"""Tests of these rules that stand with what they test."""
UNPICKLES = {
    "lit_vlm/rewards/reward_worker.py": "two processes of one run, over their own pipe",
    "lit_vlm/functional/sharded_metadata.py": "an Unpickler that knows a list of names and refuses all others",
}
"""Files that may unpickle, and what."""
CODE_MODULES = {"marshal", "shelve", "dill", "cloudpickle", "joblib", "cPickle"}


def unsafe_calls(path: str, source: str) -> list[str]:
    """Lists the places of a file that may run what they read."""
    faults = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            faults += [(node.lineno, f"imports {name}") for name in names if name.partition(".")[0] in CODE_MODULES]
        elif isinstance(node, ast.Attribute) and _dotted(node) in ("pickle.load", "pickle.loads", "pickle.Unpickler"):
            faults += [] if path in UNPICKLES else [(node.lineno, "unpickles")]
        elif isinstance(node, ast.Call):
            faults += [(node.lineno, told) for told in _faults_of_call(node)]
    return [f"{path}, line {line}: {told}" for line, told in faults]


def _faults_of_call(call: ast.Call) -> Iterator[str]:
    name = _dotted(call.func)
    given = {keyword.arg: keyword.value for keyword in call.keywords}

    def is_given(option: str, value: Any) -> bool:
        return isinstance(given.get(option), ast.Constant) and given[option].value is value

    if name in ("eval", "exec", "compile", "__import__"):
        yield f"calls {name}"
    if name in ("torch.load", "torch.hub.load", "torch.jit.load") and not is_given("weights_only", True):
        yield f"{name} without weights_only=True"
    if name.endswith(".load_from_checkpoint") and not is_given("weights_only", True):
        yield "load_from_checkpoint without weights_only=True"
    if name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
        yield f"{name} in the place of yaml.safe_load"
    if name in ("os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput"):
        yield f"{name} gives a text to a shell"
    if "shell" in given and not is_given("shell", False):
        yield "gives a text to a shell"
    if "allow_pickle" in given and not is_given("allow_pickle", False):
        yield "numpy unpickles"
    trust = given.get("trust_remote_code")
    if trust is not None and not is_given("trust_remote_code", False) and _dotted(trust) != "self.trust_remote_code":
        yield "runs code of a checkpoint without model.backbone.trust_remote_code"
    if name.endswith((".extractall", ".extract", ".unpack_archive")) and "filter" not in given:
        yield "unpacks an archive without a filter"
    if name.endswith("add_safe_globals") or name == "tempfile.mktemp":
        yield f"calls {name}"


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else ""


@pytest.mark.parametrize(
    "line",
    [
        "eval('1')", "exec(x)", "compile(x, '', 'exec')", "torch.load(p)", "torch.load(p, weights_only=False)",
        "torch.load(p, weights_only=flag)", "pickle.loads(b)", "p = pickle.load", "class A(pickle.Unpickler): ...",
        "import dill", "from joblib import load", "yaml.load(t)", "yaml.unsafe_load(t)", "os.system('ls')",
        "subprocess.run('ls', shell=True)", "numpy.load(p, allow_pickle=True)",
        "AutoModel.from_pretrained(p, trust_remote_code=True)", "AutoModel.from_pretrained(p, trust_remote_code=x)",
        "tarfile.open(p).extractall(d)", "archive.extractall(d)", "shutil.unpack_archive(p)",
        "Module.load_from_checkpoint(p)", "torch.serialization.add_safe_globals([A])",
    ],
)  # fmt: skip
def test_a_call_that_runs_what_it_reads_is_reported(line):
    (fault,) = unsafe_calls("lit_vlm/x.py", line)
    assert fault.startswith("lit_vlm/x.py, line 1: ")


@pytest.mark.parametrize(
    "line",
    [
        "model.eval()", "re.compile(x)", "torch.compile(m)", "torch.load(p, weights_only=True)", "ast.literal_eval(t)",
        "pickle.dumps(x)", "yaml.safe_load(t)", "subprocess.run(['ls'])", "numpy.load(p)", "json.load(f)",
        "load(p, trust_remote_code=self.trust_remote_code)", "load(p, trust_remote_code=False)",
        "tarfile.open(p).extractall(d, filter='data')",
    ],
)  # fmt: skip
def test_a_call_that_only_reads_is_not_reported(line):
    assert unsafe_calls("lit_vlm/x.py", line) == []


def test_nothing_runs_what_it_reads():
    files = [path for folder in ("lit_vlm", "callbacks", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    sources = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in files}
    assert len(sources) > 300
    assert set(sources) >= set(UNPICKLES)
    assert [fault for path, source in sources.items() for fault in unsafe_calls(path, source)] == []


def test_every_rule_that_is_tested_elsewhere_still_is():
    for file, names in ELSEWHERE.items():
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        held = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert set(names) <= held, file


class Payload:
    """Leaves a trace where it is unpickled without limits."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.trace}",)


@pytest.fixture
def payload(tmp_path: Path) -> Iterator[Payload]:
    """A payload that must not have run by the end of the test."""
    trace = tmp_path / "trace"
    yield Payload(trace)
    assert not trace.exists()


def test_the_payload_would_run(tmp_path):
    pickle.loads(pickle.dumps(Payload(tmp_path / "trace")))
    assert (tmp_path / "trace").exists()


def test_a_checkpoint_with_a_payload_is_refused(payload, tmp_path):
    path = tmp_path / "x.ckpt"
    torch.save({"state_dict": {"a": payload}}, path)
    for read in (open_training_checkpoint, read_checkpoint):
        with pytest.raises(UserError, match="run code"):
            read(path)
    path.write_bytes(pickle.dumps(payload))
    for read in (open_training_checkpoint, read_checkpoint):
        with pytest.raises(UserError, match="no checkpoint"):
            read(path)


@pytest.mark.parametrize("words", [["--ckpt_path", "x.ckpt"], ["--ckpt_path", "shards"], ["--weights_only", "false"]])
def test_a_run_does_not_start_from_a_payload(payload, tmp_path, monkeypatch, capsys, words):
    from lit_vlm.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["lit-vlm"])
    torch.save({"state_dict": {"a": payload}, "epoch": 0}, "x.ckpt")
    Path("shards").mkdir()
    Path("shards/.metadata").write_bytes(pickle.dumps(payload))
    Path("shards/meta.pt").touch()
    options = ["--data.train_size=4", "--data.validation_size=4", "--data.num_workers=0", "--trainer.callbacks=[]"]
    bare = ["--trainer.logger=false", "--trainer.num_sanity_val_steps=0", "--trainer.accelerator=cpu"]
    assert main(["fit", "--config", "quickstart", *options, *bare, *words]) == 2
    assert "run code" in (told := capsys.readouterr().err) or "is refused" in told


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt"])
def test_pickled_weights_are_refused(payload, tmp_path, name):
    (tmp_path / name).write_bytes(pickle.dumps(payload))
    with pytest.raises(UserError, match=f"but {name}; weights are read from safetensors only"):
        SafetensorsFolder(tmp_path)


def test_pickled_weights_are_refused_by_the_loader_of_models_and_adapters(payload, tmp_path, random_tiny_folder):
    from lit_vlm.models.adapters import read_state
    from lit_vlm.models.backbone import Backbone

    for path in random_tiny_folder.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    torch.save({"a": payload}, tmp_path / "pytorch_model.bin")
    torch.save({"a": payload}, tmp_path / "adapter_model.bin")
    backbone = Backbone(str(tmp_path))
    with pytest.raises(UserError, match="safetensors"):
        backbone.load_model(backbone.load_encoder())
    with pytest.raises(UserError, match="there is no adapter_model.safetensors"):
        read_state(tmp_path)


def test_code_of_a_checkpoint_runs_only_by_its_flag_and_is_named(tmp_path, random_tiny_folder, caplog):
    from lit_vlm.models.backbone import Backbone

    trace = tmp_path / "ran"
    folder = tmp_path / "model"
    folder.mkdir()
    for path in random_tiny_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "config.json").write_text(
        '{"model_type": "of_its_own", "auto_map": {"AutoConfig": "own_code.OwnConfig"}, "architectures": ["Own"]}'
    )
    (folder / "own_code.py").write_text(
        f"open({str(trace)!r}, 'w').close()\n"
        "from transformers import PretrainedConfig\n"
        "class OwnConfig(PretrainedConfig):\n    model_type = 'of_its_own'\n"
    )
    with pytest.raises(UserError, match=r"model\.backbone\.trust_remote_code true then runs it"):
        Backbone(str(folder)).load_encoder()
    assert not trace.exists()
    assert "trust_remote_code" not in caplog.text
    trusting = Backbone(str(folder), trust_remote_code=True)
    trusting._reads_images()
    assert trace.exists()
    assert f"trust_remote_code is on: Python code that comes with {folder} runs" in caplog.text


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tgz", "x.jsonl.gz", "x.7z"])
def test_archives_are_not_unpacked(tmp_path, name):
    (tmp_path / name).write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="unpack it first"):
        open_file(tmp_path / name)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x1f\x8b", b"\x28\xb5\x2f\xfd"])
def test_an_archive_under_another_name_is_not_unpacked(tmp_path, start):
    (tmp_path / "x.jsonl").write_bytes(start + b"more")
    with pytest.raises(UserError, match="is compressed with .*; unpack it first"):
        open_file(tmp_path / "x.jsonl")


def png_of(width: int, height: int) -> bytes:
    """A few bytes that claim to be a picture of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_picture_that_would_fill_the_memory_is_not_decoded(size):
    with pytest.raises(UserError, match="allowed; shrink it|too large to be decoded"):
        open_image(MediaRef(bytes=png_of(*size)))


def test_media_have_limits_that_data_sets(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    (tmp_path / "v.mp4").write_bytes((ROOT / "tests/functional/grey_steps.mp4").read_bytes())

    def roots(**limits: Any) -> MediaRoots:
        return MediaRoots(tmp_path, **limits)

    assert open_image(image_reference("a.png", roots())).size == (64, 64)
    assert len(open_video(video_reference("v.mp4", roots()), max_frames=4)[0]) == 4
    for value in ("a.png", buffer.getvalue()):
        with pytest.raises(UserError, match=r"bytes, more than the 50 allowed; .* raise data\.max_media_bytes"):
            open_image(image_reference(value, roots(max_media_bytes=50)))
        with pytest.raises(UserError, match=r"64 x 64 pixels, more than the 100 allowed"):
            open_image(image_reference(value, roots(max_image_pixels=100)))
    for limits, told in (
        ({"max_media_bytes": 50}, "the video 'v.mp4' has .* bytes, more than the 50 allowed"),
        ({"max_image_pixels": 100}, "the video 'v.mp4' has frames of 64 x 64 pixels, more than the 100 allowed"),
        ({"max_video_seconds": 0.5}, r"is 2.0 s long, more than the 0.5 s allowed"),
    ):
        with pytest.raises(UserError, match=told):
            open_video(video_reference("v.mp4", roots(**limits)), max_frames=4)


def test_no_more_frames_are_taken_than_asked_for():
    video = VideoRef(frames=tuple(MediaRef(pil=Image.new("RGB", (8, 8))) for _ in range(1000)))
    assert len(open_video(video, max_frames=3)[0]) == 3


def test_lines_rows_and_records_have_limits(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n{"a": "' + "x" * 500 + '"}\n')
    lines = JsonLines(tmp_path / "x.jsonl", longest_record=200)
    assert lines[0].values == {"a": 1}
    with pytest.raises(BadSampleError, match=r"x\.jsonl, line 2: the line has .* more than the 200 allowed"):
        lines[1]
    table = pyarrow.table({"a": ["small", "x" * 5000, "small"]})
    pyarrow.parquet.write_table(table, tmp_path / "x.parquet")
    rows = open_file(tmp_path / "x.parquet", 1000)
    assert rows[2].values == {"a": "small"}
    with pytest.raises(BadSampleError, match=r"x\.parquet, row 2: the row has 5,0\d\d bytes, more than the 4,000"):
        rows[1]
    assert [type(found) is BadSampleError for found in rows.scan()] == [False, True, False]


@pytest.mark.parametrize("deep", ["[" * 50_000 + "]" * 50_000, "[" * 200 + "]" * 200, '{"a":' * 200 + "1" + "}" * 200])
def test_deep_json_is_a_bad_sample(deep, tmp_path):
    with pytest.raises(BadSampleError, match="x, line 3: the JSON is nested"):
        parse_record(b'{"a": ' + deep.encode() + b"}", "x, line 3")


def test_long_flat_json_and_what_is_just_deep_enough_is_read():
    flat = parse_record(b'{"a": [' + b"[1]," * 5000 + b"[1]]}", "x")
    assert len(flat["a"]) == 5001
    levels = DEEPEST - 1
    assert parse_record(b'{"a": ' + b"[" * levels + b"]" * levels + b', "b": "' + b"[" * 500 + b'"}', "x")
    with pytest.raises(BadSampleError, match=f"nested more than {DEEPEST} deep"):
        parse_record(b'{"a": ' + b"[" * DEEPEST + b"]" * DEEPEST + b"}", "x")


def test_a_whole_file_of_deep_json_ends_in_one_sentence(tmp_path):
    (tmp_path / "x.json").write_text('[{"a": ' + "[" * 50_000 + "]" * 50_000 + "}]")
    with pytest.raises(UserError, match="nested too deeply"):
        JsonFile(tmp_path / "x.json")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/v1", "gopher://host", "//host/v1", "javascript:1"])
def test_an_endpoint_is_http_or_https(url):
    from lit_vlm.paradigms.endpoint_client import Endpoint

    with pytest.raises(UserError, match=r"endpoint\.url is no plain address"):
        Endpoint(url, "m")
