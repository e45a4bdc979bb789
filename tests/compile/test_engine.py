"""What LLVM and memory refuse is said in one line, and nothing is hidden."""

import gc
import re
from pathlib import Path

import pytest
import torch

from cases import Setting
from unrolled import BackendError, cell
from unrolled.compile import engine, memory
from unrolled.compile.engine import Program
from unrolled.compile.team import team_of


def kept(error: BackendError) -> str:
    """The text of the kernel in the file that an error names."""
    (path,) = re.findall(r"its text is in (\S+\.ll)", str(error))
    text = Path(path).read_text(encoding="utf-8")
    Path(path).unlink()
    return text


def test_a_text_that_is_no_kernel_is_kept() -> None:
    text = "define i32 @half( {\n"
    with pytest.raises(BackendError, match=r"^LLVM cannot compile a kernel [^\n]*$") as caught:
        Program(text)
    assert kept(caught.value) == text


def test_a_kernel_that_llvm_cannot_compile_is_no_reason_to_be_slow_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    @cell(states="h")
    def unheard(x, h, W):
        return torch.tanh(W.n(x, h)) * 0.921

    def fail(text: str) -> bytes:
        raise RuntimeError("no register\n is left")

    case = Setting(unheard).case()
    team_of("double")
    monkeypatch.setattr(engine, "_compile", fail)
    with pytest.raises(BackendError, match="no register is left") as caught:
        case.scan(backend="auto")
    assert "@steps" in kept(caught.value)
    assert case.scan(backend="reference")[0].isfinite().all()
    monkeypatch.undo()
    case.scan(backend="cpu")


def test_memory_that_is_not_there_is_torchs_own_error_and_nothing_is_lost() -> None:
    gc.collect()
    memory.release()  # what others have given back is counted before
    before = dict(memory._use)
    with pytest.raises(RuntimeError, match="allocate memory"):
        memory.workspace((1 << 50,), torch.float32)
    with pytest.raises(RuntimeError, match="allocate memory"):
        memory.scratch(1 << 50, torch.float32)
    assert memory._use == before
    case = Setting(cell(states="h")(lambda x, h, W: torch.tanh(W.n(x, h)))).case()
    with pytest.raises(RuntimeError, match="allocate memory"):
        case.scan(case.x[:1].expand(1 << 42, -1, -1), backend="cpu")
    memory.scratch(1, torch.float32)
