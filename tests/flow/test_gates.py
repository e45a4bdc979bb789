"""Gates and states against what they are by definition."""

import pytest
import torch

from unrolled import GRU, LSTM, InputError, Recurrent
from unrolled.cells import CELLS, find
from unrolled.flow import clipping, gate_statistics, record
from unrolled.flow.gates import carried, squashed


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_shares_are_those_of_the_values():
    torch.manual_seed(0)
    layer, x = LSTM(3, 5), random(20, 4, 3) * 5
    with torch.no_grad():
        for p in layer.parameters():
            p.mul_(4)
    (found,) = gate_statistics(layer, x)
    _, _, steps = layer(x, return_states=True, return_gates=True)
    assert {gate.name for gate in found.gates} == {"i", "f", "o", "g", "tanh(c)"}
    for name, low, high in (("i", 0.1, 0.9), ("g", -0.8, 0.8)):
        value, gate = steps[name][0], found[name]
        assert gate.low == pytest.approx(float((value <= low).float().mean()), abs=1e-6)
        assert gate.high == pytest.approx(float((value >= high).float().mean()), abs=1e-6)
        torch.testing.assert_close(gate.low_by_time.float(), (value <= low).float().mean((1, 2)))
        torch.testing.assert_close(gate.high_by_unit.float(), (value >= high).float().mean((0, 1)))
        torch.testing.assert_close(gate.mean_by_unit.float(), value.mean((0, 1)))
    (carry,) = found.carries
    assert (carry.state, carry.gate) == ("c", "f")
    torch.testing.assert_close(carry.time.float(), 1 / (1 - steps["f"][0].mean((0, 1))), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.state_norms["c"], steps["c"][0].square().mean((1, 2)).sqrt())


def test_padding_does_not_count():
    torch.manual_seed(0)
    layer, x = GRU(3, 4), random(9, 2, 3)

    def losses(model, batch):
        return model(batch[0], lengths=batch[1])[0].sum(-1)

    both = gate_statistics(layer, (x, [9, 4]), losses)[0]
    one, two = (gate_statistics(layer, (x[:n, k : k + 1], [n]), losses)[0] for k, n in ((0, 9), (1, 4)))
    for gate in both.gates:
        mean = (9 * one[gate.name].mean + 4 * two[gate.name].mean) / 13
        assert gate.mean == pytest.approx(mean, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lstm", [("c", "f")]),
        ("gru", [("h", "z")]),
        ("gru_chung", [("h", "1 − z")]),
        ("rnn", []),
        ("lstm(coupled=true)", None),
    ],
)
def test_what_carries_a_state(name, expected):
    from unrolled.flow.gates import called

    graph = find(name).graph
    found = [(state, called(graph, k)) for state, k in carried(graph)]
    if expected is None:
        assert [state for state, _ in found] == ["c"]
    else:
        assert found == expected


@pytest.mark.parametrize("name", CELLS)
def test_every_cell_of_the_zoo_has_statistics(name):
    layer = Recurrent(name, 3, 4)
    (found,) = gate_statistics(layer, random(6, 2, 3))
    assert len(found.gates) == len(squashed(layer.cell.graph))
    assert set(found.state_norms) == set(layer.cell.states)
    assert found.to_dict()["place"] == "l0"
    assert repr(found)


def test_dead_units_and_inactive_ones():
    torch.manual_seed(0)
    layer = Recurrent("rnn(activation=relu)", 3, 4)
    with torch.no_grad():
        parameters = layer.parameters_of("l0")
        bias = next(p for n, p in parameters.items() if n.endswith("bias"))
        bias[1] = -1000.0
    (found,) = gate_statistics(layer, random(30, 8, 3))
    (gate,) = found.gates
    assert gate.dead.tolist() == [False, True, False, False]
    assert gate.low_by_unit[1] == 1
    assert 0 < gate.low < 1
    assert found.frozen["h"].tolist() == [False, True, False, False]


def test_a_recording_serves_all_measurements():
    layer, x = LSTM(3, 4), random(5, 2, 3)
    assert gate_statistics(record(layer, x))[0].to_dict() == gate_statistics(layer, x)[0].to_dict()


def test_clipping_by_its_definition():
    found = clipping([{"a": 3.0, "b": 4.0}, {"a": 0.3, "b": 0.4}], 1.0)
    assert found.often == 0.5
    assert found.left == pytest.approx((0.2 + 1) / 2)
    assert found.parts == pytest.approx({"a": 9 / 25, "b": 16 / 25})
    assert clipping([0.5, 2.0, 2.0], 1.0).often == pytest.approx(2 / 3)
    with pytest.raises(InputError, match="no gradients"):
        clipping([], 1.0)
    with pytest.raises(InputError, match="above 0"):
        clipping([1.0], 0.0)


def test_a_threshold_is_a_part_of_the_range():
    with pytest.raises(InputError, match="a part of the range"):
        gate_statistics(LSTM(2, 2), random(3, 1, 2), threshold=0.7)
