"""BLEU and chrF of translations, by sacrebleu, so that figures can be compared: a signature says how."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from unrolled.errors import InputError
from unrolled.measures.accuracy import check_pairs

TOKENIZERS: Final = ("13a", "intl", "zh", "char", "none")
"""Of sacrebleu, those that need nothing else."""


def sacrebleu_metrics() -> Any:
    """The module `sacrebleu.metrics`.

    Raises:
        InputError: it is not installed.
    """
    try:
        import sacrebleu.metrics
    except ModuleNotFoundError:
        raise InputError("BLEU and chrF are computed by sacrebleu: pip install 'unrolled[text]'") from None
    return sacrebleu.metrics


@dataclass(frozen=True)
class TextScore:
    """A figure of a whole text, from 0 to 100.

    Args:
        name: such as BLEU or chrF2.
        score: the figure.
        interval: that holds it with 95% confidence, if it was asked for and sentences are enough for one.
        signature: what sacrebleu was asked for, with its version.
        detail: of BLEU, precisions, brevity penalty and lengths.
    """

    name: str
    score: float
    interval: tuple[float, float] | None
    signature: str
    detail: str = ""

    def __str__(self) -> str:
        around = "" if self.interval is None else " ({:.1f} to {:.1f})".format(*self.interval)
        return f"{self.name} {self.score:.1f}{around}"


def bleu(
    found: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]], *, tokenize: str = "13a",
    lowercase: bool = False, resamples: int = 0,
) -> TextScore:  # fmt: skip
    """Corpus BLEU.

    Args:
        found: N sentences as they would be printed, not cut into tokens.
        references: for each sentence a translation, or several.
        tokenize: how sacrebleu cuts sentences: "13a", "intl", "zh", "char", or "none" at blanks.
        resamples: texts drawn from this one for an interval, such as 1000; 0 for none.

    Raises:
        InputError: numbers differ, there is none, or sacrebleu is not installed.

    Source: Papineni et al. 2002, doi:10.3115/1073083.1073135; Post 2018, arXiv:1804.08771.
    """
    if tokenize not in TOKENIZERS:
        raise InputError(f"tokenize is one of {', '.join(TOKENIZERS)}, got {tokenize!r}")
    metric = sacrebleu_metrics().BLEU(tokenize=tokenize, lowercase=lowercase)
    return _score(metric, found, references, resamples)


def chrf(
    found: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]], *, word_order: int = 0,
    resamples: int = 0,
) -> TextScore:  # fmt: skip
    """chrF2, or chrF2++ with `word_order=2`; see `bleu`.

    Source: Popović 2015, doi:10.18653/v1/W15-3049; Popović 2017, doi:10.18653/v1/W17-4770.
    """
    return _score(sacrebleu_metrics().CHRF(word_order=word_order), found, references, resamples)


def _score(
    metric: Any, found: Sequence[str], references: Sequence[str] | Sequence[Sequence[str]], resamples: int
) -> TextScore:  # fmt: skip
    check_pairs(found, references)
    several = [[each] if isinstance(each, str) else [*each] for each in references]
    for number, each in enumerate(several):
        if not each:
            raise InputError(f"sentence {number} has no reference")
    if resamples < 0 or resamples == 1:
        raise InputError(f"an interval takes at least 2 resamples, or 0 for none, got {resamples}")
    streams = [
        [each[k] if k < len(each) else None for each in several] for k in range(max(map(len, several)))
    ]
    try:
        result = metric.corpus_score([*found], streams, n_bootstrap=resamples or 1)
    except TypeError:  # sacrebleu takes no mean where only some of the texts drawn have any match
        resamples = 0
        result = metric.corpus_score([*found], streams)
    signature, interval = str(metric.get_signature()), None
    told = json.loads(result.format(width=6, signature=signature, is_json=True))
    if resamples:
        # Where all of them have the same figure, sacrebleu tells no mean.
        mean, half = told.get("confidence_mean", result.score), told.get("confidence_var", 0.0)
        interval = (max(0.0, mean - half), min(100.0, mean + half))
    return TextScore(result.name, result.score, interval, signature, told.get("verbose_score", ""))
