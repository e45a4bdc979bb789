"""Cells that read a memory at every step: compiled as through torch, for any cell, score and mask."""

import pytest
import torch

from cases import one_line
from unrolled.attend import Memory, attend
from unrolled.cells import find
from unrolled.errors import BackendError, CellError, InputError
from unrolled.rewrite import ENTERS, with_context
from unrolled.scan import scan

SCORES = {
    "additive": ("keys", "values", "matrix", "score"),
    "products": ("keys", "values", "matrix"),
    "plain products": ("keys", "values"),
}


class Case:
    """A cell with a memory of which two rows are masked in part, on random numbers."""

    def __init__(self, cell="lstm", enters="plain", score="additive", T=5, B=3, D=6, H=20, S=7, A=18, Z=9,
                 hard=False, dtype=torch.float64):  # fmt: skip
        draw = torch.Generator().manual_seed(T + B + H)

        def drawn(*shape, scale=1.0):
            return torch.randn(*shape, dtype=torch.float64, generator=draw).to(dtype) * scale

        self.cell = with_context(find(cell), enters)
        sizes = {"D": D, "H": H, "M": Z}
        A = A if "matrix" in SCORES[score] else H
        self.leaves = {"x": drawn(T, B, D)}
        for name, p in self.cell.parameters.items():
            self.leaves[f"parameter {name}"] = drawn(*[sizes[s] for s in p.shape], scale=0.3)
        self.leaves |= {f"state {name}": drawn(B, H, scale=0.3) for name in self.cell.states}
        memory = {"keys": (B, S, A), "values": (B, S, Z), "matrix": (A, H), "score": (A,)}
        self.leaves |= {f"memory {name}": drawn(*memory[name]) for name in SCORES[score]}
        self.mask = torch.zeros(B, S, dtype=dtype)
        self.mask[0, 4:] = -torch.inf
        self.mask[-1, :2] = -torch.inf
        self.uniform = torch.rand(T, B, dtype=torch.float64, generator=draw).to(dtype) if hard else None

    def run(self, backend, leaves=None, steps=slice(None), state=None):
        leaves = self.leaves if leaves is None else leaves

        def those(kind):
            return {n.removeprefix(f"{kind} "): v for n, v in leaves.items() if n.startswith(f"{kind} ")}

        return attend(
            self.cell,
            leaves["x"][steps],
            state or those("state"),
            those("parameter"),
            Memory(**those("memory"), mask=self.mask),
            uniform=None if self.uniform is None else self.uniform[steps],
            backend=backend,
        )

    def everything(self, backend):
        """Outputs, and the gradients of a random sum of them."""
        leaves = {name: value.clone().requires_grad_() for name, value in self.leaves.items()}
        found = self.run(backend, leaves)
        outputs = {f"y {name}": value for name, value in found.outputs.items()}
        outputs |= {f"end {name}": value for name, value in found.state.items()}
        outputs |= {"contexts": found.contexts, "weights": found.weights}
        draw = torch.Generator().manual_seed(1)
        sums = [
            (v * torch.randn(v.shape, generator=draw, dtype=torch.float64).to(v)).sum()
            for v in outputs.values()
        ]
        torch.stack(sums).sum().backward()
        gradients = {f"d_{name}": v.grad for name, v in leaves.items() if v.grad is not None}
        return {name: value.detach() for name, value in outputs.items()} | gradients


CASES = [
    *({"cell": cell} for cell in ("gru", "gru_cho", "rnn", "mut1", "lstm(peepholes=matrix)")),
    *({"cell": cell, "enters": enters} for cell in ("lstm", "gru_cho") for enters in ENTERS),
    *({"score": score, "hard": hard} for score in SCORES for hard in (False, True)),
    *({"T": 1, "B": 1, "S": 1, "enters": enters} for enters in ENTERS),
    {"T": 9, "B": 17, "H": 33, "S": 21, "A": 40, "Z": 70},
    {"T": 9, "B": 17, "H": 33, "S": 21, "Z": 70, "score": "plain products", "enters": "fed"},
]


