"""A cell that looks at a memory before every step beside the loop that one would write."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.family import Family, Record, Settings, Size
from benchmarks.paired import compare
from unrolled.nn.attention import Attention
from unrolled.nn.attentive import Attentive

PLACES = 20
"""In the memory, whose values are twice as wide as the states: those of an encoder that reads both ways."""

SIZES = (Size(30, 16, 64, 64), Size(20, 32, 128, 128), Size(20, 64, 256, 256), Size(20, 64, 512, 512))


class Loop(nn.Module):
    """`nn.LSTMCell` and additive attention, step by step."""

    def __init__(self, D: int, H: int, M: int) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(D + M, H)
        self.query = nn.Linear(H, H, bias=False)
        self.key = nn.Linear(M, H)
        self.score = nn.Linear(H, 1, bias=False)

    def forward(self, x: Tensor, values: Tensor, closed: Tensor) -> tuple[Tensor, Tensor]:
        keys = self.key(values)
        h = c = x.new_zeros(x.shape[1], self.cell.hidden_size)
        outputs, contexts = [], []
        for x_t in x:
            e = self.score(torch.tanh(self.query(h)[:, None] + keys)).squeeze(-1)
            weights = torch.softmax(e.masked_fill(closed, -torch.inf), -1)
            z = torch.bmm(weights[:, None], values).squeeze(1)
            h, c = self.cell(torch.cat([x_t, z], -1), (h, c))
            outputs.append(h)
            contexts.append(z)
        return torch.stack(outputs), torch.stack(contexts)


class Step:
    """Forward, and backward with every gradient.

    Args:
        named: the gradients to compare, by name.
    """

    def __init__(
        self,
        run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
        module: nn.Module,
        inputs: tuple[Tensor, Tensor],
        named: Callable[[], dict[str, Tensor]],
    ) -> None:
        self.run, self.module, self.named = run, module, named
        self.inputs = tuple(value.clone().requires_grad_() for value in inputs)

    def __call__(self) -> None:
        self.module.zero_grad()
        for value in self.inputs:
            value.grad = None
        found = self.run(*self.inputs)
        sum(value.square().mean() for value in found).backward()  # type: ignore[union-attr]
        self.found = {name: value.detach() for name, value in zip(("h", "z"), found, strict=True)}

    def tensors(self) -> dict[str, Tensor]:
        gradients = {f"d_{k}": value.grad for k, value in enumerate(self.inputs) if value.grad is not None}
        return self.found | gradients | self.named()


def sides(size: Size) -> tuple[Step, Step]:
    """Ours, and the loop with the same parameters."""
    torch.manual_seed(0)
    T, B, D, H = size
    ours = Attentive("lstm", D, H, Attention(H, 2 * H))
    theirs = Loop(D, H, 2 * H)
    own, gates = ours.parameters_by_name(), "ifgo"
    with torch.no_grad():
        theirs.query.weight.copy_(ours.attention.query.weight)
        theirs.key.load_state_dict(ours.attention.key.state_dict())
        theirs.score.weight.copy_(ours.attention.scores[None])
        rows = [torch.cat([own[f"{gate}.x"], own[f"{gate}.context"]], 1) for gate in gates]
        theirs.cell.weight_ih.copy_(torch.cat(rows))
        theirs.cell.weight_hh.copy_(torch.cat([own[f"{gate}.h"] for gate in gates]))
        theirs.cell.bias_ih.copy_(torch.cat([own[f"{gate}.bias"] for gate in gates]))
        theirs.cell.bias_hh.zero_()
    inputs = torch.randn(T, B, D), torch.randn(B, PLACES, 2 * H)
    lengths = torch.randint(PLACES // 2, PLACES + 1, (B,))
    there = torch.arange(PLACES) < lengths[:, None]

    def gradient(tensor: Tensor) -> Tensor:
        assert tensor.grad is not None
        return tensor.grad

    def mine() -> dict[str, Tensor]:
        found = {f"{gate}.{source}": gradient(own[f"{gate}.{source}"]) for gate in gates
                 for source in ("x", "context", "h", "bias")}  # fmt: skip
        attention = ours.attention
        parts = (attention.query.weight, attention.key.weight, attention.key.bias, attention.scores)
        return found | {str(k): gradient(part) for k, part in enumerate(parts)}

    def of_loop() -> dict[str, Tensor]:
        found = {}
        for k, gate in enumerate(gates):
            some = slice(k * H, (k + 1) * H)
            found[f"{gate}.x"], found[f"{gate}.context"] = gradient(theirs.cell.weight_ih)[some].split(
                [D, 2 * H], 1
            )
            found[f"{gate}.h"] = gradient(theirs.cell.weight_hh)[some]
            found[f"{gate}.bias"] = gradient(theirs.cell.bias_ih)[some]
        parts = (theirs.query.weight, theirs.key.weight, theirs.key.bias, theirs.score.weight)
        return found | {
            str(k): gradient(part).view(-1) if k == 3 else gradient(part) for k, part in enumerate(parts)
        }

    def run(x: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        found = ours(x, ours.attention.memory(values, there))
        return found.outputs["h"], found.contexts

    return Step(run, ours, inputs, mine), Step(lambda x, v: theirs(x, v, ~there), theirs, inputs, of_loop)


def measure(settings: Settings) -> Iterator[Record]:
    for size in SIZES[:1] if settings.quick else SIZES:
        yield compare("LSTM, additive", size, *sides(size), settings, None)


FAMILIES = (
    Family(
        "attention",
        "Attention inside the step against a loop over nn.LSTMCell",
        measure,
        caption=f"Forward and backward of an LSTM that looks at {PLACES} places before every step, additive "
        "scores, against the loop that one would write in PyTorch.",
    ),
)
