"""The team: its text in LLVM IR, and torch's threads carrying out plans."""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from typing import Final

import llvmlite.binding as llvm

import unrolled.compile.attend  # noqa: F401  (its jobs are among PRINTERS)
from unrolled.compile.cache import key_of, load, store
from unrolled.compile.emit import ATTRIBUTES, Emitter
from unrolled.compile.engine import LOCK, Program, forked
from unrolled.compile.jobs import ARGUMENTS, HEADER, JOBS, PRINTERS, Job
from unrolled.compile.machine import machine
from unrolled.compile.products import print_tiles

_DRIVE: Final = f"""
declare i32 @sched_yield()

; Wait until all workers are here: spin for a while, then let others run.
define void @meet(ptr %context, i64 %workers) {{
  %alone = icmp eq i64 %workers, 1
  br i1 %alone, label %out, label %come
come:
  %arrived = getelementptr i64, ptr %context, i64 {HEADER["arrived"]}
  %meeting = getelementptr i64, ptr %context, i64 {HEADER["meeting"]}
  %this = load atomic i64, ptr %meeting monotonic, align 8
  %before = atomicrmw add ptr %arrived, i64 1 acq_rel
  %count = add i64 %before, 1
  %last = icmp eq i64 %count, %workers
  br i1 %last, label %open, label %wait
open:
  store atomic i64 0, ptr %arrived monotonic, align 8
  %next = add i64 %this, 1
  store atomic i64 %next, ptr %meeting release, align 8
  br label %out
wait:
  %turns = phi i64 [ 0, %come ], [ %more, %again ]
  %now = load atomic i64, ptr %meeting acquire, align 8
  %still = icmp eq i64 %now, %this
  br i1 %still, label %pause, label %out
pause:
  call void @pause()
  %more = add i64 %turns, 1
  %long = icmp ugt i64 %more, 4000
  br i1 %long, label %yield, label %again
yield:
  call i32 @sched_yield()
  br label %again
again:
  br label %wait
out:
  ret void
}}

define internal void @carry_out(ptr %context, i64 %list, i64 %begin, i64 %end, i64 %worker, i64 %workers) {{
  %place = getelementptr i64, ptr %context, i64 %list
  %offset = load i64, ptr %place
  %first = getelementptr i64, ptr %context, i64 %offset
  br label %next
next:
  %job = phi ptr [ %first, %0 ], [ %following, %do ]
  %routine = load ptr, ptr %job
  %done = icmp eq ptr %routine, null
  br i1 %done, label %out, label %do
do:
  call void %routine(ptr %job, ptr %context, i64 %begin, i64 %end, i64 %worker, i64 %workers)
  %length_at = getelementptr i64, ptr %job, i64 1
  %length = load i64, ptr %length_at
  %following = getelementptr i64, ptr %job, i64 %length
  br label %next
out:
  ret void
}}

define void @entry(ptr %context, i64 %worker, i64 %workers) {{
  %T_at = getelementptr i64, ptr %context, i64 {HEADER["T"]}
  %T = load i64, ptr %T_at
  %chunk_at = getelementptr i64, ptr %context, i64 {HEADER["chunk rows"]}
  %chunk = load i64, ptr %chunk_at
  %offsets_at = getelementptr i64, ptr %context, i64 {HEADER["offsets"]}
  %offsets = load ptr, ptr %offsets_at
  %reversed_at = getelementptr i64, ptr %context, i64 {HEADER["reversed"]}
  %reversed_word = load i64, ptr %reversed_at
  %reversed = icmp ne i64 %reversed_word, 0
  %steps_at = getelementptr i64, ptr %context, i64 {HEADER["steps"]}
  %steps = load ptr, ptr %steps_at
  call void @carry_out(ptr %context, i64 {HEADER["begin"]}, i64 0, i64 0, i64 %worker, i64 %workers)
  br label %head
head:
  %s = phi i64 [ 0, %0 ], [ %s_end, %do ]
  %mirror_end = sub i64 %T, %s
  %more = icmp slt i64 %s, %T
  br i1 %more, label %longer, label %out
longer:
  %before = phi i64 [ %s, %head ], [ %s_end, %longer ]
  %s_end = add i64 %before, 1
  %mirror = sub i64 %T, %s_end
  %begin = select i1 %reversed, i64 %mirror, i64 %s
  %end = select i1 %reversed, i64 %mirror_end, i64 %s_end
  %begin_at = getelementptr i64, ptr %offsets, i64 %begin
  %first = load i64, ptr %begin_at
  %end_at = getelementptr i64, ptr %offsets, i64 %end
  %last = load i64, ptr %end_at
  %rows = sub i64 %last, %first
  %few = icmp slt i64 %rows, %chunk
  %left = icmp slt i64 %s_end, %T
  %go_on = and i1 %few, %left
  br i1 %go_on, label %longer, label %do
do:
  call void @carry_out(ptr %context, i64 {HEADER["before"]}, i64 %begin, i64 %end, i64 %worker, i64 %workers)
  call void %steps(ptr %context, i64 %s, i64 %s_end, i64 %begin, i64 %worker, i64 %workers)
  call void @meet(ptr %context, i64 %workers)
  call void @carry_out(ptr %context, i64 {HEADER["after"]}, i64 %begin, i64 %end, i64 %worker, i64 %workers)
  br label %head
out:
  call void @carry_out(ptr %context, i64 {HEADER["end"]}, i64 0, i64 0, i64 %worker, i64 %workers)
  ret void
}}
"""

