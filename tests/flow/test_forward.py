"""What all measurements of forward memory share: records, and errors that name what does not fit."""

import ast
import json
import math
from pathlib import Path

import pytest
import torch
from matplotlib.axes import Axes

from cases import one_line
from unrolled import GRU, LSTM, InputError
from unrolled.flow import forward
from unrolled.flow.forward import bounded, impulse_response, linear_recursion, memory_of_tanh, saturation
from unrolled.flow.records import Record

RECORDS = {
    "response": lambda: impulse_response(LSTM(2, 3, num_layers=2, backend="reference"), 80, at=4),
    "one response": lambda: impulse_response(GRU(2, 3, backend="reference"), 5)["l0", "h"],
    "linear": lambda: linear_recursion([[0.9, 5.0], [0.0, 0.8]], 100),
    "nothing": lambda: linear_recursion(0.0, 4),
    "long": lambda: linear_recursion(0.5, 5000),
    "constant": lambda: linear_recursion(1.0, 4),
    "two limits": lambda: saturation("sigmoid", 10.0, -5.0),
    "cycle": lambda: saturation("sigmoid", -10.0),
    "divergent": lambda: saturation("relu", 1.0, 1.0),
    "bounded": lambda: bounded(LSTM(2, 3, num_layers=2, backend="reference"), 20),
    "unbounded": lambda: bounded("relu", 2000, w=2.0),
    "memory": lambda: memory_of_tanh((0.5, 1.0), hidden=3, T=40),
}


@pytest.mark.parametrize("name", RECORDS)
def test_records_are_told_written_and_drawn(name: str) -> None:
    record = RECORDS[name]()
    assert isinstance(record, Record)
    assert repr(record) == record.summary()
    data = record.to_dict()
    assert json.loads(json.dumps(data, allow_nan=False)) == data
    axes = record.plot()
    assert isinstance(axes, Axes)
    assert axes.get_lines()
    record.plot(axes)  # over another
    axes.figure.canvas.draw()


def test_drawing_is_loaded_when_it_is_asked_for() -> None:
    for path in Path(forward.__file__).parent.glob("*.py"):
        imports = (n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom))
        assert not any("matplotlib" in ast.unparse(node) for node in imports), path


def impulse(**options: object) -> Record:
    return impulse_response(GRU(2, 3), 5, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: impulse_response(torch.nn.LSTM(2, 3), 5), "such as unrolled.LSTM, got a LSTM"),
        (lambda: impulse_response("lstm", 5), "expected a recurrent layer such as unrolled.LSTM, got a str"),
        (lambda: impulse_response(GRU(2, 3), 0), "T must be a whole number of at least 1, got 0"),
        (lambda: impulse(at=5), "at must be a step from 0 to 4, got 5"),
        (lambda: impulse(at=-1), "at must be a step from 0 to 4, got -1"),
        (lambda: impulse(size=0), "size must be above 0, got 0"),
        (lambda: impulse(size=math.nan), "size has a number that is not finite"),
        (lambda: impulse(unit=2), "unit must be from 0 to 1, got 2"),
        (lambda: impulse(unit=torch.zeros(2)), "unit is a number from 0 to 1, or a direction (2,)"),
        (lambda: impulse(unit="x"), "unit is a str, expected numbers"),
        (lambda: impulse(x=[1.0]), "x is a list, expected a tensor"),
        (lambda: impulse(x=torch.zeros(5, 3)), "x has shape (5, 1, 3), expected (T, 2)"),
        (lambda: impulse(x=torch.zeros(4, 2)), "x has 4 steps, fewer than the 5 asked for"),
        (lambda: impulse(x=torch.full((5, 2), math.inf)), "x has a number that is not finite"),
        (lambda: impulse(x=torch.full((5,), 2)), "token numbers go from 0 to 1, but x has 2"),
        (lambda: linear_recursion([[1.0, 2.0]], 5), "W has shape (1, 2), expected a number or a square"),
        (lambda: linear_recursion([], 5), "W has shape (0,), expected a number or a square matrix"),
        (lambda: linear_recursion(0.5, 0), "T must be a whole number of at least 1, got 0"),
        (lambda: linear_recursion(math.inf, 5), "W has a number that is not finite"),
        (lambda: linear_recursion(1j, 5), "W has complex numbers, expected real ones"),
        (lambda: linear_recursion("w", 5), "W is a str, expected numbers"),
        (lambda: linear_recursion(0.5, 5, [1.0]), "h0 has shape (1,), expected (), as W"),
        (lambda: linear_recursion(0.5, 5, 1.0, [1.0, 2.0]), "x has shape (2,), expected (), or (5,)"),
        (lambda: linear_recursion(0.5, 5, 1.0, math.nan), "x has a number that is not finite"),
        (lambda: saturation("sin", 1.0), "no activation 'sin'; there are tanh, relu, sigmoid, softplus"),
        (lambda: saturation("tanh", math.nan), "w has a number that is not finite"),
        (lambda: saturation("tanh", [1.0]), "w has shape (1,), expected a number"),
        (lambda: saturation("tanh", 1.0, x0=[]), "x0 is empty, expected at least one number"),
        (lambda: saturation("tanh", 1.0, T=0), "T must be a whole number of at least 1, got 0"),
        (lambda: bounded("sin"), "no activation 'sin'; there are tanh, relu, sigmoid, softplus"),
        (lambda: bounded("tanh", w=math.inf), "h.h has a number that is not finite"),
        (lambda: bounded(torch.nn.GRU(1, 1)), "expected a recurrent layer such as unrolled.LSTM, got a GRU"),
        (lambda: bounded("tanh", 0), "T must be a whole number of at least 1, got 0"),
        (lambda: bounded("tanh", sequences=0), "sequences must be a whole number of at least 1, got 0"),
        (lambda: memory_of_tanh(kind="odd"), "no kind 'odd'; there are gaussian, symmetric, orthogonal"),
        (lambda: memory_of_tanh((0.0,)), "radii must be numbers above 0"),
        (lambda: memory_of_tanh(()), "radii must be numbers above 0"),
        (lambda: memory_of_tanh(noise=-1), "noise must be 0 or more, got -1"),
        (lambda: memory_of_tanh(T=0), "T must be a whole number of at least 1, got 0"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(call: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        call()
    assert message in one_line(caught.value)
