"""The register tile alone: every m, one vector and two, short and long sums, any alignment."""

# pyright: reportCallIssue=false
# (a Numba intrinsic is called with one argument less than it is defined with)

import functools
from typing import NamedTuple

import numpy as np
import pytest
from numba import njit

from fastbptt.kernels import _machine
from fastbptt.kernels._activation import CODES, activate
from fastbptt.kernels._blocking import RUN
from fastbptt.kernels._simd import LANES, load, offset, offset_bytes, pointer, store
from fastbptt.kernels._tile import NR, scatter_rows, tile_columns, tile_rows, tile_states

GUARD = 12345.0
TANH = CODES["tanh"]
DTYPES = pytest.mark.parametrize("dtype", [np.dtype("f4"), np.dtype("f8")], ids=str)
LENGTHS = pytest.mark.parametrize("k", [0, 1, 2, 7, 33, 100])
MARGIN = 8  # guard rows of c, before and behind


@njit
def call_rows(m, n, k, stride, a, b, start, c, at):
    """`at`: how many bytes behind an array's start each of a, b, start and c begins."""
    a, b = offset_bytes(pointer(a), at[0]), offset_bytes(pointer(b), at[1])
    start, c = offset_bytes(pointer(start), at[2]), offset_bytes(pointer(c), at[3])
    tile_rows(m, n, k, stride, a, b, start, 0, c)


@njit
def call_wide(n, k, a, b, stride, c):
    """One row and several panels, the sums' start in front of each."""
    panels = pointer(b)
    start = offset(panels, NR(panels))
    tile_rows(1, n, k, k, pointer(a), start, panels, stride, pointer(c))


@njit
def call_columns(m, n, k, ldb, a, b, start, c, at):
    a, b = offset_bytes(pointer(a), at[0]), offset_bytes(pointer(b), at[1])
    index = pointer(np.arange(k))
    tile_columns(m, n, k, RUN, a, LANES(a), index, b, ldb, offset_bytes(pointer(c), at[3]))


@njit
def call_columns_of(m, n, k, a, index, b, c):
    tile_columns(
        m, n, k, RUN, pointer(a), a.shape[1], pointer(index), pointer(b), b.shape[1], pointer(c)
    )


class Kind(NamedTuple):
    """What the tests need to know of one of the two tiles."""

    call: object
    rows: object  # dtype -> m at most
    transposed: bool  # whether a(i, k) lies at a[k, i]


KINDS = {
    "tile_rows": Kind(call_rows, lambda dtype: _machine.tile_rows_count(), False),
    "tile_columns": Kind(
        call_columns, lambda dtype: _machine.tile_columns_count(dtype.itemsize), True
    ),
}
EACH = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def lanes(dtype):
    return _machine.lanes(dtype.itemsize)


@functools.cache
def draw(kind, dtype, k, whole=False):
    """a (rows, k), b (k, NR) and start (NR,), of small integers or of normal variates.

    `tile_columns` starts with zeros.
    """
    rng = np.random.default_rng(k)
    shapes = (
        (kind.rows(dtype), k),
        (k, _machine.VECTORS * lanes(dtype)),
        _machine.VECTORS * lanes(dtype),
    )
    if whole:
        a, b, start = (rng.integers(-9, 10, shape).astype(dtype) for shape in shapes)
    else:
        a, b, start = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    return a, b, start * (not kind.transposed)


def shifted(values, size, at):
    """Memory of `size` elements with the values at byte `at`, NaN elsewhere."""
    memory = np.full(size + 2, np.nan, values.dtype)
    raw = memory.view(np.uint8)
    raw[at : at + values.nbytes] = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
    return memory


