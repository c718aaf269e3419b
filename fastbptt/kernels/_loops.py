"""Loops round the register tile: packing, one block of sequences forward, one time block backward.

Everything here runs inside one thread on the rows (sequences) or panels it was given.  Shapes in
comments count elements; NR columns make a panel, the last one padded with zeros.
"""

from typing import NamedTuple, get_type_hints

from numba import types

from fastbptt.kernels._activation import activate, slope
from fastbptt.kernels._compiling import inlined
from fastbptt.kernels._simd import (
    ITEMSIZE,
    LANES,
    add,
    get,
    load,
    load_first,
    mul,
    multiply_add,
    offset,
    offset_bytes,
    one_at,
    prefetch,
    put,
    store,
    store_first,
    total,
    zeros,
)
from fastbptt.kernels._tile import MC, MR, NR, WIDE, tile_columns, tile_rows


class Floats:
    """Pointer to elements of the call's dtype."""


class Ints:
    """Pointer to int64."""


class Plan:
    """Record of block sizes, from :mod:`fastbptt.kernels._blocking`."""


class Matrix(NamedTuple):
    """A user's array of two or three axes: where element (t, r, c) lies, strides in bytes."""

    data: Floats
    t: int
    r: int
    c: int


def task_type(task, dtype, plan):
    """Numba type of a task, or of a part of one, from its annotations."""
    kinds = {
        int: types.intp,
        bool: types.boolean,
        Floats: types.CPointer(dtype),
        Ints: types.CPointer(types.int64),
        Plan: plan,
    }
    if Matrix is not task:
        kinds[Matrix] = task_type(Matrix, dtype, plan)
    fields = [kinds[hint] for hint in get_type_hints(task).values()]
    return types.NamedTuple(fields, task)


@inlined
def row(a, t, r):
    """Pointer to row r at step t."""
    return offset_bytes(a.data, t * a.t + r * a.r)


@inlined
def split(total, parts, part):
    """Start of a part when `total` is cut into `parts` that differ by one at most."""
    return total * part // parts


@inlined
def pack_panel(panel, w, w_k, w_n, K, n):
    """panel[k, :n] = w[k, :n] for k < K, zeros behind; w_k, w_n are strides in bytes."""
    width = NR(panel)
    if w_n == ITEMSIZE(panel):
        for k in range(K):
            for v in range(0, width, LANES(panel)):
                there = offset(offset_bytes(w, k * w_k), v)
                store(offset(panel, k * width + v), load_first(there, n - v))
    else:
        for c in range(width):
            for k in range(K):
                value = get(offset_bytes(w, k * w_k + c * w_n), 0) if c < n else 0.0
                put(panel, k * width + c, value)


@inlined
def fill_rows(p, rows, columns, stride):
    """Zeros in p[:rows, :columns]."""
    for r in range(rows):
        for v in range(0, columns, LANES(p)):
            store_first(offset(p, r * stride + v), zeros(p), columns - v)


@inlined
def copy_row(to, p, n):
    """to[:n] = p[:n]."""
    for v in range(0, n, LANES(p)):
        store_first(offset(to, v), load_first(offset(p, v), n - v), n - v)


@inlined
def copy_row_padded(to, p, n):
    """to[:n] = p[:n], zeros up to a whole vector."""
    for v in range(0, n, LANES(p)):
        store(offset(to, v), load_first(offset(p, v), n - v))


@inlined
def tiles(rows, height):
    """Into how many tiles of `height` at most, as equal as can be, rows are cut."""
    return (rows + height - 1) // height


@inlined
def panels_at_once(rows, panels):
    """How many of the panels left a tile takes: of one row more than one, see `tile`."""
    take = 1
    for wide in WIDE:
        if rows == 1 and panels >= wide:
            take = wide
    return take


