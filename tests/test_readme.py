"""The README's programs run, in the order in which they are read."""

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_its_programs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("novel.txt").write_text("It was the best of times, it was the worst of times. " * 200)
    torch.manual_seed(0)
    known: dict[str, object] = {}
    ran = 0
    for block in BLOCKS:
        if "keras" in block or "# mycells.py" in block:
            continue
        exec(compile(block, "README.md", "exec"), known)
        ran += 1
    assert ran >= 9
    assert Path("flow.html").stat().st_size > 100_000
