"""Colours of a page: contrast, and readers with a colour deficiency."""

import re
from itertools import combinations

import numpy as np
import pytest
from parsed_page import Tree, line_chart, show

from unrolled.report.colours import DARK, LIGHT


def luminance(colour):
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(a, b):
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def schemes():
    """The variables and the shades behind letters in both schemes, from the page's own style sheet."""
    style = Tree(show(line_chart())).find("style")[0]["text"]
    light, _, rest = style.partition("@media screen and (prefers-color-scheme:dark){")
    dark = rest.partition(".fan{")[0]
    for part in (light, dark):
        variables = dict(re.findall(r"--([\w-]+):(#[0-9a-f]{6})", part))
        yield variables, re.findall(r"\.[np]\d\{background:(#[0-9a-f]{6})\}", part)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_and_lines_stand_out_from_what_they_stand_on(scheme):
    """WCAG AA: 4.5 for text, 3 for what is drawn."""
    colour, shades = list(schemes())[scheme]
    assert colour == (LIGHT, DARK)[scheme]
    for text in ("ink", "muted", "accent", "serious", "warning", "note", "good"):
        for ground in ("page", "card"):
            assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    for text, ground in (("ink", "code"), ("muted", "code"), ("tip-ink", "tip"), ("tip-muted", "tip")):
        assert contrast(colour[text], colour[ground]) >= 4.5, (text, ground)
    assert len(shades) == 16
    assert all(contrast(colour["ink"], shade) >= 4.5 for shade in shades)
    for k in range(1, 9):
        assert contrast(colour[f"s{k}"], colour["card"]) >= 3, k
        pairs = zip(*(bytes.fromhex(colour[name][1:]) for name in (f"s{k}", "ink")), strict=True)
        beside = bytes(
            round(0.6 * a + 0.4 * b) for a, b in pairs
        )  # the name at the end of a line, in page.css
        assert contrast(f"#{beside.hex()}", colour["card"]) >= 4.5, k


DEFICIENCIES = {  # Machado, Oliveira & Fernandes, 2009, severity 1, on linear RGB
    "none": np.eye(3),
    "protan": [
        [0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deutan": [
        [0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritan": [
        [1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}  # fmt: skip


def seen(colour, matrix):
    """A colour in OKLab as a reader with a deficiency sees it."""
    channels = np.array([int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(matrix) @ linear, 0, 1)
    lms = np.array([
        [0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]) @ linear  # fmt: skip
    return np.array([
        [0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]) @ np.cbrt(lms)  # fmt: skip


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("scheme", [LIGHT, DARK], ids=["light", "dark"])
def test_undashed_lines_are_told_apart_by_any_reader(scheme, deficiency):
    """In OKLab 0.02 is a just noticeable difference of large areas."""
    colours = [seen(scheme[f"s{k}"], DEFICIENCIES[deficiency]) for k in range(1, 5)]
    for a, b in combinations(range(4), 2):
        assert np.linalg.norm(colours[a] - colours[b]) > 0.1, (a + 1, b + 1)
