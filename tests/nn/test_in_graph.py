"""Under torch.compile and torch.export layers take lengths, resets and masks, as the eager layer does."""

import copy
import io
import shutil
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from cases import assert_same
from unrolled import GRU, LSTM, InputError, Recurrent, cells

pytestmark = [
    # torch's own, while it traces
    pytest.mark.filterwarnings("ignore::DeprecationWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::FutureWarning:torch.*"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch.*"),
]

D, H = 3, 4
DOUBLE = {"dtype": torch.float64}
LAYERS = {
    "LSTM": lambda **k: LSTM(D, H, bidirectional=True, **DOUBLE, **k),
    "any cell": lambda **k: Recurrent(cells.gru_cho, D, H, batch_first=True, norm="layer", **DOUBLE, **k),
}
layers = pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)

ALL_DRAWN = {
    "zoneout": 0.3,
    "recurrent_dropout": 0.2,
    "weight_dropout": 0.2,
    "dropout": 0.3,
    "variational": True,
}

MASKED = {
    "two layers": lambda: LSTM(D, H, num_layers=2, **DOUBLE, **ALL_DRAWN),
    "both ways": lambda: LAYERS["any cell"](bidirectional=True, **ALL_DRAWN),
}


@pytest.fixture(autouse=True)
def _fresh() -> None:
    torch._dynamo.reset()
    torch.manual_seed(1)


