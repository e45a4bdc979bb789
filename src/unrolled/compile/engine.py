"""Machine code in this process: LLVM IR or an object in, a function that a team of threads runs out."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt
import torch

LOCK: Final = threading.RLock()
"""Guards all compilation; a fork waits for it, so that no child is born with half a kernel."""

_state: dict[str, Any] = {}


def _in_child() -> None:
    LOCK.release()
    _state["forked"] = True


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_in_child)


def _prepare() -> None:
    """Make LLVM ready for this processor, and tell it what kernels call."""
    if "gomp" not in _state:
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        gomp = ctypes.CDLL(str(_gomp()))
        for name in ("omp_get_thread_num", "omp_get_num_threads"):
            llvm.add_symbol(name, ctypes.cast(getattr(gomp, name), ctypes.c_void_p).value)
        _state["gomp"] = gomp


@lru_cache
def processor() -> tuple[str, str]:
    """The name of this processor and what it can do, as LLVM writes them."""
    return llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()


def host_cannot() -> str | None:
    """Why no kernel can be compiled here, or None."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return f"kernels are printed for x86-64, and this is {platform.machine()}"
    if _gomp() is None:
        return "this PyTorch does not come with libgomp, whose threads the kernels run on"
    return None


@lru_cache
def _gomp() -> Path | None:
    return next(Path(torch.__file__).parent.joinpath("lib").glob("libgomp*"), None)


def lanes_of(scalar: str) -> int:
    """Elements of this processor's vectors."""
    features = llvm.get_host_cpu_features()
    bits = 512 if features.get("avx512f") else 256 if features.get("avx2") else 128
    return bits // {"float": 32, "double": 64}[scalar]


# Kernels run with denormals flushed to zero (bits 6 and 15 of the control register), which is put back after.
TEAM: Final = """
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)
declare i32 @omp_get_thread_num()
declare i32 @omp_get_num_threads()

define internal void @share(ptr %context, i32 %number, i32 %size) {
  %before = alloca i32
  %inside = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %before)
  %old = load i32, ptr %before
  %new = or i32 %old, 32832
  store i32 %new, ptr %inside
  call void @llvm.x86.sse.ldmxcsr(ptr %inside)
  %worker = sext i32 %number to i64
  %workers = sext i32 %size to i64
  call void @entry(ptr %context, i64 %worker, i64 %workers)
  call void @llvm.x86.sse.ldmxcsr(ptr %before)
  ret void
}

define void @alone(ptr %context) {
  call void @share(ptr %context, i32 0, i32 1)
  ret void
}

define void @team(ptr %context) {
  %number = call i32 @omp_get_thread_num()
  %size = call i32 @omp_get_num_threads()
  call void @share(ptr %context, i32 %number, i32 %size)
  ret void
}
"""


def _compile(text: str) -> bytes:
    """The object file, made for this processor, of a kernel's text."""
    name, features = processor()
    machine = llvm.Target.from_default_triple().create_target_machine(cpu=name, features=features, opt=3)
    module = llvm.parse_assembly(text)
    module.verify()
    # The text is in its final form: loops are tiled and unrolled where they should be.
    options = llvm.create_pipeline_tuning_options(speed_level=1)
    options.loop_unrolling = False
    options.loop_vectorization = False
    options.slp_vectorization = False
    builder = llvm.create_pass_builder(machine, options)
    builder.getModulePassManager().run(module, builder)
    return bytes(machine.emit_object(module))


def _engine_of(code: bytes) -> Any:
    """An engine that holds an object file.

    The engine takes the object for the compiled form of an empty module. Adding the object beside that
    module (`add_object_file`) would be four times as slow, for then the module is compiled as well. No code
    is generated, so any target machine will do; an engine takes it over, so each needs its own.
    """
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.set_object_cache(getbuffer_func=lambda module: code)
    engine.finalize_object()
    return engine


class Program:
    """Compiled functions.

    Made from their text, or from the `code` of an earlier program: an object file for this processor. LLVM
    ends the process over a damaged one.
    """

    def __init__(self, source: str | bytes) -> None:
        with LOCK:
            _prepare()
            self.code = _compile(source) if isinstance(source, str) else source
            self._engine = _engine_of(self.code)

    def address(self, name: str) -> int:
        """Where a function is."""
        return int(self._engine.get_function_address(name))


class Team:
    """Torch's own threads, carrying out contexts with the routines of a program."""

    def __init__(self, routines: Program) -> None:
        self.address = routines.address
        llvm.add_symbol("meet", routines.address("meet"))
        self._team = routines.address("team")
        self._alone = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(routines.address("alone"))
        self._parallel = _state["gomp"].GOMP_parallel
        self._parallel.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
        self._routines = routines  # its code is in use

    def run(self, context: npt.NDArray[np.int64], workers: int) -> None:
        """Run on this many of torch's own threads; in a forked child, where they are gone, on this one."""
        if workers == 1 or "forked" in _state:
            self._alone(context.ctypes.data)
        else:
            self._parallel(self._team, context.ctypes.data, workers, 0)
