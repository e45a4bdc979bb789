"""Under torch.compile and torch.export a recurrence is one node, with the numbers of the eager layer."""

import io
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.common import aot_autograd
from torch.autograd import forward_ad
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck
from torch.utils.flop_counter import FlopCounterMode

from cases import OWN, SETTINGS, Setting, assert_same, flat, gradients
from unrolled import GRU, LSTM, RNN, BackendError, Cell, InputError, Recurrent, cells, scan
from unrolled.cells import find
from unrolled.compile.loop import loop_of
from unrolled.compile.passes import saved_elements
from unrolled.compile.recurrence import prepare
from unrolled.leaves import parts
from unrolled.rewrite import recurrent_dropout, zoneout
from unrolled.rows import Rows
from unrolled.tracing import constant

pytestmark = [
    # torch's own, while it traces
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),
]

FORWARD, BACKWARD = "unrolled.recurrence", "unrolled.recurrence_backward"


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()


class Recorder:
    """A backend that runs graphs as they are, and keeps them.

    Attributes:
        graphs: as torch.compile traced them, or with `joint` as autograd split them: forward, backward.
    """

    def __init__(self, joint: bool = False) -> None:
        self.graphs: list[GraphModule] = []
        self._run: Callable = aot_autograd(fw_compiler=self._keep) if joint else self._keep

    def __call__(self, graph: GraphModule, inputs: list[Tensor]) -> Callable:
        return self._run(graph, inputs)

    def _keep(self, graph: GraphModule, inputs: list[Tensor]) -> Callable:
        self.graphs.append(graph)
        return graph.forward

    @property
    def calls(self) -> list[list[str]]:
        return [recurrences(graph) for graph in self.graphs]


def recurrences(graph: GraphModule) -> list[str]:
    """The calls of our operators in a graph."""
    names = (str(node.target).removesuffix(".default") for node in graph.graph.nodes)
    return [name for name in names if name.startswith("unrolled.")]


def compiled(f: Callable, backend: object = "aot_eager", **options: object) -> Callable:
    return torch.compile(f, fullgraph=True, backend=backend, **options)


def taught(layer: nn.Module, run: Callable, x: Tensor) -> list[Tensor]:
    """Everything a layer returns, and the gradient of a sum of it with respect to x and the parameters."""
    leaves = [t for t in (x, *layer.parameters()) if t.requires_grad]
    y, state = run(x)
    states = list(state.values()) if isinstance(state, dict) else list(state)
    results = [y, *states]
    total = sum(((k + 1) * r.sin()).sum() for k, r in enumerate(results))
    return [*(r.detach() for r in results), *torch.autograd.grad(total, leaves)]


def assert_close(found: list[Tensor], expected: list[Tensor]) -> None:
    named = ({str(k): t for k, t in enumerate(each)} for each in (found, expected))
    assert_same(*named, 1e-12)


LAYERS = {
    "LSTM": lambda: LSTM(3, 5, num_layers=2, bidirectional=True),
    "LSTM with a projection": lambda: LSTM(3, 5, proj_size=2, batch_first=True),
    "GRU": lambda: GRU(3, 5, num_layers=2),
    "GRU without biases": lambda: GRU(3, 5, bias=False),
    "RNN": lambda: RNN(3, 5, nonlinearity="relu", bidirectional=True),
    "peepholes": lambda: Recurrent(cells.lstm.with_options(peepholes="vector"), 3, 5, bidirectional=True),
    "no biases": lambda: Recurrent(cells.gru_cho, 3, 5, num_layers=2, bias=False),
}


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_each_layer_and_direction_is_one_node_with_the_numbers_of_the_eager_layer(
    make: Callable, tokens: bool
) -> None:
    layer = make().double()
    x = torch.randint(3, (4, 2)) if tokens else torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    joint = Recorder(joint=True)
    found = taught(layer, compiled(layer, joint), x)  # before anything has run, and been kept, untraced
    assert_close(found, taught(layer, layer, x))
    count = len(layer.suffixes)
    assert joint.calls == [[FORWARD] * count, [BACKWARD] * count]


def test_a_graph_of_torch_compile_alone_learns_too() -> None:
    layer, recorder = LSTM(3, 5, bidirectional=True).double(), Recorder()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert_close(taught(layer, compiled(layer, recorder), x), taught(layer, layer, x))
    assert recorder.calls == [[FORWARD] * 2]


