from lit_vlm.functional.visible_text import printable_text, readable_text, visible_text

HOSTILE = "\x1b[2J\x07\x9b\u202e\u200b\ud800\r"


def test_what_cannot_be_printed_does_nothing():
    for text in (visible_text(HOSTILE), printable_text(HOSTILE), readable_text(HOSTILE, 100)):
        assert text.isprintable()
        assert "\\x1b[2J" in text
        assert "\\u202e" in text
    assert printable_text("[red]x[/red]\n y") == "[red]x[/red] y"


def test_white_space_is_seen():
    assert visible_text("a b\tc\nd") == "a·b→c↵\nd"
    assert visible_text("a b\tc\nd", space=" ") == "a b→c↵\nd"


def test_a_long_text_keeps_its_beginning_and_says_how_much_is_missing():
    assert readable_text("a\n b", 4) == "a\n b"
    assert readable_text("x" * 12_345, 345) == "x" * 345 + "… (12,000 more characters)"
