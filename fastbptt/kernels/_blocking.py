"""Sizes: the one place that decides how much work and which memory goes together.

A plan is a NumPy record that compiled code reads by field name: sizes of blocks, and where each
region of the workspace begins, in bytes.

Results do not depend on `threads`: it cuts rows, whose states and state gradients do not touch
each other, and output tiles of the weight gradients, each summed in one order.  That order depends
on `group`, `capacity` and `_tile.SUM_ROWS` alone, which shapes decide.
"""

import sys

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
from fastbptt.kernels._schedules import COUNTERS

# Rows (sequences x steps) of one time block.  For every block each element of a weight gradient is
# read and written once: with the least number of rows that is cheap beside 2 x 512 operations on
# the element, even in L3; beyond the most nothing is gained.
LEAST_ROWS, MOST_ROWS = 512, 1024
# Most bytes of all buffers; together with SUMS, less than the 16 MiB that a call may take.
BUFFERS = 23 << 19
# Groups with sums of their own: their greatest number; the least if the batch has rows for so many,
# or threads would be left without a group; and the most bytes of all sums.
MOST_GROUPS, ENOUGH_GROUPS, SUMS = 16, 8, 4 << 20
# A dot product over H columns costs a multiply-add for each vector, and about this many more.
DOT = 8
# A time block's weight gradients are cut into at least this many units, so that threads even out.
UNITS = 8
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
    fields, at = (
        {"worker": 0, **sizes},
        0,
    )  # the address of the worker is put in once it is compiled
    for name, (size, count) in regions.items():
        fields[f"{name}_at"] = at
        at += _up(size * count, LINE)
    fields["total"] = at + LINE  # to align the start
    if fields["total"] > sys.maxsize:
        raise MemoryError(f"a workspace of {fields['total']} bytes is beyond this machine")
    plan = np.zeros(1, [(name, np.int64) for name in fields])
    plan[0] = tuple(fields.values())
    return plan


