"""Attention inside a step: what each row of a batch reads of its memory, and the way back, as jobs.

For the row b of a batch, with its query q, keys K and values V:

    e_s = v · tanh(q + K_s)  or  q · K_s
    α = softmax(e + m)
    z = Σ α_s V_s,  or V_s of the one s that is drawn

with m = −∞ where there is nothing to look at. Where there is nothing at all, α and z are 0.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from unrolled.compile.emit import BITS
from unrolled.compile.jobs import Job, job
from unrolled.compile.mathematics import exp, tanh

SIDE: Final = 4
"""Vectors of a context that are summed side by side."""

MEMORY: Final = (
    "query", "query row", "query whole", "keys", "values", "score", "additive", "weights", "A", "Z", "S",
    "hard", "chosen",
)  # fmt: skip
"""The words that both jobs have: the queries, `query row` apart, of the chunk or of all steps; the memories
(B, S, A) and (B, S, Z); v (A); α of all steps (T, B, S); and, where one place is drawn, which, (T, B)."""


def _horizontal(e: Job, name: str, vector: str) -> str:
    """The sum or the largest of a vector's elements, as a scalar: `fadd` or `fmax`."""
    kind = f"v{e.lanes}f{BITS[e.scalar]}"
    start = f"{e.scalar} {e.number(0.0)}, " if name == "fadd" else ""
    types = f"{e.scalar}, " if name == "fadd" else ""
    e.intrinsics.add(f"declare {e.scalar} @llvm.vector.reduce.{name}.{kind}({types}{e.vector})")
    flags = "reassoc " if name == "fadd" else ""
    return e.emit(f"call {flags}{e.scalar} @llvm.vector.reduce.{name}.{kind}({start}{e.vector} {vector})")


def _scalar(e: Job, instruction: str, a: str, b: str) -> str:
    return e.emit(f"{instruction} {e.scalar} {a}, {b}")


def _load_scalar(e: Job, address: str) -> str:
    return e.load(address, e.scalar)


def _store_scalar(e: Job, value: str, address: str) -> None:
    e.do(f"store {e.scalar} {value}, ptr {address}, align {BITS[e.scalar] // 8}")


def _dot(e: Job, width: str, of_vector: Callable[[str, str], tuple[str, str]]) -> str:
    """The sum over a width of the products of what `of_vector(offset, mask)` gives."""

    def one(v: str, total: list[str]) -> list[str]:
        a, b = of_vector(e.integer_of("mul", v, e.lanes), e.left(width, v))
        return [e.fma(a, b, total[0])]

    (total,) = e.loop("0", e.vectors(width), "1", one, [(e.vector, e.splat(0.0))])
    return _horizontal(e, "fadd", total)


def _each_vector(e: Job, width: str, body: Callable[[str, str], None]) -> None:
    """`body(offset, mask)` for each vector of a width."""

    def one(v: str, _: list[str]) -> list[str]:
        body(e.integer_of("mul", v, e.lanes), e.left(width, v))
        return []

    e.loop("0", e.vectors(width), "1", one)


class _Row:
    """Where everything of one row of the batch is, at this step."""

    def __init__(self, e: Job, b: str) -> None:
        begin, _ = e.rows_of_chunk()
        self.A, self.Z, self.S = e.word("A"), e.word("Z"), e.word("S")
        self.number = e.integer_of("add", begin, b)
        here = e.integer_of("add", e.if_whole("query whole", begin), b)
        self.query = e.at(e.pointer("query"), e.integer_of("mul", here, e.word("query row")))
        first = e.integer_of("mul", b, self.S)
        self.first = first
        self.keys = e.at(e.pointer("keys"), e.integer_of("mul", first, self.A))
        self.values = e.at(e.pointer("values"), e.integer_of("mul", first, self.Z))
        self.weights = e.at(e.pointer("weights"), e.integer_of("mul", self.number, self.S))
        self.chosen = e.at(e.pointer("chosen"), self.number, "i64")
        self.hard = e.emit(f"icmp ne i64 {e.word('hard')}, 0")
        self.soft = e.emit(f"icmp eq i64 {e.word('hard')}, 0")
        self.additive = e.emit(f"icmp ne i64 {e.word('additive')}, 0")
        self.dot = e.emit(f"icmp eq i64 {e.word('additive')}, 0")


def _of_rows(e: Job, body: Callable[[_Row, str], None]) -> None:
    """`body(row, b)` for this worker's share of the rows."""
    first, end = e.share(e.header("B"))

    def row(b: str, _: list[str]) -> list[str]:
        body(_Row(e, b), b)
        return []

    e.loop(first, end, "1", row)


