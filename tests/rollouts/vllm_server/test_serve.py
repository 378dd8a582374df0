import subprocess
import sys
from pathlib import Path

import pytest

from lit_vlm.rollouts.vllm_server import serve

SCRIPT = Path(serve.__file__)


def options(*words):
    return serve.engine_options(serve.parser().parse_args(["--model", "m", *words]))


def test_options_become_those_of_vllms_engine():
    plain = options()
    assert plain["model"] == "m"
    assert plain["limit_mm_per_prompt"] == {"image": 8, "video": 0}
    assert "enable_lora" not in plain
    assert "max_model_len" not in plain
    given = options("--max_lora_rank", "12", "--max_tokens", "99", "--images", "0", "--options", '{"seed": 4}')
    assert (given["max_lora_rank"], given["max_loras"], given["enable_lora"]) == (16, 1, True)
    assert (given["max_model_len"], given["seed"]) == (99, 4)
    assert "limit_mm_per_prompt" not in given


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_further_options_are_a_json_object(text):
    with pytest.raises(SystemExit, match="--options"):
        options("--options", text)


def test_other_machines_need_a_token():
    with pytest.raises(SystemExit, match=r"--host 0\.0\.0\.0 lets other machines in; set .*LIT_VLM_VLLM_TOKEN"):
        serve.check_host("0.0.0.0", None)
    with pytest.raises(SystemExit, match="lets other machines in"):
        serve.check_host("10.0.0.1", "")
    serve.check_host("0.0.0.0", "secret")
    serve.check_host("127.0.0.1", None)
    assert serve.parser().parse_args(["--model", "m"]).host == "127.0.0.1"


def test_it_runs_as_a_file_where_the_package_is_not_installed(tmp_path):
    # -S and -I: neither what is installed here nor this folder can be imported.
    told = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT), "--help"], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert "LIT_VLM_VLLM_TOKEN" in told.stdout
    assert "--max_lora_rank" in told.stdout
