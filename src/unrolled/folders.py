"""Where the library keeps what it can make or fetch again."""

import os
import sys
from pathlib import Path

from unrolled.errors import DataError


def cache_folder() -> Path:
    """The library's folder for caches: `$UNROLLED_CACHE`, or `unrolled` in the user's folder for caches.

    That is `$XDG_CACHE_HOME` where it is set, else `~/.cache`, on macOS `~/Library/Caches` and on
    Windows `%LOCALAPPDATA%`. The folder need not exist.

    Raises:
        DataError: none of the variables is set and the user has no home folder.
    """
    try:
        if chosen := os.environ.get("UNROLLED_CACHE"):
            return Path(chosen).expanduser()
        if chosen := os.environ.get("XDG_CACHE_HOME"):
            return Path(chosen) / "unrolled"
        if sys.platform == "win32":
            return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "unrolled"
        return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "unrolled"
    except RuntimeError:
        raise DataError("this user has no home folder: set UNROLLED_CACHE to a folder for data.") from None
