"""Kernels for other processors: smaller vectors, fewer registers, no fused multiply-add, ARM."""

import re
from collections.abc import Iterator

import llvmlite.binding as llvm
import pytest
import torch

from cases import Case, Setting, flat, gradients, slstm
from unrolled import cells
from unrolled.compile import loop, machine, team
from unrolled.compile.machine import Machine

WITHOUT_512 = re.sub(r"\+(avx512\w*|evex512|avx10[^,]*)", r"-\1", machine.detect().features)
SMALLER = {
    "AVX2": WITHOUT_512,
    "AVX2 without FMA": WITHOUT_512.replace("+fma,", "-fma,").replace("+fma4", "-fma4"),
    "SSE": re.sub(r"\+(avx\w*|fma|fma4|f16c|xop|vaes|vpclmulqdq)\b", r"-\1", WITHOUT_512),
}

CELLS = (cells.lstm, cells.gru_cho, cells.rnn, cells.layer_norm_rnn, slstm)


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Compile for another processor from here on."""

    def choose(here: Machine) -> None:
        monkeypatch.setattr(machine, "detect", lambda: here)
        monkeypatch.setattr(loop, "_loops", {})
        machine.machine.cache_clear()
        team.team_of.cache_clear()

    yield choose
    monkeypatch.undo()
    machine.machine.cache_clear()
    team.team_of.cache_clear()


def computed(case: Case, backend: str) -> dict[str, torch.Tensor]:
    results = flat(*case.scan(backend=backend))
    return {name: value.detach() for name, value in results.items()} | gradients(results, case.leaves)


@pytest.mark.skipif(not machine.detect().is_x86, reason="these are x86 processors")
@pytest.mark.parametrize("features", SMALLER.values(), ids=SMALLER)
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_an_older_processor_computes_the_same(cell, features: str, on) -> None:
    here = machine.detect()
    on(Machine("x86-64", features, here.architecture))
    assert machine.machine().bits == (128 if features == SMALLER["SSE"] else 256)
    assert machine.machine().group == 2
    case = Setting(cell, 11, 37).case(T=5, B=9)
    expected, found = (computed(case, backend) for backend in ("reference", "cpu"))
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-9, atol=1e-12), name


@pytest.mark.parametrize("scalar", ["float", "double"])
def test_the_text_for_arm_is_code_for_arm(scalar: str, on, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no such processor here, so nothing is run: LLVM makes an object of every function."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    on(Machine("neoverse-n1", "+neon,+fp-armv8", "aarch64"))
    assert (machine.machine().lanes(scalar), machine.machine().group) == (
        {"float": 4, "double": 2}[scalar],
        4,
    )
    target = llvm.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine(cpu="neoverse-n1")
    texts = [team.print_routines(scalar, machine.machine().lanes(scalar))]
    monkeypatch.setattr(loop, "load", lambda key: None)
    monkeypatch.setattr(loop, "store", lambda *rest: None)
    monkeypatch.setattr(loop, "team_of", lambda scalar: None)

    class Printed:
        code = b""

        def __init__(self, text: str) -> None:
            texts.append(text)

    monkeypatch.setattr(loop, "Program", Printed)
    for cell in CELLS:
        made = loop.Loop(cell.graph, {"float": torch.float32, "double": torch.float64}[scalar])
        assert made.forward is not made.backward
    assert len(texts) == 1 + 2 * len(CELLS)
    for text in texts:
        module = llvm.parse_assembly(text)
        module.triple = "aarch64-unknown-linux-gnu"
        module.verify()
        assert len(target.emit_object(module)) > 1000
