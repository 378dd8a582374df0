import json

import pytest

from lit_vlm.paradigms.endpoint_cache import AnswerCache, request_key
from lit_vlm.parsing.chat_answers import ChatAnswer

BODY = {"model": "m", "messages": [{"role": "user", "content": "2 + 2?"}], "temperature": 0.5, "seed": 3}
ANSWER = ChatAnswer("vier €", "stop", (-0.1, -2.5), 7, 2, "m-1", "fp")


def test_an_answer_comes_back_as_it_was(tmp_path):
    cache = AnswerCache(tmp_path / "new")
    assert cache.find("ab12") is None
    cache.keep("ab12", ANSWER)
    assert AnswerCache(tmp_path / "new").find("ab12") == ANSWER
    assert [path.name for path in (tmp_path / "new").rglob("*") if path.is_file()] == ["ab12.json"]


@pytest.mark.parametrize("held", ["", "{", "[]", '{"text": "a"}', '{"text": 3}', "null"])
def test_a_broken_file_counts_as_missing_and_is_replaced(tmp_path, held):
    cache = AnswerCache(tmp_path)
    (tmp_path / "ab").mkdir()
    (tmp_path / "ab" / "ab12.json").write_text(held)
    assert cache.find("ab12") is None
    cache.keep("ab12", ANSWER)
    assert cache.find("ab12") == ANSWER


def test_the_key_follows_all_that_is_asked():
    changed = [
        ("http://x", {**BODY, "model": "n"}, 0),
        ("http://x", {**BODY, "temperature": 0.6}, 0),
        ("http://x", {**BODY, "seed": 4}, 0),
        ("http://x", {**BODY, "messages": [{"role": "user", "content": "2 + 3?"}]}, 0),
        ("http://x", BODY, 1),
        ("http://y", BODY, 0),
    ]
    keys = {request_key(*request) for request in changed} | {request_key("http://x", BODY, 0)}
    assert len(keys) == 7


def test_the_key_does_not_follow_the_order_of_fields():
    turned = json.loads(json.dumps(dict(reversed(BODY.items()))))
    assert request_key("http://x", turned, 0) == request_key("http://x", BODY, 0)
