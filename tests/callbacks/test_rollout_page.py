import json
import math
import re
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from lit_vlm.callbacks.rollout_page import END, NO_TEXT, PageEntry, link_next, page_entry, rollout_index, rollout_page
from lit_vlm.callbacks.rollout_views import round_view
from lit_vlm.interfaces.records import Answer, MediaRef, Sample, SampleMeta, VideoRef, user_message

HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\u202e"


class Page(HTMLParser):
    """Collects elements with their attributes and texts, and checks that each is closed."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.opened = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.opened == []

    def handle_starttag(self, tag, attributes):
        self.elements.append([tag, dict(attributes), ""])
        if tag not in ("meta", "img", "input"):
            self.opened.append(self.elements[-1])

    def handle_endtag(self, tag):
        assert self.opened.pop()[0] == tag

    def handle_data(self, data):
        self.text += data
        if self.opened:
            self.opened[-1][2] += data

    def all(self, tag, name=""):
        return [
            (attributes, text)
            for kind, attributes, text in self.elements
            if kind == tag and (not name or name in attributes.get("class", "").split())
        ]


def page_of(rounds, iteration, **options):
    return rollout_page(round_view(iteration, rounds.encoder, 8), **options)


@pytest.fixture
def small(rounds):
    return rounds.make([[(["see ", "7"], 1.0), (["x\n", "3"], 0.0), (["?"], math.nan)]], step=50)


def test_tokens_stand_in_order_and_what_has_no_text_is_marked(rounds, small):
    page = Page(page_of(rounds, small))
    assert [text for _, text in page.all("i")] == ["see ", "7", END, "x↵\n", "3", END, "?", END]
    small.rollouts.is_truncated[:] = True
    assert [text for _, text in Page(page_of(rounds, small)).all("i", "silent")] == [NO_TEXT] * 3


def test_cards_carry_what_is_sorted_and_filtered_by(rounds, small):
    small.rollouts.is_truncated[1] = True
    cards = [attributes for attributes, _ in Page(page_of(rounds, small)).all("article")]
    assert [card["data-reward"] for card in cards] == ["1", "0", ""]
    assert [card["data-length"] for card in cards] == ["3", "3", "2"]
    assert [card["data-truncated"] for card in cards] == ["0", "1", "0"]
    assert [card["data-verdict"] for card in cards] == ["right", "wrong", "wrong"]


def test_rewards_advantages_and_answers_are_told(rounds, small):
    page = Page(page_of(rounds, small))
    told = " ".join(page.text.split())
    for words in ("exact_match1× 1", "length–× 0.5", "length/over2", "+0.5", "−0.5", "no reward", "right answer 7"):
        assert words in told
    assert "3 completions · 1 right · mean reward 0.5 ± 0.5" in told
    assert "Completions at step 50" in told


def test_the_numbers_of_the_script_are_those_of_the_tokens(rounds, small):
    page = Page(page_of(rounds, small))
    (numbers,) = [json.loads(text) for attributes, text in page.all("script") if attributes.get("id") == "numbers"]
    assert len(numbers["completions"]) == 3
    for card, (attributes, _) in zip(numbers["completions"], page.all("article"), strict=True):
        assert {len(values) for values in card.values()} == {int(attributes["data-length"])}
    assert set(numbers["scales"]) == {"entropy", "log_ratio", "kl", "advantage"}
    assert [numbers["scales"][name]["signed"] for name in ("entropy", "advantage")] == [False, True]
    options = [attributes["value"] for attributes, _ in page.all("option")]
    assert options[:5] == ["entropy", "log_ratio", "kl", "advantage", ""]


def test_only_known_numbers_can_be_coloured_by(rounds, small):
    page = Page(page_of(rounds, rounds.without(small, "entropies", "log_probs", "advantages", "rewards")))
    assert [attributes["value"] for attributes, _ in page.all("option")][:2] == ["kl", ""]


def test_numbers_that_are_none_become_null(rounds, small):
    small.rollouts.entropies[0, :2] = torch.tensor([math.nan, math.inf])
    (numbers,) = re.findall(r'id="numbers">(.*)</script>', page_of(rounds, small))
    assert json.loads(numbers)["completions"][0]["entropy"][:2] == [None, None]


def test_nothing_that_was_written_becomes_markup(rounds):
    sample = Sample(
        HOSTILE, (user_message(HOSTILE),), answer=Answer("text", HOSTILE), meta=SampleMeta(HOSTILE, category=HOSTILE)
    )
    iteration = rounds.make([[([HOSTILE, HOSTILE], 1.0)]], [sample])
    iteration.rewards.names = (HOSTILE, HOSTILE)
    iteration.rewards.details = {HOSTILE: iteration.rewards.total}
    iteration.figures = {HOSTILE: 1.0}
    plain, hostile = (
        Page(page_of(rounds, rounds.make([[(["a", "b"], 1.0)]], [Sample("s", (user_message("q"),))]))),
        None,
    )
    hostile = Page(page_of(rounds, iteration))
    assert {tag for tag, _, _ in hostile.elements} <= {tag for tag, _, _ in plain.elements} | {"b", "tr", "th", "td"}
    assert len(hostile.all("script")) == 2
    assert not [name for _, attributes, _ in hostile.elements for name in attributes if name.startswith("on")]
    assert not hostile.all("img")
    assert "\u202e" not in hostile.text
    assert hostile.text.count("onerror=alert(1)") >= 8


def test_half_characters_can_be_written(rounds):
    page_of(rounds, rounds.make([[(["\ud800"], 1.0)]])).encode()


def test_long_texts_are_cut(rounds):
    sample = Sample("s", (user_message("q" * 1_000_000),))
    page = page_of(rounds, rounds.make([[(["x" * 10_000, "y" * 1_000_000], 1.0)]], [sample]))
    assert "x" * 10_000 in page
    assert "(980,000 more characters)" in page
    assert len(page) < 150_000


def test_pictures_and_frames_stand_in_the_page(rounds):
    picture = MediaRef(pil=Image.new("RGB", (64, 64), "red"))
    video = VideoRef(frames=(picture,) * 9)
    samples = [
        Sample("two", (user_message("q", images=2),), images=(picture, picture)),
        Sample("text", (user_message("q"),)),
        Sample("video", (user_message("q"),), videos=(video,)),
    ]
    page = Page(page_of(rounds, rounds.make([[(["a"], 1.0)]] * 3, samples)))
    sources = [attributes["src"] for attributes, _ in page.all("img")]
    assert len(sources) == 2 + 0 + 4
    assert all(source.startswith("data:image/png;base64,") for source in sources)


def test_answers_that_only_a_judge_can_decide_are_shown_as_they_are(rounds):
    answers = [Answer("open", "a warm scene"), Answer("open", None)]
    samples = [Sample(str(index), (user_message("q"),), answer=answer) for index, answer in enumerate(answers)]
    iteration = rounds.make([[(["a"], 1.0)]] * 2, samples)
    iteration.rollouts.completions = tuple(
        type(item)(item.sample, item.prompt, item.text, None) for item in iteration.rollouts.completions
    )
    page = Page(page_of(rounds, iteration))
    assert [text for _, text in page.all("b")] == ["a warm scene"]
    assert {attributes["data-verdict"] for attributes, _ in page.all("article")} == {"unjudged"}


def test_pages_are_linked_both_ways(rounds, small):
    first, second = page_of(rounds, small), page_of(rounds, small, previous="first.html")
    assert [attributes["href"] for attributes, _ in Page(first).all("a")] == ["index.html"]
    assert [attributes["href"] for attributes, _ in Page(second).all("a")] == ["first.html", "index.html"]
    linked = link_next(first, "second.html")
    assert [attributes["href"] for attributes, _ in Page(linked).all("a")] == ["index.html", "second.html"]
    assert link_next(linked, "third.html") == linked


def test_a_round_without_completions_says_so(rounds, small):
    page = Page(page_of(rounds, rounds.without(small, "rollouts", "rewards", "advantages", "log_probs")))
    assert "There is no completion in this round to show." in page.text
    assert not page.all("select")


def test_the_index_lists_the_latest_first(rounds, small):
    entry = page_entry(round_view(small, rounds.encoder, 8), "step_000050.html")
    assert entry == PageEntry(50, "step_000050.html", 1, 3, {"reward/mean": 0.5, "kl": 0.01})
    page = Page(rollout_index([PageEntry(0, "step_000000.html", 1, 2, {"entropy": 1.25}), entry]))
    assert [(attributes["href"], text) for attributes, text in page.all("a")] == [
        ("step_000050.html", "step 50"),
        ("step_000000.html", "step 0"),
    ]
    assert [text for _, text in page.all("th")] == ["page", "prompts", "completions", "mean reward", "KL", "entropy"]
    assert not page.all("script")


def test_a_usual_page_is_small_and_soon_written(rounds):
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (8, 64, 64, 3), generator=generator, dtype=torch.uint8)
    samples = [
        Sample(str(index), (user_message("q", images=1),), images=(MediaRef(pil=Image.fromarray(picture.numpy())),))
        for index, picture in enumerate(noise)
    ]
    group = [([f" word{index}" for index in range(63)], 1.0)] * 8
    iteration = rounds.make([group] * 8, samples)
    page = page_of(rounds, iteration)
    assert len(page.encode()) < 1_000_000
