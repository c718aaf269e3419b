"""Threads: how workers start, share work, wait for each other; and whether threads pay.

A worker is a compiled function of (pointer to its task, slot).  Any number of workers may run the
same task: they draw tickets from a counter, see `_schedules`.

There is a single parallel loop in the package, in `_parallel_loop`, and it calls workers by their
address.  It starts from Python only, one launch at a time in a process: the workqueue layer aborts
when two threads launch at once, and GNU OpenMP does not survive a fork.  A call that cannot launch
works alone, with the same results to the bit.  Whether somebody is launching is a flag that
compiled code sets and clears in one call: between its instructions no signal handler runs and no
exception arises.
"""

import ctypes
import functools
import os
import time
from collections.abc import Callable

import numba
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from fastbptt._uninterrupted import computed_once
from fastbptt.kernels._compiling import SOURCE, compile_function, inlined
from fastbptt.kernels._machine import LINE
from fastbptt.kernels._simd import (
    INT64,
    cycles,
    fetch_add,
    float_modes,
    give_back,
    give_way,
    offset,
    pause,
    pointer_to,
    read_counter,
    set_float_modes,
    sleep,
    take,
)

SPINS = 500  # before a waiting thread offers its core to others
# When others have taken so many of a waiting thread's offers, it goes to sleep, or on to the end of
# the parallel loop.  Each costs it a turn of some milliseconds of every thread that wants the core.
OFFERS = 20
TAKEN = 50_000  # cycles that an offer takes at least if it is taken; else it takes about 1,000
NAP = 50  # microseconds

# Calls of at most so many operations are short, some milliseconds, and timed for `Experience`.
SHORT = 2_000_000_000


# Tasks and workers


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
def address(typingctx, p):
    """Where p points, as an integer."""

    def emit(context, builder, signature, args):
        return builder.ptrtoint(args[0], INT64)

    return types.intp(p), emit


@intrinsic
def call(typingctx, worker, task, slot):
    """Call the worker at an address, a C function of (task, slot)."""

    def emit(context, builder, signature, args):
        kind = ir.FunctionType(ir.VoidType(), [INT64, INT64])
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), args[1:])
        return context.get_dummy_value()

    return types.void(worker, task, slot), emit


# Counters: how workers share work and wait for each other


@inlined
def counter(counters, number):
    """One of a task's counters, each in a cache line of its own."""
    return offset(counters, number * (LINE // 8))


@inlined
def draw_ticket(tickets, slot):
    """The next ticket.

    All but the caller's thread give way first: if another process or library wants the core, it is
    better lost now than with a piece of work in hand that others wait for.
    """
    if slot > 0:
        give_way()
    return fetch_add(tickets, 1)


@inlined
def offer():
    """Offer this core to others; whether somebody took it."""
    begun = cycles()
    give_way()
    return cycles() - begun > TAKEN


@inlined
def wait_for(counter, count):
    """Wait until the counter has reached count.

    Spins for some microseconds.  If it takes longer, whoever is waited for may be waiting for this
    very core, as when another library's idle threads spin on the other ones; so it is offered, and
    left if others want it again and again.
    """
    turns, taken = 0, 0
    while read_counter(counter) < count:
        pause()
        turns += 1
        if taken >= OFFERS:
            sleep(NAP)
        elif turns > SPINS:
            taken += offer()


@inlined
def wait_for_late_workers(ended, threads):
    """Wait until all workers of a task have ended, but not for long.

    The end of the parallel loop waits too, but OpenMP spins there and never gives way: a worker
    that has yet to start on the same core would start with the next tick, milliseconds later.
    Not for long, since a thread may have been given several slots, one after the other; and only
    the first of these waits.
    """
    fetch_add(ended, 1)
    turns = 0
    while read_counter(ended) < threads and turns < SPINS + OFFERS:
        pause()
        turns += 1
        if turns > SPINS:
            give_way()
    fetch_add(ended, threads)


# The parallel loop


def _parallel_loop(source):
    def launch(claim, worker, task, threads):
        """Run a worker in so many slots and wait for all; alone if somebody else is launching.

        The threads compute in the floating-point modes of the caller.
        """
        source  # noqa: B018  part of the cache key
        flag = pointer_to(claim, types.int64)
        if not take(flag):
            call(worker, task, 0)
            return False
        modes = float_modes()
        for slot in prange(threads):
            own = float_modes()
            set_float_modes(modes)
            call(worker, task, slot)
            set_float_modes(own)
        give_back(flag)
        return True

    return launch


@computed_once
def _compiled_loop():
    numba.get_num_threads()  # starts Numba's threads
    size = types.intp
    signature = (size, size, size, size)
    return compile_function(signature, _parallel_loop(SOURCE), parallel=True, nogil=True)


_claim = ctypes.c_int64(0)  # 1 while somebody is launching
_forked = False


def _in_child():
    global _forked
    _forked = True
    _claim.value = 0  # whoever was launching stayed with the parent


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def launch(worker, task, threads):
    """Run a worker in so many slots and wait for all; whether nobody else was launching."""
    return _compiled_loop()(ctypes.addressof(_claim), worker, task, threads)


def warmup():
    """Compile the parallel loop, or load it from the cache."""
    _compiled_loop()


# Whether threads pay

# Says how many threads a call may have at most, besides Numba: a setting of another library's.
limit: Callable[[], int] | None = None


class Experience:
    """What calls of one kind cost, alone and on several threads: seconds for one unit of work.

    Idle threads of other libraries may occupy the other cores: OpenBLAS's spin for up to 0.1 s
    after every product.  A parallel loop then waits for ticks of the scheduler, 4 ms each, and
    takes many times as long as one thread would.  So short calls are timed.  The second runs
    alone, to learn what that costs; and after two in a row that took longer on several threads
    than that (a single one may have had to wake them), all run alone for a while, longer each time
    it happens again.
    """

    REST = 0.02, 1.0  # seconds: the first such while, and the longest

    def __init__(self):
        self.calls, self.alone = 0, float("inf")
        self.slow, self.until, self.rest = 0, 0.0, self.REST[0]

    def advises_one_thread(self):
        return self.calls == 1 or time.perf_counter() < self.until

    def note(self, threads, seconds):
        self.calls += 1
        if threads == 1:
            self.alone = min(self.alone, seconds)
        elif seconds <= self.alone:
            self.slow, self.rest = 0, self.REST[0]
        elif self.slow == 0:
            self.slow = 1
        else:
            self.slow = 0
            self.until = time.perf_counter() + self.rest
            self.rest = min(2 * self.rest, self.REST[1])


@functools.lru_cache(maxsize=1024)
def _experience(kind):
    return Experience()


class Claim:
    """How many threads a call may have: Numba's setting, within the `limit` if there is one; or
    one while others are launching.

    `kind` says which calls cost the same for each of their `steps`.
    """

    def __init__(self, kind, steps, operations):
        self.experience = _experience(kind) if operations < SHORT else None
        self.steps = steps
        if _forked or _claim.value or (self.experience and self.experience.advises_one_thread()):
            self.threads = 1
        else:
            _compiled_loop()
            self.threads = numba.get_num_threads()
            if limit is not None:
                self.threads = max(min(self.threads, limit()), 1)
        self.started = time.perf_counter()

    def use(self, worker, task):
        """Have a worker do its task on these threads, and note how long the call took.

        With one thread the call has done it already.
        """
        launched = self.threads > 1 and launch(worker, task, self.threads)
        if self.experience:
            seconds = time.perf_counter() - self.started
            self.experience.note(self.threads if launched else 1, seconds / self.steps)
