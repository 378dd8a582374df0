import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rollouts import vllm_process
from lit_vlm.rollouts.vllm_client import VLLMClient
from lit_vlm.rollouts.vllm_process import VLLMProcess, server_environment
from tests.rollouts.policy_server import Stub, serving

PROGRAM = """
import http.server, json, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(dict(protocol=2, model=sys.argv[2], dtype="float32", max_tokens=1, max_lora_rank=0,
                                         weights=None, vllm="0", workers=1, device="cpu", group=None)).encode())
    def log_message(self, *values): ...
if "--fails" in sys.argv: sys.exit("no room")
if "--sleeps" in sys.argv: import time; time.sleep(60)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[4])), Handler).serve_forever()
"""


@pytest.fixture
def script(tmp_path, monkeypatch):
    """A program in the place of serve.py."""
    path = tmp_path / "serve.py"
    path.write_text(PROGRAM)
    monkeypatch.setattr(vllm_process, "SCRIPT", path)
    return path


def client():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return VLLMClient(f"http://127.0.0.1:{free.getsockname()[1]}")


def test_a_server_is_started_waited_for_and_ended(script):
    there = client()
    process = VLLMProcess(sys.executable, there, "a/model", ())
    process.wait(60)
    assert there.state().model == "a/model"
    process.end()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    process.end()


def test_a_server_that_ends_is_told_with_its_last_words(script):
    with pytest.raises(UserError, match="ended with code 1; its last words, of .*no room"):
        VLLMProcess(sys.executable, client(), "m", ("--fails",)).wait(60)


def test_a_server_that_does_not_answer_is_ended(script):
    process = VLLMProcess(sys.executable, client(), "m", ("--sleeps",))
    with pytest.raises(UserError, match=r"did not answer within 0\.2 s"):
        process.wait(0.2)
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)


def test_what_cannot_be_started_is_refused(script):
    with pytest.raises(UserError, match="cannot be run"):
        VLLMProcess("/no/such/python", client(), "m", ())
    with pytest.raises(UserError, match="starts a server on this machine"):
        VLLMProcess(sys.executable, VLLMClient("http://10.0.0.1:8000"), "m", ())
    with serving(Stub()) as (address, _), pytest.raises(UserError, match="answers at .* already"):
        VLLMProcess(sys.executable, VLLMClient(address), "m", ())


def test_the_place_among_ranks_is_not_handed_on():
    own = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "3", "LOCAL_RANK": "0", "PYTHONPATH": "x", "HOME": "/h"}
    assert server_environment({**own, "TORCHELASTIC_RUN_ID": "1"}) == {"HOME": "/h"}


def test_a_server_ends_with_the_process_that_started_it():
    program = (
        "import os, sys; from lit_vlm.rollouts.vllm_server import serve; serve.PARENT_SECONDS = 0.05; "
        "serve.watch_parent(int(sys.argv[1]))"
    )
    starter = f"import subprocess, sys, os, time; subprocess.Popen([sys.executable, '-c', {program!r}, str(os.getpid())]); print('on', flush=True); time.sleep(60)"  # noqa: E501
    with subprocess.Popen([sys.executable, "-c", starter], stdout=subprocess.PIPE, start_new_session=True) as parent:
        parent.stdout.readline()
        children = f"/proc/{parent.pid}/task/{parent.pid}/children"
        with open(children, encoding="ascii") as file:
            (child,) = map(int, file.read().split())
        time.sleep(0.5)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.kill(child, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    pytest.fail("the server outlived who started it")
