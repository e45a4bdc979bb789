"""JSON files of one's own, whose form is checked before anything is made of them."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from unrolled.errors import DataError

Fields = Mapping[str, type | tuple[type, ...]]
"""The fields that an object must have, and of which type."""

_NAMES = {int: "a whole number", str: "text", list: "a list"}


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        DataError: the file is missing, is not JSON, or has something else than an object.
    """
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the path and its rights.") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError too
        raise DataError(f"{path} is not JSON ({error}).") from None
    if not isinstance(data, dict):
        raise DataError(f"{path} is no JSON object but begins with a {type(data).__name__}.")
    return data


def records(path: Path, data: Mapping[str, Any], key: str, fields: Fields) -> Iterator[dict[str, Any]]:
    """The objects in the list `key`, each of which must have certain fields.

    Raises:
        DataError: there is no such list, or an object lacks a field or has one of another type; the message
            says which.
    """
    if not isinstance(data.get(key), list):
        raise DataError(f"{path} has no list {key!r}: it has {', '.join(map(repr, data)) or 'nothing'}.")
    for place, record in enumerate(data[key], 1):
        for name, kinds in fields.items():
            expected = kinds if isinstance(kinds, tuple) else (kinds,)
            value = record.get(name) if isinstance(record, dict) else None
            if not isinstance(value, expected) or isinstance(value, bool):
                what = " or ".join(_NAMES[kind] for kind in expected)
                raise DataError(f"number {place:,} of {key!r} in {path} has no {name!r} that is {what}.")
        yield record
