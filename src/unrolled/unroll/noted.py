"""Exact gradients that another process can go on with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as tree

from unrolled.errors import InputError
from unrolled.unroll.chain import Losses
from unrolled.unroll.checkpointed import Run
from unrolled.unroll.journal import Journal
from unrolled.unroll.policies import Checkpointed
from unrolled.unroll.schedule import Action
from unrolled.unroll.stored import Stored
from unrolled.unroll.tape import tensors_of


class Noted(Run):
    """Notes in a journal how far it is, where it holds no tapes, and begins with what is noted there."""

    def __init__(self, chain: Losses, state: Any, policy: Checkpointed) -> None:
        self.losses, self.policy = chain, policy
        self.at = 0  # actions that are done
        self.upstream: list[list[Tensor | None]] = []
        super().__init__(chain, state, policy)

    def _go_forwards(self) -> None:
        assert self._begun is not None
        tape, after = self._begun
        self._know(tape)
        self.structure = tree.tree_structure(after)
        depends = *self.known.values(), *tensors_of(self.state)
        self.journal = Journal(str(self.policy.journal), depends, self.chain.count, self.policy.memory)
        notes = self.journal.read()
        if notes and len(notes["sums"]) <= len(self.known):
            self._go_on_from(notes)
        self.actions = self._counted(self.actions)
        if not self.forwards_done:
            super()._go_forwards()
            self.after = torch.get_rng_state()
        torch.set_rng_state(self.after)

    def _counted(self, actions: Iterator[Action]) -> Iterator[Action]:
        for action in islice(actions, self.at, None):
            self.at += 1
            yield action

    def _do(self, action: Action) -> None:
        super()._do(action)
        if action.kind in ("store", "back") and self.journal.due:
            self.journal.write(self._notes())

    def _go_back(self, d_outs: Sequence[Tensor | None]) -> None:
        upstream = [[*d_outs], self.d_state]
        if self.upstream:  # the way back has begun
            if not all(map(_same, upstream, self.upstream)):
                raise InputError(
                    f"{self.journal.path} is of another gradient of this loss; remove it to begin anew"
                )
            self.d_state = self._d_state
        self.upstream = upstream
        super()._go_back(d_outs)
        self.journal.end()

    def _notes(self) -> dict[str, Any]:
        notes = {"at": self.at, "start": self.start[1], "losses": self.losses.kept}
        notes |= {"stored": self.stored.notes(), "sums": [], "end": None}
        if self.upstream:
            notes |= {"sums": [*map(self.sums.of, self.known.values())], "end": tree.tree_leaves(self.end)}
            notes |= {"after": self.after, "upstream": self.upstream, "d_state": self.d_state}
        return notes

    def _go_on_from(self, notes: dict[str, Any]) -> None:
        self._begun = None
        self.at, self.losses.kept = notes["at"], notes["losses"]
        self.start = self.start[0], notes["start"]
        self.stored = Stored(self.stored.most, notes["start"], self.stored.folder)
        last = self.stored.take(notes["stored"], self.structure)
        super()._do(Action("load", last, last))
        if notes["end"] is not None:
            self.end = tree.tree_unflatten(notes["end"], self.structure)
            self.after, self.forwards_done = notes["after"], True
            self.upstream, self._d_state = notes["upstream"], notes["d_state"]
            for tensor, d in zip(self.known.values(), notes["sums"], strict=False):
                if d is not None:
                    self.sums.add([tensor], [d])


def _same(found: Sequence[Tensor | None], noted: Sequence[Tensor | None]) -> bool:
    return len(found) == len(noted) and all(
        a is b or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(found, noted, strict=True)
    )