class ForwardTask(NamedTuple):
    """One forward call, as workers see it.  Pointers into user arrays and into the workspace.

    A readout y = x W_x + b, with R = 0, is one step of a layer whose state does not come back.
    """

    T: int
    B: int
    I: int
    H: int
    R: int  # rows of W_h: H, or 0 for a readout
    activation: int
    x: Matrix
    W_x: Matrix
    W_h: Matrix
    b: Matrix
    h: Floats  # (T + 1, B, H), C-contiguous; h[0] is not read where R = 0
    has_lengths: bool
    order: Ints  # (B,) sequences, longest first; unused without lengths
    lengths: Ints  # (B,) in that order
    plan: Plan  # of blocking.forward
    packed: Floats  # (panels, height, NR): zeros, R rows of W_h, I of W_x, b
    states: Floats  # (spaces, 2, rows, lda)
    tiles: Floats  # (spaces, MR, NR)
    index: Ints  # (spaces, 2, rows)
    counters: Ints


@inlined
def pack_forward(p, panel):
    """Panel of [0; W_h; W_x; b], the columns that belong to NR hidden units."""
    width = NR(p.packed)
    skip = panel * width
    n = min(width, p.H - skip)
    to = offset(p.packed, skip * p.plan.height)
    fill_rows(to, 1, width, width)
    W_h = offset_bytes(p.W_h.data, skip * p.W_h.c)
    pack_panel(offset(to, width), W_h, p.W_h.r, p.W_h.c, p.R, n)
    W_x = offset_bytes(p.W_x.data, skip * p.W_x.c)
    pack_panel(offset(to, (1 + p.R) * width), W_x, p.W_x.r, p.W_x.c, p.I, n)
    b = offset_bytes(p.b.data, skip * p.b.c)
    pack_panel(offset(to, (1 + p.R + p.I) * width), b, 0, p.b.c, 1, n)


@inlined
def put_inputs(p, states, index, live, t):
    """[x_{t+1}, 1] into the rows of a state buffer, behind h_t."""
    for r in range(live):
        place = offset(states, r * p.plan.lda + p.R)
        copy_row_padded(place, row(p.x, t, get(index, r)), p.I)
        put(place, p.I, 1.0)


@inlined
def forward_block(p, block, slot):
    """All steps of one block of sequences.

    h_t = f([h_{t-1}, x_t, 1] [W_h; W_x; b]), summed in this order: what is summed first is rounded
    most often, and the bias, often the largest term, only once.

    With lengths, sequences are dealt to the blocks longest first, so that a block's live ones are
    its first rows at every step.
    """
    width, lanes = NR(p.packed), LANES(p.packed)
    first = split(p.B, p.plan.blocks, block)
    rows = split(p.B, p.plan.blocks, block + 1) - first
    if p.has_lengths:
        rows = (p.B - block + p.plan.blocks - 1) // p.plan.blocks
    # Where there are no more blocks than threads, each has a space of its own.
    space = block if p.plan.blocks <= p.plan.threads else slot
    index = offset(p.index, space * 2 * p.plan.rows)
    length = offset(index, p.plan.rows)
    for r in range(rows):
        put(index, r, get(p.order, block + r * p.plan.blocks) if p.has_lengths else first + r)
        put(length, r, get(p.lengths, block + r * p.plan.blocks) if p.has_lengths else p.T)
    c = offset(p.tiles, space * MR(p.packed) * width)
    now = offset(p.states, space * 2 * p.plan.rows * p.plan.lda)  # rows [h_{t-1}, x_t, 1]
    after = offset(now, p.plan.rows * p.plan.lda)  # rows [h_t, x_{t+1}, 1]

    live = rows
    while live > 0 and get(length, live - 1) == 0:
        live -= 1
    for r in range(live):
        copy_row_padded(offset(now, r * p.plan.lda), offset(p.h, get(index, r) * p.H), p.R)
    put_inputs(p, now, index, live, 0)
    t = 0
    while live > 0:
        h = offset(p.h, (t + 1) * p.B * p.H)
        count = tiles(live, MR(p.packed))
        stride = p.plan.height * width
        panel = 0
        while panel < p.plan.panels:
            skip, take = panel * width, panels_at_once(live, p.plan.panels - panel)
            n = min(take * width, p.H - skip)
            start = offset(p.packed, panel * stride)
            panel += take
            for q in range(count):
                r = split(live, count, q)
                m = split(live, count, q + 1) - r
                a = offset(now, r * p.plan.lda)
                b = offset(start, width)
                tile_rows(m, n, p.R + p.I + 1, p.plan.lda, a, b, start, stride, c)
                for i in range(m):
                    state = offset(after, (r + i) * p.plan.lda + skip)
                    out = offset(h, get(index, r + i) * p.H + skip)
                    for v in range(0, n, lanes):
                        f = activate(load(offset(c, i * width + v)), p.activation)
                        if p.R > 0:
                            store(offset(state, v), f)
                        store_first(offset(out, v), f, n - v)
        now, after = after, now
        t += 1
        while live > 0 and get(length, live - 1) == t:
            live -= 1
        put_inputs(p, now, index, live, t)

    for r in range(rows):  # the last state stays
        last = get(length, r)
        for t in range(last, p.T):
            state = offset(p.h, get(index, r) * p.H)
            copy_row(offset(state, (t + 1) * p.B * p.H), offset(state, last * p.B * p.H), p.H)


