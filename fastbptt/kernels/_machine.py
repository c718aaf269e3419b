"""Facts about the machine: vectors and caches, and the tiles and panels that suit them."""

import functools
import os
import re

import llvmlite.binding as llvm
from numba.core import config
from numba.core.registry import cpu_target

LINE = 64  # bytes of a cache line

# A panel is so many vectors wide.  8 x 2 accumulators keep two 512-bit FMA units busy (2 units x 4
# cycles of latency = 8 at least) within 32 registers; 6 x 2 fill 12 of the 16 that AVX2 has.
VECTORS = 2
# Panels that a row alone may take at once; with four there are 8 accumulators again.
WIDE = 2, 4


@functools.cache
def target():
    """Vector width in bytes, and whether there is a fused multiply-add, of the CPU compiled for.

    Found by compiling one vector operation and reading the assembly, so that it holds for any
    architecture and for NUMBA_CPU_NAME and NUMBA_CPU_FEATURES.  A CPU named by NUMBA_CPU_NAME is
    taken at its word: Numba adds the host's features to it, which are left out here.
    """
    triple, cpu, features = cpu_target.target_context.codegen().magic_tuple()
    if config.CPU_NAME:
        features = config.CPU_FEATURES or ""
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu, features, opt=1)
    vec = "<16 x float>"
    module = llvm.parse_assembly(f"""
        target triple = "{triple}"
        declare {vec} @llvm.fma.v16f32({vec}, {vec}, {vec})
        define void @probe(ptr %p) {{
            %v = load {vec}, ptr %p
            %w = call {vec} @llvm.fma.v16f32({vec} %v, {vec} %v, {vec} %v)
            store {vec} %w, ptr %p
            ret void
        }}""")
    assembly = machine.emit_assembly(module)
    width = 64 if "zmm" in assembly else 32 if "ymm" in assembly else 16
    return width, not re.search(r"\bfmaf\b", assembly)


def architecture():
    """Such as "x86_64" or "aarch64"."""
    return llvm.get_process_triple().split("-")[0]


def lanes(itemsize):
    """Elements of one vector."""
    return target()[0] // itemsize


def panel_columns(itemsize):
    """NR, the columns of a panel."""
    return VECTORS * lanes(itemsize)


def tile_rows_count():
    """MR, the most rows of `tile_rows`."""
    return 8 if target()[0] == 64 else 6


def spare_registers():
    """Whether beside a tile's sums there are registers to compute an activation in.

    16 of 32 with AVX-512.  With AVX2 there is one; elsewhere it has not been measured.
    """
    return target()[0] == 64


def tile_columns_count(itemsize):
    """MT, the most rows of `tile_columns`; divides the lanes of a vector."""
    return min(8 if target()[0] == 64 else 4, lanes(itemsize))


@functools.cache
def l2_bytes():
    """Size of the second-level cache of a core; 1 MiB where the system does not say."""
    try:
        return os.sysconf("SC_LEVEL2_CACHE_SIZE") or 1 << 20
    except (ValueError, OSError, AttributeError):
        return 1 << 20
