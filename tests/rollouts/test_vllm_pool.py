import logging
import threading

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.rollouts.vllm_client import ServerLostError, ServerState
from lit_vlm.rollouts.vllm_pool import VLLMPool


class Client:
    """A server that fails when it is told to, and notes what it was asked."""

    def __init__(self, address, fails_after=None):
        self.address, self.fails_after = address, fails_after
        self.asked, self.most, self.now = [], 0, 0
        self.lock, self.gate = threading.Lock(), None

    def generate(self, request, seconds):
        with self.lock:
            self.asked.append(request)
            self.now += 1
            self.most = max(self.most, self.now)
            is_lost = self.fails_after is not None and len(self.asked) > self.fails_after
        if self.gate is not None:
            self.gate.wait(5)
        with self.lock:
            self.now -= 1
        if is_lost:
            raise ServerLostError(self.address, "gone")
        if request.get("bad"):
            raise UserError("refused")
        return {"by": self.address, "request": request}

    def state(self):
        if self.fails_after is not None:
            raise ServerLostError(self.address, "gone")
        return ServerState("m", "float32", 64, 0, None, "0")


def test_prompts_go_where_the_fewest_wait():
    first, second = Client("a"), Client("b")
    first.gate = second.gate = threading.Barrier(8)
    answers = VLLMPool([first, second], 5).generate([{"number": number} for number in range(8)])
    assert [answer["request"]["number"] for answer in answers] == list(range(8))
    assert first.most == second.most == 4


def test_what_a_lost_server_had_goes_to_the_others_unchanged(caplog):
    first, second = Client("a", fails_after=2), Client("b")
    requests = [{"number": number, "seeds": [number]} for number in range(10)]
    pool = VLLMPool([first, second], 5)
    with caplog.at_level(logging.WARNING):
        answers = pool.generate(requests)
    assert [answer["request"] for answer in answers] == requests
    assert sum(answer["by"] == "a" for answer in answers) <= 2
    assert len([record for record in caplog.records if "1 others go on" in record.getMessage()]) == 1
    asked = len(first.asked)
    pool.generate(requests)
    assert len(first.asked) == asked, "a lost server is not asked again"
    first.fails_after = None
    assert set(pool.states()) == {"a", "b"}
    assert pool.lost == {}


def test_without_any_server_left_each_is_named_with_its_reason():
    pool = VLLMPool([Client("http://a:1", fails_after=0), Client("http://b:2", fails_after=0)], 5)
    with pytest.raises(UserError, match=r"no vLLM server is left \(http://.:.: gone; http://.:.: gone\)"):
        pool.generate([{"number": 1}])
    with pytest.raises(UserError, match="no vLLM server is left"):
        pool.states()


def test_a_request_that_is_refused_is_not_tried_elsewhere():
    first, second = Client("a"), Client("b")
    with pytest.raises(UserError, match="refused"):
        VLLMPool([first, second], 5).generate([{"bad": True}])
    assert len(first.asked) + len(second.asked) == 1


def test_no_prompts_ask_nobody():
    client = Client("a", fails_after=0)
    assert VLLMPool([client], 5).generate([]) == []


def test_those_that_did_what_all_were_told_are_named():
    def work(client):
        if client.address == "a":
            raise ServerLostError("a", "full")

    pool = VLLMPool([Client("a"), Client("b"), Client("c")], 5)
    assert pool.tell(work, ["a", "b"]) == ["b"]
    assert pool.lost == {"a": "full"}
    pool.forget_losses()
    assert pool.lost == {}
