"""Block sizes: the one place that decides how much work and which memory goes together.

A plan is a NumPy record that compiled code reads by field name: sizes of blocks, and where in the
workspace each region starts, in elements.  Regions start on cache lines.

Results do not depend on `threads`: it cuts rows, whose states and state gradients do not touch
each other, and output tiles of the weight gradients, each summed in one order.  That order depends
on `group`, `capacity` and `tile.SUM_ROWS` alone, which shapes decide.
"""

import functools
import os

import numpy as np

from fastbptt.kernels import _simd, _tile

LINE = 64  # bytes of a cache line

# Rows (sequences x steps) of one time block.  For every block a weight gradient is read and
# written once, which the least makes cheap beside 2 x 512 operations on each element, even where
# it lies in L3; beyond the most nothing is gained.
LEAST_ROWS, MOST_ROWS = 512, 1024
COUNTERS = 5  # that workers share, each in a line of its own
# Bytes of all buffers at most; with SUMS, of the 16 MiB that a call may take.
BUFFERS = 23 << 19
# Groups with sums of their own: so many at most, and at least where the batch has rows for them,
# or threads would be left without one; bytes of all sums.
MOST_GROUPS, ENOUGH_GROUPS, SUMS = 16, 8, 4 << 20
# A dot product over H columns costs a multiply-add for each vector and so many more.
DOT = 8
# Units of work a phase of weight gradients is cut into, at least: enough for threads to even out.
UNITS = 8


@functools.cache
def l2_bytes():
    """Size of the second-level cache of a core; 1 MiB where the system does not say."""
    try:
        return os.sysconf("SC_LEVEL2_CACHE_SIZE") or 1 << 20
    except (ValueError, OSError, AttributeError):
        return 1 << 20


