"""Checkpoints that survive a kill, a full disk and a flipped bit.

A checkpoint is a folder:

    step-00000100/
      tensors.safetensors   every tensor, bit for bit
      manifest.json         format, step, facts, size and SHA-256 of the tensors, SHA-256 of itself

It is written under a temporary name, synced to the disk and renamed, so a name of this form holds a
whole checkpoint. The manifest must equal its own canonical encoding, so a change of any byte in either
file is noticed. Loading parses safetensors and JSON and nothing else: it never runs code.

One process at a time may write to a folder. Saving holds two copies of the tensors in memory.
"""

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from unrolled.errors import CheckpointError, InputError
from unrolled.train.files import JSON, read_bytes, reason, seal, sync_folder, unseal, write_durably

FORMAT = 1
"""The format this version writes and reads. A later one keeps the seal, so that it is told from damage."""

_TENSORS = "tensors.safetensors"
_MANIFEST = "manifest.json"
# A step being saved again is moved aside first, and counts as that step until its successor is in place.
_FOLDER = re.compile(r"(?:\.replaced-)?step-([0-9]{8,})")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What a checkpoint folder held, read and verified."""

    step: int
    """Training steps done when it was written."""
    path: Path
    """The folder it was read from."""
    tensors: dict[str, Tensor] = field(repr=False)
    """Tensors by name, on the CPU, in the dtypes they were saved in."""
    facts: dict[str, Any] = field(repr=False)
    """Everything else, as JSON."""


class _FormatError(CheckpointError):
    """Not damage: another version of this library wrote the checkpoint."""


def save(
    folder: Path, step: int, tensors: Mapping[str, Tensor], facts: Mapping[str, JSON], keep: int = 3
) -> Path:
    """Write checkpoint `step` into `folder`, then delete the oldest so that `keep` stay.

    A step that exists is replaced. The checkpoint just written always stays.

    Args:
        folder: where the checkpoints of one run lie; made if missing.
        step: training steps done, 0 or more.
        tensors: any dense tensors on any device; they may share memory and need not be contiguous.
        facts: everything that is not a tensor; floats that are not finite are read back as None.
        keep: how many checkpoints stay, 1 or more.

    Returns:
        The folder of the checkpoint.

    Raises:
        CheckpointError: the disk is full, read-only or not there, or safetensors cannot hold a dtype.
            Earlier checkpoints are untouched.
        InputError: `step` or `keep` is out of range, or `facts` holds something that is not JSON.
    """
    if step < 0 or keep < 1:
        raise InputError(f"step is 0 or more and keep 1 or more, not step={step} and keep={keep}")
    path = folder / _name(step)
    data = _serialise(tensors, path)
    files = {_TENSORS: data, _MANIFEST: _describe(step, facts, data)}
    temporary = folder / f".writing-{path.name}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sync_folder(folder.parent)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        for name, content in files.items():
            write_durably(temporary / name, content)
        sync_folder(temporary)
        _put_in_place(temporary, path)
    except OSError as error:
        raise CheckpointError(
            f"cannot save checkpoint {path}: {reason(error)}; earlier checkpoints are untouched"
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _prune(folder, step, keep)
    return path


def load(path: Path) -> Checkpoint:
    """Read and verify the checkpoint folder `path`. No code is run, whatever the files hold.

    Raises:
        CheckpointError: it is missing, cut short or changed, holds a pickle, or is of another format.
    """
    try:
        return _read(path)
    except CheckpointError as error:
        raise type(error)(f"checkpoint {path}: {error}") from error.__cause__


def newest(folder: Path, warn: Callable[[str], None]) -> Checkpoint:
    """Load the newest checkpoint in `folder` that can be loaded.

    Args:
        folder: where the checkpoints of one run lie.
        warn: called with one line for every newer checkpoint that was skipped.

    Raises:
        CheckpointError: there is none, or none can be loaded; the message says what to do. If the newest
            are merely of another format and nothing older loads, it says which format.
    """
    failures: dict[str, CheckpointError] = {}
    for step, path in sorted(_folders(folder).items(), reverse=True):
        try:
            checkpoint = _read(path)
        except CheckpointError as error:
            failures[_name(step)] = error
            continue
        for name, failure in failures.items():
            problem = "cannot be read" if isinstance(failure, _FormatError) else "is damaged"
            warn(f"{name} {problem} ({failure}); using {_name(step)}")
        return checkpoint
    if not failures:
        raise CheckpointError(
            f"{folder} holds no checkpoint: check the path, or start the run from the beginning"
        )
    for name, failure in failures.items():
        if isinstance(failure, _FormatError):
            raise _FormatError(f"checkpoint {folder / name}: {failure}")
    listed = ", ".join(f"{name} ({failure})" for name, failure in failures.items())
    raise CheckpointError(
        f"every checkpoint in {folder} is damaged: {listed}. "
        "Put an intact copy there, or start the run from the beginning"
    )


def steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint in `folder`, in order; none if the folder does not exist.

    Raises:
        CheckpointError: the folder cannot be listed.
    """
    return sorted(_folders(folder))


