"""The processor that kernels are printed for."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from functools import lru_cache

import llvmlite.binding as llvm


@dataclass(frozen=True)
class Machine:
    """A processor.

    name, features: as LLVM writes them, such as "znver4" and "+avx2,+fma,-avx512f".
    architecture: "x86_64" or "aarch64", or what this is instead.
    """

    name: str
    features: str
    architecture: str

    def has(self, feature: str) -> bool:
        return f"+{feature}" in self.features.split(",")

    @property
    def is_x86(self) -> bool:
        return self.architecture == "x86_64"

    @property
    def bits(self) -> int:
        """Of a vector."""
        return 512 if self.has("avx512f") else 256 if self.has("avx2") else 128

    @property
    def group(self) -> int:
        """Vectors of the widest register tile: with six rows of them, the weights and one element, they fill
        the 32 registers of AVX-512 and NEON, or the 16 of other x86 processors."""
        return 2 if self.is_x86 and self.bits < 512 else 4

    @property
    def fused(self) -> bool:
        """Whether a multiplication and an addition are one instruction."""
        return self.has("fma") or not self.is_x86

    def lanes(self, scalar: str) -> int:
        """Elements of a vector of "float" or "double"."""
        return self.bits // {"float": 32, "double": 64}[scalar]


def detect() -> Machine:
    """What this computer has."""
    architecture = {"amd64": "x86_64", "arm64": "aarch64"}.get(platform.machine().lower(), platform.machine())
    return Machine(llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten(), architecture)


@lru_cache
def machine() -> Machine:
    """The processor of this computer."""
    return detect()
