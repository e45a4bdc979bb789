"""The commands about networks with delay taps: what they remember, infer, forecast and identify."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.table import Table

from unrolled import data
from unrolled.cli_settings import with_settings
from unrolled.cli_time import out, warn
from unrolled.tasks import narx_automata, narx_forecast, narx_identify, narx_latch
from unrolled.train.files import encode_json, write_atomically

narx_app = typer.Typer(
    help="Networks with delay taps (NARX): what they remember, infer, forecast and identify.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

FIXED: Final = {
    "output": (
        Annotated[Path, typer.Option(help="the folder of the record and the figure")],
        Path("runs/narx"),
    )
}
"""What every command takes besides its settings."""


def latch(output: Path, **settings: Any) -> int:
    """Find for how long networks of one neuron keep information, by how many output lags they have.

    The class of a string is told at its first step and asked for at its last, behind noise. Lin et al. (1996)
    found that taps keep it two to three times as long.
    """
    config = narx_latch.LatchConfig(**_given(settings))
    output.mkdir(parents=True, exist_ok=True)
    found = narx_latch.latching(config, _tell)
    table = _table("lags", *map(str, found.lengths), "half at", "ratio", "1% at")
    for each in found.orders:
        ratio = found.ratio(each)
        table.add_row(
            "1" if each.order == 1 else f"1-{each.order}",
            *(f"{share:.0%}" for share in each.shares),
            "" if each.half is None else f"{each.half:.1f}",
            "" if ratio is None else f"{ratio:.1f}",
            "" if each.left is None else str(each.left),
        )
    out.print(
        f"\nshare of {found.runs} trainings that latch the class, by the length of the strings; the length "
        "at which half of them do, and its ratio to that of the first\n"
    )
    Console(highlight=False).print(table)
    out.print(
        f"\n1% at: the n at which 1% is left of d y_t / d y_t−n, where a class is held by taps whose weights "
        f"add up to {narx_latch.WEIGHT}"
    )
    _written(output, "latch", config, dataclasses.asdict(found))
    return 0


def automata(output: Path, **settings: Any) -> int:
    """Infer Tomita's grammars, and remember one symbol, beside an Elman network of the same size."""
    config = narx_automata.AutomataConfig(**_given(settings))
    output.mkdir(parents=True, exist_ok=True)
    found = narx_automata.automata(config, _tell)
    elman, narx = narx_automata.KINDS
    sizes = found.sizes["grammar"]
    table = _table(
        "grammar", "accepts", "commoner class", f"{elman} ({sizes[elman]})", f"{narx} ({sizes[narx]})"
    )
    for each in found.grammars:
        cells = [f"{each.mean(kind):.1%}, {each.inferred(kind)} of {config.runs}" for kind in (elman, narx)]
        table.add_row(str(each.number), each.name, f"{each.commonest:.1%}", *cells)
    if len(found.grammars) > 1:
        means = [sum(g.mean(kind) for g in found.grammars) / len(found.grammars) for kind in (elman, narx)]
        totals = [sum(g.inferred(kind) for g in found.grammars) for kind in (elman, narx)]
        runs = config.runs * len(found.grammars)
        table.add_row("all", "", "", *(f"{m:.1%}, {t} of {runs}" for m, t in zip(means, totals, strict=True)))
    out.print(
        f"\nright answers after each symbol {narx_automata.SHORT + 1} to {narx_automata.LONG}, of networks "
        f"that learned from {narx_automata.STRINGS} strings of {narx_automata.SHORT} (their parameters in "
        f"brackets); and trainings with at least {narx_automata.RIGHT:.0%}\n"
    )
    Console(highlight=False).print(table)
    sizes = found.sizes["symbol"]
    table = _table("network", "parameters", *map(str, found.lengths), "half at")
    for kind in (elman, narx):
        half = found.half[kind]
        shares = (f"{share:.0%}" for share in found.held[kind])
        table.add_row(kind, str(sizes[kind]), *shares, "" if half is None else f"{half:.1f}")
    out.print("\ntrainings that know the third symbol at the end, by the length of the strings\n")
    Console(highlight=False).print(table)
    if found.ratio is not None:
        out.print(f"\nthe NARX network knows it {found.ratio:.1f} times as long")
    _written(output, "automata", config, dataclasses.asdict(found))
    return 0


