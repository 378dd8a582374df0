"""An HTML page that needs no other file and no network."""

import base64
import hashlib
from collections.abc import Iterable
from html import escape

from lit_vlm.functional.visible_text import printable_text

STYLE = """
:root { color-scheme: light dark; --ink: #1c2128; --paper: #fff; --muted: #65707c; --line: #d5dae0; --bad: #c4202c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --paper: #15191e; --muted: #98a2ad; --line: #39414a;
  --bad: #ff7a82; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); overflow-wrap: anywhere; }
"""


def html_document(title: str, body: Iterable[str], style: str, script: str = "") -> str:
    """Writes a page around its body, with a Content-Security-Policy that forbids all but what stands in it.

    Nothing is fetched, and no script runs but the one given here, whatever the body holds.

    Args:
        title: Plain text.
        body: Markup; whatever in it is not ours must be escaped.
        style: CSS, after the style that all pages share.
        script: JavaScript that runs after the body; empty for none.

    Raises:
        ValueError: The style or the script would end its own element.
    """
    for name, text in (("style", style), ("script", script)):
        if f"</{name}" in text.lower():
            raise ValueError(f"the {name} of a page holds its own end tag")
    policy = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
        policy += f"; script-src 'sha256-{digest}'"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html_line(title)}</title><style>{STYLE}{style}</style></head><body>",
        *body,
        *([f"<script>{script}</script>"] if script else []),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def html_line(text: str) -> str:
    r"""Writes any text as one line of a page, in an element or an attribute.

    Example:
        >>> html_line('<b>\u202e"x"')
        '&lt;b&gt;\\u202e&quot;x&quot;'
    """
    return escape(printable_text(text))
