"""Runs a benchmark's measurement in a process of its own, so that its peak memory is its own."""

import json
import subprocess
import sys


def measured(script: str, **options) -> dict:
    """Runs ``script --json`` with the given options, and reads the figures of its last line."""
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    output = subprocess.run([sys.executable, script, "--json", *words], check=True, capture_output=True, text=True)
    return json.loads(output.stdout.splitlines()[-1])
