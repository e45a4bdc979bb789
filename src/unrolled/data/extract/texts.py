"""From the files of a package to plain text.

`as_printed`, `plays` and `verses` turn files, as texts by path, into one text. They take away mark-up, never
words. Lines end without blanks, empty lines come singly, and the text ends in one newline. `numbers` writes
arrays of numbers as a text.
"""

import io
import json
import re
from collections.abc import Callable, Mapping
from itertools import groupby
from pathlib import PurePosixPath

import numpy as np


def in_utf8(extract: Callable[[Mapping[str, str]], str]) -> Callable[[Mapping[str, bytes]], bytes]:
    """The same on files and a text in UTF-8."""
    return lambda members: extract({path: data.decode() for path, data in members.items()}).encode()


def as_printed(members: Mapping[str, str]) -> str:
    """Texts without mark-up, in the order of their paths."""
    return _tidy("\n\n".join(members[path] for path in sorted(members)))


def plays(members: Mapping[str, str]) -> str:
    r"""Plays in Markdown, in the order of their file names whatever folder they are in.

    `**SPEAKER**` becomes `SPEAKER:`. Headings and stage directions keep their words and brackets and
    lose `#`, `_`, `*` and the backslash of `\[`.
    """
    texts = (members[path] for path in sorted(members, key=lambda path: PurePosixPath(path).name))
    text = "\n\n".join(texts)
    text = re.sub(r"^\*\*(.+)\*\* *$", r"\1:", text, flags=re.MULTILINE)
    text = re.sub(r"^#+ *", "", text, flags=re.MULTILINE)
    return _tidy(re.sub(r"\\(.)|[*_]", r"\1", text))


def verses(members: Mapping[str, str]) -> str:
    """Records of a verse a line (JSON: book, chapter, verse, text) as chapters.

    A chapter is the line `Genesis 1`, an empty line, and the lines `1 In the beginning ...`. A verse
    whose text is `[]` is one this edition does not have, and is left out.
    """
    records = [json.loads(line) for path in sorted(members) for line in members[path].splitlines()]
    chapters = groupby(records, key=lambda record: (record["book"], record["chapter"]))
    return _tidy(
        "\n\n".join(
            f"{book} {chapter}\n\n"
            + "\n".join(f"{record['verse']} {record['text']}" for record in group if record["text"] != "[]")
            for (book, chapter), group in chapters
        )
    )


def numbers(members: Mapping[str, bytes]) -> bytes:
    """Arrays of NumPy's file format as a text of one number a line."""
    found = []
    for path in sorted(members):
        values = np.load(io.BytesIO(members[path]), allow_pickle=False)
        found += [str(value) for value in values.reshape(-1).tolist()]
    return ("\n".join(found) + "\n").encode()


def _tidy(text: str) -> str:
    text = re.sub(r"[ \t]+$", "", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"
