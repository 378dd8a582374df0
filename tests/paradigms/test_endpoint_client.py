import threading
from datetime import UTC, datetime

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.endpoint_cache import AnswerCache
from lit_vlm.paradigms.endpoint_client import ChatRequest, Endpoint, EndpointClient, FailedAnswerError, retry_after
from lit_vlm.paradigms.endpoint_limits import BudgetSpentError, RequestBudget, RequestLimits
from tests.paradigms.endpoint_server import Reply, said, serving

KEY = "sk-very-secret"


class Waits:
    """Stands in for sleeping: notes how long, and lets time pass."""

    def __init__(self):
        self.seconds = []
        self.now = 0.0

    def __call__(self, seconds):
        self.seconds.append(seconds)
        self.now += seconds

    def clock(self):
        return self.now


def request(text="2 + 2?", index=0):
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 50}
    return ChatRequest(body, index, 50)


@pytest.fixture
def client_of():
    """Makes clients that wait by no clock, and closes them."""
    made = []

    def make(url, waits=None, budget=None, cache=None, api_key_variable=None, **options):
        waits = waits or Waits()
        endpoint = Endpoint(url, "m", api_key_variable)
        limits = RequestLimits(**{"timeout_seconds": 5.0, **options})
        made.append(EndpointClient(endpoint, limits, budget or RequestBudget(), cache, clock=waits.clock, sleep=waits))
        return made[-1]

    yield make
    for client in made:
        client.close()


def in_turn(*replies):
    """Gives each reply once, then the last one for ever."""
    left = list(replies)
    return lambda asked: left.pop(0) if len(left) > 1 else left[0]


def test_a_request_goes_out_as_the_protocol_has_it(monkeypatch, client_of):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with serving(in_turn(said("4", tokens=3, prompt_tokens=9))) as server:
        client = client_of(server.url + "/", api_key_variable="TEACHER_KEY")
        assert client.ask(request()).text == "4"
    (asked,) = server.asked
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["Authorization"] == f"Bearer {KEY}"
    assert asked.body == request().body
    assert (client.spending.used.prompt_tokens, client.spending.used.completion_tokens) == (9, 3)


def test_without_a_key_no_header_is_sent(client_of):
    with serving(in_turn(said("4"))) as server:
        client_of(server.url).ask(request())
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize("code", [408, 409, 429, 500, 502, 503, 529])
def test_what_fails_for_the_moment_is_sent_again(code, client_of):
    waits = Waits()
    with serving(in_turn(Reply({"error": {"message": "busy"}}, code), Reply("", code), said("4"))) as server:
        assert client_of(server.url, waits, backoff_seconds=1.0).ask(request()).text == "4"
    assert len(server.asked) == 3
    first, second = waits.seconds
    assert 0.5 <= first <= 1.0
    assert 1.0 <= second <= 2.0


def test_waits_double_up_to_the_longest_and_differ_between_requests(client_of):
    waits = Waits()
    with serving(in_turn(Reply("", 500))) as server:
        client = client_of(server.url, waits, attempts=6, backoff_seconds=1.0, longest_wait_seconds=6.0)
        for text in ("a", "b"):
            with pytest.raises(FailedAnswerError, match="code 500.*6 times"):
                client.ask(request(text))
    assert len(server.asked) == 12
    for waited in (waits.seconds[:5], waits.seconds[5:]):
        assert all(
            low <= wait <= high for wait, low, high in zip(waited, (0.5, 1, 2, 4, 6), (1, 2, 4, 6, 6), strict=True)
        )
    assert waits.seconds[:4] != waits.seconds[5:9]


def test_retry_after_is_honoured_by_every_request(client_of):
    waits = Waits()
    replies = in_turn(Reply("", 429, {"Retry-After": "17"}), said("4"))
    with serving(replies) as server:
        client = client_of(server.url, waits)
        client.ask(request())
        assert waits.now >= 17
        waits.now = 5.0
        client.ask(request("another"))
    assert waits.seconds[-1] == 12.0  # what was left of the 17 seconds


def test_an_excessive_retry_after_is_cut(client_of):
    waits = Waits()
    with serving(in_turn(Reply("", 503, {"Retry-After": "86400"}), said("4"))) as server:
        client_of(server.url, waits, longest_wait_seconds=30.0).ask(request())
    assert waits.now == 30.0


def test_retry_after_reads_seconds_and_dates():
    now = datetime(2025, 1, 1, 12, 0, 0, tzinfo=UTC)
    assert retry_after("Wed, 01 Jan 2025 12:00:09 GMT", lambda: now) == 9.0
    assert retry_after("Wed, 01 Jan 2025 11:00:00 GMT", lambda: now) == 0.0
    assert retry_after("0") == 0.0
    assert [retry_after(value) for value in ("-3", "nan", "inf", "tomorrow", "")] == [0.0, None, None, None, None]


