"""LLVM IR as text, one instruction a call.

A value is its name in the text, such as "%v12" or "splat (float 1.0)". An `Emitter` knows one vector type:
the lanes of the processor times float or double.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

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
        return self.intrinsic("fma", a, b, c)

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

    def as_integers(self, a: str) -> str:
        """The bits of a vector."""
        return self.emit(f"bitcast {self.vector} {a} to {self.integers}")

    def as_vector(self, a: str) -> str:
        """A vector from its bits."""
        return self.emit(f"bitcast {self.integers} {a} to {self.vector}")

    def loop(self, first: str, end: str, step: str, body: Callable[[str, list[str]], list[str]],
             carried: list[tuple[str, str]] | None = None) -> list[str]:  # fmt: skip
        """for (i64 i = first; i < end; i += step): `body(i, values)` returns the values for the next round.

        Args:
            carried: type and first value of each value that goes from round to round.

        Returns:
            the values after the last round.
        """
        carried = carried or []
        before, head, inside, after = (self.name("b") for _ in range(4))
        index, following = f"%{self.name()}", f"%{self.name()}"
        values = [f"%{self.name()}" for _ in carried]
        self.do(f"br label %{before}")
        self.lines.append(f"{before}:")
        self.do(f"br label %{head}")
        self.lines.append(f"{head}:")
        place = len(self.lines)
        go_on = f"%{self.name()}"
        self.do(f"{go_on} = icmp slt i64 {index}, {end}")
        self.do(f"br i1 {go_on}, label %{inside}, label %{after}")
        self.lines.append(f"{inside}:")
        results = body(index, values)
        latch = self.name("b")
        self.do(f"br label %{latch}")
        self.lines.append(f"{latch}:")
        self.do(f"{following} = add nsw i64 {index}, {step}")
        self.do(f"br label %{head}")
        self.lines.append(f"{after}:")
        phis = [f"  {index} = phi i64 [ {first}, %{before} ], [ {following}, %{latch} ]"]
        for value, (kind, start), result in zip(values, carried, results, strict=True):
            phis.append(f"  {value} = phi {kind} [ {start}, %{before} ], [ {result}, %{latch} ]")
        self.lines[place:place] = phis
        return values
