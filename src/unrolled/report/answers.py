"""Answers to questions about pictures as figures: where was looked, how sure the answers are, and how many of
each kind are right."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from unrolled.errors import InputError
from unrolled.report.answers_page import Kinds
from unrolled.report.figures import accuracy_axes, png
from unrolled.report.overlays import INK, MUTED, RULE, Floats, smooth

BLUE: Final = "#1f5fa8"
ORANGE: Final = "#c8501e"
GREEN: Final = "#2c7a3f"
GREYS: Final = ("#c3cad4", "#8f9bab", "#6b7685")
"""Of baselines, the lowest first."""
DARK: Final = 0.22
"""How much of the picture is left where nothing is looked at."""
SHOWN: Final = 12
"""Kinds of questions that are drawn, at most: those with the most questions."""


@dataclass(frozen=True, eq=False)
class Answer:
    """A question, a picture, and what was answered.

    Attributes:
        picture: (H, W, 3) of bytes.
        weights: (h, w) where was looked, adding to 1; None if nowhere.
        answer, chance: the likeliest answer, and its probability.
        right: what should be answered, if that is something else.
    """

    question: str
    picture: NDArray[np.uint8]
    weights: Floats | None
    answer: str
    chance: float
    right: str = ""


def spotlight(picture: NDArray[np.uint8], weights: Floats) -> Floats:
    """A picture in the dark, but for where weights (h, w) are; from 0 to 1, (H, W, 3)."""
    glow = smooth(weights, *picture.shape[:2])
    light = DARK + (1 - DARK) * np.sqrt(glow / max(float(glow.max()), 1e-9))
    found: Floats = picture / 255 * light[..., None]
    return found


def asked_figure(
    question: str,
    picture: NDArray[np.uint8],
    maps: Sequence[Floats],
    answers: Sequence[tuple[str, float]],
) -> bytes:
    """One question: the picture, where was looked at each glimpse, and the likeliest answers, as a PNG.

    Args:
        picture: (H, W, 3) of bytes.
        maps: of each glimpse, (h, w).
        answers: with their probabilities, the likeliest first.
    """
    if not answers:
        raise InputError("there is no answer to draw")
    panels = 1 + len(maps)
    figure = Figure(figsize=(2.6 * panels + 3.0, 3.3), dpi=130, layout="constrained")
    axes = figure.subplots(1, panels + 1, width_ratios=[*[1.0] * panels, 1.15])
    _picture(axes[0], picture / 255)
    axes[0].set_xlabel("the picture", fontsize=8.5, color=MUTED)
    for k, each in enumerate(maps):
        _picture(axes[k + 1], spotlight(picture, each))
        name = "where it looked" if len(maps) == 1 else f"glimpse {k + 1}"
        axes[k + 1].set_xlabel(f"{name}: up to {each.max():.0%} in a place", fontsize=8.5, color=MUTED)
    bars = axes[-1]
    names = [textwrap.shorten(answer or "(nothing)", 22, placeholder="…") for answer, _ in answers]
    chances = [chance for _, chance in answers]
    colours = [BLUE, *["#9db8d9"] * (len(answers) - 1)]
    bars.barh(range(len(answers)), chances, color=colours, height=0.62)
    for k, chance in enumerate(chances):
        bars.text(chance + 0.02, k, _percent(chance), va="center", fontsize=9, color=INK)
    bars.set_yticks(range(len(answers)), names, fontsize=10)
    bars.set_ylim(max(len(answers), 3) - 0.4, -0.6)
    bars.set_xlim(0, 1.22)
    bars.set_xticks([])
    bars.tick_params(length=0)
    bars.spines[["top", "right", "bottom"]].set_visible(False)
    bars.spines["left"].set_color(RULE)
    title = textwrap.shorten(question, 90, placeholder=" …")
    figure.suptitle(title, x=0.012, ha="left", fontsize=12.5, fontweight="bold", color=INK)
    return png(figure)


def answers_figure(
    metrics: Sequence[Mapping[str, Any]],
    kinds: Kinds,
    examples: Sequence[Answer],
    title: str,
) -> bytes:
    """A training: accuracy over time, that of each kind of question beside the baselines, and some questions
    with where was looked, as a PNG.

    Args:
        metrics: the records of a run, see `unrolled.report.figures.accuracy_axes`.
        kinds: how many are right.
        examples: questions with answers; as many as fit are drawn.
    """
    figure = Figure(figsize=(12, 6.0), dpi=120)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.28], wspace=0.02, squeeze=False)[0]
    over, by = left.subplots(2, 1, height_ratios=[1, 1.15])
    whole = next(iter(kinds.values()), {})
    accuracy_axes(over, metrics, {name: each.share for name, each in [*whole.items()][:-1]})
    _by_kind(by, kinds)
    left.subplots_adjust(left=0.23, right=0.89, top=0.91, bottom=0.06, hspace=0.38)
    _examples(right, examples)
    figure.suptitle(title, x=0.012, y=0.985, ha="left", fontsize=11, color=INK)
    return png(figure)


def answers_sheet(examples: Sequence[Answer], across: int = 6) -> bytes:
    """Questions with where was looked, side by side, as a PNG."""
    if not examples:
        raise InputError("there is no question to draw")
    lines = -(-len(examples) // across)
    height = 2.45 * lines + 0.15
    figure = Figure(figsize=(1.75 * across, height), dpi=120)
    grid = figure.add_gridspec(
        lines, across, left=0.012, right=0.988, top=1 - 0.5 / height, bottom=0.43 / height, wspace=0.1,
        hspace=0.5,
    )  # fmt: skip
    for k, example in enumerate(examples):
        _example(figure.add_subplot(grid[k // across, k % across]), example)
    return png(figure)


def _by_kind(axes: Axes, kinds: Kinds) -> None:
    """Bars of each kind of question, and the intervals of the network's."""
    if not kinds:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "kinds are counted at the end", ha="center", va="center", color=MUTED)
        return
    first, *rest = kinds.items()
    rest = sorted(rest, key=lambda pair: -[*pair[1].values()][-1].count)[:SHOWN]
    shown = [first, *rest]
    names = [*first[1]]
    height = 0.8 / len(names)
    for row, (_, shares) in enumerate(shown):
        for place, name in enumerate(names):
            each = shares[name]
            at = row + (place - (len(names) - 1) / 2) * height
            network = place == len(names) - 1
            colour = BLUE if network else GREYS[min(place, len(GREYS) - 1)]
            axes.barh(at, each.share, height * 0.88, color=colour, label=name if row == 0 else None)
            if network:
                axes.plot([each.low, each.high], [at, at], color=INK, linewidth=1.1)
                axes.text(1.015, at, f"{each.share:.1%}", va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(shown)), [f"{kind}\n{s[names[-1]].count:,}" for kind, s in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.45, -0.55)
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.legend(
        frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(-0.02, 0.985), ncols=len(names),
        columnspacing=1.2, handlelength=1.0, handletextpad=0.5,
    )  # fmt: skip


