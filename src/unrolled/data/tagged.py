"""Sentences with a tag for each word: of a data set, or of a file of one's own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache as remember
from pathlib import Path
from typing import Final

from unrolled.data.library import kept
from unrolled.data.splits import hold_out, plain
from unrolled.data.text import read_lines
from unrolled.errors import DataError


@dataclass(frozen=True, slots=True)
class TaggedSentence:
    """The words of a sentence and their tags, equally many."""

    words: tuple[str, ...]
    tags: tuple[str, ...]
    document: str = ""
    """Where it comes from; empty if nothing is known of that."""


CLASSES: Final = {
    "NOUN": "nn nns np nps nr nrs",
    "VERB": "vb vbd vbg vbn vbz be bed bedz beg bem ben ber bez do dod doz hv hvd hvg hvn hvz md",
    "ADJ": "jj jjr jjs jjt ap od",
    "ADV": "rb rbr rbt rn ql qlp wql wrb *",
    "PRON": "pn ppl ppls ppo pps ppss pp$$ wpo wps ex",
    "DET": "at abl abn abx dt dti dts dtx pp$ wp$ wdt",
    "ADP": "in",
    "CONJ": "cc cs",
    "NUM": "cd",
    "PRT": "rp to",
    "PUNCT": ". , : ( ) -- ' `` ''",
}
"""Classes of words, and the tags of the Brown corpus that are in them, without endings; `X` is the rest."""

_CLASS: Final = {tag: name for name, tags in CLASSES.items() for tag in tags.split()}


@remember
def coarse(tag: str) -> str:
    """One of twelve classes for a tag of the Brown corpus, which has 472 with all its endings.

    - Words of other languages (`fw-`), interjections (`uh`) and words without a tag (`nil`) are `X`.
    - Of contracted words (`ppss+bem`: I'm) the first counts.
    - Whether a word stands in a title, a headline or is quoted (`-tl`, `-hl`, `-nc`), is negated (`*`) or a
      possessive (`$`) makes no difference, but for pronouns (`pp$`: my, a determiner).
    """
    if tag.startswith("fw-"):
        return "X"
    head = re.sub(r"(-(tl|hl|nc))+$", "", tag.split("+")[0])
    return _CLASS.get(head) or _CLASS.get(head.rstrip("*$"), "X")


def named_tagged(name: str, *, fine: bool = False, cache: Path | None = None) -> list[TaggedSentence]:
    """The tagged sentences of a data set that was fetched, in the order of its documents.

    Args:
        name: such as "brown".
        fine: return the tags as they are, not the twelve classes of `coarse`.

    Raises:
        DataError: no data set of tagged words has this name, it was not fetched, or its file was changed.
    """
    found = []
    for line in kept(name, "tagged words", cache).read_bytes().decode().removesuffix("\n").split("\n"):
        document, _, text = line.partition("\t")
        words, _, tags = zip(*(word.rpartition("/") for word in text.split(" ")), strict=True)
        found.append(TaggedSentence(words, tags if fine else tuple(map(coarse, tags)), document))
    return found


def read_tagged(path: Path) -> list[TaggedSentence]:
    """Sentences from a UTF-8 file: a word, a tab and its tag on each line, an empty line between sentences.

    Raises:
        DataError: the file is missing or not UTF-8, a line is something else, which the message names, or it
            has no sentence.
    """
    path = Path(path)
    sentences: list[list[tuple[str, str]]] = [[]]
    for place, line in enumerate(read_lines(path), 1):
        cells = [cell.strip() for cell in line.split("\t")]
        if len(cells) == 2 and all(cells):
            sentences[-1].append((cells[0], cells[1]))
        elif any(cells):
            raise DataError(
                f"line {place:,} of {path} is {line[:40]!r}: give a word, a tab and its tag, or an empty "
                "line between sentences."
            )
        elif sentences[-1]:
            sentences.append([])
    found = [
        TaggedSentence(tuple(word for word, _ in sentence), tuple(tag for _, tag in sentence))
        for sentence in sentences
        if sentence
    ]
    if not found:
        raise DataError(f"{path} has no words: give a word, a tab and its tag on each line.")
    return found


def split_tagged(
    sentences: Sequence[TaggedSentence], held_out: int, seed: int = 0
) -> tuple[list[TaggedSentence], list[TaggedSentence]]:
    """Sentences to train on and about so many held out, in their order.

    The sentences of a document are in the same part, if documents are known. If not, those that are alike
    but for case and punctuation are.

    Raises:
        DataError: too few sentences or documents to hold out so many.
    """
    keys = [(each.document or plain(" ".join(each.words)),) for each in sentences]
    return hold_out(sentences, keys, held_out, seed)