@pytest.mark.parametrize("settings", CASES, ids=lambda s: " ".join(f"{k}={v}" for k, v in s.items()))
def test_compiled_attention_is_that_of_the_equations(settings):
    case = Case(**settings)
    compiled, expected = (case.everything(backend) for backend in ("cpu", "reference"))
    assert compiled.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            compiled[name], value, rtol=1e-9, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_float32_errs_at_most_four_times_as_far_as_torch():
    sizes = {"T": 20, "B": 8, "H": 40, "S": 15}
    truth = Case(**sizes).everything("reference")
    plain, tested = (Case(**sizes, dtype=torch.float32).everything(b) for b in ("reference", "cpu"))
    for name, value in truth.items():
        scale = value.abs().max()
        errors = [((found[name].double() - value).abs().max() / scale).item() for found in (plain, tested)]
        assert errors[1] <= 4 * max(errors[0], 1e-7), name


def test_second_derivatives():
    case = Case(T=3, B=2, D=3, H=4, S=3, A=3, Z=2, enters="gated")
    leaves = [v.clone().requires_grad_() for v in case.leaves.values()]

    def outputs(*values):
        found = case.run("cpu", dict(zip(case.leaves, values, strict=True)))
        return found.outputs["h"], found.contexts, found.weights, found.state["c"]

    assert torch.autograd.gradcheck(outputs, leaves)
    assert torch.autograd.gradgradcheck(outputs, leaves)


def test_whole_equals_chunked_with_the_state_passed_on():
    case = Case(T=7, B=4)
    whole = case.run("cpu")
    first = case.run("cpu", steps=slice(3))
    second = case.run("cpu", steps=slice(3, None), state=first.state)
    torch.testing.assert_close(torch.cat([first.outputs["h"], second.outputs["h"]]), whole.outputs["h"])
    torch.testing.assert_close(torch.cat([first.weights, second.weights]), whole.weights)
    torch.testing.assert_close(second.state, whole.state)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_what_is_masked_is_not_seen(backend):
    """What is there changes nothing, and a row of which all is masked finds 0."""
    case = Case()
    before = case.everything(backend)
    closed = torch.isneginf(case.mask)
    case.leaves["memory keys"][closed] = 1e6
    case.leaves["memory values"][closed] = 1e6
    after = case.everything(backend)
    for name, value in before.items():
        torch.testing.assert_close(after[name], value)
    assert not after["weights"][:, closed].any()
    torch.testing.assert_close(after["weights"].sum(-1), torch.ones(5, 3, dtype=torch.float64))
    case.mask[1] = -torch.inf
    nothing = case.everything(backend)
    assert not nothing["weights"][:, 1].any()
    assert not nothing["contexts"][:, 1].any()
    assert all(value.isfinite().all() for value in nothing.values())


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_one_place_is_drawn_as_often_as_its_weight_says(backend):
    """4,000 rows of the same memory: chi-square of the places drawn, below what one seed in 1,000 exceeds."""
    B = 4000
    case = Case(T=1, B=B, S=6, H=3, D=2, A=3, Z=2, hard=True)
    for name in ("x", "state h", "state c", "memory keys", "memory values"):
        axis = 1 if name == "x" else 0
        value = case.leaves[name]
        case.leaves[name] = value.narrow(axis, 1, 1).expand_as(value).clone()
    case.mask[:] = 0
    case.mask[:, 3] = -torch.inf
    found = case.run(backend)
    weights = found.weights[0, 0]
    counts = found.chosen.flatten().bincount(minlength=6).double()
    assert counts[3] == 0
    there = weights > 0
    expected = B * weights[there]
    assert float(((counts[there] - expected) ** 2 / expected).sum()) < 18.5  # 4 degrees of freedom
    rows = case.leaves["memory values"][torch.arange(B), found.chosen[0]]
    assert torch.equal(found.contexts[0], rows)


@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_below_0_the_likeliest_place_is_taken(backend):
    case = Case(hard=True, T=9)
    case.uniform[::2] = -1
    case.mask[1] = -torch.inf  # there is nothing
    found = case.run(backend)
    likeliest = found.weights.argmax(-1)
    likeliest[:, 1] = -1
    assert torch.equal(found.chosen[::2], likeliest[::2])
    assert not torch.equal(found.chosen[1::2], likeliest[1::2])


