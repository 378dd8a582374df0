from collections import Counter
from html.parser import HTMLParser

import pytest
from PIL import Image

from lit_vlm.command_line.data_figures import BadRow, SplitFigures
from lit_vlm.command_line.data_page import html_page
from lit_vlm.command_line.data_report import DataReport, SampleView
from lit_vlm.command_line.token_view import TokenRun
from lit_vlm.interfaces.records import MediaRef, Sample, SampleMeta

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;"


class Page(HTMLParser):
    """Collects elements, and the tokens with their classes."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.tokens = []
        self.text = ""
        self.inside = False
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if "token" in attributes.get("class", "").split():
            self.tokens.append([set(attributes["class"].split()), int(attributes["data-id"]), ""])
        self.inside = "token" in attributes.get("class", "").split()

    def handle_endtag(self, tag):
        self.inside = False

    def handle_data(self, data):
        self.text += data
        if self.inside:
            self.tokens[-1][2] += data

    def tags(self, name):
        return [attributes for tag, attributes in self.elements if tag == name]


@pytest.fixture
def report():
    figures = SplitFigures(
        "train",
        max_tokens=100,
        total=3,
        looked_at=3,
        usable=[0],
        bad=[BadRow("train", 1, HOSTILE, HOSTILE)],
        tasks=Counter({HOSTILE: 2}),
        without_answer=2,
        row_tokens=[40, 100, 300],
        text_tokens=[40, 84, 284],
        image_tokens=[0, 16, 16],
        trained_tokens=[10],
        beyond_limit=1,
        refused=1,
    )
    runs = (
        TokenRun("<|im_start|>", 3, 1, False, "special"),
        TokenRun("<|image_pad|>", 5, 16, False, "media"),
        TokenRun(HOSTILE, 70, 1, False, "text"),
        TokenRun(" a\n", 71, 1, True, "text"),
        TokenRun("<|im_end|>", 2, 1, True, "special"),
    )
    images = (MediaRef(pil=Image.new("RGB", (20, 20), "red")),)
    sample = Sample(HOSTILE, (), images=images, meta=SampleMeta(category=HOSTILE))
    return DataReport(
        recipe=HOSTILE,
        data="Rows",
        checkpoint=HOSTILE,
        max_tokens=100,
        policy="error",
        splits=(figures,),
        absent={"test": HOSTILE},
        overlaps={},
        shared_images={},
        cards={},
        views=(SampleView("train", 0, sample, runs),),
    )


def test_tokens_stand_in_order_with_their_mask(report):
    assert Page(html_page(report)).tokens == [
        [{"token", "masked", "special"}, 3, "<|im_start|>"],
        [{"token", "masked", "media"}, 5, "<|image_pad|> x 16"],
        [{"token", "masked", "text"}, 70, HOSTILE.replace(" ", "·")],
        [{"token", "trained", "text"}, 71, "·a↵\n"],
        [{"token", "trained", "special"}, 2, "<|im_end|>"],
    ]


def test_nothing_of_the_data_becomes_markup(report):
    page = Page(html_page(report))
    assert not page.tags("script")
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert page.text.count(HOSTILE) >= 8  # title, heading, summary, task, origin, reason, absent split, sample
    assert {tag for tag, _ in page.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "h3", "p", "div", "span", "img"),
        *("table", "tr", "th", "td", "ul", "ol", "li"),
    }


def test_the_page_needs_nothing_from_outside(report):
    page = Page(html_page(report))
    (picture,) = page.tags("img")
    assert picture["src"].startswith("data:image/png;base64,")
    assert not [attributes for _, attributes in page.elements if "href" in attributes]
    assert "default-src 'none'" in page.tags("meta")[1]["content"]
    style = html_page(report).partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style


def test_figures_and_the_limit_are_shown(report):
    page = Page(html_page(report))
    assert "1 left out as bad" in page.text
    rows = [attributes.get("class") for attributes in page.tags("tr")]
    assert rows.count("limit") == 1
    assert rows.count("beyond") >= 1
    assert "limit 100" in page.text
    assert "Bad samples: 1" in page.text


def test_every_element_is_closed(report):
    class Balanced(HTMLParser):
        opened: list = []

        def handle_starttag(self, tag, attributes):
            if tag not in ("meta", "img"):
                self.opened.append(tag)

        def handle_endtag(self, tag):
            assert self.opened.pop() == tag

    parser = Balanced()
    parser.feed(html_page(report))
    parser.close()
    assert parser.opened == []
