"""A checkpoint is read back bit for bit or not at all; a save that fails costs nothing saved before."""

import errno
import hashlib
import io
import json
import os
import pickle
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from unrolled.errors import CheckpointError, InputError
from unrolled.train import files
from unrolled.train.checkpoint import Checkpoint, load, newest, save, steps
from unrolled.train.files import JSON, seal

TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"


def every_kind() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(6, 4, generator=generator)
    bits = torch.tensor([0x7FC00001, 0x7F800000, -0x80000000, 1], dtype=torch.int32)
    return {
        "float32": base,
        "shares memory": base,
        "part of it": base[1:3],
        "not contiguous": base.t(),
        "stride 0": torch.ones(1).expand(5),
        "NaN payload, inf, -0, denormal": bits.view(torch.float32),
        "0-dim": torch.tensor(3.5, dtype=torch.float64),
        "empty": torch.empty(0, 3),
        "bool": torch.tensor([True, False, True]),
        "int64": torch.tensor([-(2**63), 2**63 - 1]),
        "uint8": torch.randint(0, 256, (17,), dtype=torch.uint8, generator=generator),
        "bfloat16": torch.randn(5, generator=generator).bfloat16(),
        "float16": torch.randn(5, generator=generator).half(),
        "conjugate": torch.tensor([1 + 2j, float("nan") - 1j], dtype=torch.complex64).conj(),
        "negated": torch.tensor([1 + 2j]).conj().imag,
        "a parameter": torch.nn.Parameter(torch.ones(2, 2)),
        "größe": torch.zeros(1),
    }


def as_bytes(tensor: Tensor) -> bytes:
    return bytes(
        tensor.detach().clone(memory_format=torch.contiguous_format).flatten().view(torch.uint8).tolist()
    )


def simple(value: float) -> dict[str, Tensor]:
    return {"w": torch.full((40,), value), "step": torch.tensor(value)}


def holds(checkpoint: Checkpoint, value: float) -> bool:
    return checkpoint.facts == {"value": value} and all(
        torch.equal(checkpoint.tensors[name], tensor) for name, tensor in simple(value).items()
    )


def never(line: str) -> None:
    raise AssertionError(f"unexpected warning: {line}")


def save_simple(folder: Path, step: int, value: float | None = None, keep: int = 3) -> Path:
    value = step if value is None else value
    return save(folder, step, simple(value), {"value": value}, keep)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "run" / "checkpoints"


# What is saved is read back.


def test_every_kind_of_tensor_comes_back_bit_for_bit(folder: Path) -> None:
    tensors = every_kind()
    path = save(folder, 100, tensors, {"why": "test"})
    assert path == folder / "step-00000100"
    found = load(path)
    assert (found.step, found.path, found.facts) == (100, path, {"why": "test"})
    assert found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found.tensors[name].dtype == tensor.dtype, name
        assert found.tensors[name].shape == tensor.shape, name
        assert as_bytes(found.tensors[name]) == as_bytes(tensor), name


def test_saving_again_gives_what_was_loaded(folder: Path) -> None:
    first = load(save(folder, 1, every_kind(), {}))
    second = load(save(folder, 2, first.tensors, first.facts))
    assert {n: as_bytes(t) for n, t in first.tensors.items()} == {
        n: as_bytes(t) for n, t in second.tensors.items()
    }


def test_no_tensors_at_all_is_a_checkpoint(folder: Path) -> None:
    assert load(save(folder, 0, {}, {})).tensors == {}


def test_loaded_tensors_can_be_changed_and_saved_ones_are_not_touched(folder: Path) -> None:
    tensor = torch.zeros(3)
    found = load(save(folder, 1, {"w": tensor, "also": tensor}, {}))
    found.tensors["w"].add_(1)
    assert tensor.tolist() == [0, 0, 0]
    assert found.tensors["also"].tolist() == [0, 0, 0]
    assert load(found.path).tensors["w"].tolist() == [0, 0, 0]


def test_facts_keep_order_and_exact_floats_and_strict_json(folder: Path) -> None:
    facts: dict[str, JSON] = {
        "z": 0.1 + 0.2,
        "a": [1, None, True, (2, "é\ud800\n")],
        "loss": float("nan"),
        "m": {"x": -0.0},
    }
    path = save(folder, 1, {}, facts)
    found = load(path).facts
    assert list(found) == ["z", "a", "loss", "m"]
    assert found == {"z": 0.1 + 0.2, "a": [1, None, True, [2, "é\ud800\n"]], "loss": None, "m": {"x": 0.0}}
    assert "NaN" not in (path / MANIFEST).read_text()


def test_the_manifest_says_what_it_covers(folder: Path) -> None:
    path = save_simple(folder, 7)
    manifest = json.loads((path / MANIFEST).read_text())
    data = (path / TENSORS).read_bytes()
    assert manifest.pop("sha256")
    assert manifest == {
        "format": 1,
        "step": 7,
        "facts": {"value": 7},
        "files": {TENSORS: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}},
    }


