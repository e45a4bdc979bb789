"""Elementary functions as LLVM IR: accurate to a few units in the last place, and exact at the ends."""

import ctypes
import functools
import itertools
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from unrolled.compile.emit import Emitter
from unrolled.compile.mathematics import FUNCTIONS
from unrolled.graph import OPERATIONS

DTYPES = {"float": np.float32, "double": np.float64}
WIDER = {"float": np.float64, "double": np.longdouble}
SHAPES = [("float", 16), ("float", 8), ("float", 4), ("double", 8), ("double", 4), ("double", 2)]
COMPARISONS = ("gt", "ge", "lt", "le")
POINTWISE = [name for name, row in OPERATIONS.items() if row.pointwise]


def sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


TRUTH: dict[str, Callable[..., np.ndarray]] = {
    "exp": np.exp,
    "expm1": np.expm1,
    "log": np.log,
    "log1p": np.log1p,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "softplus": lambda x: np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20)))),
    "sqrt": np.sqrt,
}

every_shape = pytest.mark.parametrize(
    ("scalar", "lanes"), SHAPES, ids=[f"{scalar}x{lanes}" for scalar, lanes in SHAPES]
)
widest = pytest.mark.parametrize(("scalar", "lanes"), [("float", 16), ("double", 8)], ids=list(DTYPES))
exact_enough = pytest.mark.skipif(np.finfo(np.longdouble).nmant < 63, reason="no extended precision here")


def calculate(kind: str, e: Emitter, *operands: str) -> str:
    """One row of the table, with masks as numbers."""
    if kind == "where":
        condition, *values = operands
        return FUNCTIONS[kind](e, e.compare("une", condition, e.splat(0.0)), *values)
    value = FUNCTIONS[kind](e, *operands)
    return e.select(value, e.splat(1.0), e.splat(0.0)) if kind in COMPARISONS else value