def test_no_gradient_flows_through_what_is_drawn():
    """That of the weights comes through the weights alone, that of values to the places drawn."""
    case = Case(hard=True)
    leaves = {name: value.clone().requires_grad_() for name, value in case.leaves.items()}
    found = case.run("cpu", leaves)
    found.contexts.sum().backward()
    assert not leaves["memory keys"].grad.any()
    drawn = torch.zeros_like(case.mask)
    for chosen in found.chosen:
        drawn[torch.arange(3), chosen] += 1
    expected = drawn[..., None].expand_as(leaves["memory values"])
    torch.testing.assert_close(leaves["memory values"].grad, expected)


def test_a_context_that_is_known_is_one_more_input():
    """`scan` runs the same cell on the contexts that were found."""
    case = Case(enters="fed")
    found = case.run("cpu")
    parameters = {
        n.removeprefix("parameter "): v for n, v in case.leaves.items() if n.startswith("parameter ")
    }
    state = {n.removeprefix("state "): v for n, v in case.leaves.items() if n.startswith("state ")}
    outputs, _ = scan(case.cell, found.contexts, state, parameters, others={"x": case.leaves["x"]})
    torch.testing.assert_close(outputs, found.outputs["h"])


def test_location_aware_scores_see_the_last_weights():
    """Against the formula with the sums written out; the first step has no last weights."""
    case = Case(T=2)
    memory = {n.removeprefix("memory "): v for n, v in case.leaves.items() if n.startswith("memory ")}
    taps = torch.randn(18, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    asked, last = case.leaves["state h"], torch.rand(3, 7, dtype=torch.float64)
    found = Memory(**memory, mask=case.mask, taps=taps)
    torch.testing.assert_close(found.weights(asked), Memory(**memory, mask=case.mask).weights(asked))
    q = asked @ memory["matrix"].t()
    scores = torch.empty(3, 7, dtype=torch.float64)
    for b in range(3):
        for s in range(7):
            near = sum(taps[:, j] * last[b, s + j - 1] for j in range(3) if 0 <= s + j - 1 < 7)
            scores[b, s] = memory["score"] @ torch.tanh(q[b] + memory["keys"][b, s] + near)
    torch.testing.assert_close(found.weights(asked, last), torch.softmax(scores + case.mask, -1))


def test_weights_of_many_steps_are_those_of_each(monkeypatch):
    monkeypatch.setattr("unrolled.attend.ROOM", 700)  # one step at once
    for score in SCORES:
        case = Case(score=score, T=4)
        memory = {n.removeprefix("memory "): v for n, v in case.leaves.items() if n.startswith("memory ")}
        found = Memory(**memory, mask=case.mask)
        asked = torch.randn(4, 3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(found.weights(asked), torch.stack([found.weights(each) for each in asked]))


def test_what_does_not_fit_is_refused():
    case = Case()
    parameters = {
        n.removeprefix("parameter "): v for n, v in case.leaves.items() if n.startswith("parameter ")
    }
    state = {n.removeprefix("state "): v for n, v in case.leaves.items() if n.startswith("state ")}
    memory = Memory(case.leaves["memory keys"], case.leaves["memory values"], case.mask)
    x = case.leaves["x"]

    def refused(kind, message, cell=case.cell, x=x, memory=memory, **options):
        with pytest.raises(kind) as caught:
            attend(cell, x, state, parameters, memory, **options)
        assert message in one_line(caught.value)

    refused(InputError, "no backend 'gpu'; there are auto, cpu, reference", backend="gpu")
    refused(InputError, "cell 'lstm' takes x: give one of rewrite.with_context", cell=find("lstm"))
    refused(InputError, "x has shape (5, 3), expected (T, B, D)", x=x[..., 0])
    refused(InputError, "the memory has rows for 3 sequences, and x for 2", x=x[:, :2])
    refused(InputError, "uniform has shape (5,), expected (5, 3)", uniform=torch.rand(5))
    aware = Memory(memory.keys, memory.values, memory.mask, taps=torch.ones(18, 3))
    refused(BackendError, "its attention is location-aware; 'reference' can", memory=aware, backend="cpu")
    with pytest.raises(InputError, match="a context enters plain, gated, fed, not 'badly'"):
        with_context(find("lstm"), "badly")
    with pytest.raises(CellError, match="uses the name 'context' already"):
        with_context(case.cell)