def plan_forward(B, I, H, R, itemsize, threads, cell=False, adds=False):
    """Plan of a forward call.

    R: H, or 0 for a readout.  `cell`: whether it is not a plain one, see `_cells`; `adds`: and adds
    something to z.
    """
    lanes, NR = _machine.lanes(itemsize), _machine.panel_columns(itemsize)
    MR = _machine.tile_rows_count()
    panels = -(-H // NR)
    height = R + I + 2
    # A row of a state buffer is [h_{t-1}, x_t, 1], and room for the last vectors of h and of x.
    lda = _row_stride(R + I + lanes, itemsize)
    # A block of rows keeps its two state buffers in half of L2; with many threads, in less.
    ldn = _row_stride(_up(H, PAIR), itemsize) if adds else 0
    rows = min(_machine.l2_bytes() // 2, BUFFERS // threads) // ((2 * lda + ldn) * itemsize)
    rows = max(rows, MR)
    # Several blocks for each thread if there are rows enough, to even out; at least one for each.
    # A block may be half a tile high: the packed weights still come from L2 in time.
    most = max(B // (MR // 2), 1)
    blocks = max(-(-B // rows), min(4 * threads, B // (2 * MR)), min(threads, most))
    blocks = min(_up(blocks, threads), most)
    rows = -(-B // blocks)
    spaces = min(threads, blocks)  # for the blocks that are under way at one time
    sizes = {"threads": threads, "blocks": blocks, "rows": rows, "lda": lda, "ldn": ldn,
             "panels": panels, "height": height}  # fmt: skip
    regions = {
        "task": (INT, words(CellForwardTask if cell else ForwardTask)),
        "counters": (LINE, COUNTERS),
        "packed": (itemsize, panels * height * NR),
        "states": (itemsize, spaces * rows * (2 * lda + ldn)),
        "tiles": (itemsize, spaces * MR * NR),
        "index": (INT, spaces * 2 * rows),
    }
    return _plan(sizes, regions)


def _own_sums(B, MR, sum_bytes, row_bytes):
    """How many groups of sequences with weight gradients of their own B is cut into; 1 if none.

    Each group is then one worker's from the last step to the first, and threads need not wait for
    each other nor read what another has written: three quarters of the time at small H, and where
    cores share no cache, for larger H too.  But the groups' sums take memory, which grows with H^2.
    """
    most = B // MR
    groups = max(min(most, MOST_GROUPS, SUMS // sum_bytes), -(-B // LEAST_ROWS))
    rows = BUFFERS // (2 * groups * row_bytes)
    enough = groups >= min(most, ENOUGH_GROUPS) and groups * rows >= B
    return groups if enough and groups * sum_bytes <= SUMS else 1


def plan_backward(T, B, I, H, R, itemsize, small, threads, need_dx, cell=False, tokens=0):
    """Plan of a backward call.

    R: H, or 0 for a readout.  A `small` call is for one thread whatever their number.  `cell`:
    whether it is not a plain one, see `_cells`.  `tokens`: rows of W_x, if I is 0 for that.
    """
    lanes, NR = _machine.lanes(itemsize), _machine.panel_columns(itemsize)
    MR = _machine.tile_rows_count()
    h_panels, x_panels = -(-H // NR), -(-I // NR) if need_dx else 0
    ldz = _row_stride(h_panels * NR, itemsize)
    # dx by dot products if its tiles, of whole vectors, would take longer.  The packed panel of
    # W_x^T is then W_x itself, in rows of ldz.
    tiles, products = -(-I // lanes) * H, I * (-(-H // lanes) + DOT)
    dots = need_dx and products < tiles and x_panels == 1 and I * ldz <= H * NR
    # Panels of W_h^T and W_x^T; at least one, for the row of zeros that sums begin with.
    first_x_panel = -(-R // NR)
    packs = max(first_x_panel + x_panels, 1)
    # Columns of [x_t, 1] and of h_{t-1}, in chunks of one vector.
    x_chunks, h_chunks = I // lanes + 1, -(-R // lanes)
    row_bytes = ((x_chunks + h_chunks) * lanes + ldz) * itemsize
    x_rows = tokens or I
    sum_rows = x_rows + 1 + R  # of dW_x, db and dW_h
    groups = 1 if small else _own_sums(B, MR, sum_rows * H * itemsize, row_bytes)
    own = groups > 1
    # One buffer of a time block fills half of L2, the other half is for the packed weights.
    capacity = min(max(_machine.l2_bytes() // 2 // row_bytes, LEAST_ROWS), MOST_ROWS)
    if own:
        capacity = min(LEAST_ROWS, BUFFERS // (2 * groups * row_bytes))
    capacity = max(min(capacity, BUFFERS // 2 // row_bytes), MR)
    groups = max(groups, -(-B // capacity))
    group = -(-B // groups)
    capacity = group * min(capacity // group, T)
    splits = 1 if own else min(threads, max(group // (MR // 2), 1))  # half a tile high at least
    parts = min(x_chunks + h_chunks, -(-UNITS // h_panels))
    buffers = 2 * min(threads, groups) if own else 2
    row_parts = min(UNITS, -(-capacity // MR))
    sizes = {"threads": threads, "groups": -(-B // group), "group": group, "capacity": capacity,
             "splits": splits, "parts": parts, "h_panels": h_panels, "x_panels": x_panels,
             "packs": packs, "first_x_panel": first_x_panel, "x_chunks": x_chunks,
             "h_chunks": h_chunks, "row_parts": row_parts, "dots": dots, "own_sums": own,
             "x_rows": x_rows, "sum_rows": sum_rows, "sum_parts": min(UNITS, sum_rows),
             "height": 1 + H, "ldz": ldz, "cleared_rows": CLEARED_ROWS}  # fmt: skip
    regions = {
        "task": (INT, words(CellBackwardTask if cell else BackwardTask)),
        "counters": (LINE, COUNTERS),
        "order": (INT, 2 * B),
        "packed": (itemsize, packs * (1 + H) * NR),
        "dz": (itemsize, buffers * capacity * ldz),
        "carried": (itemsize, B * ldz if cell else 0),
        "inputs": (itemsize, buffers * capacity * (x_chunks + h_chunks) * lanes),
        "where": (INT, buffers * capacity if need_dx or tokens else 0),
        "sums": (itemsize, groups * sum_rows * H if own else 0),
        "tiles": (itemsize, threads * MR * NR),
    }
    return _plan(sizes, regions)
