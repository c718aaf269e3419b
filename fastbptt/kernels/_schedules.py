"""Schedules: which piece of work comes next, what it waits for, and which buffer it uses.

The pieces of a task form one list.  Workers draw tickets, which are places in this list, and do the
pieces that they have drawn.  A piece waits for counters only that earlier pieces raise, so the work
gets done by however many workers there are, one included.

Everything here is computed from integers: a plan, and the lengths of the sequences.  It runs
uncompiled as well.
"""

from typing import Any, NamedTuple

from numba import njit, types
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


# Backward: panels are packed and padding is cleared.  Then, group by group and time block by time
# block from the last step to the first, come a block's state gradients and the other gradients of
# the block before it: threads that lag in one phase catch up in the next.  Two buffers take turns.
#
# If every group has weight gradients of its own, a ticket is for all pieces of a group.  One worker
# does them in order, in two buffers of its own, each block's other gradients right after its state
# gradients, while the buffer is in the worker's cache.  In the end the groups are added up.


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
    # What counters must have reached before a piece of the phase may begin.
    packed: int
    states: int
    gradients: int
    raises: int  # the counter that each piece raises when it is done, or -1
    is_own: bool  # the piece behind each is the same worker's


class Walk(NamedTuple):
    """What a walk through a backward call's list needs to know of the call."""

    plan: Any
    B: int
    has_lengths: bool
    lengths: Any  # of the sequences, longest first


@inlined
def time_block(w, group, t, number):
    """The time block of a group that begins at step t; it has no rows for t = 0."""
    first = group * w.plan.group
    low, rows, last, live = t, 0, 0, 0
    while low > 0:
        while (
            live < w.plan.group and first + live < w.B and number_at(w.lengths, first + live) >= low
        ):
            live += 1
        if rows + live > w.plan.capacity:
            break
        last = rows
        rows += live
        low -= 1
    return TimeBlock(number, t, low, rows, last, live)


@inlined
def prepared(w):
    """Pieces that come before any gradient: panels packed, padding cleared."""
    cleared = (w.B + w.plan.cleared_rows - 1) // w.plan.cleared_rows
    return w.plan.packs + (cleared if w.has_lengths else 0)


@inlined
def first_phase(w):
    none = TimeBlock(0, 0, 0, 0, 0, 0)
    return Phase(PACK, 0, w.plan.packs, 0, none, none, 0, 0, 0, PACKED, False)


# Compiled by itself, not inlined: it is called once for many pieces, and inlining takes time that
# grows with the square of what has been inlined.
@njit
def next_phase(w, phase, ticket):
    """The phase behind this one in the list, or within a group of the worker's own.

    Behind a GROUP with the ticket in it come the phases of the ticket's group, their pieces with
    tickets of the worker's own from here on.  Behind a group's last phase comes GROUP again.

    The state gradients of block k go on from those of block k - 1, in the buffer of block k - 2,
    whose other gradients must be done.  The other gradients of block k - 1, which come with it in
    the list, are added to those of block k - 2.
    """
    own, group, block, other = w.plan.own_sums > 0, phase.group, phase.block, phase.other
    units = w.plan.h_panels * w.plan.parts + w.plan.row_parts
    start, kind, pieces = phase.start + phase.pieces, END, 0
    begins, number = False, 0  # a group, and how many blocks before it share its buffers
    if phase.kind == PACK:
        kind, pieces = CLEAR, prepared(w) - start
    elif phase.kind == LEAVE or (phase.kind == CLEAR and own):
        kind, start, pieces = GROUP, prepared(w), w.plan.groups
    elif phase.kind == GROUP and ticket < start:
        kind, group, start, begins = STATE, ticket - phase.start, ticket, True
    elif phase.kind == GROUP:
        kind, pieces = SUM, w.plan.sum_parts
    elif phase.kind == STATE:
        kind, other = GRADIENT, block if own else other
        pieces = units if other.rows > 0 else 0
    elif phase.kind == GRADIENT and block.rows > 0 and (block.low > 0 or not own):
        kind = STATE
    elif phase.kind == GRADIENT and own:
        kind, pieces = LEAVE, 1
    elif phase.kind == CLEAR or (phase.kind == GRADIENT and group + 1 < w.plan.groups):
        group += 1 if phase.kind == GRADIENT else 0
        kind, begins, number = STATE, True, block.number

    if kind == STATE:
        t, other = block.low, block
        if begins:
            t, other = number_at(w.lengths, group * w.plan.group), TimeBlock(0, 0, 0, 0, 0, 0)
        block = time_block(w, group, t, number if begins else block.number + 1)
        pieces = w.plan.splits if block.rows > 0 else 0

    packed, states, gradients, raises = prepared(w), 0, 0, -1
    if kind == CLEAR:
        packed, raises = 0, PACKED
    elif kind == LEAVE:
        raises = STATES
    elif kind == SUM:
        states = w.plan.groups
    elif kind in (STATE, GRADIENT) and not own:
        states, gradients = block.number * w.plan.splits, (block.number - 1) * units
        raises = STATES if kind == STATE else GRADIENTS
    is_own = own and kind in (STATE, GRADIENT)
    return Phase(
        kind, start, pieces, group, block, other, packed, states, gradients, raises, is_own
    )


@inlined
def phase_of(w, phase, ticket):
    """The phase that a ticket falls into, this one or a later one."""
    while phase.kind != END and (phase.kind == GROUP or ticket >= phase.start + phase.pieces):
        phase = next_phase(w, phase, ticket)
    return phase


@inlined
def rejoined(w, phase):
    """Back from a group of the worker's own to the list that all share."""
    return next_phase(w, phase, 0) if phase.kind == LEAVE else phase


@inlined
def buffer_of(w, phase, block, slot):
    """The buffer of a time block.

    Groups with weight gradients of their own have two buffers each if there are enough for all,
    else they use those of the worker.
    """
    pair = 0
    if w.plan.own_sums:
        pair = phase.group if w.plan.groups <= w.plan.threads else slot
    return 2 * pair + (block.number & 1)
