"""Data sets by name; texts: read one, number its characters, cut it into chunks, know what counting achieves.

What is no plain text is in modules of its own: `pairs` of sentences, `labelled` texts, `tagged` sentences,
`pictures` with labels, `captions`, `questions` about pictures, and `images` of any kind of file. `splits`
holds out what shares nothing with the rest.
"""

from unrolled.data.encoded import EncodedText, Text
from unrolled.data.library import Status, fetch, kept, load, open_text, resolve_text, status
from unrolled.data.ngram import KneserNey, baselines, unigram_bits
from unrolled.data.segments import Segments, inputs_and_targets
from unrolled.data.series import read_series
from unrolled.data.sources import SOURCES, Source
from unrolled.data.streams import Streams, held_out
from unrolled.data.text import read_blocks, read_text, split
from unrolled.data.vocabulary import Vocabulary
from unrolled.folders import cache_folder

__all__ = [
    "SOURCES",
    "EncodedText",
    "KneserNey",
    "Segments",
    "Source",
    "Status",
    "Streams",
    "Text",
    "Vocabulary",
    "baselines",
    "cache_folder",
    "fetch",
    "held_out",
    "inputs_and_targets",
    "kept",
    "load",
    "open_text",
    "read_blocks",
    "read_series",
    "read_text",
    "resolve_text",
    "split",
    "status",
    "unigram_bits",
]