DIVERSE = tuple(
    Setting(cell, 3, 5)
    for cell in (*OWN, find("lstm(peepholes=matrix, forget_bias=1.5)"), find("layer_norm_lstm"))
)


@pytest.mark.parametrize("setting", [*DIVERSE, Setting(cells.mut1, 3, 3)], ids=lambda s: s.id)
def test_equations_of_every_kind_are_one_node_each_way(setting: Setting) -> None:
    case = setting.case(T=4, B=3)
    joint = Recorder(joint=True)

    def run(x: Tensor, state: dict[str, Tensor], parameters: dict[str, Tensor]) -> tuple:
        return scan(setting.cell, x, state, parameters, reverse=True)

    found = flat(*compiled(run, joint)(case.x, case.state, case.parameters))
    expected = flat(*run(case.x, case.state, case.parameters))
    assert_same(found, expected, 1e-12)
    assert_same(gradients(found, case.leaves), gradients(expected, case.leaves), 1e-12)
    assert joint.calls == [[FORWARD], [BACKWARD]]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.id)
def test_the_size_of_what_is_saved_is_known_without_a_plan(setting: Setting) -> None:
    case = setting.case(T=5, B=3)
    graph = setting.cell.graph_using(case.parameters)
    loop = loop_of(graph, torch.float64)
    prepared = prepare(loop, case.x, case.state, case.parameters, None, False, True, True)
    assert prepared.plan("save").size["saved"] == saved_elements(loop, prepared.sizes.widths, 5 * 3)
    assert prepared.plan("inference").size["saved"] == 0


def arguments(
    layer: nn.Module,
    learning: bool,
    tokens: bool,
    dtype: torch.dtype,
    names: str = "",
    lengths: str = "equal",
    cell: Cell | None = None,
) -> tuple:
    """What `unrolled::recurrence` is called with for the first layer."""
    stacked = layer.parameters_of("l0")
    shape = {"equal": (4, 2), "packed": (8,), "padded": (8, 2)}[
        lengths
    ]  # whole cache lines, so all is written
    x = torch.randint(3, shape) if tokens else torch.randn(*shape, 3, dtype=dtype, requires_grad=learning)
    states = [torch.randn(2, 5, dtype=dtype, requires_grad=learning) for _ in layer.cell.states]
    tensors = [t.detach().to(dtype).requires_grad_(learning) for t in stacked.tensors]
    rows = Rows(torch.tensor([6, 2])) if lengths == "packed" else Rows.of_batch(8, torch.tensor([8, 8]))
    graph = (cell or layer.cell).graph
    key = graph.returning(tuple(names.split())).key if names else graph.key
    ragged = [rows.lengths, rows.offsets, torch.tensor([1, 0])]
    of_rows = {"equal": [], "packed": ragged[:2], "padded": ragged}[lengths]
    keys = torch.randint(-(2**63), 2**63 - 1, (2, len(graph.draws)))
    keys[1] = parts(0.5)
    none = torch.zeros(0, dtype=torch.bool)
    rows_drawn = torch.arange(math.prod(shape))
    of_draws = [keys, rows_drawn, rows_drawn % 2, none] if graph.draws else []
    return "", key, names, stacked.layout, True, learning, x, [], states, tensors, of_rows, of_draws


@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
@pytest.mark.parametrize("learning", [False, True], ids=["inference", "learning"])
@pytest.mark.parametrize("lengths", ["equal", "packed", "padded"])
@pytest.mark.parametrize(
    ("kind", "names", "dtype"),
    [(LSTM, "", torch.float32), (GRU, "", torch.float64), (LSTM, "c f h", torch.float64)],
)
def test_the_operators_keep_all_of_torchs_rules(
    kind: type, names: str, lengths: str, learning: bool, tokens: bool, dtype: torch.dtype
) -> None:
    given = arguments(kind(3, 5), learning, tokens, dtype, names, lengths)
    operator = torch.ops.unrolled
    assert set(opcheck(operator.recurrence.default, given).values()) == {"SUCCESS"}
    assert (operator.recurrence(*given)[-1].numel() > 0) == learning
    with torch.no_grad():
        *results, saved = operator.recurrence(*given[:5], True, *given[6:])
        outputs = results[: len(names.split()) or 1]
        upstream = [*outputs, *[None] * (len(results) - len(outputs))]
        backward = (*given[:5], not tokens, learning, *given[6:], outputs, saved, upstream)
        assert set(opcheck(operator.recurrence_backward.default, backward).values()) == {"SUCCESS"}