@pytest.mark.parametrize(
    ("facts", "where"), [({"a": {"b": [0, object()]}}, "a.b.1"), ({"a": {1: 2}}, "key 1")]
)
def test_facts_that_are_not_json_are_refused_by_name(folder: Path, facts: Any, where: str) -> None:
    with pytest.raises(InputError, match=where):
        save(folder, 1, {}, facts)
    assert not folder.exists()


@pytest.mark.parametrize("tensor", [torch.ones(2, dtype=torch.complex128), torch.eye(2).to_sparse()])
def test_a_tensor_that_cannot_be_stored_is_refused(folder: Path, tensor: Tensor) -> None:
    with pytest.raises(CheckpointError, match="a tensor cannot be stored") as caught:
        save(folder, 1, {"x": tensor}, {})
    assert "\n" not in str(caught.value)
    assert not folder.exists()


@pytest.mark.parametrize(("step", "keep"), [(-1, 3), (1, 0)])
def test_step_and_keep_are_checked(folder: Path, step: int, keep: int) -> None:
    with pytest.raises(InputError, match="step"):
        save(folder, step, {}, {}, keep)


# What is kept.


def test_the_newest_stay(folder: Path) -> None:
    for step in (1, 5, 20, 100, 123456789):
        save_simple(folder, step)
    assert steps(folder) == [20, 100, 123456789]
    assert holds(newest(folder, never), 123456789)
    save_simple(folder, 123456790, keep=1)
    assert os.listdir(folder) == ["step-123456790"]


def test_the_checkpoint_just_written_stays_though_later_steps_exist(folder: Path) -> None:
    for step in (400, 500, 600):
        save_simple(folder, step)
    save_simple(folder, 150)
    assert steps(folder) == [150, 500, 600]


def test_a_step_saved_again_is_replaced(folder: Path) -> None:
    save_simple(folder, 1, value=1)
    save_simple(folder, 1, value=2)
    assert holds(newest(folder, never), 2)
    assert os.listdir(folder) == ["step-00000001"]


def test_only_our_own_names_are_deleted_and_listed(folder: Path) -> None:
    for name in (
        "step-00000001-best",
        "step-1",
        "notes",
        ".writing-step-00000009",
        ".replaced-step-00000002",
    ):
        (folder / name).mkdir(parents=True)
    for step in (2, 3):
        save_simple(folder, step, keep=1)
    assert steps(folder) == [3]
    assert sorted(os.listdir(folder)) == ["notes", "step-00000001-best", "step-00000003", "step-1"]


# Damage is noticed.


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_every_changed_byte_is_noticed(folder: Path, name: str) -> None:
    path = save(folder, 1, every_kind(), {"é": [1e5, 0.1], "text": "a b"})
    whole = (path / name).read_bytes()
    chance = random.Random(0)
    places = [0, 1, 8, len(whole) - 1, *(chance.randrange(len(whole)) for _ in range(200))]
    for place in places:
        for change in (1 << chance.randrange(8), chance.randrange(1, 256)):
            flipped = bytearray(whole)
            flipped[place] ^= change
            (path / name).write_bytes(flipped)
            with pytest.raises(CheckpointError, match=name) as caught:
                load(path)
            assert "\n" not in str(caught.value)
    (path / name).write_bytes(whole)
    load(path)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_a_file_cut_short_or_too_long_is_noticed(folder: Path, name: str) -> None:
    path = save_simple(folder, 1)
    whole = (path / name).read_bytes()
    for length in (0, 1, 7, 8, 9, len(whole) // 2, len(whole) - 1):
        (path / name).write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match=r"cut short|checksum") as caught:
            load(path)
        if name == TENSORS:
            assert f"expected {len(whole)} bytes, found {length}" in str(caught.value)
    (path / name).write_bytes(whole + b" ")
    with pytest.raises(CheckpointError, match=r"too long|checksum"):
        load(path)


@pytest.mark.parametrize("name", [TENSORS, MANIFEST])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    path = save_simple(folder, 1)
    (path / name).unlink()
    with pytest.raises(CheckpointError, match=f"step-00000001: {name} is missing"):
        load(path)
    (path / name).mkdir()
    with pytest.raises(CheckpointError, match=f"{name} cannot be read: Is a directory"):
        load(path)


