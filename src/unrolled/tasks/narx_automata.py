"""Finite automata inferred from strings, by a NARX network and by an Elman network of the same size.

Tomita's grammars: after each symbol the network says whether the string so far is accepted. It is trained on
short strings and measured on what comes after that length in longer ones. And the automaton of Lin et al.,
whose class is the symbol at a given place, said at the end alone: how long may the strings be?

Source: Lin, Horne, Tiňo & Giles 1996, doi:10.1109/72.548162; Horne & Giles 1995, "An experimental comparison
of recurrent neural networks", NIPS 7.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from unrolled.cells.narx import read_lags
from unrolled.errors import InputError, check_sizes
from unrolled.nn import NARX, Recurrent
from unrolled.tasks.automata import TOMITA, Automaton, one_hot
from unrolled.tasks.narx_latch import half_at

KINDS: Final = ("Elman", "NARX")
BATCH: Final = 64
RIGHT: Final = 0.99
"""The share of right answers from which on an automaton counts as inferred."""
LEARNED: Final = 0.004
"""The loss at which a training ends."""
CLIP: Final = 1.0
PLACE: Final = 3
"""Which symbol is the class, counted from 1."""
STRINGS: Final = 500


@dataclass(frozen=True)
class AutomataConfig:
    """Both networks, and how they are trained."""

    grammars: Annotated[str, "which of Tomita's grammars"] = "1-7"
    lengths: Annotated[str, "steps of the strings whose class is their third symbol"] = "8,12,16,24,32,40"
    runs: Annotated[int, "trainings of each network"] = 6
    updates: Annotated[int, "gradient steps of a training on a grammar, at most"] = 800
    symbol_updates: Annotated[int, "the same where the class is a symbol"] = 1000
    seed: Annotated[int, "of the random numbers"] = 0

    def __post_init__(self) -> None:
        check_sizes(runs=self.runs, updates=self.updates, symbol_updates=self.symbol_updates)
        _ = self.each_length
        if self.each_grammar[-1] > len(TOMITA):
            raise InputError(
                f"there is no grammar {self.each_grammar[-1]}; they are numbered 1 to {len(TOMITA)}"
            )

    @property
    def each_grammar(self) -> tuple[int, ...]:
        return read_lags(self.grammars, "grammars", InputError)

    @property
    def each_length(self) -> tuple[int, ...]:
        return read_lags(self.lengths, "lengths", InputError, least=PLACE)


@dataclass(frozen=True)
class Inferred:
    """What both networks made of a grammar.

    Attributes:
        number, name: of the grammar.
        commonest: the share of right answers of who always says the commoner class.
        right: for each network, by training, the share of right answers beyond the length trained on.
    """

    number: int
    name: str
    commonest: float
    right: dict[str, list[float]]

    def mean(self, kind: str) -> float:
        return sum(self.right[kind]) / len(self.right[kind])

    def inferred(self, kind: str) -> int:
        """In how many trainings the automaton was found."""
        return sum(share >= RIGHT for share in self.right[kind])


@dataclass(frozen=True)
class Automata:
    """Tomita's grammars, and strings whose class is their third symbol.

    Attributes:
        sizes: how many parameters each network has, for the grammars and for the symbol.
        grammars: what was made of each.
        lengths: of the strings whose class is a symbol.
        held: for each network, by length, the share of trainings after which it knows the symbol.
        half: the length at which half of them do; None if that is not between the lengths tried.
    """

    sizes: dict[str, dict[str, int]]
    grammars: list[Inferred]
    lengths: list[int]
    held: dict[str, list[float]]
    half: dict[str, float | None]

    @property
    def ratio(self) -> float | None:
        """How many times as long the NARX network knows a symbol."""
        elman, narx = (self.half[kind] for kind in KINDS)
        return narx / elman if elman and narx else None


class Elman(nn.Module):
    """An Elman network and a line through its state: one number a step."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.layer = Recurrent("rnn", inputs, hidden)
        self.head = nn.Linear(hidden, 1)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.layer(x)[0])
        return found.squeeze(-1)


class Bounded(nn.Module):
    """A NARX network whose one output lies between −1 and 1, times 3: one number a step."""

    def __init__(self, inputs: int, hidden: int, input_lags: range, output_lags: range) -> None:
        super().__init__()
        self.network = NARX(inputs, 1, hidden, input_lags, output_lags, output="tanh")

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x)[0]
        return 3 * y.squeeze(-1)


