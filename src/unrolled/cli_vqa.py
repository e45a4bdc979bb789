"""The commands of visual questions: train a network that answers questions about pictures, and ask one."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from unrolled.cli_settings import with_settings
from unrolled.cli_time import RunArgument, out, warn
from unrolled.cli_training import MONITOR, RESUME, Common, carry_out, parameters_of, say_dry_run
from unrolled.data.images import fit
from unrolled.data.splits import shuffled
from unrolled.errors import InputError
from unrolled.report.accuracy import AccuracyObserver
from unrolled.report.answers_page import Kinds, Mistake, Share, answers_page
from unrolled.tasks import vqa_runs
from unrolled.tasks.vqa import Found, VqaTask, as_maps
from unrolled.tasks.vqa_config import VqaConfig
from unrolled.tasks.vqa_files import Files
from unrolled.tasks.vqa_runs import Session
from unrolled.tasks.vqa_scores import Scores, score
from unrolled.train.files import write_atomically

FILES: Final = ("questions", "annotations", "images", "test_questions", "test_annotations", "test_images")

NETWORK: Final = "network"

MISTAKES: Final = 30
"""In the table of a page, at most."""

FIGURE: Final = 6
"""Questions in the figure of a run."""

SHEET: Final = 12
"""And in each on its page."""

LISTED: Final = 12
"""Kinds of questions that are printed, at most."""

LEAST: Final = 0.0005
"""Probability of an answer that is printed besides the likeliest: what is below would read 0.0%."""


def train_vqa(data: str | None, skip_broken: bool, **settings: Any) -> int:
    """Train a network that answers questions about pictures, or go on with a run.

    DATA is a data set (easy-vqa). In its place --questions, --annotations and --images are JSON files in the
    format of VQA v2 and a folder of pictures; without --annotations, questions are in the format of Visual7W,
    which has its answers with it. Beside the accuracy on held-out pictures, by kind of question,
    stand those of the commonest answer and of the same network without the pictures.
    """
    paths = {key: settings.pop(key) for key in FILES}
    given = data is not None or any(path is not None for path in paths.values())
    files = Files(data, **paths) if given else None
    common = Common.taken_from(settings)
    if common.resume is not None:
        if skip_broken:
            raise InputError("--skip-broken is as it was when the run began: leave it out with --resume")
        session = vqa_runs.resume(common.resume, settings, files, warn, _say)
    else:
        files = files or Files()  # which says what to give
        config = VqaConfig(**settings)
        if common.dry_run:
            return say_dry_run(vqa_runs.make(files, config, skip_broken, _say))
        session = vqa_runs.start(files, config, common.runs, common.name, skip_broken, _say)
    task, path = session.task, session.run.path
    title = f"{task.title} on {task.source['label']}"
    out.print(f"{path}: {title}, {parameters_of(task)}", markup=False)
    _say_sizes(task)
    out.print("held-out accuracy without looking, with 95% confidence:", markup=False)
    for name, scores in session.baselines.items():
        out.print(f"    {name:<20} {scores}", markup=False)
    shares = {name: scores.share for name, scores in session.baselines.items()}
    ended: list[tuple[list[Found], Scores]] = []

    def at_the_end() -> tuple[list[Found], Scores]:
        if not ended:
            ended.append(task.answered())
        return ended[0]

    def figure() -> tuple[str, bytes]:
        from unrolled.report.answers import answers_figure

        found, scores = at_the_end()
        kinds = _kinds({**session.baselines, NETWORK: scores})
        examples = _examples(task, _some(task, found, FIGURE))
        return "vqa.png", answers_figure(session.run.metrics(), kinds, examples, title)

    return carry_out(
        session,
        "vqa",
        common,
        [AccuracyObserver(out, shares, "questions")],
        figure,
        lambda: _done(session, title, *at_the_end()),
        session.monitor,
    )


def _say_sizes(task: VqaTask) -> None:
    train, test = task.train, task.test
    asked = len(train.questions) - train.left_out
    told = (
        f"{asked:,} questions about {len(train):,} pictures to train on, {len(test.questions):,} about "
        f"{len(test):,} to test"
    )
    out.print(told, markup=False)
    if train.left_out:
        why = {"classes": "answer is not among the commonest", "choice": "answer is not among the choices"}
        reason = why.get(task.config.answers, "answer is not known")
        out.print(f"{train.left_out:,} questions whose {reason} are not trained on", markup=False)


def _done(session: Session, title: str, found: Sequence[Found], scores: Scores) -> str:
    """Write what a finished run has to show; returns what to say."""
    task, path = session.task, session.run.path
    kinds = _kinds({**session.baselines, NETWORK: scores})
    sheets: dict[str, bytes] = {}
    try:
        from unrolled.report.answers import answers_sheet
    except ModuleNotFoundError:
        warn("no pictures on the page: pip install 'unrolled[figures]'")
    else:
        for name, right in (("Right answers", True), ("Wrong answers", False)):
            if some := _some(task, found, SHEET, right):
                sheets[name] = answers_sheet(_examples(task, some))
    html = answers_page(
        title,
        f"{len(task.test.questions):,} questions about {len(task.test):,} pictures that were not trained on, "
        f"after {session.trainer.step:,} steps.",
        session.run.metrics(),
        kinds,
        _mistakes(task, found),
        sheets,
        session.flow().part(),
        f"`unrolled train vqa`, {path}.",
    )
    write_atomically(path / "report.html", html.encode())
    out.print(f"page: {path / 'report.html'}", markup=False)
    width = max(map(len, kinds))
    for kind, own in [*kinds.items()][: LISTED + 1]:
        told = ", ".join(f"{name} {own[name].share:.1%}" for name in session.baselines)
        out.print(f"    {kind:<{width}}  {own[NETWORK]}, without looking: {told}", markup=False)
    question = task.test.questions[0].text
    return f"done: test accuracy {scores}. To ask: unrolled ask {path} IMAGE {question!r}"


def _kinds(everybody: Mapping[str, Scores]) -> Kinds:
    """The shares of right answers by kind of question, and by who answers."""
    *_, network = everybody.values()
    return {
        kind: {
            name: Share(found.share, *found.interval, found.count)
            for name, found in ((name, scores.rows()[kind]) for name, scores in everybody.items())
        }
        for kind in network.rows()
    }


def _mistakes(task: VqaTask, found: Sequence[Found]) -> list[Mistake]:
    made = []
    for each in found:
        question, (answer, chance) = task.test.questions[each.number], each.answers[0]
        if score(question, answer) < 1:
            made.append(Mistake(question.text, answer, chance, question.answer, question.kind))
    return sorted(made, key=lambda mistake: -mistake.chance)[:MISTAKES]


def _some(task: VqaTask, found: Sequence[Found], count: int, right: bool | None = None) -> list[Found]:
    """Answers to be shown: of each kind of question as many, about different pictures.

    Args:
        right: only right ones, or only wrong ones; right ones, and last a few wrong ones, if not given.
    """
    if right is None:
        wrong = _some(task, found, count // 4, False)
        return [*_some(task, found, count - len(wrong), True), *wrong]
    questions, kinds = task.test.questions, dict[str, list[Found]]()
    for place in shuffled(len(found), 0).tolist():
        question, (answer, _) = questions[found[place].number], found[place].answers[0]
        if (score(question, answer) == 1) == right:
            kinds.setdefault(question.kind, []).append(found[place])
    chosen: dict[int, Found] = {}
    for each in itertools.chain(*itertools.zip_longest(*kinds.values())):
        if each is not None and len(chosen) < count:
            chosen.setdefault(questions[each.number].image, each)
    return [*chosen.values()]


def _examples(task: VqaTask, some: Sequence[Found]) -> list[Any]:
    from unrolled.report.answers import Answer

    made = []
    for each in some:
        question, (answer, chance) = task.test.questions[each.number], each.answers[0]
        picture = task.test.images[question.image]
        square = fit(picture, max(picture.shape[1:])).movedim(0, -1).numpy()
        weights = None if each.weights is None else as_maps(each.weights)[-1].numpy()
        right = "" if score(question, answer) == 1 else question.answer
        made.append(Answer(question.text, square, weights, answer, chance, right))
    return made


def ask_command(
    path: RunArgument,
    image: Annotated[Path, typer.Argument(help="a picture of any kind")],
    question: Annotated[str, typer.Argument(help="in words that were in questions of training")],
    choice: Annotated[
        list[str] | None, typer.Option(help="an answer to choose among, of a run that does so; repeat it")
    ] = None,
    best: Annotated[int, typer.Option(min=1, help="how many of the likeliest answers to print, at most")] = 5,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="the figure [RUN/IMAGE-asked.png]")
    ] = None,
) -> None:
    """Ask a trained network a question about a picture.

    Prints the likeliest answers with their probabilities, and draws where the network looked.
    """
    if output is not None and (not output.name or output.is_dir()):
        raise InputError(f"--output {str(output)!r} is no file: give one, such as asked.png")
    opened = vqa_runs.open_model(path, warn)
    found = vqa_runs.ask(opened, image, question, choice or (), best)
    answers = [each for k, each in enumerate(found.answers) if k == 0 or each[1] >= LEAST]
    for answer, chance in answers:
        out.print(f"{chance:>7.1%}  {answer or '(nothing)'}", markup=False)
    try:
        from unrolled.report.answers import asked_figure
    except ModuleNotFoundError:
        warn("no figure: pip install 'unrolled[figures]'")
        return
    figure = output or opened.run.path / f"{image.stem}-asked.png"
    picture = found.picture.movedim(0, -1).numpy()
    write_atomically(figure, asked_figure(question, picture, [*found.weights.numpy()], answers))
    out.print(f"figure: {figure}", markup=False)


def _say(what: str) -> None:
    out.print(what, markup=False)


def _file(what: str) -> tuple[Any, None]:
    return Annotated[Path | None, typer.Option(help=what)], None


train_vqa_command = with_settings(
    train_vqa,
    VqaConfig,
    {
        "data": (Annotated[str | None, typer.Argument(help="a data set's name, such as easy-vqa")], None),
        "questions": _file("a JSON file of questions in the format of VQA v2, or of Visual7W"),
        "annotations": _file("a JSON file of their answers"),
        "images": _file("the folder of their pictures"),
        "test_questions": _file("a JSON file of questions to test on, in place of a share of the others"),
        "test_annotations": _file("a JSON file of their answers"),
        "test_images": _file("the folder of their pictures"),
        "skip_broken": (
            Annotated[
                bool,
                typer.Option("--skip-broken", help="leave out questions whose picture or answer is missing"),
            ],
            False,
        ),
        **RESUME,
        **MONITOR,
    },
)