class BackwardTask(NamedTuple):
    """One backward call, as workers see it.  Pointers into user arrays and into the workspace.

    With R = 0 that of a readout, see `ForwardTask`: neither W_h, dW_h nor dh0 is touched.
    """

    T: int
    B: int
    I: int
    H: int
    R: int  # rows of W_h: H, or 0 for a readout
    activation: int
    x: Matrix
    W_x: Matrix
    W_h: Matrix
    h: Matrix
    dh: Matrix
    every_step: bool  # dh is (T, B, H), not (B, H)
    dW_x: Floats
    dW_h: Floats
    db: Floats
    dx: Floats
    need_dx: bool
    dh0: Floats
    has_lengths: bool
    order: Ints  # (B,) sequences, longest first
    lengths: Ints  # (B,) in that order
    plan: Plan  # of blocking.backward
    packed: Floats  # (packs, height, NR): zeros, then H rows of W_h^T (unless R = 0) or W_x^T
    dz: Floats  # (buffers, capacity, ldz): dz_t by rows
    inputs: Floats  # (buffers, chunks, capacity, lanes): [x_t, 1] and h_{t-1} by columns
    where: Ints  # (buffers, capacity): row of dx, (T B, I)
    sums: Floats  # (groups, I + 1 + R, H): dW_x, db and dW_h of each group, if they are its own
    tiles: Floats  # (threads, MR, NR)
    counters: Ints


@inlined
def pack_backward(p, panel):
    """Panel of W_h^T, or behind those of W_x^T; for dot products rows of W_x instead."""
    width = NR(p.packed)
    to = offset(p.packed, panel * p.plan.height * width)
    fill_rows(to, 1, width, width)
    if panel >= p.plan.first_x_panel and p.plan.dots:
        fill_rows(offset(to, width), p.I, p.plan.ldz, p.plan.ldz)
        for i in range(p.I):
            W_x = offset_bytes(p.W_x.data, i * p.W_x.r)
            for k in range(p.H):
                put(to, width + i * p.plan.ldz + k, get(offset_bytes(W_x, k * p.W_x.c), 0))
        return
    W, size, skip = p.W_h, p.H, panel * width
    if panel >= p.plan.first_x_panel:
        W, size, skip = p.W_x, p.I, (panel - p.plan.first_x_panel) * width
    n = min(width, size - skip)
    pack_panel(offset(to, width), offset_bytes(W.data, skip * W.r), W.c, W.r, p.H, n)