def _examples(figure: Any, examples: Sequence[Answer]) -> None:
    across, lines = 3, 2
    grid = figure.add_gridspec(
        lines, across, left=0.02, right=0.985, top=0.85, bottom=0.085, wspace=0.12, hspace=0.36
    )
    for k, example in enumerate(examples[: across * lines]):
        _example(figure.add_subplot(grid[k // across, k % across]), example)


def _example(axes: Axes, example: Answer) -> None:
    lit = example.picture / 255 if example.weights is None else spotlight(example.picture, example.weights)
    _picture(axes, lit)
    question = "\n".join(textwrap.wrap(example.question, 24, max_lines=3, placeholder=" …"))
    axes.set_title(question, fontsize=8.5, color=INK, loc="left", pad=4)
    told = (
        f"{textwrap.shorten(example.answer or '(nothing)', 18, placeholder='…')}  {_percent(example.chance)}"
    )
    if example.right:
        told += f"\nright: {textwrap.shorten(example.right, 18, placeholder='…')}"
    axes.set_xlabel(
        told, fontsize=9, color=ORANGE if example.right else GREEN, loc="left", labelpad=3, fontweight="bold"
    )


def _percent(chance: float) -> str:
    return f"{chance:.0%}" if chance < 0.995 or chance == 1 else "> 99%"


def _picture(axes: Axes, pixels: Floats) -> None:
    axes.imshow(np.clip(pixels, 0, 1), vmin=0, vmax=1, interpolation="antialiased")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color(RULE)
        spine.set_linewidth(0.8)