@pytest.mark.parametrize("lengths", ["equal", "packed", "padded"])
def test_the_operators_draw_by_torchs_rules(lengths: str) -> None:
    one = zoneout(recurrent_dropout(cells.lstm), "hc")
    given = arguments(LSTM(3, 5), True, False, torch.float64, "", lengths, one)
    operator = torch.ops.unrolled
    assert set(opcheck(operator.recurrence.default, given).values()) == {"SUCCESS"}
    twice = [operator.recurrence(*given)[0] for _ in range(2)]
    assert torch.equal(*twice)


@pytest.mark.parametrize("how", ["dynamic", "marked"])
def test_one_graph_serves_all_lengths_and_batches(how: str) -> None:
    layer = LSTM(3, 5, bidirectional=True).double()
    joint = Recorder(joint=True)
    run = compiled(layer, joint, dynamic=True if how == "dynamic" else None)
    for T, B in ((4, 2), (7, 3), (300, 5)):
        x = torch.randn(T, B, 3, dtype=torch.float64, requires_grad=True)
        if how == "marked":
            torch._dynamo.mark_dynamic(x, 0)
            torch._dynamo.mark_dynamic(x, 1)
        assert_close(taught(layer, run, x), taught(layer, layer, x))
    assert len(joint.graphs) == 2


@pytest.mark.parametrize("bad", [-1, 7])
def test_a_token_that_is_none_of_the_words_is_reported_when_the_graph_runs(bad: int) -> None:
    layer = GRU(7, 5)
    run, tokens = compiled(layer), torch.randint(7, (4, 2))
    assert torch.equal(run(tokens)[0], layer(tokens)[0])
    tokens[2, 1] = bad
    with pytest.raises(InputError, match="token numbers go from 0 to 6"):
        run(tokens)


def test_transforms_inside_a_graph_are_those_of_the_reference() -> None:
    layer = GRU(3, 4).double()
    x, v = (torch.randn(2, 2, 3, dtype=torch.float64) for _ in range(2))

    def total(x: Tensor) -> Tensor:
        return layer(x)[0].sin().sum()

    transforms = {
        "grad": torch.func.grad(total),
        "jvp": lambda x: torch.func.jvp(total, (x,), (v,))[1],
        "vmap": torch.func.vmap(lambda x: layer(x)[0]),
    }
    for name, f in transforms.items():
        given = torch.stack([x, v]) if name == "vmap" else x
        found, expected = compiled(f)(given), f(given)
        assert_same({name: found}, {name: expected}, 1e-12)
        assert expected.detach().norm() > 0, name


@pytest.mark.parametrize("learning", [False, True])
def test_forward_mode_around_a_graph_is_right_or_refused_but_never_zero(learning: bool) -> None:
    layer = GRU(3, 4).double().requires_grad_(learning)
    x, v = (torch.randn(4, 2, 3, dtype=torch.float64) for _ in range(2))
    _, expected = torch.func.jvp(lambda x: layer(x)[0], (x,), (v,))
    for backend in ("eager", "aot_eager"):
        run = compiled(layer, backend)
        run(x)  # a graph without tangents is there already
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(x, v)
            if learning and backend == "aot_eager":
                with pytest.raises(NotImplementedError, match="forward mode AD"):  # torch's own refusal
                    run(dual)
                continue
            found = forward_ad.unpack_dual(run(dual)[0]).tangent
        assert_same({backend: found}, {backend: expected}, 1e-12)
    exported = torch.export.export(layer, (x,)).module()
    with forward_ad.dual_level(), pytest.raises((BackendError, NotImplementedError)):
        exported(forward_ad.make_dual(x, v))
    with pytest.raises((BackendError, RuntimeError)):
        torch.func.jvp(lambda x: exported(x)[0], (x,), (v,))


def test_second_derivatives_of_a_graph_are_right_or_refused() -> None:
    layer = GRU(3, 5).double()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)

    def second(f: Callable) -> list[Tensor]:
        (d,) = torch.autograd.grad(f(x)[0].square().sum(), x, create_graph=True)
        return list(torch.autograd.grad(d.square().sum(), [x, *layer.parameters()]))

    assert_close(second(compiled(layer, "eager")), second(layer))
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        second(compiled(layer, "aot_eager"))
    given = arguments(layer, True, False, torch.float64)
    y, end, saved = torch.ops.unrolled.recurrence(*given)
    rest = (*given[:5], True, True, *given[6:], [y], saved, [y, end])
    with pytest.raises(BackendError, match="second derivatives"):
        torch.ops.unrolled.recurrence_backward(*rest)[0].sum().backward()


