"""A kernel from disk is the kernel that was stored, or there is none; no disk ever breaks a computation."""

from __future__ import annotations

import ast
import builtins
import ctypes
import errno
import hashlib
import importlib
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numpy as np
import pytest
import torch

import unrolled
from cases import Setting, flat, gradients
from unrolled import cells
from unrolled.compile import cache, engine, loop
from unrolled.compile.cache import SOURCE, key_of, load, source_hash, store
from unrolled.compile.engine import Program
from unrolled.compile.machine import machine
from unrolled.compile.team import team_of

PACKAGE = Path(unrolled.__file__).parent

SQUARES = """
define void @entry(ptr %context, i64 %worker, i64 %workers) {
  %count = load i64, ptr %context
  br label %next
next:
  %k = phi i64 [ 1, %0 ], [ %after, %next ]
  %at = getelementptr i64, ptr %context, i64 %k
  %x = load i64, ptr %at
  %y = mul i64 %x, %x
  store i64 %y, ptr %at
  %after = add i64 %k, 1
  %more = icmp sle i64 %after, %count
  br i1 %more, label %next, label %end
end:
  ret void
}
"""
"""A kernel that squares numbers; the first says how many there are."""

FACTS = {"places": ["T", "B", "new ĥ pointer"], "size": 3, "idle": None}
KEY = key_of("squares")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNROLLED_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("UNROLLED_KERNEL_CACHE", raising=False)
    return tmp_path


@pytest.fixture(scope="module")
def code() -> bytes:
    return Program(SQUARES).code


@pytest.fixture
def folder(home: Path) -> Path:
    return home / "cache" / "kernels"


@pytest.fixture
def entry(folder: Path, code: bytes) -> Path:
    """The file of a stored kernel."""
    store(KEY, code, FACTS)
    (path,) = folder.iterdir()
    return path


def squares(program: Program) -> list[int]:
    context = np.array([3, 2, 3, -5], dtype=np.int64)
    run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_long, ctypes.c_long)(program.address("entry"))
    run(context.ctypes.data, 0, 1)
    return context[1:].tolist()


# -- what was stored ----------------------------------------------------------------------------------------


def test_a_kernel_comes_back_as_it_was_and_computes_the_same(entry: Path, code: bytes) -> None:
    found = load(KEY)
    assert found == (code, FACTS)
    assert list(found[1]) == list(FACTS)
    assert squares(Program(found[0])) == squares(Program(SQUARES)) == [4, 9, 25]


def test_a_program_from_an_object_hands_on_that_object(code: bytes) -> None:
    assert Program(code).code == code


