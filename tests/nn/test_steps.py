"""Every state and every gate at every step: what the equations compute, and differentiable."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from cases import ON_BACKENDS, Setting, assert_same, delays, flat, gradients, id_of, random
from unrolled import GRU, LSTM, InputError, Recurrent, cells, scan
from unrolled.cells import find, lstm


def by_steps(setting: Setting, case, names: tuple[str, ...], reverse: bool = False) -> dict[str, Tensor]:
    """Results of the graph with these outputs, step by step."""
    graph = setting.cell.graph_using(case.parameters)
    nodes = {**graph.gates, **dict(zip(graph.states, graph.results, strict=False))}
    found: dict[str, list[Tensor]] = {name: [] for name in names}
    state = dict(case.state)
    for x_t in reversed(case.x.unbind()) if reverse else case.x.unbind():
        probes = replace(
            graph,
            outputs=tuple(f"probe {name}" for name in names),
            results=(*graph.results[: len(graph.states)], *(nodes[name] for name in names)),
        )
        results = probes.run({"x": x_t, **state}, case.parameters)
        state = dict(zip(graph.states, results, strict=False))
        for name, value in zip(names, results[len(graph.states) :], strict=True):
            found[name].append(value)
    return {name: torch.stack(values[::-1] if reverse else values) for name, values in found.items()} | {
        f"final {name}": value for name, value in state.items()
    }


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("setting", "backend"), ON_BACKENDS, ids=id_of)
def test_whatever_a_cell_names_can_be_had_at_every_step(setting, reverse: bool, backend: str) -> None:
    case = setting.case(T=4, B=3)
    graph = setting.cell.graph_using(case.parameters)
    names = (*graph.states, *graph.gates)
    found, end = scan(
        case.cell, case.x, case.state, case.parameters, returning=names, reverse=reverse, backend=backend
    )
    assert tuple(found) == names
    results = found | {f"final {name}": value for name, value in end.items()}
    expected = by_steps(setting, case, names, reverse)
    assert_same(results, expected, 1e-11)
    assert_same(gradients(results, case.leaves), gradients(expected, case.leaves), 1e-10)


def test_what_is_asked_for_changes_nothing_else() -> None:
    layer = Recurrent(lstm, 3, 4, 2, bidirectional=True, dtype=torch.float64)
    x = random(5, 2, 3)
    plain, with_more = layer(x), layer(x, return_states=True, return_gates=True)
    assert_same(flat(*with_more[:2]), flat(*plain), 1e-14)
    steps = with_more[2]
    assert list(steps) == ["h", "c", "f", "i", "g", "o"]
    assert all(value.shape == (4, 5, 2, 4) for value in steps.values())
    assert torch.equal(torch.cat((steps["h"][2], steps["h"][3]), -1), with_more[0])
    assert torch.equal(steps["c"][0, -1], with_more[1]["c"][0])
    assert torch.equal(steps["c"][1, 0], with_more[1]["c"][1])
    assert ((steps["f"] > 0) & (steps["f"] < 1)).all()


def test_layouts_lengths_and_packed_sequences() -> None:
    x, lengths = torch.randn(5, 3, 3), [4, 5, 2]
    layer = GRU(3, 4)
    y, end, steps = layer(x, lengths=lengths, return_states=True, return_gates=True)
    assert torch.equal(steps["h"][0], y)
    assert (steps["z"][0, 4:, 0] == 0).all()
    _, _, packed = layer(pack_padded_sequence(x, lengths, enforce_sorted=False), return_gates=True)
    assert torch.equal(pad_packed_sequence(packed["z"][0])[0], steps["z"][0])
    layer.batch_first = True
    _, again, turned = layer(x.transpose(0, 1), lengths=lengths, return_states=True, return_gates=True)
    assert torch.equal(again, end)
    assert all(torch.equal(turned[name], value.transpose(1, 2)) for name, value in steps.items())
    single = layer(x[:, 0], return_states=True)
    assert single[2]["h"].shape == (1, 5, 4)


def test_gradients_come_from_every_state_and_gate() -> None:
    layer = LSTM(3, 4, dtype=torch.float64)
    x = random(6, 2, 3)
    _, _, steps = layer(x, return_states=True, return_gates=True)
    for name, value in steps.items():
        (d_x,) = torch.autograd.grad(value[:, -1].sum(), x, retain_graph=True)
        assert (d_x.abs().sum((1, 2)) > 0).all(), name


def test_states_that_move_on() -> None:
    layer = Recurrent(delays, 3, 3, dtype=torch.float64)
    x = random(5, 2, 3)
    _, _, steps = layer(x, return_states=True)
    a, b, c = (steps[name][0] for name in layer.cell.states)
    assert torch.equal(b[1:], a[:-1])
    assert torch.equal(c[1:], b[:-1])


def test_a_name_that_is_none_is_refused() -> None:
    case = Setting(find("lstm")).case()
    with pytest.raises(InputError, match="no state or gate 'q'; there are h, c, f, i, g, o"):
        case.scan(returning=("h", "q"))
    assert list(cells.gru.graph.gates) == ["r", "z", "n"]
