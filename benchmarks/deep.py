"""A cell through depth beside the same network as torch's modules, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.family import Family, Record, Settings, Size
from benchmarks.paired import compare
from unrolled.nn import Deep

SEQUENTIAL, COMPILED = 3.0, 1.0
"""Asked of narrow deep networks: width 64, depth 200, batch 64; against modules one after the other, and
against these under torch.compile, without the time that it takes to compile."""

SIZES = (Size(200, 64, 64, 64), Size(200, 16, 64, 64), Size(200, 256, 64, 64), Size(50, 64, 256, 256))
"""Layers in place of steps. Bars are for the first."""


class Residual(nn.Module):
    """A + f(W A), as one would write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.f = nn.Linear(width, width)

    def forward(self, A: Tensor) -> Tensor:
        return torch.tanh(self.f(A)) + A


class Highway(nn.Module):
    """A highway layer, as one would write it."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.n, self.b = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, A: Tensor) -> Tensor:
        b = torch.sigmoid(self.b(A))
        return torch.tanh(self.n(A)) * b + A * (1 - b)


class Plain(nn.Sequential):
    """f(W A)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.add_module("h", nn.Linear(width, width))
        self.add_module("f", nn.Tanh())


NETWORKS: dict[str, tuple[str, Callable[[int], nn.Module]]] = {
    "plain": ("rnn", Plain),
    "residual": ("residual(activation=tanh)", Residual),
    "highway": ("highway", Highway),
}


class Step:
    """A step of training: forward, backward with every gradient, and stochastic gradient descent, whose rate
    is 0 so that both sides stay where they are.

    Args:
        named: the gradients to compare, by name.
    """

    def __init__(
        self,
        run: Callable[[Tensor], Tensor],
        module: nn.Module,
        A: Tensor,
        named: Callable[[], dict[str, Tensor]],
    ) -> None:
        self.run, self.module, self.named = run, module, named
        self.A = A.clone().requires_grad_()
        self.optimiser = torch.optim.SGD(module.parameters(), 0.0)

    def __call__(self) -> None:
        self.optimiser.zero_grad()
        self.A.grad = None
        y = self.run(self.A)
        y.square().mean().backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.y = y.detach()

    def tensors(self) -> dict[str, Tensor]:
        assert self.A.grad is not None
        return {"A": self.y, "d_A": self.A.grad} | self.named()


def sides(name: str, size: Size, compiled: bool) -> tuple[Step, Step]:
    """Ours, and the modules with the same parameters."""
    torch.manual_seed(0)
    spec, layer = NETWORKS[name]
    scale = "orthogonal:0.1" if name == "residual" else "orthogonal"  # larger ones magnify rounding
    ours = Deep(spec, size.H, size.T, init={"*.h": scale})
    theirs = nn.Sequential(*[layer(size.H) for _ in range(size.T)])
    own = ours.stacked()
    with torch.no_grad():
        for k, module in enumerate(theirs):
            for gate, linear in module.named_children():
                if isinstance(linear, nn.Linear):
                    linear.weight.copy_(own[f"{gate}.h"][k])
                    linear.bias.copy_(own[f"{gate}.bias"][k])

    def mine() -> dict[str, Tensor]:
        return {name: p.grad for name, p in own.items() if p.grad is not None}

    def of_modules() -> dict[str, Tensor]:
        found: dict[str, list[Tensor]] = {name: [] for name in own}
        for module in theirs:
            for gate, linear in module.named_children():
                if isinstance(linear, nn.Linear):
                    assert linear.weight.grad is not None
                    assert linear.bias.grad is not None
                    found[f"{gate}.h"].append(linear.weight.grad)
                    found[f"{gate}.bias"].append(linear.bias.grad)
        return {name: torch.stack(values) for name, values in found.items()}

    A = torch.randn(size.B, size.H)
    peer = torch.compile(theirs) if compiled else theirs
    return Step(ours, ours, A, mine), Step(peer, theirs, A, of_modules)


def measure(settings: Settings) -> Iterator[Record]:
    sizes = (Size(20, 8, 16, 16),) if settings.quick else SIZES
    for name in NETWORKS:
        for size in sizes:
            bar = SEQUENTIAL if size == SIZES[0] else None
            yield compare(f"{name}, nn.Sequential", size, *sides(name, size, compiled=False), settings, bar)
    if settings.quick:
        return
    for name in NETWORKS:
        pair = sides(name, SIZES[0], compiled=True)
        yield compare(f"{name}, torch.compile", SIZES[0], *pair, settings, COMPILED)


FAMILIES = (
    Family(
        "deep",
        "Networks through depth against torch's modules",
        measure,
        caption="A step of training with `nn.Deep`, T layers of H units, against `nn.Sequential` of the same "
        "layers, and against that under `torch.compile` without the time to compile it.",
    ),
)
