"""Starts the server: ``PYTHON serve.py --model FOLDER --port 8000``, with the interpreter of vLLM's environment.

It listens on this machine alone unless ``--host`` says otherwise; then both sides must know a secret, which they read
from the environment variable ``LIT_VLM_VLLM_TOKEN``. Nothing is sampled before a trainer has sent its weights.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

if not __package__:
    # Run as a file, where lit_vlm is not installed: the folder is a package of its own then.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    __package__ = "vllm_server"  # noqa: A001
    importlib.import_module(__package__)

from .service import LOCAL_HOSTS, Server, Service

TOKEN_VARIABLE = "LIT_VLM_VLLM_TOKEN"
PARENT_SECONDS = 2.0


def parser() -> argparse.ArgumentParser:
    """Builds the parser of the command line."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", required=True, help="folder or hub id of the model that training starts from")
    made.add_argument("--host", default="127.0.0.1", help="address to listen at; any but this machine needs a token")
    made.add_argument("--port", type=int, default=8000, help="0 takes a free one, which is printed")
    made.add_argument("--dtype", default="auto", help="float32, bfloat16, float16 or auto: the checkpoint's own")
    made.add_argument("--max_tokens", type=int, help="longest prompt with its completion; the model's own by default")
    made.add_argument("--max_lora_rank", type=int, default=0, help="largest rank of an adapter; 0: weights come whole")
    made.add_argument("--images", type=int, default=8, help="most images of a prompt; 0 for models that read text only")
    made.add_argument("--devices", type=int, default=1, help="GPUs that a model is cut up over")
    made.add_argument("--memory", type=float, default=0.85, help="share of a GPU's memory that vLLM takes")
    made.add_argument("--options", default="{}", help="further options of vLLM's engine, as a JSON object")
    made.add_argument("--parent", type=int, help="process whose end ends the server")
    return made


def engine_options(given: argparse.Namespace) -> dict[str, Any]:
    """Says what vLLM's engine is given.

    Raises:
        SystemExit: ``--options`` is no JSON object.
    """
    try:
        further = json.loads(given.options)
    except ValueError as fault:
        raise SystemExit(f"--options is no JSON: {fault}") from fault
    if not isinstance(further, dict):
        raise SystemExit("--options must be a JSON object, such as '{\"enforce_eager\": true}'")
    options: dict[str, Any] = {
        "model": given.model,
        "dtype": given.dtype,
        "tensor_parallel_size": given.devices,
        "gpu_memory_utilization": given.memory,
        "seed": 0,
    }
    if given.max_tokens is not None:
        options["max_model_len"] = given.max_tokens
    if given.images:
        options["limit_mm_per_prompt"] = {"image": given.images, "video": 0}
    if given.max_lora_rank:
        options |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": _allowed_rank(given.max_lora_rank)}
    return options | further


def check_host(host: str, token: str | None) -> None:
    """Refuses to listen to other machines without a secret.

    Raises:
        SystemExit: As said.
    """
    if host not in LOCAL_HOSTS and not token:
        raise SystemExit(
            f"--host {host} lets other machines in; set the environment variable {TOKEN_VARIABLE} to a secret, here "
            "and where the trainer runs"
        )


def watch_parent(parent: int) -> None:
    """Ends this process once another is gone that started it."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    """Loads the model, and answers until it is told to end."""
    given = parser().parse_args()
    token = os.environ.get(TOKEN_VARIABLE)
    check_host(given.host, token)
    options = engine_options(given)
    # Before the minutes that loading takes.
    with socket.create_server((given.host, given.port)):
        pass
    # Workers are processes of their own, and import what they are extended with.
    above = str(Path(__file__).resolve().parents[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [above, os.environ.get("PYTHONPATH")]))
    # Of vLLM's two ways to run a model only this one tells log-probabilities where worker_extension.py looks for them.
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    if given.parent is not None:
        threading.Thread(target=watch_parent, args=(given.parent,), daemon=True).start()
    from .backend import VLLMBackend

    with tempfile.TemporaryDirectory(prefix="lit-vlm-vllm-") as name:
        backend = VLLMBackend(options, Path(name), f"{__package__}.worker_extension.WeightReceiver")
        try:
            server = Server((given.host, given.port), Service(backend, token, Path(name)))
            print(f"ready at http://{given.host}:{server.server_address[1]}", flush=True)
            server.serve_forever()
        finally:
            backend.close()


def _allowed_rank(rank: int) -> int:
    """Rounds a rank up to one that vLLM makes room for."""
    return next((allowed for allowed in (8, 16, 32, 64, 128, 256, 320, 512) if allowed >= rank), rank)


if __name__ == "__main__":
    main()
