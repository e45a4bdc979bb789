"""The colours of a page in a light and a dark scheme, and small pictures in them.

Texts have a contrast of at least 4.5 on what they stand on, lines of 3. The colours of series stay apart for
readers with a colour deficiency, and from the fifth on lines are dashed as well. Ramps start at the colour of
the paper, so that what is small recedes in both schemes.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

LIGHT: Final = {
    "page": "#f5f6f8", "card": "#ffffff", "ink": "#18202b", "muted": "#566172", "rule": "#e2e6ec",
    "axis": "#9aa4b2", "accent": "#1d5fbf", "code": "#eef1f5", "tip": "#18202b", "tip-ink": "#f4f6f9",
    "tip-muted": "#aeb9c8", "missing": "#c6ccd5",
    "serious": "#b3261e", "warning": "#8a5300", "note": "#1d5fbf", "good": "#0b7446",
    "s1": "#2563b8", "s2": "#df5a10", "s3": "#129c7f", "s4": "#8a2560", "s5": "#a67c00", "s6": "#2f93c6",
    "s7": "#6a4cc4", "s8": "#5f6b7a",
}  # fmt: skip
DARK: Final = {
    "page": "#0e131a", "card": "#161c25", "ink": "#e6ebf2", "muted": "#9aa6b6", "rule": "#28313e",
    "axis": "#5d6a7c", "accent": "#7db0ff", "code": "#222b38", "tip": "#e9edf3", "tip-ink": "#18202b",
    "tip-muted": "#566172", "missing": "#414c5b",
    "serious": "#ff8a80", "warning": "#f0b450", "note": "#7db0ff", "good": "#5fce98",
    "s1": "#5b8cff", "s2": "#f07a2a", "s3": "#6fe8a8", "s4": "#ec9edb", "s5": "#e2c04b", "s6": "#8fdcfb",
    "s7": "#b49cff", "s8": "#aab4c3",
}  # fmt: skip

SEQUENTIAL: Final = (
    ("#f1f7f3", "#c3e7d3", "#86ceb4", "#4fb0aa", "#3a8ba5", "#37669c", "#3a4184", "#2a2150", "#150c22"),
    ("#1b2330", "#2a2d55", "#3a437f", "#37669c", "#3a8ba5", "#4fb0aa", "#86ceb4", "#c3e7d3", "#f3fbf5"),
)
"""Of the light and of the dark scheme, from the lowest to the highest."""
DIVERGING: Final = (
    ("#0a3366", "#1f62a8", "#4a93c8", "#93c3e0", "#d3e6f1", "#f6f6f5", "#fbdcc8", "#f3a781", "#d9653f",
     "#ad2e1f", "#680f14"),
    ("#b9dcff", "#74b2f4", "#3f82cb", "#2a578c", "#1f3856", "#1b2330", "#4a2a22", "#84412a", "#c25f36",
     "#f0935c", "#ffd0ab"),
)  # fmt: skip
TINTED: Final = (
    ("#7fb6de", "#ffffff", "#f2a47c"),
    ("#2b609f", "#161c25", "#8f4526"),
)
"""What letters stand on: the lowest, zero and the highest."""

SHADES: Final = 8
"""Of each hue behind letters."""
SERIES: Final = 8
"""Lines with a colour of their own; where there are more, their colours are a ramp."""


def blend(stops: Sequence[str], at: float) -> str:
    """The colour at a fraction of a ramp."""
    place = min(max(at, 0.0), 1.0) * (len(stops) - 1)
    k = min(int(place), len(stops) - 2)
    first, second = (bytes.fromhex(stop[1:]) for stop in stops[k : k + 2])
    mixed = (round(a + (b - a) * (place - k)) for a, b in zip(first, second, strict=True))
    return "#" + bytes(mixed).hex()


def stylesheet() -> str:
    """Both schemes as CSS variables, and what is computed from ramps. Paper is always light."""
    schemes = []
    for k, colours in enumerate((LIGHT, DARK)):
        variables = "".join(f"--{name}:{value};" for name, value in colours.items())
        ramps = (("seq", SEQUENTIAL[k]), ("div", DIVERGING[k]), ("tint", TINTED[k]))
        variables += "".join(f"--{name}:linear-gradient(to right,{','.join(r)});" for name, r in ramps)
        shades = "".join(
            f".{sign}{n}{{background:{blend(TINTED[k], 0.5 + side * n / SHADES / 2)}}}"
            for sign, side in (("n", -1), ("p", 1))
            for n in range(1, SHADES + 1)
        )
        schemes.append(f":root{{{variables}}}{shades}.fan{{--c:var(--{'ld'[k]})}}")
    light, dark = schemes
    return f"{light}\n@media screen and (prefers-color-scheme:dark){{{dark}}}\n"


def ramp_style(at: float) -> str:
    """The colour of one line of many, in both schemes, for an element of class `fan`."""
    light, dark = (blend(stops, 0.4 + 0.55 * at) for stops in SEQUENTIAL)
    return f"--l:{light};--d:{dark}"


def pictures(fractions: NDArray[np.float64], diverging: bool) -> tuple[str, str]:
    """An image of one pixel a number, in the light and in the dark scheme, as data URLs.

    Args:
        fractions: (rows, columns), 0 to 1 along the ramp; NaN where there is no number.
    """
    missing = np.isnan(fractions)
    last = 253
    shades = np.where(missing, last + 1, np.rint(np.where(missing, 0, fractions) * last)).astype(np.uint8)
    ramps = DIVERGING if diverging else SEQUENTIAL
    palettes = (
        [*(blend(stops, k / last) for k in range(last + 1)), scheme["missing"]]
        for stops, scheme in zip(ramps, (LIGHT, DARK), strict=True)
    )
    light, dark = (_png(shades, palette) for palette in palettes)
    return light, dark


def _png(shades: NDArray[np.uint8], palette: Sequence[str]) -> str:
    """A picture of numbered colours: https://www.w3.org/TR/png/."""
    rows, columns = shades.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    lines = np.hstack((np.zeros((rows, 1), np.uint8), shades))  # each begins with its filter: none
    data = b"\x89PNG\r\n\x1a\n" + b"".join(
        (
            chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", b"".join(bytes.fromhex(colour[1:]) for colour in palette)),
            chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            chunk(b"IEND", b""),
        )
    )
    return "data:image/png;base64," + base64.b64encode(data).decode()
