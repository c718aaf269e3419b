"""Counters: how workers share work, wait for each other, and meet after a step."""

from typing import NamedTuple

from numba import njit

from fastbptt.kernels._compiling import inlined
from fastbptt.kernels._machine import LINE
from fastbptt.kernels._simd import (
    cycles,
    exchange_if,
    fetch_add,
    give_way,
    offset,
    pause,
    put_counter,
    read_counter,
    sleep,
)

SPINS = 500  # before a waiting thread offers its core to others
# When others have taken so many of a waiting thread's offers, it goes to sleep, or on to the end of
# the parallel loop.  Each costs it a turn of some milliseconds of every thread that wants the core.
OFFERS = 20
TAKEN = 50_000  # cycles that an offer takes at least if it is taken; else it takes about 1,000
NAP = 50  # microseconds


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
def waited(turns, taken):
    """Wait a moment, the turn of this number; how many offers of the core have been taken by now.

    Spins for some microseconds.  If it takes longer, whoever is waited for may be waiting for this
    very core, as when another library's idle threads spin on the other ones; so it is offered, and
    left if others want it again and again.
    """
    pause()
    if taken >= OFFERS:
        sleep(NAP)
    elif turns >= SPINS:
        taken += offer()
    return taken


@inlined
def wait_for(counter, count):
    """Wait until the counter has reached count."""
    turns, taken = 0, 0
    while read_counter(counter) < count:
        taken = waited(turns, taken)
        turns += 1


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


# Meetings: the shares of a step, each a worker's, and nobody goes on before all are done.  Each
# share has two counters, of the steps taken and of those done.  It has a home, the worker whose
# cache holds what it needs; but a share that nobody takes for a while is somebody else's, so that
# workers who come late, or never, are not waited for.

SHARE_COUNTERS = 2


class Turn(NamedTuple):
    """A share to be done, or -1 when all are, and a bit for each share that lacks its worker."""

    share: int
    orphans: int


@inlined
def first_turn(shares, count, home, step, orphans):
    """The first of `count` shares of a step that the caller is to do, see `wait_for_turn`."""
    return wait_for_turn(shares, count, home, step, orphans) if count > 1 else Turn(0, 0)


@inlined
def next_turn(shares, count, home, step, turn):
    """This share of the step is done; the next one."""
    if count == 1:
        return Turn(-1, 0)
    put_counter(counter(shares, SHARE_COUNTERS * turn.share + 1), step)
    return wait_for_turn(shares, count, home, step, turn.orphans)


@inlined
def _take(shares, share, step):
    """Whether the caller is to do this share of the step: nobody has taken it."""
    taken = counter(shares, SHARE_COUNTERS * share)
    last = read_counter(taken)
    return last < step and exchange_if(taken, last, step)


@njit
def wait_for_turn(shares, count, home, step, orphans):
    """The next of `count` shares of a step that the caller is to do, or -1 once all are done.

    Steps have rising numbers above 0.
    """
    if _take(shares, home, step):
        return Turn(home, orphans)
    if orphans:
        for share in range(count):
            if orphans >> share & 1 and _take(shares, share, step):
                return Turn(share, orphans)
    turns, taken = 0, 0
    for share in range(count):
        done = counter(shares, SHARE_COUNTERS * share + 1)
        while read_counter(done) < step:
            if turns >= SPINS and _take(shares, share, step):
                return Turn(share, orphans | 1 << share)
            taken = waited(turns, taken)
            turns += 1
    return Turn(-1, orphans)