def run(kind, a, b, start, m, n, at=(0, 0, 0, 0)):
    """The part of c that is to be written: m rows, the vectors that n columns need.

    All else stays as it was.  Where no more than that is to be read, there is NaN: in a past row m
    and column k, in b and start past the vectors that n columns need.
    """
    dtype, k, width, one = start.dtype, len(b), len(start), lanes(start.dtype)
    written = one if n <= one else width
    # Rows of one operand lie further apart than they are long: of a, or of b for tile_columns.
    stride = width + 3 if kind.transposed else k + 3
    rows = np.full((k, one) if kind.transposed else (m, stride), np.nan, dtype)
    if kind.transposed:
        rows[:, :m] = a[:m].T
    else:
        rows[:, :k] = a[:m]
    start = start.copy()
    start[written:] = np.nan
    panel = np.full((k, stride if kind.transposed else width), np.nan, dtype)
    panel[:, :written] = b[:, :written]
    b = panel
    inputs = [shifted(v, v.size, shift) for v, shift in zip((rows, b, start), at, strict=False)]

    memory = np.full((kind.rows(dtype) + 2 * MARGIN) * width, GUARD, dtype)
    before = memory.copy()
    first = MARGIN * width * dtype.itemsize + at[3]
    kind.call(m, n, k, stride, *inputs, memory, (*at[:3], first))

    there = slice(first, first + m * width * dtype.itemsize)
    c = memory.view(np.uint8)[there].copy().view(dtype).reshape(m, width)[:, :written]
    for part in (memory, before):  # what may be written is no longer compared
        part.view(np.uint8)[there].reshape(m, -1)[:, : written * dtype.itemsize] = 0
    np.testing.assert_array_equal(memory, before)
    return c


@EACH
@DTYPES
@LENGTHS
def test_whole_numbers_are_exact(kind, dtype, k):
    """Every m and n; what lies beyond the rows and the vectors of a result stays as it is."""
    a, b, start = draw(kind, dtype, k, whole=True)
    expected = start + a @ b
    for m in range(1, kind.rows(dtype) + 1):
        for n in range(1, len(start) + 1):
            got = run(kind, a, b, start, m, n)
            assert got.shape[1] >= n
            np.testing.assert_array_equal(got, expected[:m, : got.shape[1]], f"{m=} {n=}")


@EACH
@DTYPES
@LENGTHS
def test_rounding_errors(kind, dtype, k):
    """Within k roundings of u relative to |start| + |a| |b|; one more where products round too.

    Sums of RUN terms, added up, round no more often than that.
    """
    wider = np.float64 if dtype == np.float32 else np.longdouble
    if np.finfo(wider).nmant == np.finfo(dtype).nmant:
        pytest.skip("no type wider than float64 here")
    a, b, start = (v.astype(wider) for v in draw(kind, dtype, k))
    expected = start + a @ b
    roundings = k if _machine.target()[1] or k == 0 else k + 1
    u = np.finfo(dtype).epsneg
    bound = roundings * u / (1 - roundings * u) * (np.abs(start) + np.abs(a) @ np.abs(b))
    for m in range(1, kind.rows(dtype) + 1):
        for n in (lanes(dtype), len(start)):
            got = run(kind, *draw(kind, dtype, k), m, n)
            assert (np.abs(got - expected[:m, :n]) <= bound[:m, :n]).all()


@EACH
@DTYPES
@LENGTHS
def test_a_row_does_not_depend_on_its_neighbours(kind, dtype, k):
    """The same bits for every m, on its own, and for one vector and two."""
    a, b, start = draw(kind, dtype, k)
    rows, width = kind.rows(dtype), len(start)
    expected = run(kind, a, b, start, rows, width)
    for m in range(1, rows + 1):
        for n in (lanes(dtype), width):
            got = run(kind, a, b, start, m, n)
            np.testing.assert_array_equal(got, expected[:m, :n], f"{m=} {n=}")
    for i in range(rows):
        got = run(kind, a[i : i + 1], b, start, 1, width)
        np.testing.assert_array_equal(got[0], expected[i], f"row {i}")


