"""Schedules: which piece of work comes next, what it waits for, and which buffer it uses.

The pieces of a task form one list.  Workers draw tickets, which are places in this list, and do the
pieces that they have drawn.  A piece waits for counters only that earlier pieces raise, so the work
gets done by however many workers there are, one included.

Everything here is computed from integers: a plan, and the lengths of the sequences.  It runs
uncompiled as well.
"""

from typing import NamedTuple

from numba import types
from numba.extending import overload

from fastbptt.kernels._compiling import inlined
from fastbptt.kernels._simd import get

# Counters that the workers of a task share.  GRADIENTS counts pieces of weight and input gradients.
COUNTERS = 5
TICKETS, PACKED, STATES, GRADIENTS, ENDED = range(COUNTERS)
# Kinds of pieces.
# FORWARD: all steps of a block of sequences.
# STATE: the state gradients of a time block, for a part of its rows.
# GRADIENT: a unit of the other gradients of a time block.
# GROUP: all that a group with weight gradients of its own needs: STATEs, GRADIENTs and one LEAVE.
# SUM: a part of the sum of all groups' weight gradients.
PACK, CLEAR, FORWARD, STATE, GRADIENT, GROUP, LEAVE, SUM, END = range(9)


def number_at(numbers, n):
    """numbers[n], of a list, an array or, where compiled, a pointer."""
    return numbers[n]


@overload(number_at, inline="always")
def _number_at(numbers, n):
    if isinstance(numbers, types.CPointer):
        return lambda numbers, n: get(numbers, n)
    return lambda numbers, n: numbers[n]


# Forward: panels of the weights are packed, then blocks of sequences run through all steps.


class Piece(NamedTuple):
    """A kind of piece, which one of its kind, and how many packed panels it waits for."""

    kind: int
    number: int
    packed: int


@inlined
def forward_piece(p, ticket):
    """The piece with this ticket."""
    if ticket < p.plan.panels:
        return Piece(PACK, ticket, 0)
    if ticket < p.plan.panels + p.plan.blocks:
        return Piece(FORWARD, ticket - p.plan.panels, p.plan.panels)
    return Piece(END, 0, p.plan.panels)


@inlined
def forward_space(p, block, slot):
    """The space for states that a block uses: its own if there are enough, else its worker's."""
    return block if p.plan.blocks <= p.plan.threads else slot


# Backward: what is packed, and padding cleared; then, group by group and time block by time block,
# from the last step to the first, the block's state gradients and the other gradients of the block
# before it.  So what lags in one phase is caught up in the next.  Two buffers serve in turn.
#
# Where every group has weight gradients of its own, a ticket is for all pieces of a group.  One
# worker does them in order, in two buffers of its own, each block's other gradients right after its
# state gradients, while the buffer is in the worker's cache.  In the end the groups are added up.


class TimeBlock(NamedTuple):
    """The steps t ... low + 1 of a group, as many as a buffer has rows for."""

    number: int  # of blocks before it that share its buffers
    t: int
    low: int
    rows: int  # of all its steps
    last: int  # the row where step low + 1 begins
    live: int  # sequences in step low + 1, the most of all its steps


class Phase(NamedTuple):
    """Pieces of one kind that follow each other in the list: a place to walk on from."""

    kind: int
    start: int  # ticket of the first of them
    pieces: int
    group: int
    block: TimeBlock  # whose state gradients are being computed
    other: TimeBlock  # STATE: the block before; GRADIENT: the one whose gradients these are


@inlined
def time_block(p, group, t, number):
    """The time block of a group that begins at step t; it has no rows for t = 0."""
    first = group * p.plan.group
    low, rows, last, live = t, 0, 0, 0
    while low > 0:
        while (
            live < p.plan.group and first + live < p.B and number_at(p.lengths, first + live) >= low
        ):
            live += 1
        if rows + live > p.plan.capacity:
            break
        last = rows
        rows += live
        low -= 1
    return TimeBlock(number, t, low, rows, last, live)


@inlined
def prepared(p):
    """Pieces that come before any gradient: panels packed, padding cleared."""
    cleared = (p.B + p.plan.cleared_rows - 1) // p.plan.cleared_rows
    return p.plan.packs + (cleared if p.has_lengths else 0)


@inlined
def units(p):
    """Pieces that a time block's weight and input gradients are cut into."""
    return p.plan.h_panels * p.plan.parts + p.plan.row_parts