def test_a_path_that_is_no_checkpoint_is_named(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="it does not exist"):
        load(folder)
    folder.parent.mkdir()
    folder.write_bytes(b"")
    with pytest.raises(CheckpointError, match="it is not a folder"):
        load(folder)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"[1]", "checksum"),
        (b"{", "cut short"),
        (b"\xff\xfe", "cut short"),
        (b"[" * 100_000, "cut short"),
        (b'{"format": NaN}', "checksum"),
        (seal({"format": 1, "step": "1"}, "manifest"), "does not describe a checkpoint"),
    ],
)
def test_a_manifest_that_is_none_is_refused(folder: Path, raw: bytes, message: str) -> None:
    path = save_simple(folder, 1)
    (path / MANIFEST).write_bytes(raw)
    with pytest.raises(CheckpointError, match=message):
        load(path)


class Bomb:
    """Would write a file if it were ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def put(path: Path, data: bytes, matching: bool) -> None:
    """Replace the tensor file, and make the manifest agree with it if `matching`."""
    (path / TENSORS).write_bytes(data)
    if matching:
        body = json.loads((path / MANIFEST).read_text())
        del body["sha256"]
        body["files"][TENSORS] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        (path / MANIFEST).write_bytes(seal(body, "manifest"))


@pytest.mark.parametrize("matching", [False, True])
@pytest.mark.parametrize("protocol", [2, 3, 4, 5, "torch.save"])
def test_a_pickle_is_refused_and_never_run(folder: Path, protocol: int | str, matching: bool) -> None:
    path, trace = save_simple(folder, 1), folder / "it ran"
    stream = io.BytesIO()
    if isinstance(protocol, int):
        pickle.dump(Bomb(trace), stream, protocol)
    else:
        torch.save(Bomb(trace), stream)
    put(path, stream.getvalue(), matching)
    with pytest.raises(CheckpointError, match="is a pickle, which is never loaded"):
        load(path)
    assert not trace.exists()


@pytest.mark.parametrize("start", [b"\x80\x02", b"\x80\x04", b"PK"])
def test_a_header_whose_length_looks_like_a_pickle_is_read(folder: Path, start: bytes) -> None:
    for width in range(1, int.from_bytes(start, "little")):
        if safetensors.torch.save({"n" * width: torch.zeros(1)}).startswith(start):
            break
    path = save(folder, 1, {"n" * width: torch.zeros(1)}, {})
    assert (path / TENSORS).read_bytes().startswith(start)
    load(path)


@pytest.mark.parametrize("data", [b"", b"no", b"\x10" + bytes(7) + b"{" * 16, b"\xff" * 20])
def test_a_broken_header_is_refused_though_the_checksum_agrees(folder: Path, data: bytes) -> None:
    path = save_simple(folder, 1)
    put(path, data, matching=True)
    with pytest.raises(CheckpointError, match="has a broken header"):
        load(path)


# The newest that can be loaded.


def as_format(path: Path, version: int) -> None:
    body = json.loads((path / MANIFEST).read_text())
    del body["sha256"]
    (path / MANIFEST).write_bytes(seal({**body, "format": version}, "manifest"))


def test_damaged_ones_are_skipped_with_one_line_each(folder: Path) -> None:
    for step in (100, 200, 300):
        save_simple(folder, step)
    (folder / "step-00000200" / TENSORS).write_bytes(b"")
    (folder / "step-00000300" / MANIFEST).unlink()
    lines: list[str] = []
    assert holds(newest(folder, lines.append), 100)
    assert lines == [
        "step-00000300 is damaged (manifest.json is missing); using step-00000100",
        "step-00000200 is damaged (tensors.safetensors is cut short: expected "
        f"{(folder / 'step-00000100' / TENSORS).stat().st_size} bytes, found 0); using step-00000100",
    ]


def test_no_checkpoint_says_what_to_do(folder: Path) -> None:
    assert steps(folder) == []
    with pytest.raises(CheckpointError, match="holds no checkpoint: check the path, or start the run"):
        newest(folder, never)
    folder.parent.mkdir()
    folder.write_bytes(b"")
    with pytest.raises(CheckpointError, match="Not a directory"):
        steps(folder)


def test_all_damaged_says_why_each_and_what_to_do(folder: Path) -> None:
    for step in (1, 2):
        (save_simple(folder, step) / TENSORS).unlink()
    with pytest.raises(
        CheckpointError, match=r"is damaged: step-00000002 \(.*missing\), step-00000001 .*Put an"
    ):
        newest(folder, never)


def test_another_format_is_not_called_damage(folder: Path) -> None:
    old, new = save_simple(folder, 1), save_simple(folder, 2)
    as_format(new, 2)
    message = "it was written in format 2, and this version of unrolled reads format 1"
    with pytest.raises(CheckpointError, match=f"step-00000002: {message}"):
        load(new)
    lines: list[str] = []
    assert newest(folder, lines.append).step == 1
    assert lines == [f"step-00000002 cannot be read ({message}); using step-00000001"]
    (old / TENSORS).unlink()
    with pytest.raises(CheckpointError, match=f"step-00000002: {message}"):
        newest(folder, never)


# Failures while saving.


def test_content_is_on_the_disk_before_its_name_is(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a loss of power cannot be made to show here: the order of syncs and renames."""
    save_simple(folder, 1)
    events: list[tuple[str, object]] = []
    fsync, rename = os.fsync, os.rename

    def seen_fsync(descriptor: int) -> None:
        fsync(descriptor)
        where = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        events.append((os.path.relpath(where, folder), where.is_file() and where.stat().st_size > 0))

    def seen_rename(old: Path, new: Path) -> None:
        rename(old, new)
        events.append((old.name, new.name))

    monkeypatch.setattr(os, "fsync", seen_fsync)
    monkeypatch.setattr(os, "rename", seen_rename)
    save_simple(folder, 1)
    temporary, name = ".writing-step-00000001", "step-00000001"
    assert events == [
        ("..", False),
        (f"{temporary}/{TENSORS}", True),
        (f"{temporary}/{MANIFEST}", True),
        (temporary, False),
        (name, f".replaced-{name}"),
        (temporary, name),
        (".", False),
    ]


