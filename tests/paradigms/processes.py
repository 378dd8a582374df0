"""Runs a script that trains on one or several processes."""

import os
import subprocess
import sys
from pathlib import Path

import torch


def run_script(text, out, *arguments):
    """Runs a script with its arguments, the last one the file that it saves to; returns what it saved."""
    script = out.with_suffix(".py")
    script.write_text(text.format(root=str(Path(__file__).parents[2])))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(
        [sys.executable, str(script), *map(str, arguments), str(out)],
        check=True,
        env=environment,
        timeout=300,
        capture_output=True,
    )
    return torch.load(out, weights_only=True)
