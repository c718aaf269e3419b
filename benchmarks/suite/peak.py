"""The machine's limit: fused multiply-adds per second, measured, not looked up."""

from concurrent.futures import ThreadPoolExecutor

import llvmlite.binding as llvm
import numba
import numpy as np
from llvmlite import ir
from numba import njit
from numba.core import cgutils
from numba.extending import intrinsic

CHAINS = 12  # two FMA units of 4 or 5 cycles need 10; with v 13 of the 16 registers of AVX2
TURNS = 500_000  # of the loop in one call: some milliseconds


def vector_bytes():
    """Width of this CPU's vector registers; not asked of fastbptt, whose share is measured."""
    features = llvm.get_host_cpu_features()
    return 64 if features.get("avx512f") else 32 if features.get("avx2") else 16


def _lanes(dtype):
    return vector_bytes() * 8 // dtype.bitwidth


@intrinsic
def _multiply_add(typingctx, start, turns):
    """CHAINS vectors, each v = v * start + start in every turn, in registers; their sum's first."""
    scalar = ir.FloatType() if start.bitwidth == 32 else ir.DoubleType()
    vector, word = ir.VectorType(scalar, _lanes(start)), ir.IntType(64)

    def emit(context, builder, signature, args):
        # llvm.fmuladd: fused where the CPU can, else the two instructions that it has
        name = f"llvm.fmuladd.v{vector.count}f{start.bitwidth}"
        kind = ir.FunctionType(vector, [vector] * 3)
        multiply_add = cgutils.get_or_insert_function(builder.module, kind, name)
        one = builder.insert_element(ir.Constant(vector, ir.Undefined), args[0], word(0))
        v = builder.shuffle_vector(
            one, one, ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
        )
        before, loop = builder.block, builder.append_basic_block()
        done = builder.append_basic_block()
        builder.branch(loop)
        builder.position_at_end(loop)
        turn, chains = builder.phi(word), [builder.phi(vector) for _ in range(CHAINS)]
        results = [builder.call(multiply_add, [chain, v, v]) for chain in chains]
        next_turn = builder.add(turn, word(1))
        turn.add_incoming(word(0), before)
        turn.add_incoming(next_turn, loop)
        for i, (chain, result) in enumerate(zip(chains, results, strict=True)):
            # chains that begin alike would be computed once
            chain.add_incoming(ir.Constant(vector, [float(i)] * vector.count), before)
            chain.add_incoming(result, loop)
        builder.cbranch(builder.icmp_signed("<", next_turn, args[1]), loop, done)
        builder.position_at_end(done)
        total = results[0]
        for result in results[1:]:
            total = builder.fadd(total, result)
        return builder.extract_element(total, word(0))

    return start(start, turns), emit


# Not cached on disk: asv, which names this package `suite`, would get what Numba has cached for the
# tools, which name it `benchmarks.suite`, and Numba would look for a module of that name.
@njit(nogil=True)
def _burn(start, turns):
    return _multiply_add(start, turns)


def burner(dtype):
    """A function that keeps all threads busy with multiply-adds, and how many operations it does.

    It uses as many threads as Numba is set to.
    """
    threads, start = numba.get_num_threads(), np.dtype(dtype).type(0.5)
    _burn(start, 1)  # compiles
    pool = ThreadPoolExecutor(threads)

    def call():
        for result in [pool.submit(_burn, start, TURNS) for _ in range(threads)]:
            result.result()

    return call, threads * TURNS * CHAINS * _lanes(numba.typeof(start)) * 2