def tensors_of(value: object) -> Iterator[Tensor]:
    """All tensors in what came out, in order."""
    if isinstance(value, PackedSequence):
        yield value.data
    elif isinstance(value, dict):
        yield from tensors_of(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from tensors_of(each)
    else:
        yield value


def taught(
    run: Callable, layer: nn.Module, x: Tensor, *given: object, **options: object
) -> dict[str, Tensor]:
    """Everything that comes out, and the gradients of a sum of it."""
    found = {str(k): t for k, t in enumerate(tensors_of(run(x, *given, **options)))}
    total = sum(((k + 1) * t.sin()).sum() for k, t in enumerate(found.values()))
    leaves = dict(layer.named_parameters()) | {"x": x.data if isinstance(x, PackedSequence) else x}
    asked = {name: t for name, t in leaves.items() if t.requires_grad}
    gradients = torch.autograd.grad(total, list(asked.values()))
    return found | dict(zip(asked, gradients, strict=True))


def batch(layer: nn.Module, T: int, B: int) -> Tensor:
    shape = (B, T) if layer.batch_first else (T, B)
    return torch.randn(*shape, D, dtype=torch.float64, requires_grad=True)


def state(layer: nn.Module, B: int) -> object:
    found = {name: value.normal_() for name, value in layer.initial_state(B).items()}
    if isinstance(layer, Recurrent):
        return found
    return tuple(found.values()) if "c" in found else found["h"]


SIZES = ((7, 5), (40, 3), (2, 2))
GIVEN: dict[str, Callable[[int, int], dict[str, Tensor]]] = {
    "lengths": lambda T, B: {"lengths": torch.randint(T + 1, (B,))},
    "no length": lambda T, B: {"lengths": torch.zeros(B, dtype=torch.long)},
    "equal lengths": lambda T, B: {"lengths": torch.full((B,), T)},
    "short lengths": lambda T, B: {"lengths": torch.arange(B) % 2},
}
RESET: dict[str, Callable[[int, int], dict[str, Tensor]]] = {
    "resets": lambda T, B: {"resets": torch.rand(T, B) < 0.3},
    "no resets": lambda T, B: {"resets": torch.zeros(T, B, dtype=torch.bool)},
    "resets everywhere": lambda T, B: {"resets": torch.ones(T, B, dtype=torch.bool)},
}


def turned(layer: nn.Module, options: dict[str, Tensor]) -> dict[str, Tensor]:
    if layer.batch_first and "resets" in options:
        return options | {"resets": options["resets"].t()}
    return options


@pytest.mark.parametrize("names", [GIVEN, RESET], ids=["lengths", "resets"])
@layers
def test_one_graph_serves_all_lengths_and_resets(make: Callable, names: dict) -> None:
    layer = make()
    given = isinstance(layer, LSTM)
    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(layer, fullgraph=True, backend=counter)
    for T, B in SIZES:
        for options in names.values():
            asked = turned(layer, options(T, B))
            arguments = (batch(layer, T, B), *([state(layer, B)] if given else []))
            found, expected = (taught(f, layer, *arguments, **asked) for f in (run, layer))
            assert_same(found, expected, 1e-12)
    assert counter.frame_count <= 2  # one for the first sizes, one for all


def test_lengths_and_resets_together_with_every_step() -> None:
    layer = LAYERS["LSTM"]()
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    options = {"return_states": True, "return_gates": True}
    for T, B in SIZES:
        asked = {"lengths": torch.randint(T + 1, (B,)), "resets": torch.rand(T, B) < 0.3, **options}
        x = batch(layer, T, B)
        assert_same(taught(run, layer, x, **asked), taught(layer, layer, x, **asked), 1e-12)


@pytest.mark.parametrize("make", MASKED.values(), ids=MASKED)
def test_masks_are_drawn_in_a_graph_too(make: Callable) -> None:
    layer = make()
    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(layer, fullgraph=True, backend=counter)
    for T, B in SIZES:
        x = batch(layer, T, B)
        assert taught(run, layer, x).keys() == taught(layer, layer, x).keys()  # draws of their own
    assert counter.frame_count <= 2
    for T, B in SIZES[:2]:
        asked = turned(layer, {"lengths": torch.randint(T + 1, (B,)), "resets": torch.rand(T, B) < 0.2})
        masks = [layer.masks()]
        masks.append(copy.deepcopy(masks[0]))
        for _ in range(2):  # and on to the next chunk
            x = batch(layer, T, B)
            found, expected = (
                taught(f, layer, x, masks=m, **asked) for f, m in zip((run, layer), masks, strict=True)
            )
            assert_same(found, expected, 1e-12)


@layers
def test_a_packed_sequence_goes_into_a_graph(make: Callable) -> None:
    layer = make()
    counter = CompileCounterWithBackend("aot_eager")
    run = torch.compile(layer, fullgraph=True, backend=counter)
    for is_sorted in (False, True):
        for T, B in SIZES:
            lengths = torch.randint(1, T + 1, (B,)).sort(descending=is_sorted).values
            lengths[0] = T
            x = pack_padded_sequence(torch.randn(T, B, D, **DOUBLE), lengths, enforce_sorted=is_sorted)
            x = x._replace(data=x.data.requires_grad_())
            assert_same(taught(run, layer, x), taught(layer, layer, x), 1e-12)
    assert counter.frame_count <= 4


@pytest.mark.parametrize("bad", [-1, 8])
def test_a_length_that_is_none_is_reported_when_the_graph_runs(bad: int) -> None:
    layer = GRU(D, H)
    run, x = torch.compile(layer, fullgraph=True, backend="aot_eager"), torch.randn(7, 3, D)
    run(x, lengths=torch.tensor([7, 2, 0]))
    with pytest.raises(InputError, match=f"lengths go from 0 to 7, the steps of x, but one is {bad}"):
        run(x, lengths=torch.tensor([7, bad, 0]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_the_reference_is_compiled_in_parts(dtype: torch.dtype) -> None:
    layer = GRU(D, H, backend="reference").to(dtype)
    run, x = torch.compile(layer, backend="aot_eager"), torch.randn(3, 3, D).to(dtype)
    for lengths in ([3, 0, 2], [1, 2, 3], [0, 0, 0]):
        asked = {"lengths": torch.tensor(lengths)}
        assert torch.equal(run(x, **asked)[0], layer(x, **asked)[0])


def test_lengths_of_tokens() -> None:
    layer = LAYERS["LSTM"]()
    run = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for T, B in SIZES:
        tokens, lengths = torch.randint(D, (T, B)), torch.randint(T + 1, (B,))
        found, expected = (taught(f, layer, tokens, lengths=lengths) for f in (run, layer))
        assert_same(found, expected, 1e-12)


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_keeps_the_numbers_of_lengths() -> None:
    layer = LSTM(D, H, **DOUBLE)
    run = torch.compile(layer, fullgraph=True, backend="inductor", dynamic=True)
    for lengths in ([7, 2, 0], [0, 0, 0], [7, 7, 7]):
        x = batch(layer, 7, 3)
        asked = {"lengths": torch.tensor(lengths)}
        assert_same(taught(run, layer, x, **asked), taught(layer, layer, x, **asked), 1e-12)


class WithLengths(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor) -> tuple:
        return self.layer(x, lengths=lengths)


@pytest.mark.parametrize("strict", [False, True], ids=["not strict", "strict"])
@layers
def test_an_exported_layer_takes_lengths_of_any_batch(make: Callable, strict: bool) -> None:
    layer = WithLengths(make())
    T, B = torch.export.Dim("T", min=2), torch.export.Dim("B", min=2)
    first = layer.layer.batch_first
    shapes = {0: B if first else T, 1: T if first else B}
    example = batch(layer.layer, 7, 5).detach(), torch.tensor([3, 7, 0, 5, 1])
    program = torch.export.export(layer, example, dynamic_shapes=(shapes, {0: B}), strict=strict)
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    for T_, B_ in SIZES:
        for options in GIVEN.values():
            x, lengths = batch(layer.layer, T_, B_), options(T_, B_)["lengths"]
            found, expected = (taught(f, f, x, lengths) for f in (again, layer))
            assert_same(found, expected, 1e-12)
    with pytest.raises(InputError, match="lengths go from 0 to 7"):
        again(example[0], torch.full((5,), 8))


def test_the_operator_of_packed_sequences_keeps_torchs_rules() -> None:
    sizes = torch.tensor([4, 3, 3, 1])
    assert set(opcheck(torch.ops.unrolled.packed.default, (sizes,)).values()) == {"SUCCESS"}