@job(*MEMORY, "mask", "context", "uniform")
def attend(e: Job) -> None:
    """From queries to contexts (T, B, Z), of one step; `mask` has m (B, S), `uniform` a number from 0 to 1
    for each row (T, B)."""
    mask, score = e.pointer("mask"), e.pointer("score")

    def row(r: _Row, b: str) -> None:
        closed = e.at(mask, r.first)

        def scores(value_of: Callable[[str], str]) -> None:
            def place(s: str, _: list[str]) -> list[str]:
                bias = _load_scalar(e, e.at(closed, s))
                to = e.at(r.weights, s)
                _store_scalar(e, bias, to)
                is_open = e.emit(f"fcmp one {e.scalar} {bias}, {_infinity(e)}")
                key = e.at(r.keys, e.integer_of("mul", s, r.A))
                e.branch(is_open, lambda: _store_scalar(e, _scalar(e, "fadd", value_of(key), bias), to))
                return []

            e.loop("0", r.S, "1", place)

        def additive(key: str) -> str:
            def pair(offset: str, some: str) -> tuple[str, str]:
                q, k = (e.load_some(e.at(at, offset), some) for at in (r.query, key))
                return tanh(e, e.add(q, k)), e.load_some(e.at(score, offset), some)

            return _dot(e, r.A, pair)

        def product(key: str) -> str:
            def pair(offset: str, some: str) -> tuple[str, str]:
                q, k = (e.load_some(e.at(at, offset), some) for at in (r.query, key))
                return q, k

            return _dot(e, r.A, pair)

        e.branch(r.additive, lambda: scores(additive))
        e.branch(r.dot, lambda: scores(product))
        _softmax(e, r)
        context = e.at(e.pointer("context"), e.integer_of("mul", r.number, r.Z))
        e.branch(r.soft, lambda: _mean(e, r, context))
        e.branch(r.hard, lambda: _drawn(e, r, context))

    _of_rows(e, row)


def _infinity(e: Job) -> str:
    return "0xFFF0000000000000"  # −∞, in LLVM's notation for either type


def _softmax(e: Job, r: _Row) -> None:
    def larger(v: str, most: list[str]) -> list[str]:
        some = e.left(r.S, v)
        value = e.load_some(e.at(r.weights, e.integer_of("mul", v, e.lanes)), some)
        value = e.select(some, value, e.splat(-1e30))
        return [e.select(e.compare("ogt", value, most[0]), value, most[0])]

    (most,) = e.loop("0", e.vectors(r.S), "1", larger, [(e.vector, e.splat(-1e30))])
    top = e.spread(e.scalar, _horizontal(e, "fmax", most))

    def power(v: str, total: list[str]) -> list[str]:
        some = e.left(r.S, v)
        address = e.at(r.weights, e.integer_of("mul", v, e.lanes))
        value = exp(e, e.sub(e.load_some(address, some), top))
        e.store_some(value, address, some)
        return [e.add(total[0], e.select(some, value, e.splat(0.0)))]

    (sums,) = e.loop("0", e.vectors(r.S), "1", power, [(e.vector, e.splat(0.0))])
    total = _horizontal(e, "fadd", sums)
    nothing = e.emit(f"fcmp oeq {e.scalar} {total}, {e.number(0.0)}")
    scale = _scalar(e, "fdiv", e.number(1.0), e.choose(nothing, e.number(1.0), total, e.scalar))
    factor = e.spread(e.scalar, scale)

    def divided(offset: str, some: str) -> None:
        address = e.at(r.weights, offset)
        e.store_some(e.mul(e.load_some(address, some), factor), address, some)

    _each_vector(e, r.S, divided)


def _mean(e: Job, r: _Row, context: str) -> None:
    """z = Σ α_s V_s, for `SIDE` vectors at a time."""

    def block(v: str, _: list[str]) -> list[str]:
        each = [e.integer_of("add", v, k) for k in range(SIDE)]
        masks = [e.left(r.Z, one) for one in each]
        offsets = [e.integer_of("mul", one, e.lanes) for one in each]

        def add(s: str, sums: list[str]) -> list[str]:
            weight = e.spread(e.scalar, _load_scalar(e, e.at(r.weights, s)))
            value = e.at(r.values, e.integer_of("mul", s, r.Z))
            return [
                e.fma(e.load_some(e.at(value, offset), some), weight, total)
                for offset, some, total in zip(offsets, masks, sums, strict=True)
            ]

        sums = e.loop("0", r.S, "1", add, [(e.vector, e.splat(0.0))] * SIDE)
        for offset, some, total in zip(offsets, masks, sums, strict=True):
            e.store_some(total, e.at(context, offset), some)
        return []

    e.loop("0", e.vectors(r.Z), str(SIDE), block)


