import re

import pytest

from lit_vlm.callbacks.rollout_page_assets import INDEX_STYLE, SCRIPT, STYLE


@pytest.mark.parametrize("text", [STYLE, INDEX_STYLE, SCRIPT])
def test_nothing_is_fetched(text):
    assert not re.search(r"https?:|url\(|@import|fetch\(|XMLHttpRequest|WebSocket|\bimport\b", text)


def test_the_script_writes_text_and_never_markup():
    assert not re.search(r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|new Function", SCRIPT)


@pytest.mark.parametrize("text", [STYLE, INDEX_STYLE, SCRIPT])
def test_brackets_are_balanced(text):
    for opening, closing in ("{}", "()", "[]"):
        assert text.count(opening) == text.count(closing)