@inlined
def past_the_end(p, r):
    """What a sequence leaves to steps that do not count: dx = 0; dh0 of one without any step."""
    b, length = get(p.order, r), get(p.lengths, r)
    if p.need_dx:
        for t in range(length, p.T):
            fill_rows(offset(p.dx, (t * p.B + b) * p.I), 1, p.I, p.I)
    if length == 0:
        fill_rows(offset(p.dh0, b * p.H), 1, p.H, p.H)
        if not p.every_step:
            copy_row(offset(p.dh0, b * p.H), row(p.dh, 0, b), p.H)


@inlined
def time_block(p, first, t):
    """The steps t ... low + 1 of a group that a buffer has rows for.

    Returns low, their rows in all, the row where step low + 1 begins, and how many sequences are
    live there at most.
    """
    low, rows, last, live = t, 0, 0, 0
    while low > 0:
        while live < p.plan.group and first + live < p.B and get(p.lengths, first + live) >= low:
            live += 1
        if rows + live > p.plan.capacity:
            break
        last = rows
        rows += live
        low -= 1
    return low, rows, last, live


@inlined
def gather_inputs(p, buffer, at, t, first, lo, hi):
    """[x_t, 1] of rows lo ... hi into the buffer, from its row `at` on, and where dx_t goes."""
    lanes = LANES(p.inputs)
    chunks = p.plan.x_chunks + p.plan.h_chunks
    to = offset(p.inputs, (buffer * chunks * p.plan.capacity + at) * lanes)
    where = offset(p.where, buffer * p.plan.capacity + at)
    whole = p.I // lanes * lanes  # columns of x in vectors without the 1
    one = one_at(p.inputs, p.I - whole)
    for r in range(lo, hi):
        b = get(p.order, first + r)
        x = row(p.x, t - 1, b)
        place = offset(to, r * lanes)
        for v in range(0, whole, lanes):
            store(offset(place, v * p.plan.capacity), load(offset(x, v)))
        end = one
        if whole < p.I:
            end = add(load_first(offset(x, whole), p.I - whole), one)
        store(offset(place, whole * p.plan.capacity), end)
        if p.need_dx:
            put(where, r, (t - 1) * p.B + b)


@inlined
def state_rows(p, buffer, at):
    """Where h_{t-1} goes in the buffer, if its row `at` is the first of step t: by columns."""
    lanes = LANES(p.inputs)
    chunks = p.plan.x_chunks + p.plan.h_chunks
    return offset(p.inputs, ((buffer * chunks + p.plan.x_chunks) * p.plan.capacity + at) * lanes)