def test_a_dropped_connection_is_tried_again(client_of):
    with serving(in_turn(Reply(drop=True), said("4"))) as server:
        assert client_of(server.url).ask(request()).text == "4"
    assert len(server.asked) == 2


def test_a_slow_answer_is_given_up_and_tried_again(client_of):
    late = threading.Event()
    with serving(in_turn(Reply(hang=late), said("4"))) as server:
        assert client_of(server.url, timeout_seconds=0.2).ask(request()).text == "4"
        late.set()
    assert len(server.asked) == 2


def test_a_server_that_is_not_there_fails_the_request(client_of):
    with serving(in_turn(said("4"))) as server:
        pass
    with pytest.raises(FailedAnswerError, match="no connection.*2 times"):
        client_of(server.url, attempts=2).ask(request())


@pytest.mark.parametrize(
    ("code", "mend"), [(401, "check the key"), (402, "no credit"), (403, "may not use"), (404, "check endpoint.url")]
)
def test_what_no_request_can_mend_ends_at_once(code, mend, client_of):
    waits = Waits()
    reply = Reply({"error": {"message": "the model m does not exist"}}, code)
    told = f"answers {code} .*the model m does not exist; .*{mend}"
    with serving(in_turn(reply)) as server, pytest.raises(UserError, match=told):
        client_of(server.url, waits).ask(request())
    assert len(server.asked) == 1
    assert waits.seconds == []


def test_a_redirect_is_not_followed_with_the_key(monkeypatch, client_of):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    with (
        serving(in_turn(said("4"))) as other,
        serving(in_turn(Reply("", 307, {"Location": other.url}))) as server,
        pytest.raises(UserError, match="moved"),
    ):
        client_of(server.url, api_key_variable="TEACHER_KEY").ask(request())
    assert other.asked == []


@pytest.mark.parametrize("code", [400, 413, 422])
def test_a_request_that_is_refused_fails_alone_and_once(code, client_of):
    with serving(in_turn(Reply({"error": {"message": "too long"}}, code), said("4"))) as server:
        client = client_of(server.url)
        with pytest.raises(FailedAnswerError, match=f"code {code}: too long"):
            client.ask(request())
        assert client.ask(request()).text == "4"
    assert len(server.asked) == 2


def test_garbage_fails_alone_and_counts_as_used(client_of):
    with serving(in_turn(Reply("<html>"), said("4"))) as server:
        client = client_of(server.url)
        with pytest.raises(FailedAnswerError, match="no JSON") as fault:
            client.ask(request())
        assert fault.value.answered
    assert client.spending.used == request().most


def test_bytes_that_cannot_be_unpacked_are_tried_again(client_of):
    with serving(in_turn(Reply(b"no gzip", 200, {"Content-Encoding": "gzip"}), said("4"))) as server:
        assert client_of(server.url).ask(request()).text == "4"


def test_too_many_failures_in_a_row_end_the_run(client_of):
    with serving(in_turn(Reply("", 400), Reply("", 400), said("4"), Reply("out of order", 400))) as server:
        client = client_of(server.url, failures_in_a_row=3)
        for text in "ab":
            with pytest.raises(FailedAnswerError):
                client.ask(request(text))
        client.ask(request("c"))  # begins the count anew
        for text in "de":
            with pytest.raises(FailedAnswerError):
                client.ask(request(text))
        with pytest.raises(UserError, match="no answer to 3 requests one after another.*out of order.*is kept"):
            client.ask(request("f"))


def test_garbage_never_ends_the_run(client_of):
    with serving(in_turn(Reply("garbage"))) as server:
        client = client_of(server.url, failures_in_a_row=1)
        for text in "abcd":
            with pytest.raises(FailedAnswerError):
                client.ask(request(text))


def test_nothing_is_asked_twice_that_is_on_disk(tmp_path, client_of):
    cache = AnswerCache(tmp_path)
    with serving(in_turn(said("first"), said("second"))) as server:
        client = client_of(server.url, cache=cache)
        texts = [client.ask(request(index=index)).text for index in (0, 0, 1)]
        again = client_of(server.url, cache=cache, budget=RequestBudget(requests=0))
        assert again.ask(request()).text == "first"
    assert texts == ["first", "first", "second"]
    assert (len(server.asked), client.from_cache, again.spending.requests) == (2, 1, 0)