_TEAM: Final = """
declare i32 @omp_get_thread_num()
declare i32 @omp_get_num_threads()
declare void @GOMP_parallel(ptr, ptr, i32, i32)

define internal void @share(ptr %context, i32 %number, i32 %size) {
  %before = call i64 @get_control()
  %inside = or i64 %before, DENORMALS
  call void @set_control(i64 %inside)
  %worker = sext i32 %number to i64
  %workers = sext i32 %size to i64
  call void @entry(ptr %context, i64 %worker, i64 %workers)
  call void @set_control(i64 %before)
  ret void
}

define internal void @team(ptr %context) {
  %number = call i32 @omp_get_thread_num()
  %size = call i32 @omp_get_num_threads()
  call void @share(ptr %context, i32 %number, i32 %size)
  ret void
}

; Carry out a plan on tensors: a copy of its words gets the addresses in them. Returns the fault.
define i64 @launch(ptr %plan, ptr %tensors, i64 %workers) {
  %words = load ptr, ptr %plan
  %size_at = getelementptr i64, ptr %plan, i64 1
  %size = load i64, ptr %size_at
  %moves_at = getelementptr i64, ptr %plan, i64 2
  %moves = load ptr, ptr %moves_at
  %count_at = getelementptr i64, ptr %plan, i64 3
  %count = load i64, ptr %count_at
  %context = alloca i64, i64 %size, align 64
  br label %copy
copy:
  %w = phi i64 [ 0, %0 ], [ %w_next, %copy ]
  %from = getelementptr i64, ptr %words, i64 %w
  %to = getelementptr i64, ptr %context, i64 %w
  %word = load i64, ptr %from
  store i64 %word, ptr %to
  %w_next = add i64 %w, 1
  %w_more = icmp slt i64 %w_next, %size
  br i1 %w_more, label %copy, label %move
move:
  %m = phi i64 [ 0, %copy ], [ %m_next, %move ]
  %place_at = getelementptr [3 x i64], ptr %moves, i64 %m
  %tensor_at = getelementptr i64, ptr %place_at, i64 1
  %offset_at = getelementptr i64, ptr %place_at, i64 2
  %place = load i64, ptr %place_at
  %tensor = load i64, ptr %tensor_at
  %offset = load i64, ptr %offset_at
  %begin_at = getelementptr i64, ptr %tensors, i64 %tensor
  %begin = load i64, ptr %begin_at
  %address = add i64 %begin, %offset
  %there = getelementptr i64, ptr %context, i64 %place
  store i64 %address, ptr %there
  %m_next = add i64 %m, 1
  %m_more = icmp slt i64 %m_next, %count
  br i1 %m_more, label %move, label %start
start:
  %one = icmp eq i64 %workers, 1
  br i1 %one, label %alone, label %together
alone:
  call void @share(ptr %context, i32 0, i32 1)
  br label %end
together:
  %threads = trunc i64 %workers to i32
  call void @GOMP_parallel(ptr @team, ptr %context, i32 %threads, i32 0)
  br label %end
end:
  %fault_at = getelementptr i64, ptr %context, i64 FAULT
  %fault = load i64, ptr %fault_at
  ret i64 %fault
}
"""

