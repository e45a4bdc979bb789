"""From tables of film reviews to labelled texts: lines of a label, a tab and a text."""

import csv
import io
import re
from collections.abc import Callable, Mapping

from unrolled.data.splits import plain

_LABELS = {"0": "negative", "1": "positive"}


def reviews(source: str) -> Callable[[Mapping[str, bytes]], bytes]:
    """Of tables (CSV: text, label, source) the rows of one source, in their order.

    `<br />` and whatever else is blank become single blanks. Of texts that are alike but for case, blanks and
    punctuation the first is kept, and none where they have different labels.
    """

    def extract(members: Mapping[str, bytes]) -> bytes:
        found: dict[str, tuple[str, str]] = {}
        differ = set()
        for path in sorted(members):
            for row in csv.DictReader(io.StringIO(members[path].decode(), newline="")):
                if row["source"] == source:
                    text, label = (
                        " ".join(re.sub(r"<br */?>", " ", row["text"]).split()),
                        _LABELS[row["label"]],
                    )
                    if found.setdefault(plain(text), (label, text))[0] != label:
                        differ.add(plain(text))
        return "".join(f"{found[key][0]}\t{found[key][1]}\n" for key in found if key not in differ).encode()

    return extract
