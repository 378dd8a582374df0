import json
import subprocess
import sys
from pathlib import Path

import pytest

from lit_vlm.parsing import math_worker


@pytest.mark.slow
def test_the_worker_is_ready_answers_each_line_and_ends_with_its_input():
    requests = [
        {"prediction": "\\frac12", "gold": "0.5", "seconds": 60},
        {"prediction": "]", "gold": "0.5", "seconds": 60},
    ]
    done = subprocess.run(
        [sys.executable, "-P", str(Path(math_worker.__file__))],
        input="\n".join(map(json.dumps, requests)),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ['"ready"', "true", "false"]


def test_importing_the_worker_loads_no_mathematics():
    script = "import sys, lit_vlm.parsing.math_worker; print('sympy' in sys.modules, 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["False", "False"]
