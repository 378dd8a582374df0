"""The pages of completions in a real browser: what runs, what is asked of the network, what a person sees."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lit_vlm.callbacks.rollout_page import NEXT_PAGE, link_next, page_entry, rollout_index, rollout_page
from lit_vlm.callbacks.rollout_views import round_view
from lit_vlm.functional.html_document import html_document

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PROGRAM = next((found for name in BROWSERS if (found := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason=f"no Chromium is installed (looked for {', '.join(BROWSERS)}); apt-get install chromium"
)
# Hands the browser the two ends of the pipes as its descriptors 3 and 4, where it expects them.
START = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)
HOSTILE = "</script><img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
BIDI = "\u202etxet desrever\u2066\u200b"


class Browser:
    """A headless Chromium, spoken to over pipes in its own protocol."""

    def __init__(self, folder: Path) -> None:
        ends = [end for _ in range(2) for end in os.pipe()]
        # Numbers above those that the browser gets them by.
        theirs_in, self._out, self._in, theirs_out = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends)
        for end in ends:
            os.close(end)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--disable-dev-shm-usage"]
        self._process = subprocess.Popen(
            [sys.executable, "-c", START, str(theirs_in), str(theirs_out), str(PROGRAM), *options]
            + [f"--user-data-dir={folder}", "about:blank"],
            pass_fds=(theirs_in, theirs_out, 3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Sends a command and waits for its answer; events that come before it are kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + 30
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0, end - time.monotonic()))
            assert ready, "the browser says nothing"
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has gone"
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(message)

    def open(self, path: Path) -> None:
        """Loads a page, from an empty record of events."""
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self._await_load()

    def follow(self, name: str) -> None:
        """Clicks a link by its id and waits for the page that it leads to."""
        self.events.clear()
        self.evaluate(f"document.getElementById({json.dumps(name)}).click()")
        self._await_load()

    def _await_load(self) -> None:
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        """Runs a script in the page and returns its value."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def faults(self) -> list[str]:
        """Lists what was written to the console, thrown, or refused since the page was opened."""
        self.evaluate("new Promise((done) => setTimeout(done, 50))")
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in kinds]

    def addresses(self) -> list[str]:
        """Lists what was asked for since the page was opened."""
        asked = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in asked]

    def choose(self, name: str, value: str) -> None:
        """Sets a field as a person would."""
        event = "change" if name in ("colour", "sort", "prompts") else "input"
        self.evaluate(
            f"(() => {{ const field = document.getElementById('{name}'); field.value = {json.dumps(value)};"
            f" field.dispatchEvent(new Event('{event}')); }})()"
        )

    def point(self, selector: str) -> None:
        """Moves the mouse onto the first element that fits."""
        element = f"document.querySelector({json.dumps(selector)})"
        self.evaluate(
            f"{element}.scrollIntoView({{ block: 'center' }});"
            " new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )
        box = self.evaluate(
            f"(({{ left, top, width, height }}) => [left + width / 2, top + height / 2])({element}.getClientRects()[0])"
        )
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=1, y=1)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=box[0], y=box[1])

    def screenshot(self, path: Path, *, dark: bool = False, width: int = 1280, height: int = 900) -> None:
        """Takes a picture of the window."""
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        """Ends the browser."""
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture
def write(tmp_path):
    """Writes a page, and returns its path."""

    def write_text(text, name="page.html"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_text


@pytest.fixture
def page(rounds, write):
    """A page of two prompts with rewards out of order, one completion unscored."""
    groups = [
        [
            (["see ", "3"], 0.0),
            (["it ", "is ", "7"], 1.0),
            (["no", " idea", " at", " all"], float("nan")),
            (["7"], 0.5),
        ],
        [(["a", "b"], 1.0), (["c"], 1.0), (["d"], 0.25), (["e", "f", "g"], 1.0)],
    ]
    return write(rollout_page(round_view(rounds.make(groups), rounds.encoder, 8)))


COLOURS = "[...document.querySelectorAll('.tokens > i')].map((token) => getComputedStyle(token).backgroundColor)"
ORDER = "[...document.querySelectorAll('.prompt')].map((p) => [...p.querySelectorAll('.completion:not([hidden])')]"
REWARDS = f"{ORDER}.map((card) => card.dataset.reward))"


def test_the_record_sees_faults_and_requests(browser, write):
    browser.open(write("<img src='http://127.0.0.1:9/x.png'><script>console.error('told'); gone()</script>"))
    faults = "\n".join(browser.faults())
    assert "told" in faults
    assert "gone is not defined" in faults
    assert "http://127.0.0.1:9/x.png" in browser.addresses()


def test_the_policy_of_a_page_keeps_markup_from_running_and_from_the_network(browser, write):
    script = "document.body.dataset.ran = 'ours'"
    hostile = (
        f"<img src='http://127.0.0.1:9/x.png'><p onclick='0'>{HOSTILE}</p><img src='y' onerror='document.title=1'>"
    )
    browser.open(write(html_document("title", [hostile], "", script)))
    assert browser.evaluate("[document.body.dataset.ran, document.title]") == ["ours", "title"]
    assert "Content Security Policy" in "\n".join(browser.faults())


def test_a_page_runs_without_fault_and_asks_for_nothing(browser, page):
    browser.open(page)
    assert browser.evaluate("document.getElementById('count').textContent") == "8 of 8 completions"
    for name in ("entropy", "log_ratio", "kl", "advantage", ""):
        browser.choose("colour", name)
    assert browser.faults() == []
    asked = [address for address in browser.addresses() if not address.startswith("data:image/png")]
    assert asked == [page.as_uri()]
    assert browser.evaluate("[...document.images].every((image) => image.naturalWidth === 16)")


def test_another_colouring_changes_the_tokens_and_the_legend(browser, page):
    browser.open(page)
    seen = {}
    for name in ("entropy", "log_ratio", "kl", "advantage"):
        browser.choose("colour", name)
        seen[name] = browser.evaluate(COLOURS)
        assert not browser.evaluate("document.getElementById('legend').hidden")
    assert len({tuple(colours) for colours in seen.values()}) == 4
    # Rises along the page by the making of the round, the strongest at its end.
    assert len(set(seen["entropy"])) > 10
    browser.choose("colour", "advantage")
    signs = browser.evaluate(
        "[...document.querySelectorAll('.tokens')].map((tokens) => tokens.firstChild.classList.contains('below'))"
    )
    assert signs == [True, False, False, False, False, False, True, False]
    assert browser.evaluate("document.getElementById('low').textContent") == "−0.5"
    browser.choose("colour", "")
    assert set(browser.evaluate(COLOURS)) == {"rgba(224, 122, 30, 0)"}
    assert browser.evaluate("document.getElementById('legend').hidden")


def test_completions_and_prompts_are_sorted_with_unscored_ones_last(browser, page):
    browser.open(page)
    assert browser.evaluate(REWARDS) == [["0", "1", "", "0.5"], ["1", "1", "0.25", "1"]]
    browser.choose("sort", "reward-down")
    assert browser.evaluate(REWARDS) == [["1", "0.5", "0", ""], ["1", "1", "1", "0.25"]]
    browser.choose("sort", "reward-up")
    assert browser.evaluate(REWARDS) == [["0", "0.5", "1", ""], ["0.25", "1", "1", "1"]]
    browser.choose("sort", "length-down")
    lengths = browser.evaluate(f"{ORDER}.map((card) => card.dataset.length))")
    assert lengths == [["5", "4", "3", "2"], ["4", "3", "2", "2"]]
    browser.choose("sort", "index")
    browser.choose("prompts", "mean-down")
    assert browser.evaluate(REWARDS) == [["1", "1", "0.25", "1"], ["0", "1", "", "0.5"]]
    browser.choose("prompts", "spread-down")
    assert browser.evaluate(REWARDS)[0] == ["0", "1", "", "0.5"]


def test_completions_are_filtered_by_reward_and_verdict(browser, page):
    browser.open(page)
    browser.choose("least", "0.3")
    assert browser.evaluate(REWARDS) == [["1", "0.5"], ["1", "1", "1"]]
    assert browser.evaluate("document.getElementById('count').textContent") == "5 of 8 completions"
    browser.choose("most", "0.9")
    assert browser.evaluate(REWARDS) == [["0.5"], []]
    assert browser.evaluate("document.querySelectorAll('.prompt:not([hidden])').length") == 1
    browser.choose("most", "0.4")
    assert browser.evaluate("!document.getElementById('nothing').hidden")
    browser.choose("least", "")
    browser.choose("most", "")
    browser.choose("show", "right")
    assert browser.evaluate(REWARDS) == [["1"], ["1", "1", "1"]]


def test_a_token_tells_its_numbers_where_it_is_pointed_at(browser, page):
    browser.open(page)
    assert browser.evaluate("document.getElementById('tip').hidden")
    browser.point(".completion[data-index='1'] .tokens > i:nth-child(3)")
    told = browser.evaluate("document.getElementById('tip').textContent")
    # Completion 2 of prompt 1 is the second of eight rows of five places: its third token is number 8 of 40.
    assert told.splitlines()[0] == "“7”"
    assert told.splitlines()[1].startswith("token 3, id ")
    assert "entropy: 0.4" in told
    assert "log-ratio: 0.25" in told
    assert "advantage: 0.5" in told
    assert "log-probability when sampled: −0.2" in told
    assert not browser.evaluate("document.getElementById('tip').hidden")


def test_hostile_text_is_shown_as_text_and_runs_nothing(browser, rounds, write, make_completion):
    words = [HOSTILE, BIDI, "x" * 10_000, "<!--", "]]>", "&lt;", "\x00\x1b[31m", "\ud800"]
    sample = make_completion(0, text=HOSTILE).sample
    sample = type(sample)(
        HOSTILE, (type(sample.messages[0])("user", (type(sample.messages[0].content[1])(HOSTILE + BIDI),)),),
        answer=type(sample.answer)("text", HOSTILE), meta=type(sample.meta)(source=HOSTILE, category=BIDI),
    )  # fmt: skip
    iteration = rounds.make([[(words, 1.0)]], [sample])
    iteration.rewards.names = (HOSTILE, BIDI)
    iteration.rewards.details = {HOSTILE: iteration.rewards.total}
    iteration.figures = {HOSTILE: 1.0}
    browser.open(write(rollout_page(round_view(iteration, rounds.encoder, 8))))
    assert browser.faults() == []
    assert browser.evaluate("document.title") == "Completions at step 0"
    assert browser.evaluate("[document.images.length, document.scripts.length]") == [0, 2]
    shown = browser.evaluate("[...document.querySelectorAll('.tokens > i')].map((token) => token.textContent)")
    assert shown[0] == HOSTILE
    assert shown[1] == "\\u202etxet desrever\\u2066\\u200b"
    assert shown[2] == "x" * 10_000
    assert shown[3:8] == ["<!--", "]]>", "&lt;", "\\x00\\x1b[31m", "\\ud800"]
    assert not browser.evaluate(f"/[{BIDI[0]}{BIDI[-2:]}]/.test(document.documentElement.outerHTML)")
    assert browser.evaluate("document.querySelector('h2').textContent").startswith(HOSTILE)
    # Nothing makes the page wider than the window.
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    browser.point(".tokens > i:nth-child(3)")
    assert len(browser.evaluate("document.getElementById('tip').textContent")) < 500


def test_choices_go_along_to_the_next_page(browser, rounds, write):
    groups = [[(["a"], 1.0), (["b"], 0.0)]]
    first = rollout_page(round_view(rounds.make(groups), rounds.encoder, 8))
    second_view = round_view(rounds.make(groups, step=50), rounds.encoder, 8)
    assert NEXT_PAGE in first
    path = write(link_next(first, "second.html"), "first.html")
    write(rollout_page(second_view, "first.html"), "second.html")
    write(rollout_index([page_entry(second_view, "second.html")]), "index.html")
    browser.open(path)
    browser.choose("colour", "advantage")
    browser.choose("sort", "reward-up")
    browser.follow("next")
    assert browser.evaluate("location.pathname.split('/').pop()") == "second.html"
    assert browser.evaluate("['colour', 'sort'].map((name) => document.getElementById(name).value)") == [
        "advantage",
        "reward-up",
    ]
    assert browser.evaluate(REWARDS) == [["0", "1"]]
    assert browser.faults() == []
    browser.open(path.with_name("index.html"))
    assert browser.evaluate("[...document.links].map((link) => link.textContent)") == ["step 50"]
    assert browser.faults() == []


def test_a_round_without_completions_is_a_page_too(browser, rounds, write):
    iteration = rounds.without(rounds.make([[(["a"], 1.0)]]), "rollouts", "rewards", "advantages", "log_probs")
    browser.open(write(rollout_page(round_view(iteration, rounds.encoder, 8))))
    assert browser.faults() == []
    assert "no completion" in browser.evaluate("document.body.textContent")


def test_both_colour_schemes_are_readable(browser, page, tmp_path):
    browser.open(page)
    pictures = []
    for dark in (False, True):
        browser.screenshot(tmp_path / f"{dark}.png", dark=dark)
        pictures.append((tmp_path / f"{dark}.png").read_bytes())
        ink, paper = browser.evaluate(
            "(() => { const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
            ".map((colour) => colour.match(/\\d+/g).map(Number).reduce((a, b) => a + b) / 3); })()"
        )
        assert (ink > paper + 150) if dark else (paper > ink + 150)
    assert pictures[0] != pictures[1]
