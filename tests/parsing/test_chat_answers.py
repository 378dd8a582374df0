import json

import pytest

from lit_vlm.parsing.chat_answers import ChatAnswer, GarbageAnswerError, error_message, read_chat_answer


def answer(**choice):
    return {"choices": [{"message": {"content": "it is 4"}, "finish_reason": "stop", **choice}]}


def test_a_whole_answer_is_read():
    payload = answer(logprobs={"content": [{"token": "it", "logprob": -0.5}, {"token": " is 4", "logprob": -1}]})
    payload |= {
        "usage": {"prompt_tokens": 9, "completion_tokens": 2},
        "model": "teacher-2024",
        "system_fingerprint": "fp_1",
    }
    assert read_chat_answer(json.dumps(payload)) == ChatAnswer(
        "it is 4", "stop", (-0.5, -1.0), prompt_tokens=9, completion_tokens=2, model="teacher-2024", version="fp_1"
    )


def test_what_is_not_told_stays_open():
    read = read_chat_answer(json.dumps({"choices": [{"message": {"content": "4"}}]}))
    assert read == ChatAnswer("4", None, (), None, None)


@pytest.mark.parametrize("usage", [None, [], "12", {"prompt_tokens": -1}, {"prompt_tokens": True}])
def test_counts_that_are_none_are_not_believed(usage):
    assert read_chat_answer(json.dumps({**answer(), "usage": usage})).prompt_tokens is None


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("<html>Bad gateway</html>", "no JSON: <html>Bad gateway</html>"),
        (b"\xff\xfe", "no JSON"),
        ("", "no JSON"),
        ("[" * 200_000, "no JSON"),
        ("[]", "no choices"),
        ('"text"', "no choices"),
        ("{}", "no choices"),
        ('{"choices": []}', "no choices"),
        ('{"choices": {"0": 1}}', "no choices"),
        ('{"choices": ["4"]}', "no choices"),
        ('{"choices": [{}]}', "no message"),
        ('{"choices": [{"message": "4"}]}', "no message"),
        ('{"choices": [{"message": {}}]}', "content is NoneType"),
        ('{"choices": [{"message": {"content": 4}}]}', "content is int"),
        ('{"choices": [{"message": {"content": ["4"]}}]}', "content is list"),
        ('{"choices": [{"message": {"content": null, "refusal": "I will not"}}]}', "refused: I will not"),
        ('{"choices": [{"message": {"content": ""}}]}', "empty"),
        ('{"choices": [{"message": {"content": " \\n "}}]}', "empty"),
        ('{"choices": [{"message": {"content": "\\ud800"}}]}', "half a character"),
        (json.dumps(answer(finish_reason="content_filter")), "ended by content_filter"),
        (json.dumps(answer(finish_reason=7)), "ended by 7"),
        (json.dumps(answer(logprobs={"content": 3})), "logprobs.content is no list"),
        (json.dumps(answer(logprobs={"content": [{"token": "a"}]})), "without a number"),
        (json.dumps(answer(logprobs={"content": ["a"]})), "without a number"),
        (json.dumps(answer(logprobs={"content": [{"logprob": float("nan")}]})), "not finite"),
    ],
)
def test_garbage_is_named(body, told):
    with pytest.raises(GarbageAnswerError, match=told):
        read_chat_answer(body)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('{"error": {"message": "no such\\nmodel"}}', "no such model"),
        ('{"error": "overloaded"}', "overloaded"),
        ('{"detail": "Not Found"}', "Not Found"),
        ('{"detail": [1]}', '{"detail": [1]}'),
        ("<h1>x</h1>", "<h1>x</h1>"),
        ("x" * 100, "x" * 60 + "…"),
        ("", ""),
    ],
)
def test_what_went_wrong_is_found_and_shortened(body, told):
    assert error_message(body) == told
