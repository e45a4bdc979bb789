"""The peers compute what our layers do: else nothing would be timed. And what is counted is counted right."""

import sys

import pytest
import torch
from torch import nn

import unrolled
from benchmarks import __main__ as command
from benchmarks import char, jax_scan, loop, memory, ragged, start, stream, zoo
from benchmarks.child import ChildError, child
from benchmarks.families import FAMILIES
from benchmarks.family import Settings, Size
from benchmarks.layers import PAIRS, Inference, TrainingStep, inputs, pair
from benchmarks.paired import refusal
from unrolled.cells import CELLS, VARIANTS, find

scan_module = sys.modules["unrolled.scan"]
SMALL = Size(4, 3, 5, 6)
QUICK = Settings(rounds=1, threads=1, quick=True)


@pytest.mark.parametrize("name", PAIRS)
def test_torch_layers_are_held_to_outputs_states_and_every_gradient(name):
    ours, theirs = pair(name, SMALL)
    x, d_y = inputs(SMALL)
    sides = TrainingStep(ours, x, d_y), TrainingStep(theirs, x, d_y)
    assert refusal(name, SMALL, None, *sides) is None
    parameters = {f"d_{n}" for n, _ in ours.named_parameters()}
    assert sides[0].tensors().keys() >= {"y", "d_x", "final state 0", *parameters}
    assert refusal(name, SMALL, None, Inference(ours, x), Inference(theirs, x)) is None


@pytest.mark.parametrize("name", PAIRS)
def test_one_wrong_weight_is_refused(name):
    ours, theirs = pair(name, SMALL)
    x, d_y = inputs(SMALL)
    with torch.no_grad():
        next(theirs.parameters())[0, 0] += 0.01
    assert refusal(name, SMALL, None, TrainingStep(ours, x, d_y), TrainingStep(theirs, x, d_y))
    assert refusal(name, SMALL, None, Inference(ours, x), Inference(theirs, x))


def test_lengths_are_held_to_the_padded_batch():
    layer = unrolled.LSTM(SMALL.D, SMALL.H)
    drawn = [torch.tensor([4, 1, 2]), torch.tensor([3, 4, 1])]
    real = [(torch.arange(SMALL.T)[:, None] < some).unsqueeze(-1).float() for some in drawn]
    whole = ragged.Step(layer, SMALL, [{}] * 2, real)
    for given, right in ((drawn, True), (drawn[::-1], False)):
        ours = ragged.Step(layer, SMALL, [{"lengths": some} for some in given], real)
        assert (refusal("a", SMALL, None, ours, whole) is None) == right
        whole.done = 0


def test_steps_are_held_to_torchs_cell():
    layer, cell, x = unrolled.LSTM(4, 4), nn.LSTMCell(4, 4), torch.randn(1, 4)
    for right in (False, True):
        if right:
            cell.load_state_dict({n.removesuffix("_l0"): p for n, p in layer.state_dict().items()})
        for side in (stream.OneStep, stream.Stream):
            assert (refusal("a", SMALL, None, side(layer, x), stream.Cell(cell, x)) is None) == right


@pytest.mark.parametrize(
    ("kind", "cell"),
    [
        (loop.PlainLoop, "lstm_peephole"), (loop.PlainLoop, "mut1"), (loop.StackedLoop, "lstm_peephole"),
        (loop.NormalisedLoop, "layer_norm_lstm"),
    ],
)  # fmt: skip
def test_loops_on_a_layers_parameters_are_the_layer(kind, cell):
    ours, peer = (layer.double() for layer in loop.two(find(cell), SMALL))
    with torch.no_grad():
        for layer in (ours, peer):
            for parameter in layer.parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
    x, d_y = (tensor.double() for tensor in inputs(SMALL))
    theirs = loop.Within(kind(peer), x, d_y)
    assert refusal("a", SMALL, None, TrainingStep(ours, x, d_y), theirs) is None


def test_the_zoo_has_every_cell_with_a_recurrent_matrix():
    assert set(zoo.cells()) <= {*CELLS, *VARIANTS}
    assert {"rnn", "lstm", "gru_cho", "irnn", "lstm_fgr", "mut3"} <= set(zoo.cells())
    assert "indrnn" not in zoo.cells()


