"""Rows: where one lies, and copying and clearing them."""

from numba import njit

from fastbptt.kernels._compiling import inlined
from fastbptt.kernels._simd import (
    LANES,
    load_first,
    offset,
    offset_bytes,
    store,
    store_first,
    zeros,
)


@inlined
def row(a, t, r):
    """Pointer to row r at step t."""
    return offset_bytes(a.data, t * a.t + r * a.r)


@njit
def fill_rows(p, rows, columns, stride):
    """Zeros in p[:rows, :columns]."""
    for r in range(rows):
        for v in range(0, columns, LANES(p)):
            store_first(offset(p, r * stride + v), zeros(p), columns - v)


@njit
def copy_row(to, p, n):
    """to[:n] = p[:n]."""
    for v in range(0, n, LANES(p)):
        store_first(offset(to, v), load_first(offset(p, v), n - v), n - v)


@inlined
def copy_row_padded(to, p, n):
    """to[:n] = p[:n], zeros up to a whole vector."""
    for v in range(0, n, LANES(p)):
        store(offset(to, v), load_first(offset(p, v), n - v))
