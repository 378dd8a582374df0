import base64
import hashlib
import re
from html import unescape

import pytest

from lit_vlm.functional.html_document import html_document, html_line

HOSTILE = "</title><script>alert(1)</script>\"'\u202e"


def policy_of(page):
    (content,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    return dict(rule.strip().partition(" ")[::2] for rule in unescape(content).split(";"))


def test_a_page_without_a_script_runs_none_and_fetches_nothing():
    page = html_document("t", ["<p>text</p>"], "p { margin: 0 }")
    assert policy_of(page) == {
        "default-src": "'none'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "img-src": "data:",
        "style-src": "'unsafe-inline'",
    }
    assert "<script" not in page
    assert page.index("p { margin: 0 }") < page.index("<body>") < page.index("<p>text</p>")


def test_only_the_given_script_may_run():
    script = '"use strict"; document.title = "<b>ä";'
    page = html_document("t", [], "", script)
    (inside,) = re.findall(r"<script>(.*)</script>", page)
    digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
    assert policy_of(page)["script-src"] == f"'sha256-{digest}'"


def test_a_title_is_only_text():
    page = html_document(HOSTILE, [], "")
    assert "<script" not in page
    assert "\\u202e" in page
    assert unescape(html_line(HOSTILE)) == HOSTILE.replace("\u202e", "\\u202e")


def test_a_style_or_script_that_ends_itself_is_refused():
    with pytest.raises(ValueError, match="the style of a page holds its own end tag"):
        html_document("t", [], "</STYLE><p>")
    with pytest.raises(ValueError, match="the script of a page holds its own end tag"):
        html_document("t", [], "", "'</script>'")
