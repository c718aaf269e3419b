"""Threads: how compiled tasks start, share work, and wait for each other.

A worker is a compiled function of (pointer to its task, slot).  Any number of workers may run the
same task: they draw tickets from a counter, and a ticket says which piece of work to do.  A piece
waits for pieces of smaller tickets only, which somebody has drawn already, so that the work gets
done by however many workers really run, one included.

There is a single parallel loop in the package, `_launch`, and it calls workers by their address.
It starts from Python only, one launch at a time in a process: the workqueue layer aborts when two
threads launch at once, and GNU OpenMP does not survive a fork.  Who cannot launch works alone,
with the same results to the bit.
"""

import functools
import hashlib
import os
import threading
import warnings
from pathlib import Path

import numba
from llvmlite import ir
from numba import njit, prange, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbptt.kernels.simd import INT64, cast, fetch_add, give_way, offset, pause, read_counter

# Digest of all that shapes machine code.  Numba's disk cache sees edits in a function's own file
# only; a compiled entry point that holds this number in a closure is compiled anew after an edit
# in any file here.
SOURCE = int.from_bytes(
    hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    ).digest()[:7]
)

SPINS = 500  # before a waiting thread offers its core to others

_warned = False


def compile_cached(function, signature=None, **options):
    """`njit` with the disk cache; without it, after one warning, where no directory is writable."""
    global _warned
    try:
        return njit(signature, cache=True, nogil=True, **options)(function)
    except RuntimeError as error:
        if not _warned:
            _warned = True
            warnings.warn(
                f"fastbptt compiles its kernels in every process: {error}. "
                "Set NUMBA_CACHE_DIR to a writable directory to keep them.",
                RuntimeWarning,
                stacklevel=2,
            )
        return njit(signature, nogil=True, **options)(function)


@intrinsic
def keep(typingctx, p, task):
    """Store a task, a tuple, at p; return p as a pointer to it."""
    to = types.CPointer(task)

    def emit(context, builder, signature, args):
        there = builder.bitcast(args[0], args[1].type.as_pointer())
        builder.store(args[1], there)
        return builder.bitcast(there, context.get_value_type(to))

    return to(p, task), emit


@intrinsic
def fetch(typingctx, p):
    """The task at p."""

    def emit(context, builder, signature, args):
        there = builder.bitcast(args[0], context.get_value_type(p.dtype).as_pointer())
        return builder.load(there)

    return p.dtype(p), emit


@intrinsic
def addresses(typingctx, worker, task):
    """Addresses of a compiled worker(task, slot) and of its task, for `_launch`."""
    call = worker.get_call_type(typingctx, (task, types.intp), {})

    def emit(context, builder, signature, args):
        compiled = worker.dispatcher.overloads[call.args]
        context.active_code_library.add_linking_library(compiled.library)
        function = context.declare_function(builder.module, compiled.fndesc)
        result = [builder.ptrtoint(function, INT64), builder.ptrtoint(args[1], INT64)]
        return context.make_tuple(builder, signature.return_type, result)

    return types.UniTuple(types.intp, 2)(worker, task), emit


@intrinsic
def _call(typingctx, function, task, slot):
    """Call the worker at an address, by Numba's own calling convention."""

    def emit(context, builder, signature, args):
        convention = context.call_conv
        pointer = ir.IntType(8).as_pointer()
        kind = convention.get_function_type(types.none, (types.voidptr, types.intp))
        result = cgutils.alloca_once(builder, kind.args[0].pointee)
        exception = cgutils.alloca_once(builder, kind.args[1].pointee)
        worker = builder.inttoptr(args[0], kind.as_pointer())
        builder.call(worker, [result, exception, builder.inttoptr(args[1], pointer), args[2]])
        return context.get_dummy_value()

    return types.void(function, task, slot), emit


@njit
def draw(tickets):
    """The next ticket."""
    return fetch_add(tickets, 1)


@njit
def wait(counter, count):
    """Until the counter has reached count.

    Spins for some microseconds.  If it takes longer, whoever is waited for may be waiting for this
    very core, as where another library's idle threads spin on the other ones.
    """
    turns = 0
    while read_counter(counter) < count:
        pause()
        turns += 1
        if turns > SPINS:
            give_way()


@njit
def counter(counters, number):
    """One of the counters of a task, each in a cache line of its own (int64 x 8)."""
    return offset(cast(counters, types.int64), 8 * number)


def _launcher(source):
    def launch(function, task, threads):
        source  # noqa: B018  part of the cache key
        for slot in prange(threads):
            _call(function, task, slot)

    return launch


@functools.cache
def _compiled_launch():
    size = types.intp
    return compile_cached(_launcher(SOURCE), (size, size, size), parallel=True)


_launching = threading.Lock()
_forked = False


def _in_child():
    global _forked, _launching
    _forked = True
    _launching = threading.Lock()  # the parent may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def gather():
    """Threads to run with: Numba's setting if nobody is launching, else 1.  Then `dismiss`."""
    if _forked or not _launching.acquire(blocking=False):
        return 1
    threads = numba.get_num_threads()
    if threads == 1:
        _launching.release()
    return threads


def launch(function, task, threads):
    """Run a worker in that many slots and wait for all."""
    _compiled_launch()(function, task, threads)


def dismiss(threads):
    """End what `gather` began."""
    if threads > 1:
        _launching.release()


def warmup():
    """Compile the parallel loop, or load it from the cache."""
    _compiled_launch()
