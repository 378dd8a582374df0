import base64
from dataclasses import replace

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.policy_roles import EnginePrompt
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.rollouts.vllm_requests import read_answer, request_of, sampling_options

PROMPT = EnginePrompt((5, 9, 6), (5, 9, 9, 9, 6), (b"png",), {"size": 1})


class Policy:
    end_token_ids = (7, 2)
    unsampled_token_ids = (9,)


SAMPLING = sampling_options(SamplingSettings(max_new_tokens=3, top_k=0, stop_strings=("x",)), Policy())
REQUEST = request_of(PROMPT, SAMPLING, [-1, 2**60 + 5], 3)
GOOD = {
    "token_ids": [5, 9, 9, 9, 6],
    "completions": [
        {"token_ids": [1, 7], "log_probs": [-0.5, -1.0], "finish": "stop"},
        {"token_ids": [1, 1, 1], "log_probs": [-0.5, -1.0, 0.0], "finish": "length"},
    ],
}


def test_a_request_holds_what_a_server_needs_once():
    assert REQUEST["token_ids"] == [5, 9, 6]
    assert base64.b64decode(REQUEST["images"][0]) == b"png"
    assert len(REQUEST["images"]) == 1
    assert REQUEST["seeds"] == [2**53 - 1, 5], "seeds keep the bits that JSON keeps"
    assert SAMPLING["top_k"] == -1
    assert SAMPLING["end_token_ids"] == [2, 7]
    assert SAMPLING["never"] == [9]


def test_an_answer_is_read(make_sample):
    first, second = read_answer(GOOD, PROMPT, make_sample("a", "7"), REQUEST)
    assert (first.token_ids, first.log_probs, first.is_truncated) == ([1, 7], [-0.5, -1.0], False)
    assert second.is_truncated


def changed(**fields):
    return {**GOOD, "completions": [{**GOOD["completions"][0], **fields}, GOOD["completions"][1]]}


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ({**GOOD, "token_ids": [5, 9, 9, 6]}, "prompt of 4 tokens, the policy one of 5, different from token 3 on"),
        ({**GOOD, "token_ids": [5, 9, 9, 9]}, "different from token 4 on"),
        ({**GOOD, "completions": GOOD["completions"][:1]}, "has 1 completions, asked for were 2"),
        (changed(token_ids=[]), "has 0 tokens, wanted are 1 to 3"),
        (changed(token_ids=[1] * 4), "has 4 tokens"),
        (changed(log_probs=[-0.5]), "too few, or not finite"),
        (changed(log_probs=[-0.5, float("nan")]), "too few, or not finite"),
        (changed(token_ids=[9, 1]), "holds the token 9"),
    ],
)
def test_an_answer_that_is_not_whole_is_refused_by_the_samples_name(make_sample, answer, told):
    sample = replace(make_sample("a", "7"), id="page-3")
    with pytest.raises(UserError, match=told) as fault:
        read_answer(answer, PROMPT, sample, REQUEST)
    assert "sample 'page-3'" in str(fault.value)
