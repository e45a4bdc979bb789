"""Texts: read one, number its characters, cut it into chunks, and know what counting alone achieves."""

from unrolled.data.encoded import EncodedText, Text
from unrolled.data.library import Status, fetch, load, open_text, resolve_text, status
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
