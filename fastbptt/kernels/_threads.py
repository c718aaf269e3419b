"""Threads: how workers start, and whether threads pay.

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
import threading
import time
from collections.abc import Callable

import numba
from llvmlite import ir
from numba import prange, types
from numba.extending import intrinsic

from fastbptt._uninterrupted import computed_once
from fastbptt.kernels._compiling import SOURCE, compile_function
from fastbptt.kernels._simd import (
    INT64,
    exchange_if,
    float_modes,
    pointer_to,
    put_counter,
    set_float_modes,
)

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


# The parallel loop


def _parallel_loop(source):
    def launch(claim, worker, task, threads):
        """Run a worker in so many slots and wait for all; alone if somebody else is launching.

        The threads compute in the floating-point modes of the caller.
        """
        source  # noqa: B018  part of the cache key
        flag = pointer_to(claim, types.int64)
        if not exchange_if(flag, 0, 1):
            call(worker, task, 0)
            return False
        modes = float_modes()
        for slot in prange(threads):
            own = float_modes()
            set_float_modes(modes)
            call(worker, task, slot)
            set_float_modes(own)
        put_counter(flag, 0)
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
    """What calls of one kind cost, alone and on several threads: seconds, in the mean.

    On a busy machine a parallel loop may wait for ticks of the scheduler, 4 ms each, and take many
    times as long as one thread would, if not always: idle threads of other libraries (OpenBLAS's
    spin for up to 0.1 s after every product) and other programs occupy the other cores.  Or threads
    save less in a call than what follows loses, as when results lie in another core's cache.  So
    short calls are timed, together with the time from each to the next.

    Whatever calls lose on several threads, beside the mean of those that ran alone, is paid back:
    they run alone for `REPAID` times as long, and then try again.  So trying costs a fiftieth of
    the time, however bad it is, and threads are used soon after it has become better.  What calls
    have gained before, up to `CREDIT`, is set off against losses.
    """

    REPAID = 50
    # Seconds.  How much of the time is spent alone while threads pay, to know what that costs: at
    # least PROBE at one time, and a hundredth in all.
    PROBE, SHARE = 2e-3, 0.01
    CREDIT = 5e-3
    # Of calls alone, those of the last so many seconds count.
    MEMORY = 0.1
    # What counts at most: from a call to the next, in which a user may have stopped to think; of a
    # call alone, in which the machine may have stood still, above four times their mean; of what is
    # owed.
    GAP, LATE, REST = 5e-3, 4e-3, 5.0

    __slots__ = ("between", "calls", "credit", "inside", "owed", "per_call", "per_step", "rests",
                 "steps")  # fmt: skip

    def __init__(self):
        # Of calls alone: their number, steps, and seconds within and between them.
        self.calls = self.steps = self.inside = self.between = 0.0
        self.per_call = self.per_step = 0.0
        self.credit = self.owed = 0.0
        self.rests = False

    def advises_one_thread(self):
        return self.rests

    def note(self, threads, steps, inside, between):
        """Enter a call: its steps, seconds within it, and from it to the next of any kind."""
        if threads == 1:
            self._note_alone(steps, inside, between)
        elif self.calls:
            spent = inside + (between if between < self.GAP else self.GAP)
            credit = self.credit + self.per_step * steps + self.per_call - spent
            owed = self.owed + self.SHARE * spent
            if credit < 0:
                owed, credit = min(owed - self.REPAID * credit, self.REST), 0.0
            self.credit = credit if credit < self.CREDIT else self.CREDIT
            self.owed = owed
            self.rests = owed > self.PROBE
        else:  # the first one, which may have had to start the threads
            self.rests, self.owed = True, self.PROBE

    def _note_alone(self, steps, inside, between):
        # Comparisons, since min and max would take as long as all of this.
        if between > self.GAP:
            between = self.GAP
        if self.calls and inside > self.LATE:
            most = 4 * self.per_step * steps + self.LATE
            inside = inside if inside < most else most
        spent = inside + between
        owed = self.owed - spent
        self.owed = owed if owed > -spent else -spent  # a call may be longer than what was owed
        self.rests = owed > 0
        keep = 1 - spent / self.MEMORY if spent < self.MEMORY else 0.0
        self.calls = calls = self.calls * keep + 1
        self.steps = steps = self.steps * keep + steps
        self.inside = inside = self.inside * keep + inside
        self.between = between = self.between * keep + between
        self.per_step, self.per_call = inside / steps, between / calls


@functools.lru_cache(maxsize=1024)
def _experience(kind):
    return Experience()


class _Latest(threading.local):
    """This thread's latest claim, until its experience is noted."""

    claim = None


_latest = _Latest()


class Claim:
    """How many threads a call may have: Numba's setting, within the `limit` if there is one; or
    one while others are launching.

    `kind` says which calls cost the same for each of their `steps`.
    """

    __slots__ = "ended", "experience", "started", "steps", "threads"

    def __init__(self, kind, steps, operations):
        before = _latest.claim
        if before is not None:
            _latest.claim, now, ended = None, time.perf_counter(), before.ended
            before.experience.note(
                before.threads, before.steps, ended - before.started, now - ended
            )
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
        """Have a worker do its task on these threads; how long the call takes will be noted.

        With one thread the call has done it already.
        """
        if self.threads > 1 and not launch(worker, task, self.threads):
            self.threads = 1
        if self.experience:
            self.ended = time.perf_counter()
            _latest.claim = self
