"""Machine code in this process: LLVM IR or an object in, a function that a team of threads runs out."""

from __future__ import annotations

import ctypes
import os
import threading
from functools import lru_cache
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Final

import llvmlite.binding as llvm
import torch

from unrolled.compile.machine import machine
from unrolled.errors import BackendError
from unrolled.tracing import constant

LOCK: Final = threading.RLock()
"""Guards all compilation; a fork waits for it, so that no child is born with half a kernel."""

_state: dict[str, Any] = {}


def _in_child() -> None:
    LOCK.release()
    _state["forked"] = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_in_child)


def forked() -> bool:
    """Whether this process was forked, so that the threads of the one before are not there."""
    return "forked" in _state


@lru_cache
def gomp() -> Any:
    """The OpenMP library that torch has loaded; LLVM is then ready, and knows what kernels call of it."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    library = ctypes.CDLL(str(_gomp()))
    for name in ("omp_get_thread_num", "omp_get_num_threads", "GOMP_parallel"):
        llvm.add_symbol(name, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
    return library


@constant
def host_cannot() -> str | None:
    """Why no kernel can be compiled here, or None."""
    if machine().architecture not in ("x86_64", "aarch64"):
        return f"kernels are printed for x86-64 and ARM64 processors, and this is {machine().architecture}"
    if _gomp() is None:
        return "this PyTorch does not come with libgomp, whose threads the kernels run on"
    return None


@lru_cache
def _gomp() -> Path | None:
    package = Path(torch.__file__).parent
    folders = (package / "lib", package.parent / "torch.libs")
    return next((found for folder in folders for found in sorted(folder.glob("libgomp*"))), None)


def _compile(text: str) -> bytes:
    """The object file, made for this processor, of a kernel's text."""
    here = machine()
    target = llvm.Target.from_default_triple().create_target_machine(
        cpu=here.name, features=here.features, opt=3
    )
    module = llvm.parse_assembly(text)
    module.verify()
    # The text is in its final form: loops are tiled and unrolled where they should be.
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_unrolling = False
    options.loop_vectorization = False
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(target, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(target.emit_object(module))


def _compiled(text: str) -> bytes:
    try:
        return _compile(text)
    except RuntimeError as error:
        descriptor, path = mkstemp(suffix=".ll", prefix="unrolled_")
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        what = " ".join(str(error).split())
        raise BackendError(
            f"LLVM cannot compile a kernel ({what}); its text is in {path}, for a report; "
            "until then backend='reference' runs the cell"
        ) from error


def _engine_of(code: bytes) -> Any:
    """An engine that holds an object file.

    The engine takes the object for the compiled form of an empty module. Adding the object beside that
    module (`add_object_file`) would be four times as slow, for then the module is compiled as well. No code
    is generated, so any target machine will do; an engine takes it over, so each needs its own.
    """
    target = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target)
    engine.set_object_cache(getbuffer_func=lambda module: code)
    engine.finalize_object()
    return engine


class Program:
    """Compiled functions.

    Made from their text, or from the `code` of an earlier program: an object file for this processor. LLVM
    ends the process over a damaged one.

    Raises:
        BackendError: LLVM cannot compile the text, which is kept in a file.
    """

    def __init__(self, source: str | bytes) -> None:
        with LOCK:
            gomp()
            self.code = source if isinstance(source, bytes) else _compiled(source)
            self._engine = _engine_of(self.code)

    def address(self, name: str) -> int:
        """Where a function is."""
        return int(self._engine.get_function_address(name))
