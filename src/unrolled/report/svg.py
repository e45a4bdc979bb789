"""Writing SVG: a canvas of boxes, lines and texts with mathematics, in the colours of two schemes.

No fonts, scripts or requests: the picture stands alone, and follows the reader's light or dark scheme.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from string import Template
from typing import Final
from xml.sax.saxutils import escape, quoteattr

from unrolled.report.layout import Box

MARGIN: Final = 32.0

LIGHT: Final = {
    "paper": "#ffffff", "ink": "#1f2937", "muted": "#667085", "line": "#7a8699", "name": "#7c3aed",
    "plain_fill": "#f5f7fa", "plain": "#56657a", "plain_text": "#1f2937",
    "input_fill": "#e6effd", "input": "#3b73d1", "input_text": "#1d4b9b",
    "state_fill": "#e5f5ea", "state": "#2f8f5b", "state_text": "#1b6239",
    "learned_fill": "#fff2e0", "learned": "#d47a0c", "learned_text": "#8a4600",
}  # fmt: skip
DARK: Final = {
    "paper": "#12161d", "ink": "#e6eaf1", "muted": "#98a3b3", "line": "#8592a6", "name": "#c8adff",
    "plain_fill": "#1e2531", "plain": "#8594aa", "plain_text": "#e6eaf1",
    "input_fill": "#15284a", "input": "#6c9ff2", "input_text": "#bcd4fb",
    "state_fill": "#12301f", "state": "#52b87e", "state_text": "#a5e5bf",
    "learned_fill": "#38270f", "learned": "#e89a37", "learned_text": "#ffd497",
}  # fmt: skip
COLOURS: Final = Template("""
.unrolled .paper { fill: $paper }
.unrolled text { fill: $ink; stroke: $paper }
.unrolled .muted { fill: $muted }
.unrolled .name { fill: $name }
.unrolled .line { stroke: $line }
.unrolled .plain rect { fill: $plain_fill; stroke: $plain }
.unrolled .plain text { fill: $plain_text }
.unrolled .input rect { fill: $input_fill; stroke: $input }
.unrolled .input text { fill: $input_text }
.unrolled .input.line { stroke: $input }
.unrolled .state rect { fill: $state_fill; stroke: $state }
.unrolled .state text, .unrolled text.state { fill: $state_text }
.unrolled .state.line { stroke: $state }
.unrolled .learned rect { fill: $learned_fill; stroke: $learned }
.unrolled .learned text { fill: $learned_text }
.unrolled .learned.line { stroke: $learned }
""")
FORMS: Final = """
.unrolled text { font: 15px Georgia, "Times New Roman", "DejaVu Serif", serif; text-anchor: middle;
  stroke-width: 3px; stroke-linejoin: round; paint-order: stroke }
.unrolled g text { stroke: none }
.unrolled text.title { font-size: 26px; font-weight: bold; text-anchor: start }
.unrolled text.heading { font: bold 15px system-ui, "Segoe UI", "DejaVu Sans", sans-serif;
  text-anchor: start }