def forecast(series: str, output: Path, **settings: Any) -> int:
    """Forecast a chaotic series freely: the Santa Fe laser (`unrolled data fetch laser`), or your own.

    Several NARX networks learn one step ahead and run on from the end of what they saw.
    """
    config = narx_forecast.ForecastConfig(**_given(settings))
    label, values = data.read_series(series)
    output.mkdir(parents=True, exist_ok=True)
    found = narx_forecast.forecast(label, values, config, _tell)
    table = _table("forecast", f"error over {config.steps} steps")
    (name, error), *others = found.errors_of.items()
    table.add_row(f"[bold]{name}[/bold]", f"[bold]{error:.4f}[/bold]")
    singles = [e for e in found.errors if e is not None]
    table.add_row("single networks, from best to worst", f"{min(singles):.4f} to {max(singles):.4f}")
    table.add_row("one step ahead, each from the truth", f"{found.one_step:.4f}")
    for other, value in others:
        table.add_row(other, f"{value:.4f}")
    classic = (series, config.begin, config.train, config.steps) == ("laser", 0, 1000, 100)
    for entry, value in narx_forecast.PUBLISHED.items() if classic else ():
        table.add_row(entry, f"{value:.4f}")
    first = config.begin + config.train
    out.print(
        f"\n{label}: steps {first} to {first + config.steps} from the {config.train} before; mean square "
        "error over the variance of what came\n"
    )
    Console(highlight=False).print(table)
    _written(output, "forecast", config, dataclasses.asdict(found))
    return 0


def identify(output: Path, **settings: Any) -> int:
    """Identify simulated plants, the examples of Narendra & Parthasarathy (1990), beside linear models."""
    config = narx_identify.IdentifyConfig(**_given(settings))
    output.mkdir(parents=True, exist_ok=True)
    found = narx_identify.identified(config, _tell)
    table = _table("plant", "", "one step: ARX", "NARX", "free run: ARX", "NARX")
    for each in found:
        free = (
            "diverged" if each.free_run[k] is None else f"{each.free_run[k]:.2g}" for k in ("ARX", "NARX")
        )
        table.add_row(
            str(each.number), each.name, *(f"{each.one_step[k]:.2g}" for k in ("ARX", "NARX")), *free
        )
    out.print(
        f"\nmean square error over the variance, in a test of {config.steps} steps with other inputs than "
        f"those of the {config.train} learned from\n"
    )
    Console(highlight=False).print(table)
    records = [dataclasses.asdict(each) for each in found]
    _written(output, "identify", config, {"plants": records})
    return 0


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def _tell(line: str) -> None:
    out.print(line, markup=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for k, column in enumerate(columns):
        text = k == 0 or column in ("accepts", "")
        table.add_column(column, justify="left" if text else "right", overflow="fold")
    return table


def _written(folder: Path, name: str, config: Any, found: Mapping[str, Any]) -> None:
    """Write the record, and where matplotlib is there the figure."""
    record = {"config": dataclasses.asdict(config), **found}
    path = folder / f"{name}.json"
    write_atomically(path, encode_json(record, name, indent=1))
    out.print(f"\nrecord: {path}", markup=False)
    try:
        from unrolled.report.taps import FIGURES
    except ModuleNotFoundError:
        warn("no figure: pip install 'unrolled[figures]'")
        return
    picture = folder / f"{name}.png"
    write_atomically(picture, FIGURES[name](record))
    out.print(f"figure: {picture}", markup=False)


def _add(name: str, command: Callable[..., int], config: type, fixed: Sequence[tuple[str, Any]] = ()) -> None:
    narx_app.command(name)(with_settings(command, config, dict(fixed) | FIXED))


_add("latch", latch, narx_latch.LatchConfig)
_add("automata", automata, narx_automata.AutomataConfig)
SERIES: Final = Annotated[str, typer.Argument(help="a data set of numbers, or a text file of one a line")]

_add("forecast", forecast, narx_forecast.ForecastConfig, [("series", (SERIES, "laser"))])
_add("identify", identify, narx_identify.IdentifyConfig)