@DTYPES
@LENGTHS
@pytest.mark.parametrize("panels", _machine.WIDE)
def test_one_row_and_several_panels(dtype, k, panels):
    """The same bits as one panel after another; nothing behind the row is written."""
    kind = KINDS["tile_rows"]
    a, b, start = draw(kind, dtype, k)
    width = len(start)
    start[:] = 0  # all panels begin with the first one's start
    gap = 5  # rows between two panels
    memory = np.full((panels, 1 + k + gap, width), np.nan, dtype)
    memory[:, 0] = 0
    c = np.full((panels + 1) * width, GUARD, dtype)
    for panel in range(panels):
        memory[panel, 1 : k + 1] = (1 + panel) * b
    for n in (panels * width - width // 2, panels * width):
        call_wide(n, k, a[:1].copy(), memory, memory[0].size, c)
        expected = [run(kind, a, (1 + p) * b, start, 1, width)[0] for p in range(panels)]
        np.testing.assert_array_equal(c[: panels * width], np.concatenate(expected))
        assert (c[panels * width :] == GUARD).all()


@EACH
@DTYPES
def test_any_alignment(kind, dtype):
    """Panels begin at any element, rows at any byte."""
    a, b, start = draw(kind, dtype, 7, whole=True)
    expected = start + a @ b
    for at in ((1, 0, 0, 0), (0, 4, 0, 0), (0, 0, 4, 0), (0, 0, 0, 4), (3, 4, 4, 4)):
        got = run(kind, a, b, start, len(a), len(start), at)
        np.testing.assert_array_equal(got, expected, f"{at=}")


@DTYPES
@LENGTHS
def test_columns_of_rows_anywhere(dtype, k):
    """The bits of rows that follow each other; a column may be one number for all."""
    kind = KINDS["tile_columns"]
    a, b, start = draw(kind, dtype, k)
    rng = np.random.default_rng(k)
    rows, place = np.full((2 * k + 1, 50), np.nan, dtype), rng.permutation(2 * k + 1)[:k]
    rows[place, : len(a)] = a.T
    c = np.zeros((len(a), len(start)), dtype)
    for m in range(1, len(a) + 1):
        call_columns_of(m, len(start), k, rows, place, b, c)
        np.testing.assert_array_equal(c[:m], run(kind, a, b, start, m, len(start)))
    call_columns_of(1, len(start), k, np.ones((1, 1), dtype), np.zeros(k, int), b, c)
    np.testing.assert_array_equal(c[:1], run(kind, np.ones_like(a), b, start, 1, len(start)))


@njit
def call_states(m, n, R, I, h, x, index, b, z, count, left, waiting, out):
    """The rows of z begin at `MARGIN`, those that wait and `out` likewise."""
    at = MARGIN * z.shape[1]
    tile_states(
        m, n, R, I, pointer(h), h.shape[1], pointer(x), x.strides[0], pointer(index), pointer(b), 0,
        offset(pointer(z), at), count, left, offset(pointer(waiting), at),
        offset(pointer(out), MARGIN * out.shape[1]), out.shape[1],
    )  # fmt: skip


@njit
def call_tanh(values):
    p = pointer(values)
    for i in range(0, values.size, LANES(p)):
        store(offset(p, i), activate(load(offset(p, i)), TANH))


ROWS = _machine.tile_rows_count()
SIZES = pytest.mark.parametrize(("R", "I"), [(0, 0), (0, 3), (1, 0), (5, 17), (33, 1), (40, 20)])


def draw_states(dtype, R, I, whole):
    """Rows h as far apart as rows of z, rows x, [W_h; W_x; b], and the place of each row's x."""
    rng = np.random.default_rng(R + I)
    width, index = _machine.panel_columns(dtype.itemsize), rng.permutation(ROWS + 2)[:ROWS]
    shapes = (ROWS, R), (ROWS + 2, I), (R + I + 1, width)
    if whole:
        h, x, b = (rng.integers(-9, 10, shape).astype(dtype) for shape in shapes)
    else:
        h, x, b = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    apart = np.full((ROWS, max(R, width) + 3), np.nan, dtype)
    apart[:, :R] = h
    return apart, x, b, index


def run_states(m, n, h, x, index, b, R, count=0, left=0, waiting=None, out=None):
    """z, (m, columns of the vectors that n needs); nothing else is written."""
    z = np.full((ROWS + 2 * MARGIN, h.shape[1]), GUARD, h.dtype)
    none = z.copy()
    given = none if waiting is None else waiting, none if out is None else out
    call_states(m, n, R, x.shape[1], h, x, index, b, z, count, left, *given)
    written = lanes(h.dtype) if n <= lanes(h.dtype) else b.shape[1]
    found = z[MARGIN : MARGIN + m, :written].copy()
    z[MARGIN : MARGIN + m, :written] = GUARD
    assert (z == GUARD).all()
    return found


@DTYPES
@SIZES
def test_states_of_whole_numbers_are_exact(dtype, R, I):
    h, x, b, index = draw_states(dtype, R, I, whole=True)
    expected = h[:, :R] @ b[:R] + x[index] @ b[R:-1] + b[-1]
    for m in range(1, ROWS + 1):
        for n in range(1, b.shape[1] + 1):
            got = run_states(m, n, h, x, index, b, R)
            np.testing.assert_array_equal(got, expected[:m, : got.shape[1]], f"{m=} {n=}")


@DTYPES
@SIZES
def test_states_are_summed_in_one_order(dtype, R, I):
    """The bits of the other tile for rows [h, x, 1], for every m, one vector and two."""
    h, x, b, index = draw_states(dtype, R, I, whole=False)
    a = np.concatenate((h[:, :R], x[index], np.ones((ROWS, 1), dtype)), axis=1)
    zeros = np.zeros(b.shape[1], dtype)
    expected = run(KINDS["tile_rows"], a, b, zeros, ROWS, b.shape[1])
    for m in range(1, ROWS + 1):
        for n in (lanes(dtype), b.shape[1]):
            got = run_states(m, n, h, x, index, b, R)
            np.testing.assert_array_equal(got, expected[:m, :n], f"{m=} {n=}")


@pytest.mark.skipif(not _machine.spare_registers(), reason="no registers to spare")
@DTYPES
@pytest.mark.parametrize("m", range(ROWS // 2, ROWS + 1))
def test_tanh_beside_products(dtype, m):
    """The bits of tanh alone, where they were and in `out`; the products are the same as ever."""
    R = 2 * ROWS + 3
    h, x, b, index = draw_states(dtype, R, 2, whole=False)
    expected = run_states(m, b.shape[1], h, x, index, b, R)
    rng = np.random.default_rng(m)
    for rows in range(1, ROWS + 1):
        for left in (1, lanes(dtype) - 1, lanes(dtype), lanes(dtype) + 1, b.shape[1], 99):
            columns = min(left, b.shape[1])
            waiting = np.full((ROWS + 2 * MARGIN, h.shape[1]), GUARD, dtype)
            place = np.s_[MARGIN : MARGIN + rows, :columns]
            waiting[place] = 3 * rng.standard_normal((rows, columns))
            activated = np.ascontiguousarray(waiting[place])
            whole = np.zeros(-(-activated.size // lanes(dtype)) * lanes(dtype), dtype)
            whole[: activated.size] = activated.ravel()
            call_tanh(whole)
            after, out = waiting.copy(), np.full((ROWS + 2 * MARGIN, columns + 5), GUARD, dtype)
            out_after = out.copy()
            after[place] = out_after[place] = whole[: activated.size].reshape(activated.shape)
            count = rows * min(-(-left // lanes(dtype)), 2)
            got = run_states(m, b.shape[1], h, x, index, b, R, count, left, waiting, out)
            np.testing.assert_array_equal(got, expected)
            np.testing.assert_array_equal(waiting, after, f"{rows=} {left=}")
            np.testing.assert_array_equal(out, out_after, f"{rows=} {left=}")


@njit
def call_scatter(m, c, begin, end, index, out):
    scatter_rows(m, pointer(c), begin, end, pointer(index), pointer(out), out.shape[1])


@pytest.mark.parametrize("size", [1, 5, 40])
@DTYPES
def test_columns_of_a_tile_anywhere(dtype, size):
    """Into rows in any order, and nothing else is written."""
    columns, rows = lanes(dtype) * _machine.VECTORS, _machine.tile_rows_count()
    rng = np.random.default_rng(0)
    c = rng.standard_normal((rows, columns)).astype(dtype)
    for begin in range(columns):
        for end in range(begin + 1, min(columns, begin + size) + 1):
            for m in (1, rows):
                index = rng.permutation(2 * rows)[:m]
                out = np.full((2 * rows + 2, size), GUARD, dtype)
                expected = out.copy()
                expected[1 + index, : end - begin] = c[:m, begin:end]
                call_scatter(m, c, begin, end, index, out[1:-1])
                np.testing.assert_array_equal(out, expected)
