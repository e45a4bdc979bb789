"""An exported model computes in onnxruntime what the layer does, for every cell."""

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn, sigmoid, tanh
from torch.nn.functional import softplus

from cases import SETTINGS, Setting, direct, exchanged, one_line, slstm
from unrolled import GRU, LSTM, RNN, BackendError, CheckpointError, InputError, Recurrent, cell, fit
from unrolled.cells import CELLS, find, layer_norm_lstm, lstm
from unrolled.export import export_onnx
from unrolled.export.nodes import OPSET, ROWS, Nodes
from unrolled.graph import OPERATIONS
from unrolled.nn.stack import RecurrentStack

T, B = 7, 3

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
"""Of the largest value."""


class Model:
    """A layer's export, opened in onnxruntime."""

    def __init__(self, layer: RecurrentStack, path: Path, **options: Any) -> None:
        export_onnx(layer, path, **options)
        self.proto = onnx.load(path)
        onnx.checker.check_model(self.proto, full_check=True)
        names = {tensor.name for tensor in self.proto.graph.initializer}
        assert (names | computed(self.proto.graph)) <= used(self.proto.graph)
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])

    @property
    def operators(self) -> set[str]:
        return {node.op_type for node in self.proto.graph.node}

    def __call__(
        self, x: Tensor, state: Mapping[str, Tensor], lengths: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        given = {"x": x} | {f"{name}_0": value for name, value in state.items()}
        given |= {} if lengths is None else {"lengths": lengths}
        y, *finals = self.session.run(None, {name: value.numpy() for name, value in given.items()})
        assert [value.name for value in self.session.get_outputs()] == ["y", *(f"{n}_n" for n in state)]
        return torch.from_numpy(y), dict(zip(state, map(torch.from_numpy, finals), strict=True))


def used(graph: onnx.GraphProto) -> set[str]:
    """What the nodes of a graph read or it gives, within loops too."""
    names = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    return names.union(*map(used, bodies(graph)))


def computed(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in node.output}.union(*map(computed, bodies(graph)))


def bodies(graph: onnx.GraphProto) -> list[onnx.GraphProto]:
    return [a.g for node in graph.node for a in node.attribute if a.name == "body"]


def layer_of(setting: Setting, dtype: torch.dtype = torch.float64, **options: Any) -> Recurrent:
    """Random weights, biases and learned vectors among them."""
    sizes = setting.state_sizes
    return randomised(Recurrent(setting.cell, setting.D, sizes, backend="reference", dtype=dtype, **options))


def randomised(layer: Any) -> Any:
    with torch.no_grad():
        for tensor in layer.parameters():
            tensor.normal_(0, 0.6)
    return layer.eval()


def state_of(layer: RecurrentStack, batch: int = B) -> dict[str, Tensor]:
    return {
        name: 0.5 * torch.randn(len(layer.suffixes), batch, size, dtype=layer.dtype)
        for name, size in layer.state_sizes.items()
    }


def run(
    layer: Any, x: Tensor, state: Mapping[str, Tensor], **options: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    with torch.no_grad():
        output, end, _ = layer.run(x, state, **options)
    return output, end


def assert_same(found: tuple[Tensor, Any], expected: tuple[Tensor, Any]) -> None:
    pairs = {"y": (found[0], expected[0])} | {n: (found[1][n], expected[1][n]) for n in expected[1]}
    for name, (value, wanted) in pairs.items():
        assert (value.shape, value.dtype) == (wanted.shape, wanted.dtype), name
        scale = max(1.0, float(wanted.abs().max()))
        assert float((value - wanted).abs().max()) <= TOLERANCE[wanted.dtype] * scale, name


every_dtype = pytest.mark.parametrize("dtype", TOLERANCE, ids=str)


@every_dtype
@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.id)
def test_every_cell_computes_the_same_in_two_layers_and_both_directions(setting, dtype, tmp_path):
    layer = layer_of(setting, dtype, num_layers=2, bidirectional=True)
    x, state = torch.randn(T, B, setting.D, dtype=dtype), state_of(layer)
    assert_same(Model(layer, tmp_path / "m.onnx")(x, state), run(layer, x, state))


ZOO = {setting.id: setting for setting in SETTINGS if setting.cell.base_name in CELLS}


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("setting", ZOO.values(), ids=ZOO)
def test_every_cell_takes_any_batch_and_length_without_biases_and_batch_first(setting, layers, tmp_path):
    layer = layer_of(setting, torch.float32, num_layers=layers, bias=False, batch_first=True)
    model = Model(layer, tmp_path / "m.onnx")
    for steps, batch in ((1, 1), (5, 2)):
        x, state = torch.randn(batch, steps, setting.D), state_of(layer, batch)
        assert_same(model(x, state), run(layer, x, state))


OPERATOR = {
    "rnn": "RNN", "rnn(activation=relu)": "RNN", "rnn(activation=sigmoid)": "RNN", "irnn": "RNN",
    "rnn(activation=softplus)": "RNN", "rnn(activation=maxout)": "Scan", "indrnn": "Scan",
    "lstm": "LSTM", "lstm(forget_bias=1)": "LSTM", "lstm_peephole": "LSTM", "lstm_cifg": "LSTM",
    "lstm(coupled=true)": "LSTM", "lstm(peepholes=matrix)": "Scan", "lstm(projection=true)": "Scan",
    "lstm_nog": "Scan", "gru": "GRU", "gru_cho": "GRU", "gru_chung": "GRU", "mgu": "Scan",
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATOR)
def test_what_onnx_has_an_operator_for_is_that_operator(name, tmp_path):
    layer = layer_of(Setting(find(name)), torch.float32, bidirectional=True)
    assert Model(layer, tmp_path / "m.onnx").operators & {"RNN", "LSTM", "GRU", "Scan"} == {OPERATOR[name]}
    double = Model(layer.double(), tmp_path / "double.onnx").operators  # onnxruntime has them in float32 only
    assert "Scan" in double
    assert not double & {"RNN", "LSTM", "GRU"}


@every_dtype
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "own"),
    [(RNN, {}), (RNN, {"nonlinearity": "relu"}), (GRU, {}), (LSTM, {}), (LSTM, {"proj_size": 2})],
)
def test_layers_like_those_of_torch_leave_out_dropout(kind, own, bias, dtype, tmp_path):
    layer = kind(3, 4, 2, bias=bias, bidirectional=True, dropout=0.5, dtype=dtype, **own)
    randomised(layer).train()
    x, state = torch.randn(T, B, 3, dtype=dtype), state_of(layer)
    model = Model(layer, tmp_path / "m.onnx")
    assert layer.training
    assert_same(model(x, state), run(layer.eval(), x, state))