@inlined
def state_gradient(p, buffer, first, t_from, t_to, before, lo, hi, slot):
    """dz_t for rows lo ... hi of a group and t from t_from down to t_to, with what hangs on it.

    dz_t = (dh_t + dz_{t+1} W_h^T) f'(h_t) goes into the buffer, with [x_t, 1] and h_{t-1}, for
    the other gradients.  dz of step t_from + 1 begins at row `before` of the buffer beside it.
    """
    width, lanes = NR(p.packed), LANES(p.packed)
    capacity, ldz = p.plan.capacity, p.plan.ldz
    c = offset(p.tiles, slot * MR(p.packed) * width)
    stride = p.plan.height * width if p.R > 0 else 0
    live = 0
    at = 0  # row of the buffer where step t begins
    old = offset(p.dz, ((buffer ^ 1) * capacity + before) * ldz)  # dz_{t+1}
    new = offset(p.dz, buffer * capacity * ldz)  # dz_t
    states = state_rows(p, buffer, 0)  # for h_t
    for t in range(t_from, t_to - 1, -1):
        while live < p.plan.group and first + live < p.B and get(p.lengths, first + live) >= t:
            live += 1
        last = max(min(hi, live), lo)  # of the rows given, those that have a step t
        going = lo  # those that have a step t + 1
        while going < last and get(p.lengths, first + going) > t:
            going += 1
        gather_inputs(p, buffer, at, t, first, lo, last)
        tiles_going = tiles(going - lo, MR(p.packed))
        count = tiles_going + tiles(last - going, MR(p.packed))
        panel = 0
        while panel < p.plan.h_panels and count > 0:
            skip, take = panel * width, panels_at_once(last - lo, p.plan.h_panels - panel)
            n = min(take * width, p.H - skip)
            start = offset(p.packed, panel * stride)
            panel += take
            for q in range(count):
                goes = q < tiles_going
                begin, rows, parts, part, k = lo, going - lo, tiles_going, q, p.H
                if not goes:
                    begin, rows, parts, k = going, last - going, count - tiles_going, 0
                    part = q - tiles_going
                r = begin + split(rows, parts, part)
                m = begin + split(rows, parts, part + 1) - r
                b = offset(start, width)
                tile_rows(m, n, k, ldz, offset(old, r * ldz), b, start, stride, c)
                enters = p.every_step or not goes
                keeps = goes and t < t_from and p.R > 0
                for i in range(m):
                    b = get(p.order, first + r + i)
                    h = offset(row(p.h, t, b), skip)
                    dh = offset(row(p.dh, t - 1, b), skip)
                    # What step t - 1 will read: long series come from main memory.
                    h_before = offset(row(p.h, t - 1, b), skip)
                    dh_before = offset(row(p.dh, t - 2, b), skip)
                    dz = offset(new, (r + i) * ldz + skip)
                    kept = offset(states, (r + i) * lanes + skip * capacity)
                    for v in range(0, n, lanes):
                        prefetch(offset(h_before, v))
                        prefetch(offset(dh_before, v))
                        gradient = load(offset(c, i * width + v))
                        if enters:
                            gradient = add(gradient, load_first(offset(dh, v), n - v))
                        state = load_first(offset(h, v), n - v)
                        if keeps:
                            store(offset(kept, v * capacity), state)
                        store(offset(dz, v), mul(gradient, slope(state, p.activation)))
        states = state_rows(p, buffer, at)
        if t == t_to and p.R > 0:
            for r in range(lo, last):
                h = row(p.h, t - 1, get(p.order, first + r))
                for v in range(0, p.H, lanes):
                    kept = offset(states, r * lanes + v * capacity)
                    store(kept, load_first(offset(h, v), p.H - v))
        at += live
        old, new = new, offset(p.dz, (buffer * capacity + at) * ldz)


class Sums(NamedTuple):
    """Where gradients of the weights are summed."""

    dW_x: Floats
    dW_h: Floats
    db: Floats


@inlined
def weight_sums(p, group):
    """A group's own sums, or those of all, in the user's arrays."""
    if p.plan.own_sums:
        dW_x = offset(p.sums, group * p.plan.sum_rows * p.H)
        db = offset(dW_x, p.I * p.H)
        return Sums(dW_x, offset(db, p.H), db)
    return Sums(p.dW_x, p.dW_h, p.db)


@inlined
def add_sums(p, groups, part):
    """Rows of the groups' own sums, added up in the order of the groups."""
    lanes, rows = LANES(p.sums), p.plan.sum_rows
    lo, hi = split(rows, p.plan.sum_parts, part), split(rows, p.plan.sum_parts, part + 1)
    for r in range(lo, hi):
        to = offset(p.dW_x, r * p.H)
        if r == p.I:
            to = p.db
        if r > p.I:
            to = offset(p.dW_h, (r - p.I - 1) * p.H)
        for v in range(0, p.H, lanes):
            gradient = zeros(p.sums)
            for group in range(groups):
                own = offset(p.sums, (group * rows + r) * p.H + v)
                gradient = add(gradient, load_first(own, p.H - v))
            store_first(offset(to, v), gradient, p.H - v)