NETWORKS: Final[dict[str, dict[str, Callable[[], nn.Module]]]] = {
    "grammar": {
        "Elman": lambda: Elman(2, 7),
        "NARX": lambda: Bounded(2, 7, range(3), range(1, 5)),
    },
    "symbol": {
        "Elman": lambda: Elman(1, 6),
        "NARX": lambda: Bounded(1, 6, range(1), range(1, 7)),
    },
}
"""By task and kind. Of one task they have about as many parameters, and as many hidden units."""

RATE: Final = {"grammar": 0.02, "symbol": 0.03}
SHORT, LONG = 16, 48
"""Steps of the strings of a grammar that are trained on, and measured."""


def trained(
    model: nn.Module,
    batch: Callable[[], tuple[Tensor, Callable[[Tensor], Tensor]]],
    rate: float,
    updates: int,
) -> None:
    """Train with Adam until the loss is small.

    Args:
        batch: strings, and what of the numbers of all steps times the class of each must be large.
    """
    optimiser = torch.optim.Adam(model.parameters(), lr=rate)
    smooth = 1.0
    for _ in range(updates):
        x, margin = batch()
        loss = softplus(-2 * margin(model(x))).mean()
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimiser.step()
        smooth = 0.95 * smooth + 0.05 * float(loss.detach())
        if smooth < LEARNED:
            break


def infer(automaton: Automaton, kind: str, config: AutomataConfig, seed: int) -> float:
    """The share of right answers beyond the length trained on, after a training."""
    generator = torch.Generator().manual_seed(seed)
    known = automaton.strings(SHORT, STRINGS, generator)
    x, sign = one_hot(known), 2 * automaton.classes(known).float() - 1

    def batch() -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        some = torch.randint(STRINGS, (BATCH,), generator=generator)
        return x[:, some], lambda found: found * sign[:, some]

    torch.manual_seed(seed)
    model = NETWORKS["grammar"][kind]()
    trained(model, batch, RATE["grammar"], config.updates)
    longer, classes = held_out(automaton, config)
    with torch.no_grad():
        return float(((model(one_hot(longer)) > 0) == classes)[SHORT:].float().mean())


def held_out(automaton: Automaton, config: AutomataConfig) -> tuple[Tensor, Tensor]:
    """Longer strings, the same for all trainings, and their classes after each symbol."""
    longer = automaton.strings(LONG, STRINGS, torch.Generator().manual_seed(config.seed - 1))
    return longer, automaton.classes(longer)


def hold(length: int, kind: str, config: AutomataConfig, seed: int) -> float:
    """The share of held-out strings whose class, their third symbol, is known at the end after a training."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(count: int) -> Tensor:
        return 2 * torch.randint(2, (length, count, 1), generator=generator).float() - 1

    def batch() -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        x = drawn(BATCH)
        return x, lambda found: found[-1] * x[PLACE - 1, :, 0]

    torch.manual_seed(seed)
    model = NETWORKS["symbol"][kind]()
    trained(model, batch, RATE["symbol"], config.symbol_updates)
    x = drawn(STRINGS)
    with torch.no_grad():
        return float((model(x)[-1] * x[PLACE - 1, :, 0] > 0).float().mean())


def automata(config: AutomataConfig, told: Callable[[str], Any] = lambda _: None) -> Automata:
    """The whole experiment.

    Args:
        told: called with a line now and then.
    """
    sizes = {
        task: {kind: sum(p.numel() for p in made().parameters()) for kind, made in kinds.items()}
        for task, kinds in NETWORKS.items()
    }
    seeds = range(1000 * config.seed, 1000 * config.seed + config.runs)
    grammars = []
    for number in config.each_grammar:
        automaton = TOMITA[number - 1]
        accepted = float(held_out(automaton, config)[1][SHORT:].float().mean())
        right = {kind: [infer(automaton, kind, config, seed) for seed in seeds] for kind in KINDS}
        grammars.append(Inferred(number, automaton.name, max(accepted, 1 - accepted), right))
        told(f"grammar {number}: done")
    lengths, held = [*config.each_length], dict[str, list[float]]()
    for kind in KINDS:
        held[kind] = [
            sum(hold(length, kind, config, seed) >= RIGHT for seed in seeds) / config.runs
            for length in lengths
        ]
        told(f"strings whose class is their third symbol, {kind}: done")
    return Automata(sizes, grammars, lengths, held, {kind: half_at(lengths, held[kind]) for kind in KINDS})
