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

# Counters that the workers of a task share.
COUNTERS = 4
TICKETS, PACKED, LEFT, ENDED = range(COUNTERS)
# Counters that the workers of a team share; GRADIENTS counts pieces of weight and input gradients.
TEAM_COUNTERS = 3
TEAM_TICKETS, STATES, GRADIENTS = range(TEAM_COUNTERS)
# Kinds of pieces.
# FORWARD: all steps of a block of sequences, for a share of the hidden units.
# TEAM: to be one of a team that does the pieces of one group of sequences, or of all groups.
# STATE: the state gradients of a time block, for a part of its rows and a share of the units.
# GRADIENT: a unit of the other gradients of a time block.
# LEAVE: all gradients of a group with weight gradients of its own are there.
# SUM: a part of the sum of all groups' weight gradients.
PACK, CLEAR, FORWARD, TEAM, STATE, GRADIENT, LEAVE, SUM, END = range(9)


def number_at(numbers, n):
    """numbers[n], of a list, an array or, where compiled, a pointer."""
    return numbers[n]


@overload(number_at, inline="always")
def _number_at(numbers, n):
    if isinstance(numbers, types.CPointer):
        return lambda numbers, n: get(numbers, n)
    return lambda numbers, n: numbers[n]


class Piece(NamedTuple):
    """A kind of piece, which one of its kind, and what counters must have reached before it."""

    kind: int
    number: int
    packed: int
    left: int  # groups


# Forward: panels of the weights are packed, then blocks of sequences run through all steps.


@inlined
def forward_piece(p, ticket):
    """The piece with this ticket."""
    if ticket < p.plan.panels:
        return Piece(PACK, ticket, 0, 0)
    number = ticket - p.plan.panels
    if number < p.plan.blocks * p.plan.shares:
        return Piece(FORWARD, number, p.plan.panels, 0)
    return Piece(END, 0, p.plan.panels, 0)


@inlined
def forward_space(p, block, slot):
    """The space for states that a block uses: its own if there are enough, else its worker's.

    Of a readout always its worker's, since no states are shared.
    """
    return block if p.R > 0 and p.plan.blocks <= p.plan.spaces else slot


# Backward: panels are packed and padding is cleared.  Then teams of workers go through their
# groups' time blocks from the last step to the first.  In the end, groups with weight gradients of
# their own are added up.
#
# If every group has weight gradients of its own, each has a team of its own, of one worker if there
# are no more workers than groups.  Else one team does group after group.
#
# The pieces of a team form a list of their own.  For each time block there come its state
# gradients, and the other gradients of the block before it: workers that lag in one phase catch up
# in the next.  One worker alone does a block's other gradients right after its state gradients,
# while the buffer is in its cache.  Two buffers take turns.


@inlined
def prepared(w):
    """Pieces that come before any gradient: panels packed, padding cleared."""
    cleared = (w.B + w.plan.cleared_rows - 1) // w.plan.cleared_rows
    return w.plan.packs + (cleared if w.has_lengths else 0)


@inlined
def backward_piece(w, ticket):
    """The piece with this ticket, in the list that all workers share."""
    if ticket < w.plan.packs:
        return Piece(PACK, ticket, 0, 0)
    before = prepared(w)
    if ticket < before:
        return Piece(CLEAR, ticket - w.plan.packs, 0, 0)
    number, members = ticket - before, w.plan.teams * w.plan.members
    if number < members:
        return Piece(TEAM, number % w.plan.teams, before, 0)
    if w.plan.own_sums and number < members + w.plan.sum_parts:
        return Piece(SUM, number - members, before, w.plan.groups)
    return Piece(END, 0, before, 0)


class TimeBlock(NamedTuple):
    """The steps t ... low + 1 of a group, as many as a buffer has rows for."""

    number: int  # of blocks before it that share its buffers
    t: int
    low: int
    rows: int  # of all its steps
    last: int  # the row where step low + 1 begins
    live: int  # sequences in step low + 1, the most of all its steps


class Phase(NamedTuple):
    """A team's pieces of one kind that follow each other in its list: a place to walk on from."""

    kind: int
    start: int  # ticket of the first of them
    pieces: int
    group: int
    block: TimeBlock  # whose state gradients are being computed
    other: TimeBlock  # STATE: the block before; GRADIENT: the one whose gradients these are
    # What the team's counters must have reached before a piece of the phase may begin.
    states: int
    gradients: int


class Walk(NamedTuple):
    """What a walk through a backward call's lists needs to know of the call."""

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
def state_pieces(w):
    """Pieces of a time block's state gradients."""
    return w.plan.splits * w.plan.shares


@inlined
def gradient_pieces(w):
    """Pieces of a time block's other gradients."""
    return w.plan.h_panels * w.plan.parts + w.plan.row_parts


@inlined
def first_phase(w, team):
    """The place before a team's first piece."""
    none = TimeBlock(0, 0, 0, 0, 0, 0)
    group = team if w.plan.own_sums else 0
    return Phase(TEAM, 0, 0, group, none, none, 0, 0)


# Compiled by itself, not inlined: it is called once for many pieces, and inlining takes time that
# grows with the square of what has been inlined.
@njit
def next_phase(w, phase):
    """The phase behind this one in the team's list.

    The state gradients of block k go on from those of block k - 1, in the buffer of block k - 2,
    whose other gradients must be done.  The other gradients of block k - 1 are added to those of
    block k - 2.
    """
    own, alone = w.plan.own_sums > 0, w.plan.members == 1
    group, block, other = phase.group, phase.block, phase.other
    start, kind, pieces = phase.start + phase.pieces, END, 0
    begins, number = phase.kind == TEAM, 0  # a group, and how many blocks before share its buffers
    if begins:
        kind = STATE
    elif phase.kind == STATE:
        kind, other = GRADIENT, block if alone else other
        pieces = gradient_pieces(w) if other.rows > 0 else 0
    elif phase.kind == GRADIENT and block.rows > 0 and (block.low > 0 or not alone):
        kind = STATE
    elif phase.kind == GRADIENT and own:
        kind, pieces = LEAVE, 1
    elif phase.kind == GRADIENT and group + 1 < w.plan.groups:
        kind, group, begins, number = STATE, group + 1, True, block.number
        if alone and block.rows > 0:
            number += 1

    if kind == STATE:
        t, other = block.low, block
        if begins:
            t, other = number_at(w.lengths, group * w.plan.group), TimeBlock(0, 0, 0, 0, 0, 0)
        block = time_block(w, group, t, number if begins else block.number + 1)
        pieces = state_pieces(w) if block.rows > 0 else 0

    done = block.number - 1  # blocks whose other gradients are done before these pieces begin
    if kind == LEAVE:
        done = block.number
    states, gradients = block.number * state_pieces(w), done * gradient_pieces(w)
    return Phase(kind, start, pieces, group, block, other, states, gradients)


@inlined
def phase_of(w, phase, ticket):
    """The phase that a team's ticket falls into, this one or a later one."""
    while phase.kind != END and ticket >= phase.start + phase.pieces:
        phase = next_phase(w, phase)
    return phase


@inlined
def buffer_of(w, team, block, slot):
    """The buffer of a time block: a team's own two if there are enough for all, or a worker's."""
    pair = team if w.plan.teams <= w.plan.threads else slot
    return 2 * pair + (block.number & 1)
