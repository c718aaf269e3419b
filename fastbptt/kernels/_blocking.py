"""Sizes: the one place that decides how much work and which memory goes together.

A plan is a NumPy record that compiled code reads by field name: sizes of blocks, and where each
region of the workspace begins, in bytes.

Results depend neither on `threads` nor on the CPU.  Threads cut rows and hidden units, whose states
and state gradients do not touch each other, and output tiles of the weight gradients, each summed
in one order.  That order depends on `group`, `capacity`, `dots` and `run` alone, which shapes
decide; where vectors or caches have a say in them it is those of one CPU, see `ORDER`.
"""

import sys
from typing import NamedTuple

import numpy as np

from fastbptt._noise import PAIR
from fastbptt.kernels import _machine
from fastbptt.kernels._calls import (
    BackwardTask,
    CellBackwardTask,
    CellForwardTask,
    ForwardTask,
    words,
)
from fastbptt.kernels._machine import LINE
from fastbptt.kernels._schedules import COUNTERS, TEAM_COUNTERS
from fastbptt.kernels._waiting import SHARE_COUNTERS

# Rows (sequences x steps) of one time block.  For every block each element of a weight gradient is
# read and written once: with the least number of rows that is cheap beside 2 x 512 operations on
# the element, even in L3; beyond the most nothing is gained.
LEAST_ROWS, MOST_ROWS = 512, 1024
# Of so few sequences one worker computes all state gradients, each step waiting for the one before.
# Of shorter time blocks, others begin the rest sooner: a sixth of the time of 1,000 steps.
FEW, FEW_ROWS = 2, 256
# Most bytes of all buffers and groups' sums of a call.
MOST_BYTES = 31 << 19
# Groups with sums of their own: their greatest number; the least if the batch has rows for so many,
# or threads would be left without a group; and the most bytes of all sums.
MOST_GROUPS, ENOUGH_GROUPS, SUMS = 16, 8, 4 << 20
BUFFERS = MOST_BYTES - SUMS
# Terms of a weight gradient summed in registers before the sum is added to others in memory, which
# takes 3 % of the time for runs of 32; and from how many rows of a time block on they are longer.
# Rounding errors grow with the root of a run and of the number of runs; a NumPy user's, who adds up
# one product for every step, with the roots of B and of T.
RUN, LONG_RUN, LONG_FROM = 32, 64, 512
# Columns of the narrowest panels, two vectors of AVX2 in float64 or of NEON in float32; but for
# NEON in float64.
LEAST_PANEL = 8
# A dot product over H columns costs a multiply-add for each vector, and about this many more.
DOT = 8
# A time block's weight gradients are cut into at least this many units, and into so many for each
# worker, and its input gradients likewise, so that workers even out.
UNITS, UNITS_EACH = 8, 2
# The CPU whose vectors (bytes), tiles (MR) and second-level cache (bytes) decide the order of sums,
# on every CPU.
ORDER_VECTOR, ORDER_MR, ORDER_L2 = 64, 8, 1 << 20
# A step that several workers share ends with a meeting, which takes about so many cycles.
MEETING = 1000
# Bytes that arrive from another core in a cycle: at each step, of what others have computed.
EXCHANGED = 6
# Cycles that a row of a panel takes to arrive, from the caches of a core and from beyond; and how
# much of a cache the weights may fill.
FROM_L1, FROM_L2, FROM_AFAR = 1, 2, 5
L1 = 24 << 10
FILLED = 3 / 4
# Accumulators that keep the multiply-adds busy, each waiting for its last: cycles of latency.
LATENCY = 4
MOST_SHARES = 32
# Rows of dz lie far apart from so many bytes on; and how many chunks' tiles pay for copying them.
FAR_APART, MANY_CHUNKS = 1024, 8
# Rows of x and h of up to so many bytes are read where they lie.  To copy them by columns costs
# small layers a tenth of the way back; where rows are twice as long, neither is faster.
CLOSE = 256
# Sequences whose padding one piece of work clears.
CLEARED_ROWS = 16
INT = 8  # bytes of an int64


