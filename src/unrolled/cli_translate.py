"""The commands of translation: train a translator, let it translate, see how good it is by length."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

import torch
import typer

from unrolled.cli_settings import with_settings
from unrolled.cli_time import RunArgument, out, warn
from unrolled.cli_training import MONITOR, RESUME, Common, carry_out, parameters_of, say_dry_run
from unrolled.data.text import read_lines
from unrolled.errors import InputError
from unrolled.report.translation import Alignment, translation_page
from unrolled.report.translation_observer import TranslationObserver
from unrolled.tasks import translate_runs
from unrolled.tasks.translate_config import TranslateConfig
from unrolled.tasks.translate_data import Origin
from unrolled.tasks.translate_runs import Opened, Session
from unrolled.tasks.translate_scores import Group, by_length, of_sentences
from unrolled.tasks.translate_write import AT_ONCE, Translation, translations
from unrolled.train import runs
from unrolled.train.decoding import Decoding
from unrolled.train.files import encode_json, write_atomically
from unrolled.train.runs import Run

DRAWN: Final = 8
"""Sentences in a picture of alignments, at most."""

GROUPS: Final = 8
"""Of lengths, where sentences of one length are few."""


def train_translate(data: str | None, source: Path | None, target: Path | None, **settings: Any) -> int:
    """Train a translator on sentence pairs, or go on with a run.

    DATA is a data set (german-english), or made up: reverse and copy, sequences of letters as in
    'reverse(symbols=20, shortest=20, longest=40, pairs=20000)'. In its place --source and --target are two
    files, line n of the one translating line n of the other. Beside BLEU and chrF on held-out sentences stand
    those of saying the source again, and of the translation of the most similar sentence.
    """
    common = Common.taken_from(settings)
    origin = Origin(data, source, target)
    if common.resume is not None:
        session = translate_runs.resume(common.resume, settings, origin, warn)
    elif common.dry_run:
        return say_dry_run(translate_runs.make(origin, TranslateConfig(**settings)))
    else:
        session = translate_runs.start(origin, TranslateConfig(**settings), common.runs, common.name)
    task, path = session.task, session.run.path
    title = f"{task.title} on {task.source['label']}"
    sides = task.sides
    tokens = f"{len(sides.source):,}" + (" of both" * sides.joint or f" and {len(sides.target):,}")
    out.print(f"{path}: {title}, {parameters_of(task)}", markup=False)
    out.print(
        f"{len(task.train):,} pairs to train on, {len(task.held_out):,} held out, {tokens} tokens, "
        f"{task.passes:.1f} passes",
        markup=False,
    )
    if left := task.source["left_out_as_too_long"]:
        out.print(f"{left:,} pairs of more than {task.config.longest} tokens are left out", markup=False)
    out.print("held-out sentences without a network:", markup=False)
    for name, found in session.baselines.items():
        out.print(f"    {name:<20} {found}", markup=False)

    def figure() -> tuple[str, bytes]:
        from unrolled.report.translation_figures import training_figure

        told = {name: vars(found) for name, found in session.baselines.items()}
        return "translation.png", training_figure(session.run.metrics(), told, title)

    bleus = {name: found.bleu for name, found in session.baselines.items()}
    return carry_out(
        session,
        "translate",
        common,
        [TranslationObserver(out, bleus)],
        figure,
        lambda: _done(session, title),
        session.monitor,
    )


def _done(session: Session, title: str) -> str:
    """Write what a finished run has to show; returns what to say."""
    run, task = session.run, session.task
    metrics = run.metrics()
    end = next(record for record in reversed(metrics) if "at_the_end" in record)
    looks = [Alignment.from_dict(each) for each in end["looks"]]
    if looks:
        _draw(looks, run.path / "alignment.png")
    found = translate_runs.translations_of(run)
    texts = {key: [each[key] for each in found] for key in ("source", "translation", "right")}
    single = of_sentences(texts["translation"], texts["right"])
    groups = _groups(run, texts)
    html = translation_page(
        title,
        f"{len(task.train):,} pairs to train on, {len(task.held_out):,} held out; {session.trainer.step:,} "
        f"steps, {task.passes:.1f} passes.",
        metrics,
        {name: vars(each) for name, each in session.baselines.items()},
        [{**each, "chrf": value} for each, value in zip(found, single, strict=True)],
        looks,
        {
            "BLEU": [(each.label, each.scores.bleu, each.count) for each in groups],
            "exact, %": [(each.label, 100 * each.scores.exact, each.count) for each in groups],
        },
        session.flow().part(),
        f"`unrolled train translate`, {run.path}.",
    )
    write_atomically(run.path / "report.html", html.encode())
    out.print(f"page: {run.path / 'report.html'}", markup=False)
    told = end["at_the_end"]
    bleu, chrf = told["bleu"], told["chrf"]
    around = " ({:.1f} to {:.1f} with 95% confidence)".format(*bleu["interval"]) if bleu["interval"] else ""
    return (
        f"done. All held-out sentences, with a beam of 5: BLEU {bleu['score']:.1f}{around}, chrF "
        f"{chrf['score']:.1f}, exact {told['exact']:.1%}\n    {bleu['name']}|{bleu['signature']}\n"
        f"To translate: unrolled translate {run.path} FILE"
    )


def _draw(looks: list[Alignment], path: Path) -> None:
    try:
        from unrolled.report.translation_figures import alignment_figure
    except ModuleNotFoundError:
        warn("no picture of alignments: pip install 'unrolled[figures]'")
        return
    write_atomically(path, alignment_figure(looks))
    out.print(f"alignments: {path}", markup=False)


def _groups(run: Run, texts: Mapping[str, list[str]]) -> list[Group]:
    """What a run wrote at its end, by length: where pairs are made up every length by itself."""
    config = run.config
    made_up = Origin.from_json(config["data"]["from"]).synthetic
    return by_length(
        texts["source"],
        texts["translation"],
        texts["right"],
        None if made_up else GROUPS,
        config["config"]["lowercase"],
    )


def translate(
    path: Path,
    file: Path | None,
    alignment: Path | None,
    scores: bool,
    seed: int,
    **settings: Any,
) -> int:
    """Translate lines with a trained translator: one for each, in their order, an empty one of an empty one.

    A beam of 5 writes, if nothing else is said; --beam 1 takes the likeliest word each time.
    """
    opened = translate_runs.open_model(path, warn)
    given = {name: value for name, value in settings.items() if value is not None}
    if not given.keys() & {"beam", "temperature", "top_k", "top_p"}:
        given["beam"] = 5
    if given.get("beam") == 1 and not given.keys() & {"length_penalty", "coverage_penalty"}:
        del given["beam"]
    options = Decoding(**given)
    if alignment is not None and opened.config.attention == "none":
        raise InputError(
            f"{path} has no attention, so there are no alignments to draw: leave --alignment out"
        )
    if alignment is not None and not alignment.name:
        raise InputError(f"--alignment {str(alignment)!r} is no file: give one, such as alignment.png")
    if not 0 <= seed < 2**63:
        raise InputError(f"--seed must be between 0 and 2^63 - 1, got {seed}")
    lines = iter(read_lines(file)) if file else _standard_input()
    drawn: list[Alignment] = []
    for each in _translated(opened, lines, options, seed, file is None and sys.stdin.isatty()):
        sys.stdout.write(f"{each.score:.4f}\t{each.text}\n" if scores else f"{each.text}\n")
        sys.stdout.flush()
        if alignment is not None and each.weights and len(drawn) < DRAWN:
            drawn.append(Alignment(each.source_words, each.target_words, each.weights))
    if alignment is not None:
        from unrolled.report.translation_figures import alignment_figure

        write_atomically(alignment, alignment_figure(drawn))
    return 0


def _translated(
    opened: Opened, lines: Iterator[str], options: Decoding, seed: int, one_by_one: bool
) -> Iterator[Translation]:
    generator = torch.Generator().manual_seed(seed)
    at_once = 1 if one_by_one else AT_ONCE
    return translations(opened.model, opened.sides, lines, options, generator, at_once)


def _standard_input() -> Iterator[str]:
    try:
        for line in sys.stdin:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(f"standard input is not UTF-8 ({error.reason}): convert it, as with iconv") from None


def lengths_command(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN...", help="the folders of translators")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the figure [FIRST RUN/lengths.png]")
    ] = None,
) -> None:
    """See how good translators are by the length of the source: BLEU, or where pairs are made up the share of
    sentences without a mistake; on what they wrote of the held-out sentences at the end of their training.
    """
    if output is not None and (not output.name or output.is_dir()):
        raise InputError(f"--output {str(output)!r} is no file: give one, such as lengths.png")
    alone = len({path.name for path in paths}) == len(paths)
    opened = {path.name if alone else str(path): runs.open_run(path) for path in paths}
    made_up, found = True, {}
    for name, run in opened.items():
        texts = translate_runs.translations_of(run)
        if not texts:
            raise InputError(
                f"{run.path} has no {translate_runs.WRITTEN}, which is written at the end of a training of a "
                "translator: let it end, with --resume"
            )
        made_up &= Origin.from_json(run.config["data"]["from"]).synthetic
        found[name] = _groups(
            run, {key: [each[key] for each in texts] for key in ("source", "translation", "right")}
        )
    what = "without a mistake" if made_up else "BLEU"
    curves = {
        name: [((g.low + g.high) / 2, g.scores.exact if made_up else g.scores.bleu) for g in groups]
        for name, groups in found.items()
    }
    for name, groups in found.items():
        out.print(f"{name}: {what} by words of the source", markup=False)
        for group in groups:
            value = f"{group.scores.exact:.1%}" if made_up else f"{group.scores.bleu:.1f}"
            out.print(f"    {group.label:<10} {value:>7}   {group.count:,} sentences", markup=False)
    first = next(iter(opened.values()))
    figure = output or first.path / "lengths.png"
    record = {name: [[x, y] for x, y in points] for name, points in curves.items()}
    write_atomically(figure.with_suffix(".json"), encode_json({"what": what, "curves": record}, "lengths"))
    try:
        from unrolled.report.translation_figures import lengths_figure
    except ModuleNotFoundError:
        warn("no figure: pip install 'unrolled[figures]'")
        return
    write_atomically(figure, lengths_figure(curves, what, first.config["data"]["label"]))
    out.print(f"figure: {figure}", markup=False)


def _file(what: str) -> tuple[Any, None]:
    return Annotated[Path | None, typer.Option(help=what)], None


train_translate_command = with_settings(
    train_translate,
    TranslateConfig,
    {
        "data": (
            Annotated[str | None, typer.Argument(help="german-english, or made up: reverse, copy")],
            None,
        ),
        "source": _file("a text file of sentences, one on each line"),
        "target": _file("a text file of their translations, line by line"),
        **RESUME,
        **MONITOR,
    },
)
translate_command = with_settings(
    translate,
    Decoding,
    {
        "path": (RunArgument, inspect.Parameter.empty),
        "file": (Annotated[Path | None, typer.Argument(help="lines of text [standard input]")], None),
        "alignment": _file(f"draw where was looked, for up to {DRAWN} sentences, as FILE.png"),
        "scores": (
            Annotated[bool, typer.Option("--scores", help="log p and a tab before each translation")],
            False,
        ),
        "seed": (Annotated[int, typer.Option(help="of words that are drawn")], 0),
    },
)
