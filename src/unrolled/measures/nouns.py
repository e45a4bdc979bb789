"""The noun of a caption: what the picture shows, in one word, by a rule of a few lists.

It is the last word of the first noun phrase: of "A red-nosed reindeer in the snow" it is "reindeer".
Articles, numbers and pronouns before it are passed over. The phrase ends

- at a sign (a dash, a bracket, a full stop; a comma, unless only one word stands between it and an article,
  as in "a ripe, red tomato");
- at an article, as in "Mars the red planet", which begins another;
- at a preposition, a conjunction ("a red and white flower" goes on, as red is a colour), an auxiliary ("can"
  only before another word) or another verb of the lists; a participle before that goes too ("a hat worn by a
  student");
- at a word in -ing that something stands before ("a spider playing soccer"), unless it is a noun of the list.

Of "a pair of glasses", "a bunch of grapes" and other measures it is what there is a pair or a bunch of.
Nothing is reduced to its root: "flowers" is another noun than "flower". The rule needs no model and no other
library, and errs where English does not keep to it: of "Boom!" it is "boom".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from unrolled.measures.accuracy import Accuracy
from unrolled.measures.captions import WORD, check_captions

_PART: Final = re.compile(rf"{WORD.pattern}|[^\w\s“”\"‘’']")
"""A word, or a sign that may end a phrase; quotes do not."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


BEFORE: Final = _words(
    """
    a an the this that these those my your his her its our their some any another each every many
    several few one two three four five six seven eight nine ten very it's there here it
    """
)
"""Words that a noun phrase may begin with and that are not of it."""

MEASURES: Final = _words(
    """
    pair couple bunch cluster head string quarter half loaf piece slice set group herd flock row pile
    number kind variety lot
    """
)
"""Before "of", what is measured is the noun."""

ENDS: Final = _words(
    """
    of with in on at for from by to into onto over under near behind beside between among through across
    along against around about above below inside outside without as than like and or but while when
    where which who that whose if so then because until after before upon off up down next out ahead
    away is are was were be been has have had does do did can could may might must will would shall
    should means mean lets let stands stand sits sit lies lie holds hold rides ride walks walk runs run
    plays play eats eat looks look flies swims jumps sleeps carries carry resembles shows goes gets
    wears
    """
)
"""What ends a noun phrase."""

THINGS: Final = _words(
    """
    building ceiling clothing crossing drawing dressing evening icing king lightning morning painting
    pudding railing ring spring stocking string swing thing wedding wing
    """
)
"""Nouns that end in -ing."""

ARTICLES: Final = _words("a an the")

COLOURS: Final = _words(
    "black blue brown gold golden gray green grey orange pink purple red silver tan white yellow"
)

PARTICIPLES: Final = _words("worn made seen shown known held drawn built grown eaten lit set")
"""Those that do not end in -ed."""


def head_noun(caption: str) -> str:
    """The noun of a caption, in lower case; empty where there is no word."""
    phrase: list[str] = []
    parts = _PART.findall(caption.lower())
    article = False
    for k, part in enumerate(parts):
        if not phrase and part in BEFORE:
            article = True
        elif not WORD.fullmatch(part):
            if phrase and not (part == "," and article and len(phrase) == 1):
                break
        elif phrase and part == "of" and phrase[-1] in MEASURES and k + 1 < len(parts):
            phrase, article = [], False
        elif phrase and part == "and" and phrase[-1] in COLOURS:
            continue
        elif phrase and _ends(part, parts[k + 1 : k + 2]):
            if len(phrase) > 1 and (phrase[-1].endswith("ed") or phrase[-1] in PARTICIPLES):
                phrase.pop()
            break
        else:
            phrase.append(part)
    words = [part for part in parts if WORD.fullmatch(part)]
    return phrase[-1] if phrase else words[-1] if words else ""


def noun_match(found: Sequence[str], references: Sequence[Sequence[str]]) -> Accuracy:
    """How many of N captions have the noun of one of the captions that people wrote.

    Raises:
        InputError: numbers differ, there are none, or a picture has no reference.
    """
    check_captions(found, references)
    right = (
        head_noun(caption) in {*map(head_noun, each)} for caption, each in zip(found, references, strict=True)
    )
    return Accuracy(sum(right), len(found))


def _ends(word: str, behind: Sequence[str]) -> bool:
    """Whether a word ends a noun phrase that has begun, with what follows it."""
    if word == "can":
        return bool(behind) and WORD.fullmatch(behind[0]) is not None
    return word in ENDS or word in ARTICLES or (word.endswith("ing") and len(word) > 4 and word not in THINGS)
