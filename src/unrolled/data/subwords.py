"""Sentences as numbers of words or of parts of words, and back.

A vocabulary of words has the most frequent words of its texts; one of subwords (byte pair encoding) has their
characters and the most frequent sequences of them, so that a word never seen is spelled. Both keep where
blanks are, as ▁ before a word, and part punctuation from words; so sentences come back as they were, but for
the number of blanks. The first four numbers are no words: PAD, START, END, and what stands for the unknown.

Cutting sentences is done by the library `tokenizers`; what it learned is kept as plain JSON, from which it is
made again.

Source: Gage 1994; Sennrich, Haddow & Birch 2016, arXiv:1508.07909.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from unrolled.errors import DataError, InputError, check_sizes

KINDS: Final = ("subwords", "words")

SPECIAL: Final = ("<pad>", "<start>", "<end>", "<unknown>")
PAD, START, END, UNKNOWN = range(4)

BLANK: Final = "▁"

_PIECES: Final = r"▁?[\p{L}\p{M}\p{N}]+(?:['’][\p{L}\p{M}]+)*|▁?[^\p{L}\p{M}\p{N}▁]"
"""A word with its apostrophes, or a sign; either with the blank before it."""

LEAST: Final = 2
"""A sequence of characters becomes a token if it is there so often."""


@dataclass(frozen=True)
class Subwords:
    """A vocabulary of words or parts of words.

    Args:
        kind: "subwords" or "words".
        tokens: V texts, each once; the first four are `SPECIAL`.
        merges: of subwords, pairs of tokens that are joined, in this order.
        lowercase: sentences are read in lower case.

    Raises:
        InputError: what is given is no such vocabulary.
    """

    kind: str
    tokens: tuple[str, ...]
    merges: tuple[tuple[str, str], ...] = ()
    lowercase: bool = False

    def __post_init__(self) -> None:
        known = {*self.tokens}
        if self.kind not in KINDS:
            raise InputError(f"a vocabulary is of {' or '.join(KINDS)}, not of {self.kind!r}")
        if self.tokens[:4] != SPECIAL or len(known) != len(self.tokens):
            raise InputError(f"the tokens of a vocabulary differ, and begin with {', '.join(SPECIAL)}")
        if any(not {a, b, a + b} <= known for a, b in self.merges):
            raise InputError("pairs that are joined are tokens, and so is what they give")

    @classmethod
    def of(
        cls, texts: Iterable[str], kind: str = "subwords", size: int = 4000, lowercase: bool = False
    ) -> Subwords:
        """Learn a vocabulary.

        Args:
            texts: sentences, those to train on.
            size: tokens at most, the four that are no words among them; a vocabulary of subwords has all
                characters, even if these are more.

        Raises:
            DataError: there is no word in the texts.
            InputError: no such kind, too small a size, or `tokenizers` is not installed.
        """
        check_sizes(size=size)
        if kind not in KINDS:
            raise InputError(f"a vocabulary is of {' or '.join(KINDS)}, not of {kind!r}")
        library = _library()
        trained = _empty(library, kind, lowercase)
        options = {"vocab_size": size, "special_tokens": [*SPECIAL], "show_progress": False}
        trainers = library.trainers
        trainer = (
            trainers.BpeTrainer(min_frequency=LEAST, **options)
            if kind == "subwords"
            else trainers.WordLevelTrainer(**options)
        )
        trained.train_from_iterator(texts, trainer)
        model = json.loads(trained.to_str())["model"]
        numbers: dict[str, int] = model["vocab"]
        if len(numbers) <= len(SPECIAL):
            raise DataError("there is no word in the sentences to train on: give real ones.")
        merges = tuple((a, b) for a, b in model.get("merges", ()))
        return cls(kind, tuple(sorted(numbers, key=numbers.__getitem__)), merges, lowercase)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def sha256(self) -> str:
        """Of everything in it."""
        return hashlib.sha256(json.dumps(self.to_json()).encode()).hexdigest()

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """The numbers of the tokens of each sentence, without START and END; a sentence may have none."""
        return [found.ids for found in self._tokenizer.encode_batch([*texts])]

    def decode(self, ids: Iterable[int]) -> str:
        """The sentence of these tokens; PAD, START and END are left out.

        Raises:
            InputError: there is no such token.
        """
        numbers = [*ids]
        if any(not 0 <= number < len(self) for number in numbers):
            raise InputError(f"tokens have numbers from 0 to {len(self) - 1}, got {numbers}")
        return "".join(self._shown(number) for number in numbers if number not in (PAD, START, END)).strip()

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """Each token for a reader: a blank before what begins a word."""
        return [self._shown(number) for number in ids]

    def parts(self, text: str) -> list[str]:
        """What stands in a sentence for each of its tokens, as it is written there: an unknown word too."""
        plain: str = self._tokenizer.normalizer.normalize_str(text)
        return [plain[begin:end] for begin, end in self._tokenizer.encode(plain).offsets]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it."""
        return {
            "kind": self.kind,
            "tokens": [*self.tokens],
            "merges": [[*pair] for pair in self.merges],
            "lowercase": self.lowercase,
        }

    @classmethod
    def from_json(cls, value: Any) -> Subwords:
        """The same vocabulary again.

        Raises:
            DataError: it is not what `to_json` gives.
        """
        match value:
            case {"kind": str(kind), "tokens": list(tokens), "merges": list(pairs), "lowercase": bool(lower)}:
                try:
                    merges = tuple((str(a), str(b)) for a, b in pairs)
                    return cls(kind, tuple(map(str, tokens)), merges, lower)
                except (InputError, ValueError, TypeError) as error:
                    raise DataError(f"no vocabulary: {error}") from None
        raise DataError("no vocabulary: kind, tokens, merges and lowercase are what one has.")

    def _shown(self, number: int) -> str:
        if number == UNKNOWN and self.kind == "words":
            return f" {SPECIAL[UNKNOWN]}"
        return self.tokens[number].replace(BLANK, " ")

    @cached_property
    def _tokenizer(self) -> Any:
        library = _library()
        numbers: Mapping[str, int] = {token: number for number, token in enumerate(self.tokens)}
        return _empty(library, self.kind, self.lowercase, numbers, self.merges)


def _library() -> Any:
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise InputError("words and subwords are cut by tokenizers: pip install 'unrolled[text]'") from None
    return tokenizers


def _empty(
    library: Any,
    kind: str,
    lowercase: bool,
    numbers: Mapping[str, int] | None = None,
    merges: Sequence[tuple[str, str]] = (),
) -> Any:
    """A tokenizer that has learned these, or nothing."""
    normal, cut, models = library.normalizers, library.pre_tokenizers, library.models
    unknown = SPECIAL[UNKNOWN]
    if kind == "words":
        model = models.WordLevel({**(numbers or {})}, unk_token=unknown)
    else:
        model = models.BPE({**(numbers or {})}, [*merges], unk_token=unknown, fuse_unk=True)
    made = library.Tokenizer(model)
    steps = [
        normal.NFC(),
        normal.Replace(BLANK, "_"),
        normal.Replace(library.Regex(r"\s+"), " "),
        normal.Strip(),
    ]
    made.normalizer = normal.Sequence([*steps, normal.Lowercase()] if lowercase else steps)
    made.pre_tokenizer = cut.Sequence(
        [
            cut.Metaspace(replacement=BLANK, prepend_scheme="always", split=True),
            cut.Split(library.Regex(_PIECES), "isolated"),
        ]
    )
    return made