@pytest.mark.parametrize("cell", [cells.lstm, cells.gru], ids=lambda cell: cell.name)
def test_a_cell_s_results_and_gradients_are_the_same_in_every_bit(
    cell: unrolled.cell.EquationCell, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = Setting(cell, 5, 19).case(T=7, B=8)

    def computed() -> dict[str, torch.Tensor]:
        team_of.cache_clear()
        monkeypatch.setattr(loop, "_loops", {})
        results = flat(*case.scan(backend="cpu"))
        return results | gradients(results, case.leaves)

    expected = computed()
    assert len(list(folder.iterdir())) == 3  # routines, forward and backward
    monkeypatch.setattr(engine, "_compile", None)
    found = computed()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def test_another_process_finds_the_kernel_and_computes_the_same(entry: Path) -> None:
    program = f"""
import ctypes
import numpy as np
from unrolled.compile.cache import key_of, load
from unrolled.compile.engine import Program
from unrolled.compile.machine import machine

key = key_of("squares")
assert key == {KEY!r}, key
code, facts = load(key)
assert facts == {FACTS!r}, facts
context = np.array([3, 2, 3, -5], dtype=np.int64)
program = Program(code)
run = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_long, ctypes.c_long)(program.address("entry"))
run(context.ctypes.data, 0, 1)
assert context[1:].tolist() == [4, 9, 25], context
"""
    subprocess.run([sys.executable, "-c", program], env=os.environ | {"PYTHONHASHSEED": "7"}, check=True)


def test_storing_again_replaces(entry: Path, code: bytes) -> None:
    store(KEY, code, {"other": 1})
    assert load(KEY) == (code, {"other": 1})
    assert list(entry.parent.iterdir()) == [entry]


def test_what_was_never_stored_is_not_there_and_looking_for_it_makes_nothing(home: Path) -> None:
    assert load(KEY) is None
    assert not list(home.iterdir())


# -- damage -------------------------------------------------------------------------------------------------


def test_one_wrong_bit_anywhere_and_there_is_no_entry(entry: Path) -> None:
    whole = entry.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        entry.write_bytes(damaged)
        assert load(KEY) is None, position
    entry.write_bytes(whole)
    assert load(KEY) is not None


def test_cut_short_at_any_length_or_with_something_behind_there_is_no_entry(entry: Path) -> None:
    whole = entry.read_bytes()
    for length in range(len(whole)):
        entry.write_bytes(whole[:length])
        assert load(KEY) is None, length
    for more in (b"\0", whole):
        entry.write_bytes(whole + more)
        assert load(KEY) is None


def test_a_damaged_entry_is_written_anew(entry: Path, code: bytes) -> None:
    entry.write_bytes(entry.read_bytes()[:-1])
    store(KEY, code, FACTS)
    assert load(KEY) == (code, FACTS)


def test_under_another_key_s_name_there_is_no_entry(entry: Path) -> None:
    other = key_of("cubes")
    entry.rename(entry.with_name(entry.name.replace(KEY, other)))
    assert load(other) is None


def test_an_entry_of_another_version_of_the_format_is_none(
    entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sound but for its version: the checksum is right."""
    body = entry.read_bytes()[:-32].replace(b"unrolled kernel 1\n", b"unrolled kernel 2\n", 1)
    entry.write_bytes(body + hashlib.sha256(body).digest())
    assert load(KEY) is None
    monkeypatch.setattr(cache, "MAGIC", b"unrolled kernel 2\n")
    assert load(KEY) is not None


# -- keys ---------------------------------------------------------------------------------------------------


def test_a_key_is_64_digits_and_tells_its_parts_apart() -> None:
    keys = [key_of(*parts) for parts in ((), ("",), ("a",), ("a", "b"), ("b", "a"), ("ab",), ("a", "b", ""))]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 64 and set(key) <= set("0123456789abcdef") for key in keys)
    assert keys == [
        key_of(*parts) for parts in ((), ("",), ("a",), ("a", "b"), ("b", "a"), ("ab",), ("a", "b", ""))
    ]


@pytest.mark.parametrize(
    ("where", "name", "value"),
    [
        (llvm, "llvm_version_info", (99, 0, 0)),
        (llvmlite, "__version__", "99.0"),
        (llvm, "get_default_triple", lambda: "x86_64-elsewhere"),
        (cache, "machine", lambda: replace(machine(), name="i386")),
        (cache, "machine", lambda: replace(machine(), features="-avx2")),
        (cache, "SOURCE", "0" * 64),
    ],
    ids=["LLVM", "llvmlite", "triple", "processor", "its features", "source"],
)
def test_with_another_of_these_a_kernel_is_not_found(
    entry: Path, monkeypatch: pytest.MonkeyPatch, where: object, name: str, value: object
) -> None:
    monkeypatch.setattr(where, name, value)
    assert key_of("squares") != KEY
    assert load(key_of("squares")) is None


PRINT_NONE = {f"unrolled.{name}" for name in ("errors", "folders", "parameters", "rows", "tracing")}


def imported_by(path: Path) -> set[str]:
    """The modules of this library that a file imports."""
    nodes = ast.walk(ast.parse(path.read_text()))
    modules = {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module}
    return {module for module in modules if module.startswith("unrolled.")}


def test_the_source_that_counts_is_all_that_the_compiler_is_made_of(tmp_path: Path) -> None:
    """A byte more in any module that it imports is another source, but for those that print nothing."""
    copy = tmp_path / "unrolled"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert source_hash(copy) == SOURCE
    found = {path.relative_to(copy) for path in copy.glob("compile/*.py")}
    todo = [path for path in found if path.stem not in ("explain", "names")]  # words, not kernels
    while todo:
        for module in imported_by(copy / todo.pop()) - PRINT_NONE:
            path = Path(importlib.import_module(module).__file__).relative_to(PACKAGE)
            if path not in found:
                found.add(path)
                todo.append(path)
    assert {Path("graph.py"), Path("trace.py"), Path("compile/kernel.py")} <= found
    for path in found:
        text = (copy / path).read_text()
        (copy / path).write_text(text + "#")
        assert source_hash(copy) != SOURCE, path
        (copy / path).write_text(text)
    (copy / "compile" / "more.py").touch()
    assert source_hash(copy) != SOURCE


def test_where_the_source_cannot_be_read_nothing_is_kept(
    tmp_path: Path, entry: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "SOURCE", source_hash(tmp_path / "frozen.zip"))
    assert load(KEY) is None
    store(key_of("squares"), code, FACTS)
    assert list(entry.parent.iterdir()) == [entry]


# -- whom to trust ------------------------------------------------------------------------------------------


def unused(folder: Path, code: bytes) -> None:
    """The folder is neither read nor written."""
    before = sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())
    assert load(KEY) is None
    store(KEY, code, {"new": 1})
    store(key_of("more"), code, {})
    assert before == sorted((path.name, path.stat().st_mtime_ns) for path in folder.iterdir())


def test_folder_and_files_are_this_user_s_alone(entry: Path) -> None:
    assert entry.parent.stat().st_mode & 0o777 == 0o700
    assert entry.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("users", [True, False], ids=["with users", "without"])
def test_a_folder_that_is_a_link_is_not_used(
    entry: Path, home: Path, code: bytes, monkeypatch: pytest.MonkeyPatch, users: bool
) -> None:
    if not users:
        monkeypatch.delattr(os, "geteuid")
    elsewhere = entry.parent.rename(home / "elsewhere")
    entry.parent.symlink_to(elsewhere)
    unused(entry.parent, code)


@pytest.mark.parametrize("mode", [0o770, 0o720, 0o707, 0o702, 0o1777], ids=oct)
def test_a_folder_that_others_can_write_to_is_not_used(entry: Path, code: bytes, mode: int) -> None:
    entry.parent.chmod(mode)
    unused(entry.parent, code)
    entry.parent.chmod(0o755)
    assert load(KEY) is not None


def test_another_user_s_folder_is_not_used(entry: Path, code: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "geteuid", lambda: entry.parent.stat().st_uid + 1)
        unused(entry.parent, code)
    assert load(KEY) is not None


def test_another_user_s_file_in_this_user_s_folder_is_not_used(
    entry: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fstat(descriptor: int, fstat=os.fstat) -> os.stat_result:
        mode, inode, device, links, user, *rest = fstat(descriptor)
        return os.stat_result((mode, inode, device, links, user + 1, *rest))

    monkeypatch.setattr(os, "fstat", fstat)
    assert load(KEY) is None


@pytest.mark.parametrize("mode", [0o620, 0o602], ids=oct)
def test_a_file_that_others_can_write_to_is_not_used_and_replaced(
    entry: Path, code: bytes, mode: int
) -> None:
    entry.chmod(mode)
    assert load(KEY) is None
    store(KEY, code, FACTS)
    assert load(KEY) == (code, FACTS)


def test_a_file_that_is_a_link_is_not_followed_but_replaced(entry: Path, home: Path, code: bytes) -> None:
    elsewhere = entry.rename(home / "elsewhere")
    whole = elsewhere.read_bytes()
    entry.symlink_to(elsewhere)
    assert load(KEY) is None
    store(KEY, code, {"new": 1})
    assert load(KEY) == (code, {"new": 1})
    assert not entry.is_symlink()
    assert elsewhere.read_bytes() == whole


def test_where_there_are_no_users_the_cache_works(
    entry: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "geteuid")
    entry.parent.chmod(0o777)
    entry.chmod(0o666)
    assert load(KEY) == (code, FACTS)


def test_the_variable_turns_it_off(entry: Path, code: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNROLLED_KERNEL_CACHE", "0")
    unused(entry.parent, code)
    monkeypatch.setenv("UNROLLED_KERNEL_CACHE", "1")
    assert load(KEY) == (code, FACTS)


def test_a_user_without_a_home_has_no_cache(code: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("UNROLLED_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    store(KEY, code, FACTS)
    assert load(KEY) is None


# -- disks --------------------------------------------------------------------------------------------------


class Full:
    """A file on a disk that is full once half of it is written."""

    def __init__(self, *arguments, **options) -> None:
        self.file = OPEN(*arguments, **options)

    def __enter__(self) -> Full:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()

    def write(self, data: bytes) -> None:
        self.file.write(data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")


OPEN = builtins.open


def refuse(number: int):
    def refused(*arguments, **options):
        raise OSError(number, os.strerror(number))

    return refused


def test_on_a_full_disk_the_old_entry_stays_and_no_half_file(
    entry: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(builtins, "open", Full)
        store(KEY, code, {"new": 1})
        store(key_of("more"), code, {})
    assert list(entry.parent.iterdir()) == [entry]
    assert load(KEY) == (code, FACTS)


@pytest.mark.parametrize(
    ("where", "name", "number"),
    [
        (builtins, "open", errno.EROFS),
        (os, "open", errno.ENOSPC),
        (os, "replace", errno.EIO),
        (os, "lstat", errno.EACCES),
        (os, "scandir", errno.EIO),
        (Path, "mkdir", errno.EROFS),
        (Path, "unlink", errno.EIO),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_disk_that_refuses_is_no_error_and_takes_nothing_away(
    entry: Path, code: bytes, monkeypatch: pytest.MonkeyPatch, where: object, name: str, number: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(where, name, refuse(number))
        store(KEY, code, FACTS)
        load(KEY)
    assert list(entry.parent.iterdir()) == [entry]
    assert load(KEY) == (code, FACTS)
    store(KEY, code, {"new": 1})
    assert load(KEY) == (code, {"new": 1})


def test_a_disk_that_can_only_be_read_is_read(
    entry: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "utime", refuse(errno.EROFS))
    assert load(KEY) == (code, FACTS)


def test_where_a_file_or_a_folder_stands_in_the_way_there_is_no_cache(
    entry: Path, folder: Path, code: bytes
) -> None:
    entry.unlink()
    entry.mkdir()
    assert load(KEY) is None
    store(KEY, code, FACTS)
    assert list(folder.iterdir()) == [entry]
    entry.rmdir()
    folder.rmdir()
    folder.write_text("a file")
    assert load(KEY) is None
    store(KEY, code, FACTS)
    assert folder.read_text() == "a file"


# -- several at once ----------------------------------------------------------------------------------------

WRITER = f"""
import sys
from unrolled.compile.cache import store

print("ready", flush=True)
number = int(sys.stdin.readline())
for turn in range(300):
    store({KEY!r}, bytes([number]) * (20_000 + 5_000 * number + turn), {{"number": number, "turn": turn}})
"""


def test_while_two_processes_store_the_same_kernel_a_reader_finds_one_or_the_other(folder: Path) -> None:
    pipe = subprocess.PIPE
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER], stdin=pipe, stdout=pipe, text=True) for _ in range(2)
    ]
    seen = set()

    def look() -> None:
        found = load(KEY)
        if found is not None:
            code, facts = found
            number, turn = facts["number"], facts["turn"]
            assert code == bytes([number]) * (20_000 + 5_000 * number + turn)
            seen.add(number)

    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for number, writer in enumerate(writers, 1):
        writer.stdin.write(f"{number}\n")
        writer.stdin.flush()
    while any(writer.poll() is None for writer in writers):
        look()
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    look()
    assert seen
    assert [path.name for path in folder.iterdir()] == [f"{KEY}.kernel"]


def test_threads_that_store_and_load_at_once_find_whole_entries(folder: Path, code: bytes) -> None:
    wrong: list[object] = []

    def work(number: int) -> None:
        for turn in range(40):
            store(key_of(str(turn % 3)), code, {"number": number})
            found = load(key_of(str(turn % 3)))
            if found is None or found[0] != code or found[1]["number"] not in range(6):
                wrong.append(found)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(folder.iterdir())) == 3


# -- size ---------------------------------------------------------------------------------------------------


def aged(folder: Path, code: bytes, names: str) -> None:
    """Kernels of these names, the first used longest ago."""
    for age, name in enumerate(reversed(names), 1):
        store(key_of(name), code, {})
        os.utime(folder / f"{key_of(name)}.kernel", (1e9 - age, 1e9 - age))


def kept(names: str) -> str:
    """Those of these kernels that are there; this is no use of them."""
    return "".join(name for name in names if (cache._folder() / f"{key_of(name)}.kernel").exists())


def test_beyond_the_limit_the_kernels_not_used_for_longest_go(
    folder: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(folder, code, "abcd")
    size = next(folder.iterdir()).stat().st_size
    monkeypatch.setattr(cache, "LIMIT", 4 * size)
    assert load(key_of("a")) is not None
    store(key_of("e"), code, {})
    assert kept("abcde") == "acde"
    monkeypatch.setattr(cache, "LIMIT", 4 * size - 1)
    store(key_of("f"), code, {})
    assert len(kept("abcdef")) == 3
    assert not set("bcd") & set(kept("abcdef"))
    assert load(key_of("f")) == (code, {})


def test_at_the_limit_nothing_goes(folder: Path, code: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    aged(folder, code, "abc")
    size = next(folder.iterdir()).stat().st_size
    monkeypatch.setattr(cache, "LIMIT", 4 * size)
    store(key_of("d"), code, {})
    assert kept("abcd") == "abcd"


def test_what_a_killed_process_left_behind_goes_first_and_a_stranger_s_file_stays(
    folder: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(folder, code, "ab")
    left, strange = folder / f"{KEY}.kernel.0123456789abcdef.part", folder / "notes.txt"
    for path in (left, strange):
        path.write_bytes(bytes(500))
        os.utime(path, (1e8, 1e8))
    size = (folder / f"{key_of('a')}.kernel").stat().st_size
    monkeypatch.setattr(cache, "LIMIT", 3 * size)
    store(key_of("c"), code, {})
    assert kept("abc") == "abc"
    assert not left.exists()
    assert strange.exists()


def test_a_file_that_another_process_removes_meanwhile_is_no_hindrance(
    folder: Path, code: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    aged(folder, code, "abc")
    size = next(folder.iterdir()).stat().st_size
    monkeypatch.setattr(cache, "LIMIT", 2 * size)
    first = str(folder / f"{key_of('a')}.kernel")

    def unlink(path: str, unlink=os.unlink) -> None:
        unlink(path)
        if path == first:
            unlink(path)  # as if the other process had been faster

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        store(key_of("d"), code, {})
    assert kept("abcd") == "cd"
