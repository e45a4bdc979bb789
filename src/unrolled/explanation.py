"""What `cell.explain()` returns: what compiled code does at each step, and what that costs, as data and text.

`unrolled.compile.explain` fills it in.
"""

from __future__ import annotations

import itertools
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

LINE: Final = 100
"""Characters of the longest line."""

FORWARD: Final = "forward loop"
BACKWARD: Final = "backward loop"


@dataclass(frozen=True)
class Count:
    """A number in terms of sizes that may not be known, such as 8 D H + 8 H².

    terms: a factor for each product of sizes; the empty product is 1.
    """

    terms: Mapping[tuple[str, ...], int] = field(default_factory=dict)

    @staticmethod
    def of(*sizes: str) -> Count:
        """The product of these sizes."""
        return Count({tuple(sorted(sizes)): 1})

    def __add__(self, other: Count) -> Count:
        found = Counter(dict(self.terms))
        found.update(other.terms)
        return Count(dict(found))

    def __mul__(self, factor: int) -> Count:
        return Count({sizes: factor * n for sizes, n in self.terms.items()})

    def at(self, sizes: Mapping[str, int]) -> Count:
        """The same with these sizes filled in."""
        found = Count()
        for symbols, n in self.terms.items():
            for symbol in symbols:
                n *= sizes.get(symbol, 1)
            found += Count({tuple(s for s in symbols if s not in sizes): n})
        return found

    def __int__(self) -> int:
        """The number, where all sizes are known."""
        if unknown := {symbol for symbols, n in self.terms.items() if n for symbol in symbols}:
            raise TypeError(f"{self} is no number before {', '.join(sorted(unknown))} is known")
        return self.terms.get((), 0)

    def __str__(self) -> str:
        ordered = sorted((item for item in self.terms.items() if item[1]), key=lambda item: item[0] or ("~",))
        return " + ".join(_monomial(symbols, n) for symbols, n in ordered) or "0"


def total(counts: Iterable[Count]) -> Count:
    """The sum of counts."""
    return sum(counts, Count())


def _monomial(symbols: tuple[str, ...], n: int) -> str:
    powers = Counter(symbols)
    text = [symbol + {1: "", 2: "²", 3: "³"}[power] for symbol, power in powers.items()]
    return " ".join([f"{n:,}", *text] if n != 1 or not text else text)


@dataclass(frozen=True)
class Pass:
    """A pass over the units of one width.

    products: the sums of products that run together, kept in registers.
    then: what is computed behind them before the next pass, unit by unit, by its name in the equations.
    """

    products: tuple[str, ...]
    then: tuple[str, ...]


@dataclass(frozen=True)
class Work:
    """Floating-point operations for one row at one step.

    products: of matrices with vectors; a multiply-add counts 2.
    pointwise: everything else, unit by unit; an operation or a function such as tanh counts 1.
    """

    products: Count
    pointwise: Count

    @property
    def all(self) -> Count:
        return self.products + self.pointwise


@dataclass(frozen=True)
class Traffic:
    """Bytes that the loop moves at one step: the weights once for all rows, and for each row the saved values
    (written by the forward loop, read by the backward loop) and all others."""

    weights: Count
    saved: Count
    others: Count