def _name(step: int) -> str:
    return f"step-{step:08d}"


def _folders(folder: Path) -> dict[int, Path]:
    names = _listing(folder)  # ".replaced-step-" sorts before "step-", which overrides it
    return {int(match[1]): folder / name for name in names if (match := _FOLDER.fullmatch(name))}


def _listing(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise CheckpointError(f"cannot list the checkpoints in {folder}: {reason(error)}") from error


def _serialise(tensors: Mapping[str, Tensor], path: Path) -> bytes:
    try:
        return safetensors.torch.save({name: _copy(tensor) for name, tensor in tensors.items()})
    except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
        message = str(error).splitlines()[0]
        raise CheckpointError(
            f"cannot save checkpoint {path}: a tensor cannot be stored ({message})"
        ) from error


def _copy(tensor: Tensor) -> Tensor:
    # safetensors reads raw memory: a clone shares none, has plain strides and no pending conjugate or sign.
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def _describe(step: int, facts: Mapping[str, JSON], data: bytes) -> bytes:
    files: JSON = {_TENSORS: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}}
    return seal({"format": FORMAT, "step": step, "facts": facts, "files": files}, "manifest")


def _put_in_place(temporary: Path, path: Path) -> None:
    if path.exists():
        replaced = path.with_name(f".replaced-{path.name}")
        shutil.rmtree(replaced, ignore_errors=True)
        os.rename(path, replaced)
    os.rename(temporary, path)
    sync_folder(path.parent)


def _prune(folder: Path, step: int, keep: int) -> None:
    # What cannot be deleted now is tried again at the next save.
    found = _folders(folder)
    oldest_first = [*sorted(found.keys() - {step}), step]
    kept = {found[each].name for each in oldest_first[-keep:]}
    for entry in _listing(folder):
        if entry not in kept and (_FOLDER.fullmatch(entry) or entry.startswith(".writing-")):
            shutil.rmtree(folder / entry, ignore_errors=True)


def _read(path: Path) -> Checkpoint:
    """Load a checkpoint; errors hold the bare reason, without the path."""
    if not path.is_dir():
        raise CheckpointError("it is not a folder" if path.exists() else "it does not exist")
    match _read_manifest(path / _MANIFEST):
        case {
            "step": int(step),
            "facts": dict(facts),
            "files": {"tensors.safetensors": {"sha256": str(digest), "bytes": int(size)}},
        }:
            tensors = _read_tensors(path / _TENSORS, digest, size)
            return Checkpoint(step=step, path=path, tensors=tensors, facts=facts)
    raise CheckpointError(f"{_MANIFEST} does not describe a checkpoint")


def _read_manifest(path: Path) -> dict[str, Any]:
    manifest = unseal(read_bytes(path), path.name)
    if manifest.get("format") != FORMAT:
        raise _FormatError(
            f"it was written in format {manifest.get('format')}, "
            f"and this version of unrolled reads format {FORMAT}"
        )
    return manifest


def _read_tensors(path: Path, digest: str, size: int) -> dict[str, Tensor]:
    data = read_bytes(path)
    if _is_pickle(data):
        raise CheckpointError(f"{path.name} is a pickle, which is never loaded")
    if len(data) != size:
        problem = "cut short" if len(data) < size else "too long"
        raise CheckpointError(f"{path.name} is {problem}: expected {size} bytes, found {len(data)}")
    if hashlib.sha256(data).hexdigest() != digest:
        raise CheckpointError(f"{path.name} does not match its checksum: a bit has flipped")
    try:
        return safetensors.torch.load(data)
    except (SafetensorError, KeyError, ValueError, RuntimeError, AssertionError) as error:
        raise CheckpointError(f"{path.name} has a broken header ({error})") from error


def _is_pickle(data: bytes) -> bool:
    # The length of a safetensors header may start with these bytes too; what follows it cannot.
    return data.startswith((b"\x80", b"PK")) and not b"\0\0\0\0{".startswith(data[4:9])