def _up(n, multiple):
    return -(-n // multiple) * multiple


def _row_stride(elements, itemsize):
    """Elements from row to row: whole cache lines, an odd number of them.

    The rows of a tile are read side by side; at a stride of 4,096 bytes they would all compete for
    one set of the L1 cache.
    """
    line = LINE // itemsize
    return (_up(elements, line) // line | 1) * line


def _plan(itemsize, sizes, regions):
    """Record of sizes and of the offsets of regions, the last field `total` counting them all."""
    fields, at = dict(sizes), 0
    for name, elements in regions.items():
        fields[name] = at
        at += _up(elements, LINE // itemsize)
    fields["total"] = at + LINE // itemsize  # to align the start
    plan = np.zeros(1, [(name, np.int64) for name in fields])
    plan[0] = tuple(fields.values())
    return plan, int(fields["total"])


def forward(B, I, H, R, itemsize, threads):
    """Plan of a forward call, and the elements of its workspace.  R: H, or 0 for a readout."""
    lanes = _simd.target()[0] // itemsize
    NR = _tile.VECTORS * lanes
    MR = _tile.tile_rows_count()
    panels = -(-H // NR)
    # A row of a state buffer is [h_{t-1}, x_t, 1], and room for the last vectors of h and of x.
    lda = _row_stride(R + I + lanes, itemsize)
    # A block of rows keeps its two state buffers in half of L2; with many threads, in less.
    rows = min(l2_bytes() // 2, BUFFERS // threads) // (2 * lda * itemsize)
    rows = max(rows, MR)
    # Several blocks for each thread where rows suffice, to even out; one for each at least.
    # One thread's block may be half a tile high: the packed weights still come from L2 in time.
    most = max(B // (MR // 2), 1)
    blocks = max(-(-B // rows), min(4 * threads, B // (2 * MR)), min(threads, most))
    blocks = min(_up(blocks, threads), most)
    rows = -(-B // blocks)
    spaces = min(threads, blocks)  # for the blocks that are on their way at one time
    words = 8 // itemsize  # of an int64
    sizes = {"threads": threads, "blocks": blocks, "rows": rows, "lda": lda, "panels": panels,
             "height": R + I + 2}  # fmt: skip
    regions = {
        "task_at": 128 * words,
        "counters_at": COUNTERS * LINE // itemsize,
        "packed_at": panels * (R + I + 2) * NR,
        "states_at": spaces * 2 * rows * lda,
        "tiles_at": spaces * MR * NR,
        "index_at": spaces * 2 * rows * words,
    }
    return _plan(itemsize, sizes, regions)


def _own_sums(B, MR, sum_bytes, row_bytes):
    """Into how many groups of sequences with weight gradients of their own B are cut; 1: do not.

    Each group is then one worker's from the last step to the first, and threads need not wait for
    each other nor read what another has written: three quarters of the time at small H, and where
    cores share no cache, for larger H too.  But the groups' sums take memory, which grows with H^2.
    """
    most = B // MR
    groups = max(min(most, MOST_GROUPS, SUMS // sum_bytes), -(-B // LEAST_ROWS))
    rows = BUFFERS // (2 * groups * row_bytes)
    enough = groups >= min(most, ENOUGH_GROUPS) and groups * rows >= B
    return groups if enough and groups * sum_bytes <= SUMS else 1


def backward(T, B, I, H, R, itemsize, small, threads, need_dx):
    """Plan of a backward call, and the elements of its workspace.

    R: H, or 0 for a readout.  A `small` call is for one thread whatever their number.
    """
    lanes = _simd.target()[0] // itemsize
    NR = _tile.VECTORS * lanes
    MR = _tile.tile_rows_count()
    h_panels, x_panels = -(-H // NR), -(-I // NR) if need_dx else 0
    ldz = _row_stride(h_panels * NR, itemsize)
    # dx by dot products where its tiles, of whole vectors, would take longer.  The packed panel of
    # W_x^T is then W_x itself, in rows of ldz.
    tiles, products = -(-I // lanes) * H, I * (-(-H // lanes) + DOT)
    dots = need_dx and products < tiles and x_panels == 1 and I * ldz <= H * NR
    # Panels of W_h^T and W_x^T; one at least, for the row of zeros that sums begin with.
    first_x_panel = -(-R // NR)
    packs = max(first_x_panel + x_panels, 1)
    # Columns of [x_t, 1] and of h_{t-1}, in chunks of one vector.
    x_chunks, h_chunks = I // lanes + 1, -(-R // lanes)
    row_bytes = ((x_chunks + h_chunks) * lanes + ldz) * itemsize
    sum_rows = I + 1 + R  # of dW_x, db and dW_h
    groups = 1 if small else _own_sums(B, MR, sum_rows * H * itemsize, row_bytes)
    own = groups > 1
    # One buffer of a time block fills half of L2, the other half is for the packed weights.
    capacity = min(max(l2_bytes() // 2 // row_bytes, LEAST_ROWS), MOST_ROWS)
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
    words = 8 // itemsize
    sizes = {"threads": threads, "group": group, "capacity": capacity, "splits": splits,
             "parts": parts, "h_panels": h_panels, "x_panels": x_panels, "packs": packs,
             "first_x_panel": first_x_panel, "x_chunks": x_chunks, "h_chunks": h_chunks,
             "row_parts": row_parts, "dots": dots, "own_sums": own, "sum_rows": sum_rows,
             "sum_parts": min(UNITS, sum_rows), "height": 1 + H, "ldz": ldz}  # fmt: skip
    regions = {
        "task_at": 128 * words,
        "counters_at": COUNTERS * LINE // itemsize,
        "order_at": 2 * B * words,
        "packed_at": packs * (1 + H) * NR,
        "dz_at": buffers * capacity * ldz,
        "inputs_at": buffers * capacity * (x_chunks + h_chunks) * lanes,
        "where_at": buffers * capacity * words if need_dx else 0,
        "sums_at": groups * sum_rows * H if own else 0,
        "tiles_at": threads * MR * NR,
    }
    return _plan(itemsize, sizes, regions)