@pytest.mark.parametrize(
    ("name", "D", "count"),
    [
        ("rnn", 5, 5 * 6 + 6 * 6),
        ("lstm", 5, 4 * (5 * 6 + 6 * 6)),
        ("gru", 5, 3 * (5 * 6 + 6 * 6)),
        ("lstm_cifg", 5, 3 * (5 * 6 + 6 * 6)),
        ("lstm_fgr", 5, 4 * (5 * 6 + 6 * 6) + 9 * 6 * 6),
        ("mut1", 5, 3 * 5 * 6 + 2 * 6 * 6),
        ("mut1", 6, 2 * 6 * 6 + 2 * 6 * 6),
        ("indrnn", 5, 5 * 6),
    ],
)
def test_multiply_adds_are_those_of_all_matrices(name, D, count):
    assert zoo.multiply_adds(find(name).graph_for(D, 6), Size(1, 1, D, 6)) == count


def test_a_cell_that_kernels_cannot_run_says_so(monkeypatch):
    assert loop.without_kernels(find("lstm")) == ""
    monkeypatch.setattr(scan_module, "host_cannot", lambda: "this is another processor")
    assert "this is another processor" in loop.without_kernels(find("lstm"))


def test_without_jax_the_table_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "jax", None)
    (record,) = jax_scan.measure(QUICK)
    assert record.note == "JAX is not installed: pip install jax"
    assert not record.refused


def test_where_torch_cannot_compile_the_table_says_why(monkeypatch):
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("\ninductor raised:\nno C++ compiler\nmore")

    monkeypatch.setattr(torch, "compile", lambda module: Broken())
    (record,) = loop.compiled(QUICK)
    assert record.note == "torch.compile cannot: inductor raised: no C++ compiler"
    assert not record.refused


def test_all_character_networks_make_the_same_first_step(monkeypatch):
    compared = []

    def only_check(subject, size, ours, peer, settings, bar):
        compared.append(subject)
        return refusal(subject, size, bar, ours, peer)

    monkeypatch.setattr(char, "compare", only_check)
    assert list(char.measure(QUICK)) == [None, None]
    assert compared == ["torch on our layer", "our trainer"]


@pytest.mark.skipif(sys.platform != "linux", reason="peaks are taken back on Linux only")
def test_growth_is_what_is_held_at_the_peak():
    size = 64 << 20
    torch.ones(2 * size, dtype=torch.uint8)  # an earlier, higher peak

    def work():
        held = torch.ones(size, dtype=torch.uint8)
        return held + held[:1]

    assert 1.98 * size <= memory.growth(work) <= 2.2 * size
    assert memory.growth(lambda: None) < size / 20


def test_layers_whose_memory_is_compared_compute_the_same():
    norms = [memory.one(name, SMALL)["norms"] for name in memory.LAYERS]
    assert memory.agree(norms[1], norms[0])
    assert memory.agree(norms[2], norms[0])
    assert not memory.agree([1.001 * norm for norm in norms[1]], norms[0])
    assert not memory.agree(norms[1][1:], norms[0])


def test_a_process_of_its_own_runs_the_same_copies():
    told = child("-c", "import json, unrolled, benchmarks; print(json.dumps([unrolled.__file__]))")
    assert told == [unrolled.__file__]
    with pytest.raises(ChildError, match="ZeroDivisionError"):
        child("-c", "1 / 0")


def test_the_first_step_of_a_cell_is_slower_by_what_happens_once(monkeypatch):
    ticks = iter([0.0, 5.0, 5.0, 6.0, 6.0, 8.0, 8.0, 11.0])
    monkeypatch.setattr(start, "time", type("Clock", (), {"perf_counter": lambda: next(ticks)}))
    assert start.first_step("mine") == 4.0


def test_help_lists_every_family_in_a_line(capsys):
    with pytest.raises(SystemExit):
        command.main(["--help"])
    shown = capsys.readouterr().out.splitlines()
    for name, family in FAMILIES.items():
        assert any(line.split()[:1] == [name] and family.title in line for line in shown)
