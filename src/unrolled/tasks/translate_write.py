"""What a translator writes, and where it looked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final

import torch
from torch import Tensor

from unrolled.data.subwords import END, PAD, START, UNKNOWN
from unrolled.nn.seq2seq import Seq2Seq
from unrolled.tasks.char import evaluating
from unrolled.tasks.translate_data import Sides, source_of
from unrolled.train.decoding import Decoding, Special, Written, decode

SPECIAL: Final = Special(PAD, START, END, UNKNOWN)

AT_ONCE: Final = 128
"""Sentences that are written at once."""

GREEDY: Final = Decoding()


def longest_of(lengths: Tensor) -> Tensor:
    """How many tokens a translation may have, for sources of so many."""
    return 2 * lengths + 10


@torch.no_grad()
def write(
    model: Seq2Seq,
    sources: Sequence[Sequence[int]],
    options: Decoding = GREEDY,
    generator: torch.Generator | None = None,
) -> list[Written]:
    """Translations of sentences that end with END, without dropout; those of about the same length at once.

    Args:
        options: the likeliest word each time, if not given. Their greatest length holds beside twice that of
            the source and ten.
        generator: what words are drawn with.
    """
    order = sorted(range(len(sources)), key=lambda k: len(sources[k]))
    found: dict[int, Written] = {}
    with evaluating(model):
        for begin in range(0, len(order), AT_ONCE):
            places = order[begin : begin + AT_ONCE]
            source, lengths = source_of([sources[k] for k in places])
            made = decode(
                model.step,
                model.encode(source, lengths),
                len(places),
                SPECIAL,
                options,
                max_length=longest_of(lengths).clamp(options.min_length, options.max_length),
                mask=torch.arange(len(source)) < lengths[:, None],
                generator=generator,
            )
            found |= dict(zip(places, made, strict=True))
    return [found[k] for k in range(len(sources))]


@dataclass(frozen=True)
class Translation:
    """A sentence and what was written of it.

    Attributes:
        score: log p of the translation.
        source_words, target_words: the words of both, and an end of the source.
        weights: where was looked, a row for each word of the target, a column for each of the source, None
            without attention.
    """

    source: str
    text: str
    score: float
    source_words: tuple[str, ...]
    target_words: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...] | None


def translations(
    model: Seq2Seq,
    sides: Sides,
    lines: Iterable[str],
    options: Decoding = GREEDY,
    generator: torch.Generator | None = None,
    at_once: int = AT_ONCE,
) -> Iterator[Translation]:
    """Translations of lines, in their order; of a line without a word there is none.

    An unknown word that is written, as options may allow, is the word of the source that was looked at most
    (Luong et al. 2015, arXiv:1410.8206), where there is attention.

    Args:
        at_once: lines that are read before they are translated.
    """
    rest = iter(lines)
    while part := [*islice(rest, at_once)]:
        encoded = [[*ids, END] for ids in sides.source.encode(part)]
        full = [k for k, ids in enumerate(encoded) if len(ids) > 1]
        found = dict(zip(full, write(model, [encoded[k] for k in full], options, generator), strict=True))
        for k, line in enumerate(part):
            if k in found:
                yield _translation(sides, line, found[k])
            else:
                yield Translation(line, "", 0.0, (), (), None)


def _translation(sides: Sides, line: str, written: Written) -> Translation:
    parts = sides.source.parts(line)
    of_source = words_of(parts)
    source_words = (*("".join(parts[k] for k in word).strip() for word in of_source), "(end)")
    pieces = sides.target.pieces(written.tokens)
    if written.attention is None:
        return Translation(line, "".join(pieces).strip(), written.score, source_words, (), None)
    looked = torch.stack([written.attention[:, word].sum(1) for word in [*of_source, [len(parts)]]], 1)
    for k, token in enumerate(written.tokens):
        if token == UNKNOWN and len(source_words) > 1:
            best = source_words[int(looked[k, :-1].argmax())]
            pieces[k] = f" {best}" if pieces[k].startswith(" ") else best
    of_target = words_of(pieces)
    weights = tuple(tuple(looked[word].mean(0).tolist()) for word in of_target)
    target_words = tuple("".join(pieces[k] for k in word).strip() for word in of_target)
    text = "".join(pieces).strip()
    return Translation(line, text, written.score, source_words, target_words, weights)


def words_of(pieces: Sequence[str]) -> list[list[int]]:
    """The places of the pieces that each word is made of: one begins at a blank, and a sign is one."""
    found: list[list[int]] = []
    for k, piece in enumerate(pieces):
        before = pieces[k - 1].strip()[-1:] if k else ""
        begins = piece.startswith(" ") or not piece[:1].isalnum() or (before and not before.isalnum())
        if begins or not found:
            found.append([k])
        else:
            found[-1].append(k)
    return found