def _drawn(e: Job, r: _Row, context: str) -> None:
    """The value at the last place whose weight is above 0 and before which weights add up to no more than the
    row's number, or for a negative number the first of the greatest weight; none where there is nothing."""
    number = _load_scalar(e, e.at(e.pointer("uniform"), r.number))

    def place(s: str, so_far: list[str]) -> list[str]:
        below, most, drawn, likeliest = so_far
        weight = _load_scalar(e, e.at(r.weights, s))
        reached = e.emit(f"fcmp ole {e.scalar} {below}, {number}")
        some = e.emit(f"fcmp ogt {e.scalar} {weight}, {e.number(0.0)}")
        here = e.emit(f"and i1 {reached}, {some}")
        more = e.emit(f"fcmp ogt {e.scalar} {weight}, {most}")
        return [
            _scalar(e, "fadd", below, weight),
            e.choose(more, weight, most, e.scalar),
            e.choose(here, s, drawn, "i64"),
            e.choose(more, s, likeliest, "i64"),
        ]

    nothing = [(e.scalar, e.number(0.0))] * 2 + [("i64", "-1")] * 2
    _, _, drawn, likeliest = e.loop("0", r.S, "1", place, nothing)
    draws = e.emit(f"fcmp oge {e.scalar} {number}, {e.number(0.0)}")
    found = e.choose(draws, drawn, likeliest, "i64")
    e.do(f"store i64 {found}, ptr {r.chosen}, align 8")
    value = e.at(r.values, e.integer_of("mul", e.larger(found, "0"), r.Z))
    there = e.choose(e.emit(f"icmp sge i64 {found}, 0"), "splat (i1 true)", "zeroinitializer", e.mask)

    def copied(offset: str, some: str) -> None:
        known = e.emit(f"and {e.mask} {some}, {there}")
        e.store_some(e.load_some(e.at(value, offset), known), e.at(context, offset), some)

    _each_vector(e, r.Z, copied)


@job(*MEMORY, "d context", "arriving", "arriving row", "d weights", "d weights row", "room", "d query",
     "d query row", "d query whole", "d query add", "d keys", "d values", "d score", "part")  # fmt: skip
