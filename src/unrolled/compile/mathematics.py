"""Elementary functions as straight-line LLVM IR on one vector.

Each function of this module prints the instructions that compute one row of the table of operations and
returns the name of the result. Nothing branches and nothing is called, so a loop around a cell's equations
stays a loop of vector instructions.

How they work (Muller, *Elementary Functions*, 3rd edition, 2016; Cody & Waite, 1980; the series of the
logarithm in s = f / (2 + f) is that of Sun's fdlibm):

    exp    x = n ln 2 + r, |r| <= ln 2 / 2; exp(r) by a polynomial; 2^n by an addition to the exponent's bits
    log    x = 2^k (1 + f), sqrt(1/2) <= 1 + f < sqrt(2); log(1 + f) = 2s + 2s^3/3 + ...
    sin    x = n π + r, |r| <= π / 2; an odd polynomial; the last bit of n is the sign

Errors are at most 4 units in the last place of the result (measured: 2.6), `pow` included, wherever it is a
normal number; a result below the smallest normal number may be 0. `sin` and `cos` err at most 2 units in the
last place of 1, up to |x| = 1e4 in float and 1e5 in double; beyond that they lose digits, and stay within
[-1, 1]. NaN goes in, NaN comes out: every clamp is a comparison and a selection in the order that hands NaN
on, which is one instruction on x86.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

from unrolled.compile.emit import BITS, Emitter
from unrolled.compile.formats import FORMATS

LN2: Final = math.log(2.0)
INFINITY: Final = math.inf


# -- integers and bits --------------------------------------------------------------------------------------


def _integers(e: Emitter, instruction: str, a: str, b: int) -> str:
    """An instruction on integer vectors with a constant."""
    return e.emit(f"{instruction} {e.integers} {a}, {e.integer(b)}")


def _both(e: Emitter, a: str, b: str) -> str:
    return e.emit(f"and {e.mask} {a}, {b}")


def _at_most(e: Emitter, x: str, bound: float) -> str:
    """min(x, bound) that hands NaN on."""
    limit = e.splat(bound)
    return e.select(e.compare("ogt", x, limit), limit, x)


def _at_least(e: Emitter, x: str, bound: float) -> str:
    """max(x, bound) that hands NaN on."""
    limit = e.splat(bound)
    return e.select(e.compare("olt", x, limit), limit, x)


# -- exponentials -------------------------------------------------------------------------------------------


def _reduce(e: Emitter, x: str, unit: float = 1.0, bias: int = 0) -> tuple[str, str]:
    """unit x = n ln 2 + unit r.

    Returns:
        the bits of 2^(n + bias - format.bias), and r. They are those of 2^n if the bias is the format's, and
        the amount to add to the bits of a number to multiply it by 2^n if it is 0.
    """
    f = FORMATS[e.scalar]
    rounding = e.splat(f.rounding + bias)
    shifted = e.fma(x, e.splat(unit / LN2), rounding)
    n = e.sub(shifted, rounding)
    r = e.fma(n, e.splat(-f.ln2[0] / unit), x)
    r = e.fma(n, e.splat(-f.ln2[1] / unit), r)
    return _integers(e, "shl", e.as_integers(shifted), f.fraction), r


def _series(e: Emitter, unit: float = 1.0) -> list[float]:
    """Coefficients of (exp(unit r) - 1 - unit r) / r^2."""
    coefficients = FORMATS[e.scalar].exp
    return [c * unit ** (len(coefficients) + 1 - k) for k, c in enumerate(coefficients)]


def _exp(e: Emitter, x: str, low: str | None = None) -> str:
    """exp(x + low), where |low| is much smaller than |x|."""
    f = FORMATS[e.scalar]
    bits, r = _reduce(e, x)
    if low is None:
        enough = e.compare("oge", x, e.splat(f.exp_low[0]))
        above = e.compare("ugt", x, e.splat(f.exp_high[0]))
    else:
        r = e.add(r, low)
        # Near an end the difference is exact.
        from_low, from_high = (e.add(e.sub(x, e.splat(end)), low) for end in (f.exp_low[0], f.exp_high[0]))
        enough = e.compare("oge", from_low, e.splat(f.exp_low[1]))
        above = e.compare("ugt", from_high, e.splat(f.exp_high[1]))
    p = e.polynomial(r, [*_series(e), 1.0, 1.0])
    y = e.emit(f"add {e.integers} {e.as_integers(p)}, {bits}")
    if low is not None:  # the last numbers below infinity: an error of p must not carry into a NaN's bits
        largest = ((2 * f.bias + 1) << f.fraction) - 1
        beyond = e.emit(f"icmp sgt {e.integers} {y}, {e.integer(largest)}")
        y = e.emit(f"select {e.mask} {beyond}, {e.integers} {e.integer(largest)}, {e.integers} {y}")
    y = e.emit(f"select {e.mask} {enough}, {e.integers} {y}, {e.integers} zeroinitializer")
    # Above the largest number, or NaN: the sum is infinity or NaN, in one masked instruction.
    return e.select(above, e.add(x, e.splat(INFINITY)), e.as_vector(y))


def exp(e: Emitter, x: str) -> str:
    return _exp(e, x)


def _expm1_of_rest(e: Emitter, r: str, unit: float = 1.0) -> str:
    """expm1(unit r) / unit."""
    return e.fma(e.mul(r, r), e.polynomial(r, [c / unit for c in _series(e, unit)]), r)


def expm1(e: Emitter, x: str) -> str:
    """2 (2^(n-1) expm1(r) + 2^(n-1) - 1/2): halved, because 2^n may be beyond the largest number."""
    f = FORMATS[e.scalar]
    x = _at_most(e, _at_least(e, x, f.expm1_low), (f.bias + 1.375) * LN2)
    bits, r = _reduce(e, x, bias=f.bias - 1)
    half_power = e.as_vector(bits)
    half = e.fma(half_power, _expm1_of_rest(e, r), e.sub(half_power, e.splat(0.5)))
    return e.add(half, half)


def sigmoid(e: Emitter, x: str) -> str:
    """1 / (1 + exp(-x)); between the clamps 2^n is 0, a normal number or infinity."""
    f = FORMATS[e.scalar]
    bound = (f.bias + 1) * LN2
    x = _at_most(e, _at_least(e, x, -bound), f.bias * LN2)
    bits, r = _reduce(e, x, -1.0, f.bias)
    p = e.polynomial(r, [*_series(e, -1.0), -1.0, 1.0])
    return e.div(e.splat(1.0), e.fma(p, e.as_vector(bits), e.splat(1.0)))


def tanh(e: Emitter, x: str) -> str:
    """h / (h + 1) with h = expm1(2|x|) / 2, and the sign of x: accurate near 0, and odd."""
    f = FORMATS[e.scalar]
    magnitude = _at_most(e, e.intrinsic("fabs", x), f.tanh_high)
    bits, r = _reduce(e, magnitude, 2.0, f.bias)
    power = e.as_vector(bits)
    h = e.fma(power, _expm1_of_rest(e, r, 2.0), e.fma(power, e.splat(0.5), e.splat(-0.5)))
    return e.intrinsic("copysign", e.div(h, e.add(h, e.splat(1.0))), x)


# -- logarithms ---------------------------------------------------------------------------------------------


def _exponent(e: Emitter, u: str, scaled: str | None = None) -> tuple[str, str]:
    """u = 2^k m with sqrt(1/2) <= m < sqrt(2), for a normal u above 0.

    Args:
        scaled: a mask; there u was multiplied by 2^fraction, which k takes back.

    Returns:
        bits that hold k's in place of the exponent, biased, and m's distance from sqrt(1/2) below; and k.
    """
    f = FORMATS[e.scalar]
    bits = _integers(e, "add", e.as_integers(u), f.one - f.root_half)
    # A number in [2^fraction, 2^(fraction + 1)) has the biased exponent as its last bits; a conversion of
    # 64-bit integers would be slow before AVX-512.
    biased = _integers(e, "or", _integers(e, "lshr", bits, f.fraction), (f.bias + f.fraction) << f.fraction)
    zero = e.splat(2.0**f.fraction + f.bias)
    if scaled is not None:
        zero = e.select(scaled, e.splat(2.0**f.fraction + f.bias + f.fraction), zero)
    return bits, e.sub(e.as_vector(biased), zero)


def _mantissa(e: Emitter, bits: str) -> str:
    """m, from what `_exponent` returned."""
    f = FORMATS[e.scalar]
    rest = _integers(e, "and", bits, (1 << f.fraction) - 1)
    return e.as_vector(_integers(e, "add", rest, f.root_half))


def _log_of_parts(e: Emitter, k: str, f: str) -> str:
    """k ln 2 + log(1 + f); log(1 + f) = f - s (f - R), s = f / (2 + f), R = 2s^2/3 + ..."""
    s = e.div(f, e.add(f, e.splat(2.0)))
    z = e.mul(s, s)
    rest = e.mul(z, e.polynomial(z, list(FORMATS[e.scalar].log)))
    return e.fma(k, e.splat(LN2), e.fma(s, e.sub(rest, f), f))


def _log1p_of_parts(e: Emitter, x: str, largest: bool) -> str:
    """log(1 + x) for x above -1; without `largest` for x below 2^bias / 2.

    1 + x = 2^k (1 + f) for f = x 2^-k + (2^-k - 1): no digit of a small x is lost to the sum.
    """
    t = FORMATS[e.scalar]
    bits, k = _exponent(e, e.add(x, e.splat(1.0)))
    power = _integers(e, "and", bits, -1 << t.fraction)
    inverse = e.as_vector(e.emit(f"sub {e.integers} {e.integer(2 * t.one)}, {power}"))
    f = e.fma(x, inverse, e.sub(inverse, e.splat(1.0)))
    if largest:  # there 2^-k may not be a normal number, and 1 + x is x
        large = e.compare("ogt", x, e.splat(2.0 ** (t.bias // 2)))
        f = e.select(large, e.sub(_mantissa(e, bits), e.splat(1.0)), f)
    return _log_of_parts(e, k, f)


def _at_ends(e: Emitter, x: str, y: str, pole: float) -> str:
    """y, but -infinity where x is the pole, NaN below it, and x where it is infinity or NaN."""
    y = e.select(e.compare("olt", x, e.splat(INFINITY)), y, x)
    low = e.select(e.compare("oeq", x, e.splat(pole)), e.splat(-INFINITY), e.splat(math.nan))
    return e.select(e.compare("ole", x, e.splat(pole)), low, y)


def _normal(e: Emitter, x: str) -> tuple[str, str]:
    """x times 2^fraction where it is below the smallest normal number, and where that is."""
    f = FORMATS[e.scalar]
    small = e.compare("olt", x, e.splat(f.smallest))
    return e.select(small, e.mul(x, e.splat(2.0**f.fraction)), x), small


def log(e: Emitter, x: str) -> str:
    u, small = _normal(e, x)
    bits, k = _exponent(e, u, small)
    y = _log_of_parts(e, k, e.sub(_mantissa(e, bits), e.splat(1.0)))
    return _at_ends(e, x, y, 0.0)


def log1p(e: Emitter, x: str) -> str:
    return _at_ends(e, x, _log1p_of_parts(e, x, largest=True), -1.0)


def softplus(e: Emitter, x: str) -> str:
    """log1p(exp(x)), and x above 20, as in torch."""
    f = FORMATS[e.scalar]
    bits, r = _reduce(e, _at_most(e, _at_least(e, x, -f.bias * LN2), 20.0), bias=f.bias)
    p = e.polynomial(r, [*_series(e), 1.0, 1.0])
    y = _log1p_of_parts(e, e.mul(p, e.as_vector(bits)), largest=False)
    return e.select(e.compare("ogt", x, e.splat(20.0)), x, y)


# -- powers -------------------------------------------------------------------------------------------------


def _power_by_products(e: Emitter, a: str, b: str) -> str | None:
    """a^b for the constant exponents that a few instructions compute."""
    if b == e.splat(0.5):
        return sqrt(e, a)
    if b in (e.splat(-1.0), e.splat(-2.0)):
        inverse = e.div(e.splat(1.0), a)
        return inverse if b == e.splat(-1.0) else e.mul(inverse, inverse)
    if b == e.splat(0.0):
        return e.splat(1.0)
    if b == e.splat(1.0):
        return a
    if b not in (e.splat(2.0), e.splat(3.0), e.splat(4.0)):
        return None
    square = e.mul(a, a)
    if b == e.splat(2.0):
        return square
    return e.mul(square, a if b == e.splat(3.0) else square)


def _log_in_two(e: Emitter, a: str) -> tuple[str, str]:
    """log(a) as the sum of two numbers, for a above 0 and finite."""
    t = FORMATS[e.scalar]
    u, small = _normal(e, a)
    bits, k = _exponent(e, u, small)
    m = _mantissa(e, bits)
    f = e.sub(m, e.splat(1.0))
    # s + rest / (m + 1) = f / (m + 1); the remainder of the division is exact
    divisor = e.add(m, e.splat(1.0))
    missing = e.sub(m, e.sub(divisor, e.splat(1.0)))
    inverse = e.div(e.splat(1.0), divisor)
    s = e.mul(f, inverse)
    negative = e.neg(s)
    rest = e.mul(inverse, e.fma(negative, missing, e.fma(negative, divisor, f)))
    # 2s^3/3 in two parts
    z = e.mul(s, s)
    cube = e.mul(z, s)
    cube_rest = e.fma(s, e.fma(s, s, e.neg(z)), e.fma(z, s, e.neg(cube)))
    third = e.splat(t.two_thirds[0])
    term = e.mul(cube, third)
    low = e.fma(cube, third, e.neg(term))
    low = e.fma(cube, e.splat(t.two_thirds[1]), e.fma(cube_rest, third, low))
    low = e.fma(e.mul(cube, z), e.polynomial(z, list(t.log_tail)), low)
    low = e.fma(rest, e.fma(z, e.splat(2.0), e.splat(2.0)), low)
    low = e.fma(k, e.splat(t.ln2[1]), low)
    # k ln2[0] is exact, and 0 or larger than 2s, which is larger than the cube: each sum's error is exact
    total, twice = e.mul(k, e.splat(t.ln2[0])), e.add(s, s)
    errors = []
    for value in (twice, term):
        following = e.add(total, value)
        errors.append(e.sub(value, e.sub(following, total)))
        total = following
    low = e.add(low, e.add(*errors))
    high = e.add(total, low)
    return high, e.sub(low, e.sub(high, total))


def pow(e: Emitter, a: str, b: str) -> str:
    """exp(b log|a|) with the logarithm in two parts, then the sign and the exceptions of C's `pow`.

    A constant exponent of 1/2 or of a small integer is computed by a root or by products.
    """
    product = _power_by_products(e, a, b)
    if product is not None:
        return product
    zero, one, infinity = e.splat(0.0), e.splat(1.0), e.splat(INFINITY)
    size = e.intrinsic("fabs", a)
    high, low = _log_in_two(e, size)
    finite = e.compare("olt", size, infinity)
    high = e.select(finite, high, size)  # infinity or NaN
    high = e.select(e.compare("oeq", size, zero), e.splat(-INFINITY), high)
    y = e.mul(b, high)
    rest = e.fma(b, low, e.fma(b, high, e.neg(y)))
    # Where exp(y) is 0 or infinity, the rest may be NaN by infinity - infinity.
    near = e.compare("olt", e.intrinsic("fabs", y), e.splat(2.0 * FORMATS[e.scalar].bias))
    y = _exp(e, y, e.select(near, rest, zero))
    y = e.select(e.compare("oeq", size, one), one, y)
    # An odd integer's half is no integer.
    whole = e.compare("oeq", e.intrinsic("rint", b), b)
    half = e.mul(b, e.splat(0.5))
    odd = _both(e, whole, e.compare("one", e.intrinsic("rint", half), half))
    y = e.select(odd, e.intrinsic("copysign", y, a), y)
    fractional = e.select(whole, y, e.splat(math.nan))
    y = e.select(_both(e, e.compare("olt", a, zero), finite), fractional, y)
    always_one = e.emit(f"or {e.mask} {e.compare('oeq', a, one)}, {e.compare('oeq', b, zero)}")
    return e.select(always_one, one, y)


# -- sine and cosine ----------------------------------------------------------------------------------------


def _sine(e: Emitter, x: str, quarter: bool) -> str:
    """(-1)^n sin(x - n π), or (-1)^n sin(x - (n - 1/2) π), which is cos(x)."""
    f = FORMATS[e.scalar]
    rounding, inverse = e.splat(f.rounding), e.splat(1.0 / math.pi)
    shifted = e.add(e.fma(x, inverse, e.splat(0.5)), rounding) if quarter else e.fma(x, inverse, rounding)
    n = e.sub(shifted, rounding)
    if quarter:
        n = e.sub(n, e.splat(0.5))
    r = x
    for part in f.pi:
        r = e.fma(n, e.splat(-part), r)
    z = e.mul(r, r)
    y = e.fma(e.mul(z, r), e.polynomial(z, list(f.sin)), r)
    # A rounding up may leave [-1, 1]; past the range of the reduction r is large, and the polynomial too.
    y = _at_most(e, _at_least(e, y, -1.0), 1.0)
    sign = _integers(e, "shl", e.as_integers(shifted), BITS[e.scalar] - 1)
    return e.as_vector(e.emit(f"xor {e.integers} {e.as_integers(y)}, {sign}"))


def sin(e: Emitter, x: str) -> str:
    return _sine(e, x, quarter=False)


def cos(e: Emitter, x: str) -> str:
    return _sine(e, x, quarter=True)


# -- the rest of the table ----------------------------------------------------------------------------------


def sqrt(e: Emitter, x: str) -> str:
    return e.intrinsic("sqrt", x)


def absolute(e: Emitter, x: str) -> str:
    return e.intrinsic("fabs", x)


def relu(e: Emitter, x: str) -> str:
    return _at_least(e, x, 0.0)


def maximum(e: Emitter, a: str, b: str) -> str:
    """The larger; NaN if either is NaN, as in torch."""
    return e.select(e.compare("uno", a, a), a, e.select(e.compare("ogt", a, b), a, b))


def minimum(e: Emitter, a: str, b: str) -> str:
    """The smaller; NaN if either is NaN, as in torch."""
    return e.select(e.compare("uno", a, a), a, e.select(e.compare("olt", a, b), a, b))


def _comparison(condition: str) -> Callable[[Emitter, str, str], str]:
    return lambda e, a, b: e.compare(condition, a, b)


FUNCTIONS: Final[dict[str, Callable[..., str]]] = {
    "add": Emitter.add,
    "sub": Emitter.sub,
    "mul": Emitter.mul,
    "div": Emitter.div,
    "neg": Emitter.neg,
    "pow": pow,
    "sigmoid": sigmoid,
    "tanh": tanh,
    "relu": relu,
    "softplus": softplus,
    "exp": exp,
    "expm1": expm1,
    "log": log,
    "log1p": log1p,
    "sqrt": sqrt,
    "abs": absolute,
    "sin": sin,
    "cos": cos,
    "maximum": maximum,
    "minimum": minimum,
    "gt": _comparison("ogt"),
    "ge": _comparison("oge"),
    "lt": _comparison("olt"),
    "le": _comparison("ole"),
    "where": Emitter.select,
}
"""The emitter of every row of the table of operations: `FUNCTIONS[kind](emitter, *operands)`.

Comparisons return a mask, and `where` takes one first."""