EXPORTED = """
import sys, torch, unrolled

program, x, expected = (torch.load(f, weights_only=True) if f.endswith(".pt") else torch.export.load(f)
                        for f in sys.argv[1:])
raise SystemExit(0 if torch.equal(program.module()(x)[0], expected) else 1)
"""


def test_an_exported_layer_runs_in_another_process(tmp_path: Path) -> None:
    layer, x = LSTM(3, 5), torch.randn(4, 2, 3)
    program = torch.export.export(layer, (x,))
    assert recurrences(program.graph_module) == [FORWARD]
    files = [tmp_path / name for name in ("layer.pt2", "x.pt", "y.pt")]
    torch.export.save(program, files[0])
    torch.save(x, files[1])
    torch.save(layer(x)[0].detach(), files[2])
    assert subprocess.run([sys.executable, "-c", EXPORTED, *map(str, files)], timeout=300).returncode == 0


@pytest.mark.parametrize("strict", [False, True], ids=["not strict", "strict"])
@pytest.mark.parametrize("tokens", [False, True], ids=["floats", "tokens"])
def test_an_exported_layer_learns_and_takes_other_sizes(tokens: bool, strict: bool) -> None:
    layer = Recurrent(cells.gru_cho, 3, 5, bidirectional=True).double()
    x = torch.randint(3, (4, 2)) if tokens else torch.randn(4, 2, 3, dtype=torch.float64)
    T, B = torch.export.Dim("T", min=2), torch.export.Dim("B", min=2)
    program = torch.export.export(layer, (x,), dynamic_shapes=({0: T, 1: B},), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    x = torch.randint(3, (9, 6)) if tokens else torch.randn(9, 6, 3, dtype=torch.float64)
    leaves = dict(layer.named_parameters())
    found, expected = (flat(*run(x)) for run in (again, layer))
    assert_same(found, expected, 1e-12)
    expected = gradients(expected, leaves)
    assert_same(gradients(found, {name: again.get_parameter(name) for name in leaves}), expected, 1e-12)


def test_an_exported_layer_says_what_it_was_not_made_for() -> None:
    layer, x = RNN(3, 5), torch.randn(4, 2, 3)
    with torch.no_grad():
        program = torch.export.export(layer, (x,)).module()
    with pytest.raises(BackendError, match="made for inference"):
        program(x)[0].sum().backward()
    with pytest.raises(InputError, match=r"torch\.float64 and torch\.float32"):
        program.double()(x)


def test_whoever_watches_the_operators_of_torch_sees_one() -> None:
    layer, x = LSTM(3, 5), torch.randn(4, 2, 3)
    expected = layer(x)[0]
    with FlopCounterMode(display=False):
        assert torch.equal(layer(x)[0], expected)
    graph = make_fx(lambda x: layer(x)[0])(x)
    assert recurrences(graph) == [FORWARD]
    assert torch.equal(graph(x), expected)
    with torch._subclasses.FakeTensorMode():  # tensors without numbers
        layer, x = LSTM(3, 5), torch.randn(4, 2, 3)
        assert layer(x)[0].shape == (4, 2, 5)
    assert layer(x)[0].shape == (4, 2, 5)


def test_inference_autocast_and_other_dtypes_are_those_of_the_eager_layer() -> None:
    layer, x = LSTM(3, 5), torch.randn(4, 2, 3)
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            assert torch.equal(compiled(layer)(x)[0], layer(x)[0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(compiled(layer)(x)[0], layer(x)[0])
    half, recorder = LSTM(3, 5).bfloat16(), Recorder()
    assert torch.equal(compiled(half, recorder)(x.bfloat16())[0], half(x.bfloat16())[0])
    assert recorder.calls == [[]]


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_keeps_the_numbers() -> None:
    layer = LSTM(3, 5).double()
    x = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert_close(taught(layer, compiled(layer, "inductor"), x), taught(layer, layer, x))


def test_a_constant_is_what_torch_makes_of_one() -> None:
    def ours() -> None: ...

    def theirs() -> None: ...

    torch.compiler.assume_constant_result(theirs)
    assert vars(constant(ours)) == vars(theirs)


def test_the_compiler_of_torch_is_not_imported() -> None:
    code = "import sys, unrolled; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 0
