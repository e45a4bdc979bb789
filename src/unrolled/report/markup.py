"""Text as HTML that cannot be anything but text."""

from __future__ import annotations

import html
import json
import re
from typing import Final

_CONTROLS: Final = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"}
"""Control characters are not allowed in HTML; Unicode has a picture of each."""


def escaped(text: str) -> str:
    """A text for the inside of an element or of a quoted attribute."""
    return html.escape(text.translate(_CONTROLS), quote=True)


def inline(text: str) -> str:
    """A sentence; what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped(text))


def paragraphs(text: str) -> str:
    """Sentences, parted into paragraphs by empty lines."""
    return "".join(f"<p>{inline(part.strip())}</p>" for part in re.split(r"\n\s*\n", text) if part.strip())


def island(data: object) -> str:
    """Data for the page's script; `<` is written so that no text in it ends the element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return f'<script type="application/json">{text.replace("<", chr(92) + "u003c")}</script>'


def percent(fraction: float) -> str:
    """A place along an axis, for a style."""
    return f"{round(100 * fraction, 3):g}%"