class Interrupter:
    """Calls `fail` in place of the n-th call that writes to the disk; a write is then half done."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, n: int, fail: Callable[[], Any]) -> None:
        self.left, self.fail = n, fail
        for name in ("fsync", "rename", "mkdir"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        monkeypatch.setattr(files, "open", self.opened, raising=False)

    def now(self) -> bool:
        self.left -= 1
        return self.left == -1

    def counted(self, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *args: self.fail() if self.now() else call(*args)

    def opened(self, path: Path, mode: str) -> io.FileIO:
        interrupter = self

        class File(io.FileIO):
            def write(self, data: Any) -> int:
                if interrupter.now():
                    super().write(data[: len(data) // 2])
                    interrupter.fail()
                return super().write(data)

        return self.fail() if self.now() else File(path, mode)


POINTS = range(1, 14)  # a save makes 13 such calls at most; the first only asks for a folder that exists


def fill(folder: Path) -> None:
    for step in (10, 20, 30):
        save_simple(folder, step)


@pytest.mark.parametrize("step", [30, 40], ids=["replaced", "new"])
@pytest.mark.parametrize("point", POINTS)
def test_a_full_disk_at_any_point_costs_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, point: int, step: int
) -> None:
    fill(folder)

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        interrupter = Interrupter(patch, point, full)
        message = None
        try:
            save_simple(folder, step, value=99)
        except CheckpointError as error:
            message = str(error)
    failed = interrupter.left < 0
    assert message == (
        f"cannot save checkpoint {folder / f'step-{step:08d}'}: No space left on device; "
        "earlier checkpoints are untouched"
        if failed
        else None
    )
    assert not list(folder.glob(".writing-*"))
    found = newest(folder, never)
    assert holds(found, 99) or (failed and holds(found, 30))
    for each in (10, 20) if failed else (20,):
        assert holds(load(folder / f"step-{each:08d}"), each)
    save_simple(folder, step, value=99)
    assert holds(newest(folder, never), 99)
    assert sorted(os.listdir(folder))[-1] == f"step-{step:08d}"
    assert len(os.listdir(folder)) == 3


def in_a_child(work: Callable[[], None]) -> int:
    """Run `work` in a copy of this process, which may die; return how it ended."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.parametrize("step", [30, 40], ids=["replaced", "new"])
def test_a_kill_at_any_point_costs_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    killed = []
    for point in POINTS:
        shutil.rmtree(folder, ignore_errors=True)
        fill(folder)

        def work(point: int = point) -> None:
            Interrupter(monkeypatch, point, lambda: os._exit(9))
            save_simple(folder, step, value=99)
            os._exit(0)

        killed.append(in_a_child(work) == 9)
        found = newest(folder, never)
        assert holds(found, 99) or (killed[-1] and holds(found, 30)), point
        assert steps(folder)[:1] == [10] or not killed[-1]
        save_simple(folder, step, value=98)
        assert holds(newest(folder, never), 98), point
        save_simple(folder, 50)
        assert len(os.listdir(folder)) == 3, point
        assert holds(newest(folder, never), 50), point
    assert killed[0]
    assert not killed[-1]


def test_a_limit_set_by_the_system_is_reported_in_its_words(folder: Path) -> None:
    fill(folder)
    words = folder.parent / "words"

    def work() -> None:
        words.write_text("")
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        try:
            save(folder, 40, {"w": torch.zeros(5000)}, {})
        except CheckpointError as error:
            words.write_text(str(error))
        os._exit(0)

    assert in_a_child(work) == 0
    assert words.read_text().endswith("File too large; earlier checkpoints are untouched")
    assert sorted(os.listdir(folder)) == [f"step-{step:08d}" for step in (10, 20, 30)]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"file/checkpoints/step-00000001: Not a directory"):
        save_simple(tmp_path / "file" / "checkpoints", 1)