@inlined
def states_phase(p, start, group, t, other, number):
    """The state gradients of the time block that begins at step t."""
    block = time_block(p, group, t, number)
    return Phase(STATE, start, p.plan.splits if block.rows > 0 else 0, group, block, other)


@inlined
def group_phase(p, start, group, number):
    """The state gradients of a group's first time block."""
    none = TimeBlock(0, 0, 0, 0, 0, 0)
    return states_phase(p, start, group, number_at(p.lengths, group * p.plan.group), none, number)


@inlined
def first_phase(p):
    none = TimeBlock(0, 0, 0, 0, 0, 0)
    return Phase(PACK, 0, p.plan.packs, 0, none, none)


@inlined
def next_phase(p, phase):
    """The phase behind this one in the list, or within a group of the worker's own."""
    start, group, block, own = phase.start + phase.pieces, phase.group, phase.block, p.plan.own_sums
    found = Phase(END, start, 0, group, block, block)
    if phase.kind == PACK:
        found = Phase(CLEAR, start, prepared(p) - start, group, block, block)
    elif phase.kind == CLEAR and own:
        found = Phase(GROUP, start, p.plan.groups, group, block, block)
    elif phase.kind == GROUP:
        found = Phase(SUM, start, p.plan.sum_parts, group, block, block)
    elif phase.kind == STATE:
        other = block if own else phase.other
        found = Phase(GRADIENT, start, units(p) if other.rows > 0 else 0, group, block, other)
    elif phase.kind == CLEAR or phase.kind == GRADIENT:
        if phase.kind == GRADIENT and block.rows > 0 and (block.low > 0 or not own):
            found = states_phase(p, start, group, block.low, block, block.number + 1)
        elif own:
            found = Phase(LEAVE, start, 1, group, block, block)
        else:
            group += 1 if phase.kind == GRADIENT else 0
            if group < p.plan.groups:
                found = group_phase(p, start, group, block.number)
    return found


@inlined
def phase_of(p, phase, ticket):
    """The phase that a ticket falls into, this one or a later one."""
    while phase.kind != END:
        if ticket >= phase.start + phase.pieces:
            phase = next_phase(p, phase)
        elif phase.kind == GROUP:  # its pieces have tickets of the worker's own, from here on
            phase = group_phase(p, ticket, ticket - phase.start, 0)
        else:
            break
    return phase


@inlined
def is_own(p, phase):
    """Whether the piece behind this one is the same worker's."""
    return p.plan.own_sums and (phase.kind == STATE or phase.kind == GRADIENT)


@inlined
def rejoined(p, phase):
    """Back from a group of the worker's own to the list."""
    if phase.kind == LEAVE:
        phase = Phase(GROUP, prepared(p), p.plan.groups, 0, phase.block, phase.block)
    return phase


class Counts(NamedTuple):
    """What counters must have reached."""

    packed: int
    states: int
    gradients: int


@inlined
def needed(p, phase):
    """What the pieces of a phase wait for.

    The state gradients of block k go on from those of block k - 1, in the buffer of block k - 2,
    whose other gradients must be done.  The other gradients of block k - 1, which come with it in
    the list, are added to those of block k - 2.
    """
    packed, states, gradients = prepared(p), 0, 0
    if phase.kind == PACK or phase.kind == CLEAR:
        packed = 0
    elif phase.kind == SUM:
        states = p.plan.groups
    elif not p.plan.own_sums and phase.kind != END:
        states = phase.block.number * p.plan.splits
        gradients = (phase.block.number - 1) * units(p)
    return Counts(packed, states, gradients)


@inlined
def raised(p, phase):
    """The counter that each piece of a phase raises when it is done, or -1."""
    found = -1
    if phase.kind == PACK or phase.kind == CLEAR:
        found = PACKED
    elif phase.kind == LEAVE or (phase.kind == STATE and not p.plan.own_sums):
        found = STATES
    elif phase.kind == GRADIENT and not p.plan.own_sums:
        found = GRADIENTS
    return found


@inlined
def buffer_of(p, phase, block, slot):
    """The buffer of a time block.

    With weight gradients of their own, groups have two buffers each if there are enough for all,
    else they use those of the worker.
    """
    pair = 0
    if p.plan.own_sums:
        pair = phase.group if p.plan.groups <= p.plan.threads else slot
    return 2 * pair + (block.number & 1)