def _up(n, multiple):
    return -(-n // multiple) * multiple


def _row_stride(elements, itemsize):
    """Elements from row to row: whole cache lines, an odd number of them.

    The rows of a tile are read side by side; at a stride of 4,096 bytes they would all compete for
    one set of the L1 cache.
    """
    line = LINE // itemsize
    return (_up(elements, line) // line | 1) * line


def _plan(sizes, regions):
    """Record of sizes and of where regions begin; its last field, `total`, counts their bytes.

    `regions` has the size in bytes and the number of the elements of each.  Regions begin on cache
    lines.
    """
    fields, at = {"worker": 0, **sizes}, 0  # its address is put in once it is compiled
    for name, (size, count) in regions.items():
        fields[f"{name}_at"] = at
        at += _up(size * count, LINE)
    fields["total"] = at + LINE  # to align the start
    if fields["total"] > sys.maxsize:
        raise MemoryError(f"a workspace of {fields['total']} bytes is beyond this machine")
    plan = np.zeros(1, [(name, np.int64) for name in fields])
    plan[0] = tuple(fields.values())
    return plan


def _cycles(rows, panels, K, itemsize):
    """Cycles of one worker's products of a step: so many rows times so many panels of K rows."""
    MR, panel = _machine.tile_rows_count(), K * _machine.panel_columns(itemsize) * itemsize
    tiles = -(-rows // MR)
    busy = max(rows / tiles, LATENCY)  # a cycle for each row of a tile
    if rows == 1:
        busy = LATENCY / max(wide for wide in (1, *_machine.WIDE) if wide <= panels)
    whole = panels * panel
    far = (
        FROM_L1 if whole <= L1 else FROM_L2 if whole <= FILLED * _machine.l2_bytes() else FROM_AFAR
    )
    near = FROM_L1 if panel <= L1 else FROM_L2
    return panels * K * (max(busy, far) + (tiles - 1) * max(busy, near))


def _cut(rows, panels, K, itemsize, workers, by_units):
    """Into how many parts of its rows, and shares of its panels, a step is cut for so many workers.

    Into shares only if it may be cut `by_units`.  A cut by rows needs no meetings.  But where rows
    are few, or the weights too large for a core's cache, a step takes as long as the panels need to
    arrive; in shares, each arrives at one worker only, and may stay there.
    """
    MR = _machine.tile_rows_count()
    parts = min(workers, max(rows // (MR // 2), 1))  # half a tile high at least
    best, shares = 0.9 * _cycles(-(-rows // parts), panels, K, itemsize), 1
    for n in range(1, workers // 2 + 1) if by_units else ():
        m = min(workers // n, panels, MOST_SHARES)
        if m > 1 and n <= rows:
            own, mine = -(-rows // n), -(-panels // m)
            others = own * (panels - mine) * _machine.panel_columns(itemsize) * itemsize
            found = _cycles(own, mine, K, itemsize) + MEETING + others // EXCHANGED
            if found < best:
                best, parts, shares = found, n, m
    return parts, shares


def plan_forward(B, I, H, R, itemsize, threads, cell=False, adds=False):
    """Plan of a forward call.

    R: H, or 0 for a readout.  `cell`: whether it is not a plain one, see `_cells`; `adds`: and adds
    something to z.
    """
    NR, MR = _machine.panel_columns(itemsize), _machine.tile_rows_count()
    panels = -(-H // NR)
    height = R + I + 1
    # A row of h_t, in whole panels; of a readout, a row of a tile.
    ldh = _row_stride((panels if R else max(_machine.WIDE)) * NR, itemsize)
    ldn = _row_stride(_up(H, PAIR), itemsize) if adds else 0
    # A block's rows of x_t, h_{t-1} and h_t take half of L2; with many threads, less.
    row = (I + (2 * ldh if R else 0) + ldn) * itemsize
    rows = max(min(_machine.l2_bytes() // 2, BUFFERS // threads) // max(row, 1), MR)
    # Several blocks for each thread if there are rows enough, to even out; at least one for each.
    # A block may be half a tile high: the packed weights still come from L2 in time.
    most = max(B // (MR // 2), 1)
    blocks = max(-(-B // rows), min(4 * threads, B // (2 * MR)), min(threads, most))
    blocks = min(_up(blocks, threads), most)
    by_units = not cell and 2 * B * ldh * itemsize <= BUFFERS  # which takes room for all rows
    parts, shares = _cut(B, panels, height, itemsize, threads, by_units)
    if shares > 1:
        blocks = parts
    rows = -(-B // blocks)
    # For the blocks under way at one time; of a readout, for the workers.
    spaces = threads if R == 0 else blocks if shares > 1 else min(threads, blocks)
    meetings = blocks * shares * SHARE_COUNTERS if shares > 1 else 0
    held = rows if R else MR
    space = 2 * held * ldh + rows * ldn
    sizes = {"threads": threads, "blocks": blocks, "shares": shares, "rows": rows, "held": held,
             "ldh": ldh, "ldn": ldn, "spaces": spaces, "space": space, "panels": panels,
             "height": height, "meetings": meetings}  # fmt: skip
    regions = {
        "task": (INT, words(CellForwardTask if cell else ForwardTask)),
        "counters": (LINE, COUNTERS),
        "packed": (itemsize, panels * height * NR),
        "meetings": (LINE, meetings),
        "states": (itemsize, spaces * space),
        "index": (INT, threads * 2 * rows),
    }
    return _plan(sizes, regions)


def _power_of_two(most):
    """The greatest of at most so much; 0 if there is none."""
    return 1 << most.bit_length() >> 1


def _own_sums(B, sum_bytes, row_bytes):
    """How many groups of sequences with weight gradients of their own B is cut into; 1 if none.

    Each group is then one worker's from the last step to the first, and threads need not wait for
    each other nor read what another has written: three quarters of the time at small H, and where
    cores share no cache, for larger H too.  But the groups' sums take memory, which grows with H^2.
    Their number is a power of two: with three, one of two threads would have two to do.
    """
    most = _power_of_two(min(B // ORDER_MR, MOST_GROUPS))
    groups = max(min(most, _power_of_two(SUMS // sum_bytes)), -(-B // LEAST_ROWS))
    rows = BUFFERS // (2 * groups * row_bytes)
    enough = groups >= min(most, ENOUGH_GROUPS) and groups * rows >= B
    return groups if enough and groups * sum_bytes <= SUMS else 1


class _Order(NamedTuple):
    """What decides the order of sums."""

    groups: int
    group: int  # sequences
    own_sums: bool
    capacity: int  # rows of a time block
    dots: bool  # dx by dot products


def _order(T, B, I, H, R, itemsize, small, x_rows):
    """The order of a backward call's sums, as suits one CPU: the same on all, see `ORDER_L2`."""
    lanes = ORDER_VECTOR // itemsize
    NR = _machine.VECTORS * lanes
    ldz = _row_stride(_up(H, NR), itemsize)
    # dx by dot products if its tiles, of whole vectors, would take longer; not if the panels for
    # dz have room for it, whose widths are multiples of the least.
    tiles, products = -(-I // lanes) * H, I * (-(-H // lanes) + DOT)
    dots = products < tiles and I <= NR and I * ldz <= H * NR
    dots = dots and not (R and I <= -H % LEAST_PANEL)
    row_bytes = ((I // lanes + 1 - (-R // lanes)) * lanes + ldz) * itemsize
    groups = 1 if small else _own_sums(B, (x_rows + 1 + R) * H * itemsize, row_bytes)
    own = groups > 1
    # One buffer of a time block fills half of L2, the other half is for the packed weights.
    capacity = min(max(ORDER_L2 // 2 // row_bytes, LEAST_ROWS), MOST_ROWS)
    capacity = min(capacity, MOST_BYTES // 2 // row_bytes)
    if own:
        capacity = min(LEAST_ROWS, BUFFERS // (2 * groups * row_bytes))
    elif min(MOST_ROWS, MOST_BYTES // row_bytes) >= T * B:  # a single time block
        capacity = T * B
    if B <= FEW:
        capacity = min(capacity, FEW_ROWS)
    capacity = max(capacity, ORDER_MR)
    groups = max(groups, -(-B // capacity))
    group = -(-B // groups)
    return _Order(-(-B // group), group, own, group * min(capacity // group, T), dots)


def plan_backward(T, B, I, H, R, itemsize, small, threads, need_dx, cell=False, tokens=0):
    """Plan of a backward call.

    R: H, or 0 for a readout.  A `small` call is for one thread whatever their number.  `cell`:
    whether it is not a plain one, see `_cells`.  `tokens`: rows of W_x, if I is 0 for that.
    """
    lanes, NR = _machine.lanes(itemsize), _machine.panel_columns(itemsize)
    MR = _machine.tile_rows_count()
    h_panels, x_panels = -(-H // NR), -(-I // NR) if need_dx else 0
    ldz = _row_stride(h_panels * NR, itemsize)
    x_rows = tokens or I  # of dW_x
    order = _order(T, B, I, H, R, itemsize, small, x_rows)
    dots = need_dx and order.dots
    if dots:  # the packed panel of W_x^T is W_x itself, in rows of ldz
        x_panels = 1
    joined = I if need_dx and R and not dots and h_panels * NR >= H + I else 0
    if joined:  # the last panel of W_h^T has W_x^T behind
        x_panels = 0
    # Panels of W_h^T and W_x^T; at least one, for the row of zeros that sums begin with.
    first_x_panel = -(-R // NR)
    packs = max(first_x_panel + x_panels, 1)
    # Columns of [x_t, 1] and of h_{t-1}, in chunks of one vector.
    x_chunks, h_chunks = I // lanes + 1, -(-R // lanes)
    sum_rows = x_rows + 1 + R  # of dW_x, db and dW_h
    groups, group, capacity, own = order.groups, order.group, order.capacity, order.own_sums
    teams = groups if own else 1
    members = -(-threads // teams)
    splits, shares = _cut(group, h_panels, H if R else 0, itemsize, members, not cell)
    units = max(UNITS, UNITS_EACH * members)
    parts = min(x_chunks + h_chunks, -(-units // h_panels))
    buffers = 2 * min(threads, teams) if own or capacity < T * B else 1
    row_parts = min(units, -(-capacity // MR))
    # Rows of dz that lie far apart, each in a page of its own, cost weight gradients a miss of the
    # TLB each.  So a panel of them is copied together, if many tiles are to be computed with it.
    near = ldz * itemsize >= FAR_APART and (x_chunks + h_chunks) // parts >= MANY_CHUNKS
    # To copy rows of x and h by columns takes longer than their products, if they are short.
    close = max(I, H) * itemsize <= CLOSE
    meetings = teams * splits * shares * SHARE_COUNTERS if shares > 1 else 0
    team_counters = teams * TEAM_COUNTERS if members > 1 else 0
    packed = packs * (1 + H) * NR
    if dots:
        packed = max(packed, first_x_panel * (1 + H) * NR + NR + I * ldz)
    sizes = {"threads": threads, "groups": groups, "group": group, "capacity": capacity,
             "run": LONG_RUN if capacity >= LONG_FROM else RUN,
             "teams": teams, "members": members, "splits": splits, "shares": shares,
             "team_counters": team_counters, "meetings": meetings, "parts": parts, "near": near,
             "h_panels": h_panels, "x_panels": x_panels, "joined": joined,
             "packs": packs, "first_x_panel": first_x_panel, "x_chunks": x_chunks,
             "h_chunks": h_chunks, "row_parts": row_parts, "dots": dots, "own_sums": own,
             "x_rows": x_rows, "close": close, "sum_rows": sum_rows,
             "sum_parts": min(UNITS, sum_rows), "height": 1 + H, "ldz": ldz,
             "cleared_rows": CLEARED_ROWS}  # fmt: skip
    regions = {
        "task": (INT, words(CellBackwardTask if cell else BackwardTask)),
        "counters": (LINE, COUNTERS),
        "order": (INT, 2 * B),
        "teams": (LINE, team_counters),
        "meetings": (LINE, meetings),
        "packed": (itemsize, packed),
        "dz": (itemsize, buffers * capacity * ldz),
        "carried": (itemsize, B * ldz if cell else 0),
        "inputs": (itemsize, buffers * capacity * (x_chunks + h_chunks) * lanes),
        "where": (INT, buffers * capacity),
        "numbers": (INT, capacity),
        "one": (itemsize, 1),
        "sums": (itemsize, groups * sum_rows * H if own else 0),
        "near": (itemsize, threads * capacity * NR if near else 0),
        "tiles": (itemsize, threads * MR * NR),
    }
    return _plan(sizes, regions)