@inlined
def weight_gradient(p, sums, buffer, rows, unit, fresh, slot):
    """One unit of dW_x, db and dW_h: a panel of columns, a part of the rows of [x, 1] and h.

    Adds the sum over the buffer's rows; the first time, `fresh`, it stores.
    """
    width, lanes = NR(p.packed), LANES(p.packed)
    panel, part = unit // p.plan.parts, unit % p.plan.parts
    skip = panel * width
    n = min(width, p.H - skip)
    chunks = p.plan.x_chunks + p.plan.h_chunks
    c = offset(p.tiles, slot * MR(p.packed) * width)
    dz = offset(p.dz, buffer * p.plan.capacity * p.plan.ldz + skip)
    for chunk in range(split(chunks, p.plan.parts, part), split(chunks, p.plan.parts, part + 1)):
        a = offset(p.inputs, (buffer * chunks + chunk) * p.plan.capacity * lanes)
        to_h = chunk >= p.plan.x_chunks
        base = (chunk - p.plan.x_chunks if to_h else chunk) * lanes
        end = min(lanes, (p.H if to_h else p.I + 1) - base)
        for i in range(0, end, MC(p.packed)):
            m = min(MC(p.packed), end - i)
            to = offset(sums.dW_h if to_h else sums.dW_x, (base + i) * p.H + skip)
            for j in range(m):
                for v in range(0, n, lanes):
                    prefetch(offset(to, j * p.H + v))
            tile_columns(m, n, rows, offset(a, i), dz, p.plan.ldz, c)
            for j in range(m):
                number = base + i + j
                to = offset(sums.dW_h if to_h else sums.dW_x, number * p.H)
                if not to_h and number == p.I:
                    to = sums.db
                to = offset(to, skip)
                for v in range(0, n, lanes):
                    gradient = load(offset(c, j * width + v))
                    if not fresh:
                        gradient = add(load_first(offset(to, v), n - v), gradient)
                    store_first(offset(to, v), gradient, n - v)


@inlined
def input_gradient(p, buffer, first, rows, last, ends, part, slot):
    """A part of dx_t = dz_t W_x^T and, where the block `ends` at step 1, of dh_0 = dz_1 W_h^T.

    The buffer holds so many rows of dz, those of its last step from row `last` on.  Where x has few
    columns a tile would compute zeros in most lanes; there each element is a dot product of its
    own.
    """
    width, lanes, height = NR(p.packed), LANES(p.packed), MR(p.packed)
    ldz = p.plan.ldz
    dzs = offset(p.dz, buffer * p.plan.capacity * ldz)
    c = offset(p.tiles, slot * height * width)
    for of_state in range(2):
        # rows begin ... rows of dz, times panels of W^T, into rows index[0], ... of out
        begin, columns, out = 0, p.I, p.dx
        panel, panels = p.plan.first_x_panel, p.plan.x_panels
        index = offset(p.where, buffer * p.plan.capacity)
        if of_state:
            begin, columns, out = last, p.H, p.dh0
            panel, panels = 0, p.plan.h_panels if ends and p.R > 0 else 0
            index = offset(p.order, first - last)
        count = tiles(rows - begin, height)
        lo = begin + split(count, p.plan.row_parts, part) * height
        hi = min(begin + split(count, p.plan.row_parts, part + 1) * height, rows)
        start = offset(p.packed, panel * p.plan.height * width)
        if p.plan.dots and not of_state:
            panels = 0
            for r in range(lo, hi):
                dz, to = offset(dzs, r * ldz), offset(out, get(index, r) * columns)
                for i in range(columns):
                    W_x = offset(start, width + i * ldz)
                    products = zeros(p.packed)
                    for v in range(0, p.H, lanes):
                        w = load(offset(W_x, v))
                        products = multiply_add(load(offset(dz, v)), w, products)
                    put(to, i, total(products))
        for skip in range(0, panels * width, width):
            n = min(width, columns - skip)
            for r in range(lo, hi, height):
                m = min(height, hi - r)
                b = offset(start, width)
                tile_rows(m, n, p.H, ldz, offset(dzs, r * ldz), b, start, 0, c)
                for i in range(m):
                    to = offset(out, get(index, r + i) * columns + skip)
                    for v in range(0, n, lanes):
                        store_first(offset(to, v), load(offset(c, i * width + v)), n - v)
            start = offset(start, p.plan.height * width)