@functools.cache
def compiled(kind: str, scalar: str, lanes: int, constant: float | None = None) -> Callable[..., np.ndarray]:
    """A function of arrays; a constant takes the place of the last operand."""
    e = Emitter(scalar, lanes)
    arity = OPERATIONS[kind].arity - (constant is not None)
    align = np.dtype(DTYPES[scalar]).itemsize

    def body(i: str, _: list[str]) -> list[str]:
        operands = []
        for k in range(arity):
            place = e.emit(f"getelementptr {scalar}, ptr %in{k}, i64 {i}")
            operands.append(e.emit(f"load {e.vector}, ptr {place}, align {align}"))
        value = calculate(kind, e, *operands, *([] if constant is None else [e.splat(constant)]))
        place = e.emit(f"getelementptr {scalar}, ptr %out, i64 {i}")
        e.do(f"store {e.vector} {value}, ptr {place}, align {align}")
        return []

    e.loop("0", "%n", str(lanes), body)
    arguments = ", ".join(f"ptr %in{k}" for k in range(arity))
    text = "\n".join([
        *sorted(e.intrinsics),
        f"define void @f({arguments}, ptr %out, i64 %n) #0 {{",
        "entry:",
        *e.lines,
        "  ret void",
        "}",
        'attributes #0 = { "prefer-vector-width"="512" }',
    ])  # fmt: skip
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    module = llvm.parse_assembly(text)
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=llvm.get_host_cpu_features().flatten(), opt=2
    )
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=2))
    builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * (arity + 1), ctypes.c_int64)(
        engine.get_function_address("f")
    )

    def run(*arrays: np.ndarray, owner: object = engine) -> np.ndarray:
        """Fills the last vector up, and computes it with the others."""
        size = arrays[0].size
        whole = -(-size // lanes) * lanes
        padded = [np.resize(a.astype(DTYPES[scalar]), whole) for a in arrays]
        out = np.full(whole, 12345, DTYPES[scalar])
        function(*(a.ctypes.data for a in padded), out.ctypes.data, whole)
        return out[:size]

    return run


def numbers(scalar: str, count: int = 20_000) -> np.ndarray:
    """Normal numbers of every magnitude and both signs, dense where functions bend and at ends of ranges."""
    rng = np.random.default_rng(0)
    info = np.finfo(DTYPES[scalar])
    dense = [
        np.exp2(np.linspace(info.minexp, info.maxexp - 1e-3, count)),
        np.exp2(rng.uniform(-30, 8, count)),
        rng.uniform(0, 2 * np.log(float(info.max)) * 0.6, count),
        np.linspace(0, 3, count),
        np.log(float(info.max)) + np.linspace(-1, 1e-4, count),
        np.arange(300) * np.log(2) / 2,
        [info.tiny, info.max, 20, np.nextafter(20, 21), np.nextafter(20, 19), np.sqrt(0.5)],
    ]
    positive = np.concatenate(dense)
    beside_one = 1 + np.exp2(rng.uniform(-info.nmant, 0, count)) * rng.choice([-1, 1], count)
    return np.concatenate([positive, -positive, beside_one, -beside_one]).astype(DTYPES[scalar])


def ulps(result: np.ndarray, truth: np.ndarray, scalar: str) -> np.ndarray:
    """Distance in units in the last place of the truth, where that is a normal number; else 0."""
    info = np.finfo(DTYPES[scalar])
    normal = np.isfinite(truth) & (np.abs(truth) >= info.tiny) & (np.abs(truth) <= float(info.max))
    exact = np.where(normal, truth, 1)
    unit = np.ldexp(np.ones_like(exact), np.frexp(exact)[1] - 1) * exact.dtype.type(info.eps)
    return np.where(normal, np.abs(result.astype(exact.dtype) - exact) / unit, 0)


def torch_values(kind: str, *operands: np.ndarray) -> np.ndarray:
    tensors = [torch.from_numpy(np.array(x)) for x in operands]
    if kind == "where":
        tensors[0] = tensors[0] != 0
    return OPERATIONS[kind].run(*tensors).to(tensors[-1].dtype).numpy()


def specials(scalar: str) -> np.ndarray:
    info = np.finfo(DTYPES[scalar])
    values = [
        0,
        -0.0,
        1,
        -1,
        2,
        -2,
        3,
        -3,
        0.5,
        -0.5,
        2.5,
        -2.5,
        20,
        np.inf,
        -np.inf,
        np.nan,
        info.max,
        -info.max,
    ]
    return np.array(values, DTYPES[scalar])


def test_every_pointwise_row_of_the_table_has_its_function():
    assert FUNCTIONS.keys() == set(POINTWISE)


@exact_enough
@every_shape
@pytest.mark.parametrize("kind", TRUTH)
def test_a_result_errs_at_most_four_units_in_the_last_place(kind, scalar, lanes):
    x = numbers(scalar)
    with np.errstate(all="ignore"):
        truth = TRUTH[kind](x.astype(WIDER[scalar]))
    error = ulps(compiled(kind, scalar, lanes)(x), truth, scalar)
    worst = np.argmax(np.where(np.isnan(error), np.inf, error))
    assert error[worst] <= 4, x[worst]


@exact_enough
@every_shape
@pytest.mark.parametrize("kind", TRUTH)
def test_a_result_that_is_no_normal_number_is_close_to_zero_or_the_infinity(kind, scalar, lanes):
    """A subnormal result may be rounded or flushed to 0; one beyond the largest number is infinite."""
    x = numbers(scalar)
    info = np.finfo(DTYPES[scalar])
    with np.errstate(all="ignore"):
        truth = TRUTH[kind](x.astype(WIDER[scalar]))
    result = compiled(kind, scalar, lanes)(x)
    small = np.abs(truth) < info.tiny
    error = np.abs(result[small].astype(truth.dtype) - truth[small])
    assert np.all((result[small] == 0) | (error <= 4 * float(info.smallest_subnormal)))
    large = np.abs(truth) > float(info.max) * (1 + float(info.eps))
    assert np.all(result[large] == np.sign(truth[large]) * np.inf)
    assert np.all(np.isnan(result) == np.isnan(truth))


@exact_enough
@every_shape
@pytest.mark.parametrize("kind", ["sin", "cos"])
def test_sine_and_cosine_err_at_most_two_units_of_the_last_place_of_one(kind, scalar, lanes):
    limit = {"float": 1e4, "double": 1e5}[scalar]
    x = np.concatenate([
        numbers(scalar),
        np.linspace(-limit, limit, 100_001),
        np.arange(-3000, 3000) * (np.pi / 4),
    ]).astype(DTYPES[scalar])  # fmt: skip
    x = x[np.abs(x) <= limit]
    truth = getattr(np, kind)(x.astype(WIDER[scalar]))
    result = compiled(kind, scalar, lanes)(x)
    assert np.max(np.abs(result.astype(truth.dtype) - truth)) <= 2 * float(np.finfo(DTYPES[scalar]).eps)
    assert np.max(np.abs(result)) <= 1
    if kind == "sin":
        near = np.abs(x) < 1.5
        assert np.max(ulps(result[near], truth[near], scalar)) <= 4


@widest
@pytest.mark.parametrize("kind", ["sin", "cos"])
def test_sine_and_cosine_of_huge_numbers_stay_within_one(kind, scalar, lanes):
    result = compiled(kind, scalar, lanes)(numbers(scalar))
    assert np.max(np.abs(result)) <= 1


@every_shape
@pytest.mark.parametrize("kind", [kind for kind in POINTWISE if kind != "pow"])
def test_special_values_are_those_of_torch(kind, scalar, lanes):
    values = specials(scalar)
    if kind in ("sin", "cos"):
        values = values[~(np.abs(values) == np.finfo(DTYPES[scalar]).max)]
    operands = list(np.array(list(itertools.product(values, repeat=OPERATIONS[kind].arity))).T.copy())
    expected = torch_values(kind, *operands)
    result = compiled(kind, scalar, lanes)(*operands)
    close = np.isclose(result, expected, rtol=8 * np.finfo(result.dtype).eps, atol=0, equal_nan=True)
    wrong = np.flatnonzero(~close)
    assert not wrong.size, [(*(x[k] for x in operands), result[k], expected[k]) for k in wrong[:4]]


ENDS = {
    "exp": {-np.inf: 0, np.inf: np.inf, 0: 1},
    "expm1": {-np.inf: -1, np.inf: np.inf, 0: 0},
    "log": {0: -np.inf, -1: np.nan, -np.inf: np.nan, np.inf: np.inf, 1: 0},
    "log1p": {-1: -np.inf, -2: np.nan, -np.inf: np.nan, np.inf: np.inf, 0: 0},
    "sigmoid": {-np.inf: 0, np.inf: 1, 0: 0.5},
    "tanh": {-np.inf: -1, np.inf: 1, 0: 0, 30: 1},
    "softplus": {-np.inf: 0, np.inf: np.inf, 25.5: 25.5},
    "relu": {-np.inf: 0, np.inf: np.inf, -3: 0, 3: 3},
    "sin": {0: 0, np.inf: np.nan, -np.inf: np.nan},
    "cos": {0: 1, np.inf: np.nan, -np.inf: np.nan},
    "sqrt": {0: 0, np.inf: np.inf, -1: np.nan},
}


@every_shape
@pytest.mark.parametrize("kind", ENDS)
def test_ends_of_the_range_are_exact_and_nan_passes(kind, scalar, lanes):
    x = np.array([*ENDS[kind], np.nan, -np.nan], DTYPES[scalar])
    expected = np.array([*ENDS[kind].values(), np.nan, np.nan], DTYPES[scalar])
    assert np.array_equal(compiled(kind, scalar, lanes)(x), expected, equal_nan=True)


@widest
@pytest.mark.parametrize("kind", [kind for kind in POINTWISE if OPERATIONS[kind].arity == 1])
def test_a_nan_of_any_bits_stays_nan(kind, scalar, lanes):
    """The payload's bits go through the arithmetic on exponents too."""
    rng = np.random.default_rng(0)
    integers = {"float": np.uint32, "double": np.uint64}[scalar]
    fraction = np.finfo(DTYPES[scalar]).nmant
    quiet = np.array(np.inf, DTYPES[scalar]).view(integers) | integers(1 << (fraction - 1))
    payload = rng.integers(0, 1 << (fraction - 1), 1000, dtype=integers)
    sign = rng.integers(0, 2, 1000, dtype=integers) << integers(integers(0).nbytes * 8 - 1)
    x = (quiet | payload | sign).view(DTYPES[scalar])
    assert np.all(np.isnan(compiled(kind, scalar, lanes)(x)))


@widest
@pytest.mark.parametrize("kind", ["tanh", "sin"])
def test_an_odd_function_is_odd_in_every_bit(kind, scalar, lanes):
    x = numbers(scalar)
    x = x[np.abs(x) < 1e4]
    run = compiled(kind, scalar, lanes)
    assert np.array_equal(run(-x), -run(x))


@widest
def test_the_logarithm_of_a_subnormal_number_is_accurate(scalar, lanes):
    info = np.finfo(DTYPES[scalar])
    x = np.arange(1, 2000).astype(DTYPES[scalar]) * info.smallest_subnormal
    truth = np.log(x.astype(WIDER[scalar]))
    assert np.max(ulps(compiled("log", scalar, lanes)(x), truth, scalar)) <= 4


@widest
def test_a_sigmoid_is_accurate_far_below_zero(scalar, lanes):
    x = np.linspace({"float": -80, "double": -700}[scalar], 0, 10_000).astype(DTYPES[scalar])
    truth = np.exp(x.astype(WIDER[scalar]))
    truth = truth / (1 + truth)
    assert np.max(ulps(compiled("sigmoid", scalar, lanes)(x), truth, scalar)) <= 4


# -- powers -------------------------------------------------------------------------------------------------


def bases_and_exponents(scalar: str, count: int = 100_000) -> tuple[np.ndarray, np.ndarray]:
    """Pairs whose power is spread over the whole range of the type."""
    rng = np.random.default_rng(0)
    info = np.finfo(DTYPES[scalar])
    a = np.concatenate([
        np.exp2(rng.uniform(info.minexp, info.maxexp - 1e-3, count)),
        1 + np.exp2(rng.uniform(2 - info.nmant, -1, count)) * rng.choice([-1, 1], count),
        rng.uniform(0.3, 4, count),
    ]).astype(DTYPES[scalar])  # fmt: skip
    log2 = np.log2(a.astype(WIDER[scalar]))
    target = np.tile(rng.uniform(info.minexp, info.maxexp - 1e-6, count), 3)
    with np.errstate(divide="ignore"):
        b = target / np.where(log2 == 0, 1, log2)
    return a, b.astype(DTYPES[scalar])


@exact_enough
@every_shape
def test_a_power_errs_at_most_four_units_in_the_last_place(scalar, lanes):
    a, b = bases_and_exponents(scalar)
    with np.errstate(all="ignore"):
        truth = np.power(a.astype(WIDER[scalar]), b.astype(WIDER[scalar]))
    error = ulps(compiled("pow", scalar, lanes)(a, b), truth, scalar)
    worst = np.argmax(np.where(np.isnan(error), np.inf, error))
    assert error[worst] <= 4, (a[worst], b[worst])


@every_shape
def test_special_powers_are_those_of_torch(scalar, lanes):
    values = specials(scalar)
    a, b = np.array(list(itertools.product(values, values))).T.copy()
    expected = torch_values("pow", a, b)
    expected = np.where(np.abs(expected) < np.finfo(a.dtype).tiny, np.copysign(0, expected), expected)
    result = compiled("pow", scalar, lanes)(a, b)
    close = np.isclose(result, expected, rtol=16 * np.finfo(result.dtype).eps, atol=0, equal_nan=True)
    wrong = np.flatnonzero(~(close & ((result != 0) | (np.signbit(result) == np.signbit(expected)))))
    assert not wrong.size, [(a[k], b[k], result[k], expected[k]) for k in wrong[:4]]


@exact_enough
@widest
@pytest.mark.parametrize("exponent", [-3, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 3, 4, 5, 7])
def test_a_constant_exponent_gives_the_power_and_its_sign(exponent, scalar, lanes):
    x = numbers(scalar)
    with np.errstate(all="ignore"):
        truth = np.power(x.astype(WIDER[scalar]), exponent)
    result = compiled("pow", scalar, lanes, exponent)(x)
    error = ulps(result, truth, scalar)
    worst = np.argmax(np.where(np.isnan(error), np.inf, error))
    assert error[worst] <= 4, x[worst]
    assert np.all(np.isnan(result) == np.isnan(truth))


@widest
@pytest.mark.parametrize("exponent", [-2, -1, 0, 0.5, 1, 2, 3, 4, 5])
def test_a_constant_exponent_of_special_values_is_that_of_torch(exponent, scalar, lanes):
    x = specials(scalar)
    expected = torch.from_numpy(x).pow(exponent).numpy()
    result = compiled("pow", scalar, lanes, exponent)(x)
    assert np.allclose(result, expected, rtol=1e-6, atol=0, equal_nan=True)


@widest
def test_softplus_is_linear_above_twenty_as_in_torch(scalar, lanes):
    x = np.linspace(15, 25, 1001).astype(DTYPES[scalar])
    result = compiled("softplus", scalar, lanes)(x)
    assert np.array_equal(result[x > 20], x[x > 20])
    expected = F.softplus(torch.from_numpy(x)).numpy()
    assert np.allclose(result, expected, rtol=8 * np.finfo(x.dtype).eps, atol=0)