@every_dtype
@pytest.mark.parametrize("name", ["lstm", "gru_cho", "mut1"])
def test_zoneout_is_what_it_gives_on_average(name, dtype, tmp_path):
    options = {"recurrent_dropout": 0.5, "weight_dropout": 0.5, "zoneout": 0.3}
    layer = layer_of(Setting(find(name)), dtype, num_layers=2, bidirectional=True, **options)
    x, state = torch.randn(T, B, 3, dtype=dtype), state_of(layer)
    model = Model(layer, tmp_path / "m.onnx")
    assert "Scan" in model.operators
    assert_same(model(x, state), run(layer, x, state))


@every_dtype
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_norms_within_a_cell_and_between_layers(name, bias, dtype, tmp_path):
    options = {"norm": "layer", "batch_norm": True, "bias": bias}
    layer = layer_of(Setting(find(name)), dtype, num_layers=2, bidirectional=True, **options)
    x, state = torch.randn(T, B, 3, dtype=dtype), state_of(layer)
    with torch.no_grad():
        layer.train()(x)  # the batch norm has seen something
    assert_same(Model(layer, tmp_path / "m.onnx")(x, state), run(layer.eval(), x, state))
    plain = layer_of(Setting(find(name)), dtype, num_layers=2, batch_norm=True)
    plain.train()(x)
    state = state_of(plain)
    assert_same(Model(plain, tmp_path / "p.onnx")(x, state), run(plain.eval(), x, state))


SOME = (
    *map(find, ("lstm", "lstm_cifg", "gru", "gru_cho", "gru_chung", "rnn", "lstm(projection=true)", "mut1")),
    *(layer_norm_lstm, slstm, exchanged),
)

some_cells = pytest.mark.parametrize("setting", [*map(Setting, SOME)], ids=lambda setting: setting.id)


@every_dtype
@some_cells
def test_chunks_that_hand_on_the_state_are_the_whole(setting, dtype, tmp_path):
    layer = layer_of(setting, dtype, num_layers=2)
    model = Model(layer, tmp_path / "m.onnx")
    x, state = torch.randn(T, B, setting.D, dtype=dtype), state_of(layer)
    first, between = model(x[:3], state)
    second, end = model(x[3:], between)
    assert_same((torch.cat([first, second]), end), run(layer, x, state))