# The floating-point control word, which is put back after: DENORMALS are its bits that flush them to zero.
_X86: Final = """
declare void @llvm.x86.sse2.pause()
declare void @llvm.x86.sse.stmxcsr(ptr)
declare void @llvm.x86.sse.ldmxcsr(ptr)

define internal void @pause() {
  call void @llvm.x86.sse2.pause()
  ret void
}

define internal i64 @get_control() {
  %place = alloca i32
  call void @llvm.x86.sse.stmxcsr(ptr %place)
  %word = load i32, ptr %place
  %wide = zext i32 %word to i64
  ret i64 %wide
}

define internal void @set_control(i64 %wide) {
  %place = alloca i32
  %word = trunc i64 %wide to i32
  store i32 %word, ptr %place
  call void @llvm.x86.sse.ldmxcsr(ptr %place)
  ret void
}
"""

_ARM: Final = """
declare i64 @llvm.aarch64.get.fpcr()
declare void @llvm.aarch64.set.fpcr(i64)
declare void @llvm.aarch64.hint(i32)

define internal void @pause() {
  call void @llvm.aarch64.hint(i32 1)
  ret void
}

define internal i64 @get_control() {
  %word = call i64 @llvm.aarch64.get.fpcr()
  ret i64 %word
}

define internal void @set_control(i64 %word) {
  call void @llvm.aarch64.set.fpcr(i64 %word)
  ret void
}
"""


def print_routines(scalar: str, lanes: int) -> str:
    """The module of all jobs, `job_NAME`, and of the team that carries out a plan."""
    functions: list[str] = []
    intrinsics: set[str] = set()

    def add(e: Emitter, signature: str) -> None:
        functions.append("\n".join((f"define {signature} {ATTRIBUTES} {{", *e.lines, "}")))
        intrinsics.update(e.intrinsics)

    print_tiles(scalar, lanes, add)
    for printer in PRINTERS:
        job = Job(scalar, lanes, JOBS[printer.__name__])
        printer(job)
        job.do("ret void")
        add(job, f"void @job_{printer.__name__}({ARGUMENTS})")
    here, flush = (_X86, 1 << 6 | 1 << 15) if machine().is_x86 else (_ARM, 1 << 24)
    team = _TEAM.replace("DENORMALS", str(flush)).replace("FAULT", str(HEADER["fault"]))
    return "\n".join((*sorted(intrinsics), *functions, _DRIVE, team, here))


class Team:
    """Torch's own threads, carrying out plans with the routines of a program."""

    def __init__(self, routines: Program) -> None:
        self.address = cache(routines.address)
        llvm.add_symbol("meet", routines.address("meet"))
        launch = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64)
        self._launch = launch(routines.address("launch"))
        self._routines = routines  # its code is in use

    def run(self, plan: int, tensors: bytes, workers: int) -> int:
        """Run on this many of torch's own threads; in a forked child, where they are gone, on this one.

        Args:
            plan: the address of a plan's words, their number, the moves, and their number. A move is a word,
                a tensor, and how many bytes from its beginning the word's address is.
            tensors: the addresses of the tensors.

        Returns:
            what a job has put into `fault`.
        """
        fault: int = self._launch(plan, tensors, 1 if forked() else workers)
        return fault


@lru_cache
def team_of(scalar: str) -> Team:
    """The team of a precision."""
    with LOCK:
        key = key_of("routines", scalar)
        if (found := load(key)) is not None:
            return Team(Program(found[0]))
        program = Program(print_routines(scalar, machine().lanes(scalar)))
        store(key, program.code, {})
        return Team(program)
