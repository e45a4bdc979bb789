"""From a dictionary in the format of `ding` to pairs of sentences and phrases.

A line is an entry: the forms and examples of one language, `|` between them, then `::`, then those of the
other, equally many. Each may have several wordings, with `;` between them. Grammar stands in `{}`, fields
and regions in `[]`, explanations in `()`, other spellings in `<>`, abbreviations between slashes. Whole
sentences may have a slash between them.

    Zweck {m} | Das ist nicht der Zweck.; Dazu ist es nicht da. :: purpose | That is not the purpose.

What is kept of it, in its order, each once, is a line of the one language, a tab and the other:

- Remarks in brackets and abbreviations are taken away; curly single quotation marks become straight.
- The first wordings belong together, then the second ones; a language with fewer repeats its last.
- A pair with alternatives within the wording (`a/b`, since nothing says how many words they are of), with an
  ellipsis or with a placeholder (`jdn.`, `sth.`) is left out.
- Of pairs that are no sentences, the first wordings are kept, where both have at least two words.
"""

import re
from collections.abc import Iterator, Mapping

REMARK = re.compile(r"\{[^{}]*\}|\[[^][]*\]|\([^()]*\)|<[^<>]*>")
STRAIGHT = str.maketrans(dict.fromkeys("’‘\x92", "'"))
ABBREVIATION = re.compile(r"(?<!\S)/[^/\s]*\./(?!\S)")
UNFIT = re.compile(r"[][/…{}()<>|=*\t]|\.\.\.|\b(?:jdm|jdn|jds|jd|etw|sb|sth)\b")
BETWEEN = re.compile(r";|(?<=[.?!]) / (?=[A-ZÄÖÜ])")
SENTENCE = re.compile(r"""["'„“»‚]?[A-ZÄÖÜ0-9].*\s.*[.?!]["'”“»«‘]*""")


def pairs(members: Mapping[str, bytes]) -> bytes:
    """Dictionaries as lines of two languages with a tab between."""
    found: dict[str, None] = {}
    for path in sorted(members):
        for line in members[path].decode().split("\n"):
            if line and not line.startswith("#"):
                found.update((f"{source}\t{target}\n", None) for source, target in _entry(line))
    return "".join(found).encode()


def is_sentence(text: str) -> bool:
    """Whether it begins with a capital letter or a digit and ends as a sentence, of two words at least."""
    return SENTENCE.fullmatch(text) is not None


def _entry(line: str) -> Iterator[tuple[str, str]]:
    left, _, right = line.partition(" :: ")
    for texts in zip(left.split(" | "), right.split(" | "), strict=True):
        first, second = ([word for part in BETWEEN.split(text) if (word := _plain(part))] for text in texts)
        if not first or not second:
            continue
        for place in range(max(len(first), len(second))):
            source, target = first[min(place, len(first) - 1)], second[min(place, len(second) - 1)]
            if UNFIT.search(source) or UNFIT.search(target):
                continue
            sentences = is_sentence(source) and is_sentence(target)
            if sentences or (place == 0 and " " in source and " " in target):
                yield source, target


def _plain(text: str) -> str:
    while text != (less := REMARK.sub(" ", text)):
        text = less
    text = ABBREVIATION.sub(" ", text).translate(STRAIGHT)
    return re.sub(r" +([,.;:?!])", r"\1", " ".join(text.split()))
