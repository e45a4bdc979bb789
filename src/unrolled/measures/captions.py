"""Captions, each beside several that people wrote: their words, and BLEU-1 to BLEU-4."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from unrolled.errors import InputError
from unrolled.measures.accuracy import check_pairs
from unrolled.measures.text import sacrebleu_metrics

WORD: Final = re.compile(r"\w+(?:['’-]\w+)*")

ORDERS: Final = 4


def words(caption: str) -> list[str]:
    """The words that captions are compared by: in lower case, without punctuation.

    The common evaluation does the same with the tokenizer of the Penn Treebank, which also splits "man's".
    """
    return WORD.findall(caption.lower())


def check_captions(found: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """
    Raises:
        InputError: numbers differ, there are none, or a picture has no reference.
    """
    check_pairs(found, references)
    for number, each in enumerate(references):
        if isinstance(each, str):
            raise InputError("references are a list for each picture, even of one caption: [['a dog'], …]")
        if not len(each):
            raise InputError(f"picture {number} has no caption to compare with")


@dataclass(frozen=True)
class CaptionBleu:
    """BLEU-1 to BLEU-4, from 0 to 100.

    Args:
        scores: of n-grams up to n = 1, 2, 3, 4.
        signature: what sacrebleu was asked for.
    """

    scores: tuple[float, ...]
    signature: str

    def __str__(self) -> str:
        return ", ".join(f"BLEU-{n} {score:.1f}" for n, score in enumerate(self.scores, 1))


def caption_bleu(found: Sequence[str], references: Sequence[Sequence[str]]) -> CaptionBleu:
    """Of N captions, each with at least one reference, as is usual for captions: words as `words` has them,
    not smoothed, lengths compared with the reference that is closest.

    Raises:
        InputError: numbers differ, there are none, a picture has no reference, or sacrebleu is not installed.

    Source: Papineni et al. 2002, doi:10.3115/1073083.1073135.
    """
    check_captions(found, references)
    BLEU = sacrebleu_metrics().BLEU
    metric = BLEU(tokenize="none", smooth_method="none", lowercase=True)
    most = max(map(len, references))
    streams = [
        [" ".join(words(each[k])) if k < len(each) else None for each in references] for k in range(most)
    ]
    whole = metric.corpus_score([" ".join(words(caption)) for caption in found], streams)
    lengths = whole.sys_len, whole.ref_len
    scores = [
        BLEU.compute_bleu(
            whole.counts[:n], whole.totals[:n], *lengths, smooth_method="none", max_ngram_order=n
        ).score
        for n in range(1, ORDERS + 1)
    ]
    return CaptionBleu(tuple(scores), str(metric.get_signature()))