def test_what_failed_is_not_kept(tmp_path, client_of):
    with serving(in_turn(Reply("garbage"), said("4"))) as server:
        client = client_of(server.url, cache=AnswerCache(tmp_path))
        with pytest.raises(FailedAnswerError):
            client.ask(request())
        assert client.ask(request()).text == "4"


def test_the_key_is_nowhere_but_in_the_header(tmp_path, monkeypatch, caplog, capsys, client_of):
    monkeypatch.setenv("TEACHER_KEY", KEY)
    caplog.set_level("DEBUG")
    echo = Reply({"error": {"message": f"key {KEY} is over its quota"}}, 400)
    denied = Reply({"error": {"message": f"wrong key {KEY}"}}, 401)
    with serving(in_turn(said("4"), echo, denied)) as server:
        client = client_of(server.url, api_key_variable="TEACHER_KEY", cache=AnswerCache(tmp_path))
        client.ask(request())
        with pytest.raises(FailedAnswerError, match=r"key \*\*\* is over") as failure:
            client.ask(request("other"))
        with pytest.raises(UserError, match=r"wrong key \*\*\*") as fault:
            client.ask(request("third"))
    told = [str(failure.value), str(fault.value), caplog.text, *capsys.readouterr(), repr(client.endpoint)]
    told += [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(told) == 7
    assert not any(KEY in text for text in told)


def test_a_missing_key_is_asked_for_by_name(monkeypatch, client_of):
    monkeypatch.delenv("TEACHER_KEY", raising=False)
    with pytest.raises(UserError, match="TEACHER_KEY is not set"):
        client_of("http://127.0.0.1:1/v1", api_key_variable="TEACHER_KEY")


def test_a_key_in_the_place_of_its_name_is_refused_and_not_repeated():
    with pytest.raises(UserError, match="no name of an environment variable") as fault:
        Endpoint("http://x/v1", "m", api_key_variable=KEY)
    assert KEY not in str(fault.value)


def test_the_budget_of_requests_counts_repeated_ones(client_of):
    replies = in_turn(Reply("", 500), Reply("", 500), said("4"))
    with serving(replies) as server, pytest.raises(BudgetSpentError, match="2 requests of 2"):
        client_of(server.url, budget=RequestBudget(requests=2)).ask(request())
    assert len(server.asked) == 2


def test_the_pace_of_tokens_follows_what_was_used(client_of):
    waits = Waits()
    with serving(in_turn(said("4", tokens=1, prompt_tokens=1))) as server:
        client = client_of(server.url, waits, tokens_per_minute=60)
        client.ask(request())  # 2 tokens, where 52 were feared
        client.ask(request("another"))
    assert waits.seconds == [2.0]


def test_closing_ends_a_wait():
    with serving(in_turn(Reply("", 500))) as server:
        client = EndpointClient(Endpoint(server.url, "m"), RequestLimits(backoff_seconds=60.0))
        thread = threading.Thread(target=lambda: pytest.raises(FailedAnswerError, client.ask, request()), daemon=True)
        thread.start()
        while not server.asked:
            pass
        client.close()
        thread.join(10)
        assert not thread.is_alive()


def test_a_prompt_is_estimated_by_its_characters_and_pictures():
    content = [{"type": "text", "text": "x" * 10}, {"type": "image_url", "image_url": {"url": "data:" + "x" * 10**5}}]
    use = ChatRequest({"messages": [{"role": "user", "content": content}]}, 0, 50).most
    assert (use.prompt_tokens, use.completion_tokens) == (3 + 1000, 50)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"url": "localhost:8000"}, "endpoint.url"),
        ({"url": "file:///etc/passwd"}, "endpoint.url"),
        ({"url": "http://user:password@host/v1"}, "endpoint.url"),
        ({"url": "http://host/v1?key=1"}, "endpoint.url"),
        ({"model": " "}, "endpoint.model"),
    ],
)
def test_settings_out_of_range_are_refused(options, told):
    with pytest.raises(UserError, match=told) as fault:
        Endpoint(**{"url": "http://host/v1", "model": "m", **options})
    assert "password" not in str(fault.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"attempts": 0}, "limits.attempts"),
        ({"concurrency": 0}, "limits.concurrency"),
        ({"timeout_seconds": 0}, "limits.timeout_seconds"),
        ({"requests_per_minute": -1}, "limits.requests_per_minute"),
        ({"tokens_per_minute": float("nan")}, "limits.tokens_per_minute"),
        ({"backoff_seconds": -1}, "limits.backoff_seconds"),
        ({"failures_in_a_row": 0}, "limits.failures_in_a_row"),
    ],
)
def test_limits_out_of_range_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        RequestLimits(**options)