.unrolled text.formula { font-size: 16px; text-anchor: start }
.unrolled .note { font: 12px system-ui, "Segoe UI", "DejaVu Sans", sans-serif }
.unrolled text.port { font-size: 11px; text-anchor: start; opacity: 0.8 }
.unrolled .small { font-size: 13px }
.unrolled .sign { font-size: 18px }
.unrolled .letter { font-style: italic }
.unrolled .sub { font-size: 70% }
.unrolled rect { stroke-width: 1.4px }
.unrolled .line { fill: none; stroke-width: 1.4px; stroke-linecap: round; stroke-linejoin: round }
.unrolled .shared { stroke-dasharray: 5 4 }
"""


class Canvas:
    """SVG elements in the order of drawing, and how far they reach."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.width = self.height = 0.0

    def open(self, colour: str) -> None:
        """Start a group of one colour."""
        self.parts.append(f'<g class="{colour}">')

    def close(self) -> None:
        """End the group."""
        self.parts.append("</g>")

    def heading(self, y: float, text: str, note: str) -> None:
        """The title of a part of the picture, and a remark behind it."""
        inside = f'{escape(text)}<tspan class="note muted" dx="14">{escape(note)}</tspan>'
        self.parts.append(f'<text class="heading" x="{MARGIN:g}" y="{y:g}">{inside}</text>')

    def text(self, x: float, y: float, text: str, style: str = "", maths: bool = True) -> None:
        """A line of text whose middle is at height y; letters and subscripts as in formulas, if `maths`."""
        inside = maths_spans(text) if maths else escape(text)
        self.parts.append(
            f'<text class="{style}" x="{x:g}" y="{y:g}" dy="0.34em">{inside}</text>'.replace(' class=""', "")
        )
        if style in ("title", "formula"):
            self._reach(x + text_width(text, 26 if style == "title" else 16), y)

    def node(
        self, box: Box, text: str, colour: str, key: str, *, radius: float = 8, size: str = "",
        hint: str = "", maths: bool = True,
    ) -> None:  # fmt: skip
        """A box with a text; `hint` shows when the pointer rests on it."""
        left, top = box.x - box.width / 2, box.y - box.height / 2
        self.open(colour)
        title = f"<title>{escape(hint)}</title>" if hint else ""
        self.parts.append(
            f'<rect data-node={quoteattr(key)} x="{left:g}" y="{top:g}" width="{box.width:g}"'
            f' height="{box.height:g}" rx="{radius:g}">{title}</rect>'
        )
        if text:
            self.text(box.x, box.y, text, size, maths)
        self.close()
        self._reach(left + box.width, top + box.height)

    def line(
        self, path: str, tip: tuple[float, float], colour: str, key: str = "", upwards: bool = False
    ) -> None:
        """A path with an arrow head at its tip."""
        x, y = tip
        head = (
            f"M{x - 4:g} {y + 6:g}L{x:g} {y:g}l4 6" if upwards else f"M{x - 6:g} {y - 4:g}L{x:g} {y:g}l-6 4"
        )
        named = f" data-edge={quoteattr(key)}" if key else ""
        style = f"line {colour}".strip()
        self.parts.append(f'<path class="{style}"{named} d="{path}"/><path class="{style}" d="{head}"/>')

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
        """A straight arrow, to the right or upwards."""
        path = f"M{start[0]:g} {start[1]:g}L{end[0]:g} {end[1]:g}"
        self.line(path, end, colour, upwards=start[0] == end[0])

    def finish(self, title: str, description: str) -> str:
        """The whole file."""
        width, height = round(self.width + MARGIN), round(self.height + MARGIN)
        light, dark = COLOURS.substitute(LIGHT), COLOURS.substitute(DARK)
        return "\n".join(
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" class="unrolled" role="img" width="{width}"'
                f' height="{height}" viewBox="0 0 {width} {height}">',
                f"<title>{escape(title)}</title>",
                f"<desc>{escape(description)}</desc>",
                f"<style>{FORMS}{light}@media (prefers-color-scheme: dark) {{{dark}}}</style>",
                f'<rect class="paper" width="{width}" height="{height}"/>',
                *self.parts,
                "</svg>\n",
            )
        )

    def _reach(self, x: float, y: float) -> None:
        self.width, self.height = max(self.width, x), max(self.height, y)


def text_width(text: str, size: float = 15) -> float:
    """About how wide a text is; a little more than most fonts need."""
    narrow = sum(character in "ijl.,()|[] ₜ₋₀₁₂₃₄₅₆₇₈₉_" for character in text)
    return size * (0.62 * len(text) - 0.27 * narrow)


def pill_width(text: str) -> float:
    """The width of a box around a short text."""
    return max(46.0, text_width(text) + 20)


def path_along(points: Sequence[tuple[float, float]]) -> str:
    """The path of a route: level stretches joined by bends."""
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in zip(points[1:-1:2], points[2:-1:2], strict=True):
        middle = (x0 + x1) / 2
        path += f"L{x0:.1f} {y0:.1f}C{middle:.1f} {y0:.1f} {middle:.1f} {y1:.1f} {x1:.1f} {y1:.1f}"
    return path + f"L{points[-1][0]:.1f} {points[-1][1]:.1f}"


PLAIN: Final = str.maketrans("ₜ₋₀₁₂₃₄₅₆₇₈₉", "t−0123456789")
SUBSCRIPTS: Final = {plain: subscript for subscript, plain in PLAIN.items()}

_TOKEN: Final = re.compile(
    r"(?<=\b[^\W_])_(?P<sub>[^\Wₜ₋₀-₉]+)(?P<then>[ₜ₋₀-₉]+)?|(?P<time>[ₜ₋₀-₉]+)"
    r"|(?P<letter>(?<!\w)(?!σ)[^\W\d_](?![^\W_ₜ₋₀-₉]))"
)


def maths_spans(text: str) -> str:
    """The tspans of a formula: single letters slanted; times, and what follows `W_`, as subscripts."""
    runs, end = [], 0
    for match in _TOKEN.finditer(text):
        small = ",".join(part.translate(PLAIN) for part in match.group("sub", "then", "time") if part)
        runs.append((text[end : match.start()], ""))
        runs.append((small, "sub") if small else (match["letter"], "letter"))
        end = match.end()
    runs.append((text[end:], ""))
    parts, below = [], False
    for run, style in runs:
        if run:
            sub = style == "sub"
            shift = "" if sub == below else f' dy="{4 if sub else -4}"'
            named = f' class="{style}"' if style else ""
            inside = escape(run)
            parts.append(f"<tspan{named}{shift}>{inside}</tspan>" if named or shift else inside)
            below = sub
    return "".join(parts)