@every_dtype
@pytest.mark.parametrize("batch_first", [False, True])
@some_cells
def test_sequences_of_different_lengths(setting, dtype, batch_first, tmp_path):
    layer = layer_of(setting, dtype, num_layers=2, bidirectional=True, batch_first=batch_first)
    model = Model(layer, tmp_path / "m.onnx", lengths=True)
    for lengths in ([4, 0, 7, 1], [2, 3, 0, 3], [7, 7, 7, 7]):
        x = torch.randn(T, 4, setting.D, dtype=dtype)
        for row, length in enumerate(lengths):
            x[length:, row] = 1e4  # padding, not to be read
        x = x.transpose(0, 1).contiguous() if batch_first else x
        state = state_of(layer, 4)
        found = model(x, state, torch.tensor(lengths))
        assert_same(found, run(layer, x, state, lengths=lengths))


@every_dtype
@pytest.mark.parametrize(
    "setting",
    [
        *map(Setting, map(find, ("lstm", "gru_cho", "lstm(projection=true)", "mut1"))),
        Setting(find("mut2"), 3, 3),
        Setting(direct),
    ],
    ids=lambda setting: setting.id,
)
def test_tokens_are_one_hot_vectors(setting, dtype, tmp_path):
    layer = layer_of(setting, dtype, num_layers=2, bidirectional=True, batch_first=True)
    model = Model(layer, tmp_path / "m.onnx", tokens=True, lengths=True)
    tokens, state = torch.randint(setting.D, (B, T)), state_of(layer)
    lengths = torch.tensor([3, T, 0])
    assert_same(model(tokens, state, lengths), run(layer, tokens, state, lengths=lengths))
    dense = torch.nn.functional.one_hot(tokens, setting.D).to(dtype)
    assert_same(model(tokens, state, lengths), run(layer, dense, state, lengths=lengths))


def test_many_tokens_are_columns_of_a_matrix(tmp_path):
    layer = randomised(Recurrent(lstm, 1000, 4, 2))
    model = Model(layer, tmp_path / "m.onnx", tokens=True)
    assert {"Scan", "Gather", "LSTM"} <= model.operators
    assert "OneHot" not in model.operators
    tokens, state = torch.randint(1000, (T, B)), state_of(layer)
    assert_same(model(tokens, state), run(layer, tokens, state))
    few = Model(randomised(Recurrent(lstm, 16, 4)), tmp_path / "few.onnx", tokens=True)
    assert "Scan" not in few.operators


@cell(states="h")
def clock(x, h, W):
    """It does not look at x."""
    return tanh(W.a(h) + W.low)


@cell(states="h c")
def delayed(x, h, c, W):
    """A state is the input itself."""
    return tanh(W.a(h, c)) + 0.5 * c, fit(W.v, x, like=h)


@cell(states="h")
def both_signs(x, h, W):
    """A condition made of conditions."""
    a = W.a(x, h)
    return torch.where((a > 0) * (h > 0), sigmoid(a), softplus(a) * -0.5)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("own", [clock, delayed, both_signs], ids=lambda own: own.name)
def test_cells_that_use_x_in_odd_ways(own, tokens, tmp_path):
    layer = layer_of(Setting(own, 4, 4), num_layers=2, bidirectional=own is clock)
    model = Model(layer, tmp_path / "m.onnx", tokens=tokens)
    x = torch.randint(4, (T, B)) if tokens else torch.randn(T, B, 4, dtype=torch.float64)
    state = state_of(layer)
    assert_same(model(x, state), run(layer, x, state))


def test_a_head_is_applied_to_the_outputs(tmp_path):
    for bias in (True, False):
        layer, head = randomised(GRU(3, 4, bidirectional=True)), randomised(nn.Linear(8, 5, bias=bias))
        model = Model(layer, tmp_path / "m.onnx", head=head, metadata={"units": "V"})
        assert {p.key: p.value for p in model.proto.metadata_props} == {"units": "V"}
        x, state = torch.randn(T, B, 3), state_of(layer)
        y, end = run(layer, x, state)
        assert_same(model(x, state), (head(y).detach(), end))