@dataclass(frozen=True, repr=False)
class Explanation:
    """One step of a cell as it is compiled. Counts are numbers as far as sizes are known.

    A sequence is worked through in chunks of steps. What depends on inputs alone is computed before the loop
    over a chunk's steps, and gradients of matrices after it, as products of all its rows; the loop does the
    rest, a step in passes. Bytes leave out that rows are filled up to whole vectors of the processor.

    Attributes:
        cell, dtype: their names.
        reason: why it is not compiled but runs through PyTorch, or None. The rest then says what compiled
            code would do.
        widths: for each width symbol, the values that have it.
        sizes: what is known of them, and of the batch "B".
        before: the products of the input, one large product for all steps, or a look-up where the input is
            token numbers.
        given: what PyTorch computes before the loop.
        forward, backward: the passes of a step.
        added: the learned vectors whose gradients are added up in the backward loop.
        summed: for each operand of matrices, by name, the matrices whose gradients are sums of its products
            with gradients, taken after every chunk of steps.
        input_gradient: how the gradient of the input comes about.
        saved: the values that the forward pass saves for the backward pass, and the bytes of each for one row
            and step.
        present: what the backward pass reads that is there without being saved.
        again: what it computes again.
        work: floating-point operations for one row and step, by part of the computation.
        traffic: of the forward and of the backward loop.
    """

    cell: str
    dtype: str
    reason: str | None
    widths: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    before: tuple[str, ...]
    given: tuple[str, ...]
    forward: tuple[Pass, ...]
    backward: tuple[Pass, ...]
    added: tuple[str, ...]
    summed: Mapping[str, tuple[str, ...]]
    input_gradient: tuple[str, ...]
    saved: tuple[tuple[str, Count], ...]
    present: tuple[str, ...]
    again: tuple[str, ...]
    work: Mapping[str, Work]
    traffic: Mapping[str, Traffic]

    @property
    def saved_bytes(self) -> Count:
        """What is saved for one row and step."""
        return total(count for _, count in self.saved)

    @property
    def work_in_all(self) -> Work:
        """All operations for one row and step, forward and backward."""
        parts = self.work.values()
        return Work(total(work.products for work in parts), total(work.pointwise for work in parts))

    def intensity(self, loop: str) -> float | None:
        """Operations for each byte that the FORWARD or the BACKWARD loop moves, where all sizes are known."""
        if not {"B", *self.widths} <= self.sizes.keys():
            return None
        rows, moved = self.sizes["B"], self.traffic[loop]
        moving = int(moved.weights) + rows * int(moved.saved + moved.others)
        return rows * int(self.work[loop].all) / moving

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        sign = next((name for p in self.backward for name in p.then if name.startswith("δ_")), "δ_f")
        gate = sign.removeprefix("δ_").partition(" ")[0].rstrip("′")
        backward = (
            f"{BACKWARD.capitalize()}: δ_{gate} is the gradient of what W.{gate}(…) gives, ∂ of other values"
        )
        loops = self._passes(FORWARD.capitalize(), self.forward), self._passes(backward, self.backward)
        costs = self._memory(), self._operations(), self._bytes()
        blocks = (self._heading(), self._before(), *loops, self._after(), *costs)
        return "\n\n".join("\n".join(lines) for lines in blocks if lines)

    def _heading(self) -> list[str]:
        known = {symbol: f"{symbol} = {size:,}" for symbol, size in self.sizes.items()}
        told = [f"{known.get(s, s)}: width of {', '.join(names)}" for s, names in self.widths.items()]
        told += [f"{known['B']}: rows of the batch"] if "B" in known else []
        lines = _wrap(f"{self.cell}, {self.dtype} ({'; '.join(told)})")
        if self.reason:
            lines += _wrap(f"Not compiled: {self.reason}. PyTorch runs it, step by step. Compiled:")
        return lines

    def _before(self) -> list[str]:
        rows = [("one product (of tokens: a look-up)", _listed(self.before))] if self.before else []
        rows += [("through PyTorch", _listed(self.given))] if self.given else []
        return ["Before the loop, for all steps at once", *_table(rows)] if rows else []

    def _passes(self, title: str, passes: Sequence[Pass]) -> list[str]:
        rows = [(str(k), _listed(p.products), _listed(p.then)) for k, p in enumerate(passes, 1)]
        return [title, *_table([("", "products that run together", "what follows"), *rows])]

    def _after(self) -> list[str]:
        rows = [(_listed(names), f"sums of products of δ and {what}") for what, names in self.summed.items()]
        rows += [(_listed(self.added), "added up in the backward loop")] if self.added else []
        rows += (
            [("the input, if asked for", _glued(" + ".join(self.input_gradient)))]
            if self.input_gradient
            else []
        )
        return ["Gradients, after each chunk of steps", *_table(rows)] if rows else []

    def _memory(self) -> list[str]:
        groups: dict[str, list[str]] = {}
        for name, count in self.saved:
            groups.setdefault(str(count), []).append(name)
        rows = [
            (_listed(names), f"{count} each" if len(names) > 1 else count) for count, names in groups.items()
        ]
        rows += [("in all" if rows else "nothing", str(self.saved_bytes))]
        facts = [("there without saving", _listed(self.present)), ("computed again", _listed(self.again))]
        lines = _table([*rows, *(row for row in facts if row[1])])
        return ["Saved for the backward pass (bytes a row and step)", *lines]

    def _operations(self) -> list[str]:
        parts = [*self.work.items(), ("in all", self.work_in_all)]
        texts = [(name, str(work.products), str(work.pointwise)) for name, work in parts]
        rows = [row for row in texts if row[1:] != ("0", "0")]
        title = "Operations a row and step (a multiply-add is 2, a function such as tanh 1)"
        return [title, *_table([("", "products", "pointwise"), *rows], right=True)]

    def _bytes(self) -> list[str]:
        parts = {
            "weights": "weights, once for all rows",
            "saved": "saved values, a row",
            "others": "other values, a row",
        }
        rows: list[tuple[str, ...]] = [("", *self.traffic)]
        rows += [(text, *(str(getattr(t, p)) for t in self.traffic.values())) for p, text in parts.items()]
        ratios = [self.intensity(loop) for loop in self.traffic]
        known = [f"{ratio:.1f}" for ratio in ratios if ratio is not None]
        rows += [(f"operations a byte at {self.sizes['B']:,} rows", *known)] if known else []
        return ["Bytes moved at each step", *_table(rows, right=True)]


PART: Final = "a part of"
"""How the name of a value begins that has none of its own; more than one may have it."""

GLUE: Final = "\N{NO-BREAK SPACE}"


def _listed(items: Iterable[str]) -> str:
    """Items one after the other, equal ones counted; a line breaks between them while it can."""
    counted = [
        item if n == 1 else f"{n} {item.replace(PART, 'parts of', 1)}" for item, n in Counter(items).items()
    ]
    return ", ".join(map(_glued, counted))


def _glued(item: str) -> str:
    """An item that is on one line while it can be."""
    return item.replace(" ", GLUE)


def _wrap(text: str, width: int = LINE) -> list[str]:
    """Lines of at most this width, broken between items, or else within a sum, or else anywhere."""
    for glued in (text, text.replace(f"{GLUE}+{GLUE}", f"{GLUE}+ "), text.replace(GLUE, " ")):
        lines = textwrap.wrap(glued, width, break_long_words=False, break_on_hyphens=False)
        if max(map(len, lines), default=0) <= width:
            break
    return [line.replace(GLUE, " ") for line in lines] or [""]


def _table(rows: Sequence[tuple[str, ...]], right: bool = False) -> list[str]:
    """Rows in columns, indented and wrapped; `right`: all but the first column stand at the right."""
    indent, gap = 4, 3
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    while indent + sum(widths) + gap * (len(widths) - 1) > LINE:
        widths[widths.index(max(widths))] -= 1
    lines = []
    for row in rows:
        cells = [_wrap(text, width) for text, width in zip(row, widths, strict=True)]
        for parts in itertools.zip_longest(*cells, fillvalue=""):
            placed = [
                part.rjust(width) if right and k else part.ljust(width)
                for k, (part, width) in enumerate(zip(parts, widths, strict=True))
            ]
            lines.append((" " * indent + (" " * gap).join(placed)).rstrip())
    return lines