def attend_back(e: Job) -> None:
    """The gradients of one step: to that of the contexts is added what arrives from elsewhere, rows of
    `arriving` and, for α, of `d weights`. Those of keys and values are added to what is there, that of v to
    this worker's sum, `part` behind the one before; `room` has S numbers for each row."""
    score = e.pointer("score")
    begin, _ = e.rows_of_chunk()
    d_score = e.at(e.pointer("d score"), e.integer_of("mul", "%worker", e.word("part")))

    def row(r: _Row, b: str) -> None:
        d_context = e.at(e.pointer("d context"), e.integer_of("mul", r.number, r.Z))
        arriving = e.at(e.pointer("arriving"), e.integer_of("mul", r.number, e.word("arriving row")))
        d_weights = e.at(e.pointer("d weights"), e.integer_of("mul", r.number, e.word("d weights row")))
        room = e.at(e.pointer("room"), e.integer_of("mul", b, r.S))
        d_keys = e.at(e.pointer("d keys"), e.integer_of("mul", r.first, r.A))
        d_values = e.at(e.pointer("d values"), e.integer_of("mul", r.first, r.Z))
        here = e.integer_of("add", e.if_whole("d query whole", begin), b)
        d_query = e.at(e.pointer("d query"), e.integer_of("mul", here, e.word("d query row")))
        adds = e.emit(f"icmp ne i64 {e.word('d query add')}, 0")

        def joined(offset: str, some: str) -> None:
            address = e.at(d_context, offset)
            both = e.add(e.load_some(address, some), e.load_some(e.at(arriving, offset), some))
            e.store_some(both, address, some)

        _each_vector(e, r.Z, joined)

        def place(s: str, total: list[str]) -> list[str]:
            weight = _load_scalar(e, e.at(r.weights, s))
            factor = e.spread(e.scalar, weight)
            to = e.at(room, s)
            _store_scalar(e, _load_scalar(e, e.at(d_weights, s)), to)

            def of_context() -> None:
                offset = e.integer_of("mul", s, r.Z)
                value, d_value = e.at(r.values, offset), e.at(d_values, offset)

                def pair(offset: str, some: str) -> tuple[str, str]:
                    d = e.load_some(e.at(d_context, offset), some)
                    address = e.at(d_value, offset)
                    e.store_some(e.fma(d, factor, e.load_some(address, some)), address, some)
                    return d, e.load_some(e.at(value, offset), some)

                _store_scalar(e, _scalar(e, "fadd", _load_scalar(e, to), _dot(e, r.Z, pair)), to)

            has = e.emit(f"fcmp une {e.scalar} {weight}, {e.number(0.0)}")
            e.branch(e.emit(f"and i1 {has}, {r.soft}"), of_context)
            product = _scalar(e, "fmul", weight, _load_scalar(e, to))
            return [_scalar(e, "fadd", total[0], product)]

        (total,) = e.loop("0", r.S, "1", place, [(e.scalar, e.number(0.0))])
        e.branch(r.hard, lambda: _to_drawn(e, r, d_context, d_values))
        mean = e.spread(e.scalar, total)

        def of_scores(offset: str, some: str) -> None:
            address = e.at(room, offset)
            d = e.sub(e.load_some(address, some), mean)
            e.store_some(e.mul(e.load_some(e.at(r.weights, offset), some), d), address, some)

        _each_vector(e, r.S, of_scores)

        def keys(additive: bool) -> None:
            def vector(offset: str, some: str) -> None:
                q = e.load_some(e.at(r.query, offset), some)
                v = e.load_some(e.at(score, offset), some) if additive else ""

                def each(s: str, sums: list[str]) -> list[str]:
                    d = e.spread(e.scalar, _load_scalar(e, e.at(room, s)))
                    at = e.integer_of("add", e.integer_of("mul", s, r.A), offset)
                    k = e.load_some(e.at(r.keys, at), some)
                    d_key = e.at(d_keys, at)
                    before = e.load_some(d_key, some)
                    if not additive:
                        e.store_some(e.fma(d, q, before), d_key, some)
                        return [e.fma(d, k, sums[0]), sums[1]]
                    u = tanh(e, e.add(q, k))
                    through = e.mul(e.mul(d, v), e.sub(e.splat(1.0), e.mul(u, u)))
                    e.store_some(e.add(before, through), d_key, some)
                    return [e.add(sums[0], through), e.fma(d, u, sums[1])]

                wanted = e.choose(adds, some, "zeroinitializer", e.mask)
                to = e.at(d_query, offset)
                start = [(e.vector, e.load_some(to, wanted)), (e.vector, e.splat(0.0))]
                of_query, of_score = e.loop("0", r.S, "1", each, start)
                e.store_some(of_query, to, some)
                if additive:
                    summed = e.at(d_score, offset)
                    e.store_some(e.add(e.load_some(summed, some), of_score), summed, some)

            _each_vector(e, r.A, vector)

        e.branch(r.additive, lambda: keys(True))
        e.branch(r.dot, lambda: keys(False))

    _of_rows(e, row)


def _to_drawn(e: Job, r: _Row, d_context: str, d_values: str) -> None:
    """The gradient of the value that was drawn."""
    chosen = e.load(r.chosen, "i64")

    def add() -> None:
        to = e.at(d_values, e.integer_of("mul", chosen, r.Z))

        def one(offset: str, some: str) -> None:
            address = e.at(to, offset)
            both = e.add(e.load_some(address, some), e.load_some(e.at(d_context, offset), some))
            e.store_some(both, address, some)

        _each_vector(e, r.Z, one)

    e.branch(e.emit(f"icmp sge i64 {chosen}, 0"), add)


@job("source", "source row", "to", "width")
def keep(e: Job) -> None:
    """The rows of the chunk into a place of all steps; `width` are whole vectors."""
    begin, count = e.rows_of_chunk()
    source, source_row = e.pointer("source"), e.word("source row")
    to, width = e.pointer("to"), e.word("width")
    first, end = e.share(count)

    def row(r: str, _: list[str]) -> list[str]:
        here = e.at(source, e.integer_of("mul", r, source_row))
        there = e.at(to, e.integer_of("mul", e.integer_of("add", begin, r), width))
        _each_vector(e, width, lambda offset, some: e.store(e.load(e.at(here, offset)), e.at(there, offset)))
        return []

    e.loop(first, end, "1", row)
