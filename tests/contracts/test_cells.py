"""What every cell keeps to: those of the zoo, their variants, and some that only the tests define."""

import copy
import json
import pickle

import pytest
import torch
import torch.nn.functional as F

from cases import OWN, SETTINGS, Setting, assert_same, flat, gradients
from unrolled.cell import Cell
from unrolled.cells import CELLS, VARIANTS, find
from unrolled.graph import Graph
from unrolled.nn import Recurrent

each = pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: s.id)

ROUNDING = 1e-12


def layer_of(setting: Setting, **options) -> Recurrent:
    """A layer in float64 with random biases."""
    options.setdefault("backend", "reference")
    layer = Recurrent(setting.cell, setting.D, setting.state_sizes, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(0, 0.7)
    return layer


def outputs_and_gradients(layer: Recurrent, x: torch.Tensor) -> dict[str, torch.Tensor]:
    results = flat(*layer(x))
    return results | gradients(results, dict(layer.named_parameters()))


def test_every_cell_and_every_variant_is_tried():
    tried = {setting.cell.name for setting in SETTINGS}
    assert tried >= {found.name for found in (*CELLS.values(), *map(find, VARIANTS), *OWN)}


@each
def test_calling_equals_running_the_graph_bit_for_bit(setting):
    case = setting.case()
    names = (*case.cell.states, *case.cell.outputs)
    called = case.cell(case.x[0], *case.state.values(), case.parameters)
    called = dict(zip(names, called if isinstance(called, tuple) else (called,), strict=True))
    graph = case.cell.graph_using(case.parameters)
    ran = dict(zip(names, graph.run({"x": case.x[0], **case.state}, case.parameters), strict=True))
    assert_same(called, ran)
    assert_same(gradients(called, case.leaves), gradients(ran, case.leaves))


@each
def test_results_have_the_shapes_the_graph_says(setting):
    case = setting.sized(setting.D + 4, setting.H).case(B=5)
    graph = case.cell.graph_using(case.parameters)
    results = graph.run({"x": case.x[0], **case.state}, case.parameters)
    sizes = graph.sizes(case.parameters) | {graph.widths["x"]: case.x.shape[-1]}
    for k, value in zip(graph.results, results, strict=True):
        assert value.shape == (5, sizes[graph.nodes[k].width])


@each
def test_gradients_of_a_step_equal_differences(setting):
    case = setting.case()

    def step(x, *values):
        state = dict(zip(case.state, values, strict=False))
        parameters = dict(zip(case.parameters, values[len(state) :], strict=True))
        return case.cell(x, *state.values(), parameters)

    leaves = (case.x[0].detach().requires_grad_(), *case.state.values(), *case.parameters.values())
    assert torch.autograd.gradcheck(step, leaves, atol=1e-8, rtol=1e-5)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
@each
def test_gradients_of_a_sequence_equal_differences(setting, backend):
    case = setting.case(T=3)
    names = list(case.leaves)

    def run(*values):
        given = dict(zip(names, values, strict=True))
        state = {name: given.pop(f"state {name}") for name in case.state}
        moved = type(case)(case.cell, given.pop("x"), state, given)
        return tuple(flat(*moved.scan(backend=backend)).values())

    assert torch.autograd.gradcheck(run, tuple(case.leaves.values()), atol=1e-8, rtol=1e-5)


@each
def test_a_sequence_equals_its_steps(setting):
    case = setting.case(T=7)
    whole, steps = flat(*case.scan()), flat(*case.unrolled())
    assert_same(whole, steps)
    assert_same(gradients(whole, case.leaves), gradients(steps, case.leaves))


@each
def test_a_whole_equals_its_parts_with_the_state_passed_on(setting):
    case = setting.case(T=7)
    parts, state = [], case.state
    for part in case.x.split([1, 4, 2]):
        output, state = case.scan(part, state)
        parts.append(output)
    whole, chunked = flat(*case.scan()), flat(torch.cat(parts), state)
    assert_same(whole, chunked)
    assert_same(gradients(whole, case.leaves), gradients(chunked, case.leaves), ROUNDING)


@each
def test_a_token_is_a_one_hot_vector(setting):
    case = setting.case()
    tokens = torch.tensor([[0, 2], [2, 1], [1, 1], [0, 0]])
    by_number = flat(*case.scan(tokens))
    by_vector = flat(*case.scan(F.one_hot(tokens, setting.D).double()))
    assert_same(by_number, by_vector, ROUNDING)
    leaves = {name: leaf for name, leaf in case.leaves.items() if name != "x"}
    assert_same(gradients(by_number, leaves), gradients(by_vector, leaves), ROUNDING)


@each
def test_reverse_is_flipping(setting):
    case = setting.case(T=5)
    back = flat(*case.scan(reverse=True))
    outputs, state = case.scan(case.x.flip(0))
    flipped = flat(outputs.flip(0), state)
    assert_same(back, flipped)
    assert_same(gradients(back, case.leaves), gradients(flipped, case.leaves))


@pytest.mark.parametrize(("T", "B", "D", "H"), [(1, 1, 1, 1), (1, 3, 2, 1), (5, 1, 1, 7), (2, 5, 13, 3)])
@each
def test_sizes_of_one_and_odd_sizes(setting, T, B, D, H):
    case = setting.sized(D, H).case(T, B)
    outputs, state = case.scan()
    assert outputs.shape[:2] == (T, B)
    assert {name: value.shape for name, value in state.items()} == {
        name: value.shape for name, value in case.state.items()
    }
    assert_same(flat(outputs, state), flat(*case.unrolled()))
    for row in range(B):  # rows do not see each other
        alone = case.scan(case.x[:, row : row + 1], {k: v[row : row + 1] for k, v in case.state.items()})
        assert_same(flat(*alone), flat(outputs[:, [row]], {k: v[[row]] for k, v in state.items()}), ROUNDING)


@each
def test_memory_layout_does_not_matter(setting):
    case = setting.case(T=4, B=3)
    expected = flat(*case.scan())
    turned = case.x.detach().transpose(0, 1).contiguous().transpose(0, 1)
    strided = torch.stack([case.x, case.x], -1).detach()[..., 1]
    assert not turned.is_contiguous()
    assert not strided.is_contiguous()
    states = {name: value.t().contiguous().t() for name, value in case.state.items()}
    assert_same(flat(*case.scan(turned, states)), expected, ROUNDING)
    assert_same(flat(*case.scan(strided)), expected, ROUNDING)

    row = case.x[:, :1].expand(-1, 3, -1)
    assert_same(flat(*case.scan(row)), flat(*case.scan(row.contiguous())), ROUNDING)


@each
def test_the_gradient_of_each_final_state_is_not_lost(setting):
    case = setting.sized(3, 3 if setting.D == setting.H else 5).case(T=2, B=4)
    _, finals = case.scan()
    _, expected = case.unrolled()
    for name in case.state:
        found = gradients({name: finals[name]}, case.leaves)
        assert_same(found, gradients({name: expected[name]}, case.leaves))
        assert any(float(value.abs().max()) > 1e-4 for value in found.values()), name


@each
def test_json_keeps_the_graph(setting):
    for graph in (setting.cell.graph, setting.cell.square):
        text = json.dumps(graph.to_json(), allow_nan=False)
        read = Graph.from_json(json.loads(text))
        assert read == graph
        assert json.dumps(read.to_json(), allow_nan=False) == text
    case = setting.case()
    saved = Graph.from_json(json.loads(json.dumps(setting.cell.graph_for(setting.D, setting.H).to_json())))
    values = {"x": case.x[0], **case.state}
    ran = case.cell.run(values, case.parameters)
    for found, expected in zip(saved.run(values, case.parameters), ran, strict=True):
        assert torch.equal(found, expected)


@each
def test_a_cell_without_its_source_runs_the_same(setting):
    case = setting.case(T=4)
    bare = Cell(setting.cell.name, setting.cell.graph, setting.cell.square)
    kept = pickle.loads(pickle.dumps(bare))
    assert kept.graph == bare.graph
    assert kept.square == bare.square
    assert_same(flat(*type(case)(kept, case.x, case.state, case.parameters).scan()), flat(*case.scan()))


@each
def test_pickling_and_copying_keep_a_cell(setting):
    for kept in (pickle.loads(pickle.dumps(setting.cell)), copy.deepcopy(setting.cell)):
        assert kept.name == setting.cell.name
        assert kept.options == setting.cell.options
        assert kept.graph == setting.cell.graph
        assert kept.square == setting.cell.square


@each
def test_pickling_and_copying_keep_a_layer(setting):
    layer = layer_of(setting, num_layers=2, bidirectional=True)
    x = setting.case(T=4).x
    expected = outputs_and_gradients(layer, x)
    for kept in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        assert repr(kept) == repr(layer)
        assert_same(outputs_and_gradients(kept, x), expected)
        with torch.no_grad():  # a copy shares no memory
            next(kept.parameters()).add_(1)
    assert_same(outputs_and_gradients(layer, x), expected)


@each
def test_a_state_dict_carries_a_layer(setting):
    first, second = (layer_of(setting, num_layers=2, bidirectional=True) for _ in range(2))
    x = setting.case(T=4).x
    assert not torch.equal(first(x)[0], second(x)[0])
    second.load_state_dict(first.state_dict())
    assert_same(outputs_and_gradients(second, x), outputs_and_gradients(first, x))


@each
def test_a_layer_is_scans_joined(setting):
    layer = layer_of(setting, num_layers=2, bidirectional=True)
    x, finals = setting.case(T=4).x, []
    outputs, end = layer(x)
    start = {name: value.unbind() for name, value in layer.initial_state(x.shape[1]).items()}
    below = x
    for k in range(0, 4, 2):
        both = []
        for way in range(2):
            parameters = layer.parameters_of(layer.suffixes[k + way])
            state = {name: value[k + way] for name, value in start.items()}
            case = type(setting.case())(setting.cell, below, state, parameters)
            y, final = case.scan(reverse=bool(way))
            both.append(y)
            finals.append(final)
        below = torch.cat(both, -1)
    stacked = {name: torch.stack([final[name] for final in finals]) for name in setting.cell.states}
    assert_same(flat(outputs, end), flat(below, stacked))


@each
@pytest.mark.parametrize("kind", ["vectors", "tokens"])
def test_without_biases_is_with_biases_of_zero(setting, kind):
    plain = layer_of(setting, num_layers=2, bias=False)
    biased = layer_of(setting, num_layers=2)
    assert not [name for name, _ in plain.named_parameters() if name.endswith(".bias")]
    biased.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        for name, parameter in biased.named_parameters():
            if name.endswith(".bias"):
                parameter.zero_()
    x = setting.case(T=4).x if kind == "vectors" else torch.tensor([[0, 2], [1, 1]])
    found, expected = flat(*plain(x)), flat(*biased(x))
    assert_same(found, expected, ROUNDING)
    leaves = {name: dict(biased.named_parameters())[name] for name, _ in plain.named_parameters()}
    assert_same(gradients(found, dict(plain.named_parameters())), gradients(expected, leaves), ROUNDING)


@each
def test_float32_stays_float32_and_near_float64(setting):
    layer = layer_of(setting)
    x = setting.case(T=5).x.detach()
    expected = {k: v.detach().float() for k, v in flat(*layer(x)).items()}
    assert_same(flat(*layer.float()(x.float())), expected, 1e-5)


@each
def test_the_layer_starts_where_the_cell_says(setting):
    layer = layer_of(setting, num_layers=2)
    start = layer.initial_state(3)
    for name, size in setting.state_sizes.items():
        value = setting.cell.graph.initial.get(name, 0.0)
        assert torch.equal(start[name], torch.full((2, 3, size), value, dtype=torch.float64))
    x = setting.case(T=4, B=3).x
    found = flat(*layer(x))
    assert_same(found, flat(*layer(x, start)))
    assert all(torch.isfinite(value).all() for value in found.values())
    grads = gradients(found, dict(layer.named_parameters()))
    assert all(torch.isfinite(value).all() for value in grads.values())
