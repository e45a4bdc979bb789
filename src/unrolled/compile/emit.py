"""LLVM IR as text, one instruction a call.

A value is its name in the text, such as "%v12" or "splat (float 1.0)". An `Emitter` knows one vector type:
the lanes of the processor times float or double.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from unrolled.compile.machine import machine

ATTRIBUTES: Final = 'nounwind "prefer-vector-width"="512" "min-legal-vector-width"="512"'
"""Of every function: without them LLVM halves vectors on some processors."""

BITS: Final = {"float": 32, "double": 64}


class Emitter:
    """Collects the text of one function's body.

    Attributes:
        scalar: "float" or "double".
        lanes: elements of a vector.
        vector, integers, mask: the types of a vector, of integers as wide, and of a comparison.
    """

    def __init__(self, scalar: str, lanes: int) -> None:
        self.scalar = scalar
        self.lanes = lanes
        self.vector = f"<{lanes} x {scalar}>"
        self.integers = f"<{lanes} x i{BITS[scalar]}>"
        self.mask = f"<{lanes} x i1>"
        self.lines: list[str] = []
        self.intrinsics: set[str] = set()
        self._count = 0

    def name(self, prefix: str = "v") -> str:
        """A name that was not used before."""
        self._count += 1
        return f"{prefix}{self._count}"

    def emit(self, instruction: str) -> str:
        """Add an instruction that has a value; returns the value."""
        value = f"%{self.name()}"
        self.lines.append(f"  {value} = {instruction}")
        return value

    def do(self, instruction: str) -> None:
        """Add an instruction that has no value."""
        self.lines.append(f"  {instruction}")

    def number(self, value: float) -> str:
        """A scalar constant, exact in the emitter's type."""
        if self.scalar == "float":
            (value,) = struct.unpack("f", struct.pack("f", value))
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"

    def splat(self, value: float) -> str:
        """The same number in every lane."""
        return f"splat ({self.scalar} {self.number(value)})"

    def integer(self, value: int) -> str:
        """The same integer in every lane."""
        return f"splat (i{BITS[self.scalar]} {value})"

    def binary(self, instruction: str, a: str, b: str) -> str:
        """`fadd`, `fsub`, `fmul` or `fdiv` of two vectors."""
        return self.emit(f"{instruction} {self.vector} {a}, {b}")

    def add(self, a: str, b: str) -> str:
        return self.binary("fadd", a, b)

    def sub(self, a: str, b: str) -> str:
        return self.binary("fsub", a, b)

    def mul(self, a: str, b: str) -> str:
        return self.binary("fmul", a, b)

    def div(self, a: str, b: str) -> str:
        return self.binary("fdiv", a, b)

    def neg(self, a: str) -> str:
        return self.emit(f"fneg {self.vector} {a}")

    def intrinsic(self, name: str, *operands: str) -> str:
        """An LLVM intrinsic from vectors to a vector, such as `fma` or `fabs`."""
        suffix = f"v{self.lanes}f{BITS[self.scalar]}"
        types = ", ".join([self.vector] * len(operands))
        self.intrinsics.add(f"declare {self.vector} @llvm.{name}.{suffix}({types})")
        arguments = ", ".join(f"{self.vector} {v}" for v in operands)
        return self.emit(f"call {self.vector} @llvm.{name}.{suffix}({arguments})")

    def fma(self, a: str, b: str, c: str) -> str:
        """a * b + c, rounded once where the processor can."""
        return self.intrinsic("fma", a, b, c) if machine().fused else self.add(self.mul(a, b), c)

    def polynomial(self, x: str, coefficients: list[float]) -> str:
        """By Horner's rule, the highest power first."""
        value = self.splat(coefficients[0])
        for coefficient in coefficients[1:]:
            value = self.fma(value, x, self.splat(coefficient))
        return value

    def spread(self, kind: str, element: str) -> str:
        """A vector with one element, a scalar of this kind, in every lane."""
        vector = f"<{self.lanes} x {kind}>"
        single = self.emit(f"insertelement {vector} poison, {kind} {element}, i32 0")
        zeros = f"<{self.lanes} x i32> zeroinitializer"
        return self.emit(f"shufflevector {vector} {single}, {vector} poison, {zeros}")

    def compare(self, condition: str, a: str, b: str) -> str:
        """A mask; conditions are LLVM's: `ogt`, `olt`, `oge`, `ole`, `oeq`, `uno`."""
        return self.emit(f"fcmp {condition} {self.vector} {a}, {b}")

    def select(self, mask: str, a: str, b: str) -> str:
        """a where the mask is set, b elsewhere."""
        return self.emit(f"select {self.mask} {mask}, {self.vector} {a}, {self.vector} {b}")

    def choose(self, bit: str, a: str, b: str, kind: str) -> str:
        """a if a bit is set, else b; both of any type."""
        return self.emit(f"select i1 {bit}, {kind} {a}, {kind} {b}")

    def shuffle(self, a: str, b: str, places: Sequence[int]) -> str:
        """A vector of elements of a, numbered from 0, and of b, numbered on."""
        numbers = ", ".join(f"i32 {k}" for k in places)
        kind = f"<{self.lanes} x i32>"
        return self.emit(f"shufflevector {self.vector} {a}, {self.vector} {b}, {kind} <{numbers}>")

    def as_integers(self, a: str) -> str:
        """The bits of a vector."""
        return self.emit(f"bitcast {self.vector} {a} to {self.integers}")

    def as_vector(self, a: str) -> str:
        """A vector from its bits."""
        return self.emit(f"bitcast {self.integers} {a} to {self.vector}")

    # Memory

    def at(self, pointer: str, offset: str, kind: str = "") -> str:
        """The address `offset` elements behind a pointer."""
        return self.emit(f"getelementptr {kind or self.scalar}, ptr {pointer}, i64 {offset}")

    def load(self, address: str, kind: str = "") -> str:
        """A vector, or a value of another type; aligned as its elements are."""
        align = 8 if kind in ("i64", "ptr") else BITS[self.scalar] // 8
        return self.emit(f"load {kind or self.vector}, ptr {address}, align {align}")

    def store(self, value: str, address: str) -> None:
        self.do(f"store {self.vector} {value}, ptr {address}, align {BITS[self.scalar] // 8}")

    def load_whole(self, address: str) -> str:
        """A vector that is aligned as a whole."""
        return self.emit(f"load {self.vector}, ptr {address}, align {self.lanes * BITS[self.scalar] // 8}")

    def store_whole(self, value: str, address: str) -> None:
        align = self.lanes * BITS[self.scalar] // 8
        self.do(f"store {self.vector} {value}, ptr {address}, align {align}")

    def load_some(self, address: str, mask: str) -> str:
        """A vector of which only the lanes of a mask are read; 0 elsewhere."""
        name = f"llvm.masked.load.v{self.lanes}f{BITS[self.scalar]}.p0"
        self.intrinsics.add(f"declare {self.vector} @{name}(ptr, i32, {self.mask}, {self.vector})")
        align = f"i32 {BITS[self.scalar] // 8}"
        zero = f"{self.vector} zeroinitializer"
        return self.emit(f"call {self.vector} @{name}(ptr {address}, {align}, {self.mask} {mask}, {zero})")

    def store_some(self, value: str, address: str, mask: str) -> None:
        """Store the lanes of a mask."""
        name = f"llvm.masked.store.v{self.lanes}f{BITS[self.scalar]}.p0"
        self.intrinsics.add(f"declare void @{name}({self.vector}, ptr, i32, {self.mask})")
        align = f"i32 {BITS[self.scalar] // 8}"
        self.do(f"call void @{name}({self.vector} {value}, ptr {address}, {align}, {self.mask} {mask})")

    def first_lanes(self, count: str) -> str:
        """The mask of the first lanes: all if there are that many, none if the count is not positive."""
        kind = f"<{self.lanes} x i64>"
        numbers = ", ".join(f"i64 {k}" for k in range(self.lanes))
        return self.emit(f"icmp slt {kind} <{numbers}>, {self.spread('i64', count)}")

    # Integers

    def integer_of(self, instruction: str, *operands: str | int) -> str:
        """An instruction on 64-bit integers: `add`, `sub`, `mul`, `udiv`, `urem`, `and`."""
        return self.emit(f"{instruction} i64 {', '.join(str(v) for v in operands)}")

    def smaller(self, a: str, b: str | int) -> str:
        """The smaller of two 64-bit integers."""
        return self.choose(self.emit(f"icmp slt i64 {a}, {b}"), a, str(b), "i64")

    def larger(self, a: str, b: str | int) -> str:
        """The larger of two 64-bit integers."""
        return self.choose(self.emit(f"icmp sgt i64 {a}, {b}"), a, str(b), "i64")

    # Control

    def branch(self, condition: str, body: Callable[[], None]) -> None:
        """Do something if a bit is set."""
        inside, after = self.name("b"), self.name("b")
        self.do(f"br i1 {condition}, label %{inside}, label %{after}")
        self.lines.append(f"{inside}:")
        body()
        self.do(f"br label %{after}")
        self.lines.append(f"{after}:")

    def loop(self, first: str, end: str, step: str, body: Callable[[str, list[str]], list[str]],
             carried: list[tuple[str, str]] | None = None) -> list[str]:  # fmt: skip
        """for (i64 i = first; i < end; i += step): `body(i, values)` returns the values for the next round.

        Args:
            carried: type and first value of each value that goes from round to round.

        Returns:
            the values after the last round.
        """
        carried = carried or []
        before, inside, latch, after = (self.name("b") for _ in range(4))
        index, following = f"%{self.name()}", f"%{self.name()}"
        values = [f"%{self.name()}" for _ in carried]
        self.do(f"br label %{before}")
        self.lines.append(f"{before}:")
        enter = self.emit(f"icmp slt i64 {first}, {end}")
        self.do(f"br i1 {enter}, label %{inside}, label %{after}")
        self.lines.append(f"{inside}:")
        place = len(self.lines)
        results = body(index, values)
        self.do(f"br label %{latch}")
        self.lines.append(f"{latch}:")
        self.do(f"{following} = add nsw i64 {index}, {step}")
        go_on = self.emit(f"icmp slt i64 {following}, {end}")
        self.do(f"br i1 {go_on}, label %{inside}, label %{after}")
        self.lines.append(f"{after}:")
        last = []
        phis = [f"  {index} = phi i64 [ {first}, %{before} ], [ {following}, %{latch} ]"]
        for value, (kind, start), result in zip(values, carried, results, strict=True):
            phis.append(f"  {value} = phi {kind} [ {start}, %{before} ], [ {result}, %{latch} ]")
            last.append(self.emit(f"phi {kind} [ {start}, %{before} ], [ {result}, %{latch} ]"))
        self.lines[place:place] = phis
        return last