def test_learned_initial_states_are_given_like_others(tmp_path):
    layer = randomised(Recurrent(lstm, 3, 4, 2, learn_initial=True))
    assert not torch.equal(layer.initial["h"], torch.zeros(2, 4))
    x = torch.randn(T, B, 3)
    state = {name: value.detach().contiguous() for name, value in layer.initial_state(B).items()}
    assert_same(Model(layer, tmp_path / "m.onnx")(x, state), run(layer, x, None))


def test_the_model_says_what_it_takes_and_gives(tmp_path):
    layer = Recurrent(lstm, 3, {"h": 4, "c": 4}, 2, batch_first=True)
    session = Model(layer, tmp_path / "m.onnx", lengths=True).session
    taken = {value.name: (value.type, value.shape) for value in session.get_inputs()}
    assert taken == {
        "x": ("tensor(float)", ["B", "T", 3]),
        "h_0": ("tensor(float)", [2, "B", 4]),
        "c_0": ("tensor(float)", [2, "B", 4]),
        "lengths": ("tensor(int64)", ["B"]),
    }
    given = {value.name: value.shape for value in session.get_outputs()}
    assert given == {"y": ["B", "T", 4], "h_n": [2, "B", 4], "c_n": [2, "B", 4]}


def test_every_operation_has_its_row():
    assert ROWS.keys() == {name for name, row in OPERATIONS.items() if not row.composed}


POINTS = (-40.0, -3.0, -0.7, -1e-3, -1e-9, 0.0, 1e-12, 1e-6, 0.3, 1.0, 1.5, 7.0, 19.0, 21.0, 40.0)


@pytest.mark.parametrize("name", ROWS)
def test_every_row_is_as_accurate_as_torch(name):
    """In float64 to 1e-13 of each value, over the whole range and near 0."""
    row = OPERATIONS[name]
    a, b = (t.flatten() for t in torch.meshgrid(2 * [torch.tensor(POINTS).double()], indexing="ij"))
    if name == "pow":
        a = a.abs()
    operands = {"a": a > 0, "b": a, "c": b} if name == "where" else {"a": a, "b": b}
    operands = dict(list(operands.items())[: row.arity])
    nodes = Nodes(torch.float64)
    entering = [
        nodes.declare(key, ["N"], onnx.TensorProto.BOOL if value.dtype == torch.bool else None)
        for key, value in operands.items()
    ]
    expected = row.run(*operands.values())
    nodes.rename(ROWS[name](nodes, *operands), "y")
    kind = onnx.TensorProto.BOOL if expected.dtype == torch.bool else nodes.type
    graph = onnx.helper.make_graph(
        nodes.made, name, entering, [onnx.helper.make_tensor_value_info("y", kind, None)],
        [onnx.numpy_helper.from_array(value, key) for key, value in nodes.tensors.items()],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {key: value.numpy() for key, value in operands.items()})[0])
    assert found.dtype == expected.dtype
    small = 1e-16 if name in ("sigmoid", "softplus") else 0.0  # onnxruntime's are 0 below
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=small, equal_nan=True)


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (lambda: export_onnx(nn.GRU(2, 2), "x.onnx"), InputError, "a GRU is no layer of unrolled"),
        (
            lambda: export_onnx(GRU(2, 2), "x.onnx", head=nn.Linear(3, 2)),
            InputError,
            r"the head is Linear\(.*expected a torch.nn.Linear of 2 values",
        ),
        (
            lambda: export_onnx(GRU(2, 2, dtype=torch.bfloat16), "x.onnx"),
            BackendError,
            "float32 or float64 layers, not torch.bfloat16",
        ),
        (
            lambda: export_onnx(GRU(2, 2), "no/where/x.onnx"),
            CheckpointError,
            "cannot write no/where/x.onnx: No such file or directory",
        ),
    ],
)
def test_what_cannot_be_written_is_told(call, kind, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(kind, match=message) as caught:
        call()
    assert one_line(caught.value)
    assert not list(tmp_path.iterdir())


def test_weights_that_one_file_cannot_hold_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("unrolled.export.model.LARGEST", 100)
    with pytest.raises(InputError, match="the weights are 280 bytes, and one ONNX file holds 100"):
        export_onnx(Recurrent(lstm, 2, 3, bias=False, dtype=torch.float32), tmp_path / "x.onnx")


def test_without_onnx_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(BackendError, match=r"pip install 'unrolled\[onnx\]'"):
        export_onnx(GRU(2, 2), tmp_path / "x.onnx")


def test_onnx_is_imported_when_a_model_is_written():
    code = "import sys, unrolled.export; sys.exit('onnx' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
