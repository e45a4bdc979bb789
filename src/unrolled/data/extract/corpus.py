"""From the files of a tagged corpus to a sentence a line: document, tab, `word/tag` of each word."""

from collections.abc import Mapping
from pathlib import PurePosixPath


def sentences(members: Mapping[str, bytes]) -> bytes:
    """Documents in the Brown corpus's form, a sentence a line, in the order of their names."""
    found = []
    for path in sorted(members):
        name = PurePosixPath(path).name
        for line in members[path].decode().split("\n"):
            if words := line.split():
                found.append(f"{name}\t{' '.join(words)}\n")
    return "".join(found).encode()
