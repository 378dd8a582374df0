import json
import subprocess
import sys
from pathlib import Path

import pytest

from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.rewards import reward_worker
from lit_vlm.rewards.format_reward import FormatReward
from lit_vlm.rewards.reward_worker import described, packed, unpacked


def test_a_value_travels_as_one_line():
    value = {"text": "two\nlines", "numbers": list(range(1000))}
    assert b"\n" not in packed(value)
    assert unpacked(packed(value) + b"\n") == value


def test_what_was_raised_is_told_with_its_kind():
    assert described(KeyError("x")) == "raised KeyError: 'x'"


@pytest.mark.slow
def test_the_worker_loads_its_reward_answers_each_line_and_ends_with_its_input(complete):
    question = packed((60.0, [complete("<think>a</think><answer>b</answer>")], RewardContext()))
    lines = [json.dumps(sys.path).encode(), packed(FormatReward()), question, question]
    done = subprocess.run(
        [sys.executable, "-P", str(Path(reward_worker.__file__))],
        input=b"\n".join(lines) + b"\n",
        capture_output=True,
        timeout=120,
        check=True,
    )
    ready, *answers = map(unpacked, done.stdout.splitlines())
    assert ready == (None, None)
    assert [(output.total.tolist(), fault) for output, fault in answers] == [([1.0], None)] * 2
