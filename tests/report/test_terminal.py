"""What a terminal shows of a training, and what a file gets in its place."""

import io
import re

import pytest
from rich.console import Console

from unrolled.report.terminal import SMOOTHING, TerminalObserver

BASELINES = {"uniform": 6.0, "unigram": 4.5, "3-gram": 2.5}


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, color_system=None, _environ={})


def text_of(observed: Console) -> str:
    """All that was written, without the codes that move the cursor."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", observed.file.getvalue())


def step(number: int, **changes: float) -> dict[str, float]:
    record = {"step": number, "loss": 1.5, "bits_per_character": 2.25, "characters": 4096, "seconds": 0.5}
    return {**record, "gradient_norm": 0.3, "rate": 0.01, **changes}


def observe(observed: Console, steps: int = 10) -> None:
    observer = TerminalObserver(observed, BASELINES)
    observer.started(0, steps)
    observer.evaluated({"step": 0, "held_out_bits_per_character": 6.0625})
    for number in range(1, steps + 1):
        observer.stepped(step(number))
    observer.evaluated({"step": steps, "held_out_bits_per_character": 2.4375})
    observer.shown(steps, f"at the end (step {steps})", "[bold]to be[/] :bug:\nor not")
    observer.ended()


def test_a_file_gets_a_line_for_each_measurement_and_no_bar():
    observed = console(terminal=False)
    observe(observed)
    out = observed.file.getvalue()
    assert "\x1b" not in out
    assert out.splitlines()[:2] == [
        "step      0   held-out 6.062 bits/char",
        "step     10   held-out 2.438 bits/char (better than 3-gram)   "
        "loss 1.500  2.25 bits/char  8.2k chars/s",
    ]
    assert "training" not in out.splitlines()[0]


def test_a_sample_is_shown_as_it_is_under_its_title():
    observed = console(terminal=False)
    observe(observed)
    out = observed.file.getvalue()
    assert "at the end (step 10)" in out
    assert "[bold]to be[/] :bug:" in out
    assert "or not" in out


def test_a_terminal_gets_a_bar_with_the_loss_the_bits_and_the_speed():
    observed = console(terminal=True)
    observe(observed)
    bar = [line for line in re.split(r"[\r\n]", text_of(observed)) if line.startswith("training")][-1]
    assert "10/10" in bar
    assert "loss 1.500  2.25 bits/char  8.2k chars/s" in bar


def test_a_terminal_gets_the_lines_of_a_file_too():
    observed = console(terminal=True)
    observe(observed)
    assert "held-out 2.438 bits/char (better than 3-gram)" in text_of(observed)
    assert "or not" in text_of(observed)


def test_a_training_that_goes_on_starts_its_bar_where_it_was():
    observed = console(terminal=True)
    observer = TerminalObserver(observed)
    observer.started(7, 10)
    observer.ended()
    assert "7/10" in text_of(observed).replace(" ", "")


def test_numbers_are_smoothed_over_steps():
    observed = console(terminal=False)
    observer = TerminalObserver(observed)
    observer.started(0, 2)
    observer.stepped(step(1, loss=1.0))
    observer.stepped(step(2, loss=2.0, seconds=1.0))
    observer.evaluated({"step": 2, "held_out_bits_per_character": 2.0})
    observer.ended()
    loss = SMOOTHING * 1.0 + (1 - SMOOTHING) * 2.0
    speed = SMOOTHING * 8.192 + (1 - SMOOTHING) * 4.096
    assert f"loss {loss:.3f}  2.25 bits/char  {speed:.1f}k chars/s" in text_of(observed)


@pytest.mark.parametrize(
    ("bits", "better"),
    [
        (6.5, ""),
        (6.0, ""),
        (5.0, " (better than uniform)"),
        (3.0, " (better than unigram)"),
        (1.0, " (better than 3-gram)"),
    ],
)
def test_a_measurement_names_the_best_baseline_it_beats(bits, better):
    observed = console(terminal=False)
    TerminalObserver(observed, BASELINES).evaluated({"step": 1, "held_out_bits_per_character": bits})
    assert observed.file.getvalue() == f"step      1   held-out {bits:.3f} bits/char{better}\n"
