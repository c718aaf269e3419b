"""Steps: what one thread does with the rows or panels that it was given.

Packing; a step of a block of sequences forward, or of a time block backward; weight and input
gradients of a time block.  Shapes in comments count elements; NR columns make a panel, the last one
padded with zeros.

What does a row or more at each call is compiled by itself (`njit`).  The rest is inlined, which
makes it faster, but takes time to compile that grows with the square of what has been inlined.
Loops over the vectors of a panel's row run over all of them, and leave out those behind the last
column: of a constant number LLVM makes no loop.
"""

from typing import Any, NamedTuple

from numba import njit

from fastbptt.kernels import _cells
from fastbptt.kernels._compiling import exchanged, inlined
from fastbptt.kernels._machine import WIDE
from fastbptt.kernels._plain import (
    begin,
    end_at_start,
    fill_added,
    gradient_at_z,
    hold,
    initial_gradient,
    is_tanh,
    new_state,
    scatter,
)
from fastbptt.kernels._rows import copy_row, copy_row_padded, fill_rows, row
from fastbptt.kernels._schedules import forward_space
from fastbptt.kernels._simd import (
    DOTS,
    ITEMSIZE,
    LANES,
    add,
    dot,
    dots,
    get,
    load,
    load_first,
    offset,
    offset_bytes,
    one_at,
    prefetch,
    put,
    store,
    store_first,
    transpose,
    zeros,
)
from fastbptt.kernels._tile import MR, MT, NR, scatter_rows, tile_columns, tile_rows, tile_states
from fastbptt.kernels._waiting import SHARE_COUNTERS, Turn, counter, first_turn, next_turn


@inlined
def split(total, parts, part):
    """Start of a part when `total` is cut into `parts` that differ by at most one."""
    return total * part // parts


@njit
def pack_panel(panel, w, w_k, w_n, K, n):
    """panel[k, :n] = w[k, :n] for k < K, zeros behind; w_k, w_n are strides in bytes."""
    width = NR(panel)
    if w_n == ITEMSIZE(panel):
        for k in range(K):
            for v in range(0, width, LANES(panel)):
                there = offset(offset_bytes(w, k * w_k), v)
                store(offset(panel, k * width + v), load_first(there, n - v))
        return
    lanes, k, whole = LANES(panel), 0, 0
    if w_k == ITEMSIZE(panel) and w_n % ITEMSIZE(panel) == 0:
        whole = n // lanes * lanes  # columns that are transposed by vectors
        while k + lanes <= K:
            for v in range(0, whole, lanes):
                there = offset(offset_bytes(w, v * w_n), k)
                transpose(offset(panel, k * width + v), width, there, w_n // ITEMSIZE(panel))
            k += lanes
    for c in range(width):
        for j in range(k if c < whole else 0, K):
            value = get(offset_bytes(w, j * w_k + c * w_n), 0) if c < n else 0.0
            put(panel, j * width + c, value)


@inlined
def tiles(rows, height):
    """How many tiles of at most `height` rows these rows are cut into, as evenly as possible."""
    return (rows + height - 1) // height


@inlined
def panels_at_once(rows, panels):
    """How many of the panels left a tile takes: more than one for a single row, see `_tile`."""
    take = 1
    for wide in WIDE:
        if rows == 1 and panels >= wide:
            take = wide
    return take


@inlined
def pack_forward(p, panel):
    """Panel of [W_h; W_x; b], the columns that belong to NR hidden units."""
    width = NR(p.packed)
    skip = panel * width
    n = min(width, p.H - skip)
    to = offset(p.packed, skip * p.plan.height)
    W_h = offset_bytes(p.W_h.data, skip * p.W_h.c)
    pack_panel(to, W_h, p.W_h.r, p.W_h.c, p.R, n)
    W_x = offset_bytes(p.W_x.data, skip * p.W_x.c)
    pack_panel(offset(to, p.R * width), W_x, p.W_x.r, p.W_x.c, p.I, n)
    b = offset_bytes(p.b.data, skip * p.b.c)
    pack_panel(offset(to, (p.R + p.I) * width), b, 0, p.b.c, 1, n)


class Tile(NamedTuple):
    """Rows r ... r + m of step t, for the units of some panels from unit `skip` on; or no rows."""

    t: int
    r: int
    m: int
    panels: int
    skip: int


@inlined
def tile_place(p, tile, t, now, after):
    """Where a tile's states lie at step t; those of a readout do not stay."""
    states = now if tile.t < t else after
    return offset(states, tile.r * p.plan.ldh + tile.skip) if p.R > 0 else states


@inlined
def forward_step(p, t, rows, panel, panels, now, after, added, index, waiting, beside, leaves):
    """h_t of the first rows of a block, for the units of some panels.

    h_t = f(h_{t-1} W_h + x_t W_x + b), summed in this order: what is summed first is rounded
    most often, and the bias, often the largest term, only once.

    now, after : rows h_{t-1}, and those that h_t is filled into; of a readout, space for a tile
    added : rows of what a cell adds to z_t
    index : each row's sequence
    waiting : a tile of the step before whose activation has yet to be computed
    beside : whether that is done beside the products of the next tile
    leaves : whether the last tile may be left to the next step; it is returned
    """
    width, lanes, ldh = NR(p.packed), LANES(p.packed), p.plan.ldh
    x = offset_bytes(p.x.data, (t - 1) * p.x.t)
    count, q = tiles(rows, MR(p.packed)), 0
    stride = p.plan.height * width
    while panel < panels or (waiting.m > 0 and not leaves):
        tile, vectors = Tile(t, 0, 0, 0, 0), 0
        if panel < panels:
            r = split(rows, count, q)
            m = split(rows, count, q + 1) - r
            tile = Tile(t, r, m, panels_at_once(rows, panels - panel), panel * width)
            left = p.H - waiting.skip
            if beside and m >= MR(p.packed) // 2:
                vectors = waiting.m * min((left + lanes - 1) // lanes, width // lanes)
            z = tile_place(p, waiting, t, now, after)
            out, ldo = z, ldh
            if not p.has_lengths:
                b = waiting.t * p.B + get(index, waiting.r)
                out, ldo = offset(p.h, b * p.H + waiting.skip), p.H
            tile_states(
                m, min(tile.panels * width, p.H - tile.skip), p.R, p.I,
                offset(now, r * ldh), ldh, x, p.x.r, offset(index, r),
                offset(p.packed, panel * stride), stride, tile_place(p, tile, t, now, after),
                vectors, left, z, out, ldo,
            )  # fmt: skip
            q += 1
            if q == count:
                q, panel = 0, panel + tile.panels
        ready = waiting if beside else tile
        if vectors == 0 or p.has_lengths:
            for i in range(ready.m * ready.panels):  # one of them is 1
                line, more = (i, 0) if ready.panels == 1 else (0, i * width)
                state = offset(tile_place(p, ready, t, now, after), line * ldh + more)
                r, begin = ready.r + line, ready.skip + more
                b = get(index, r)
                before, to_add = offset(now, r * ldh + begin), offset(added, r * p.plan.ldn + begin)
                out = offset(p.h, (ready.t * p.B + b) * p.H + begin)
                for v in range(0, width, lanes):
                    at, left = begin + v, p.H - begin - v
                    if left > 0:
                        f = load(offset(state, v))
                        if vectors == 0:
                            f = new_state(
                                p, f, t, b, at, left, offset(before, v), offset(to_add, v)
                            )
                            store(offset(state, v), f)
                        store_first(offset(out, v), f, left)
        if beside:
            waiting = tile
    return waiting


@inlined
def forward_block(p, number, shares, slot):
    """All steps of a block of sequences; of each step, the share of the units that is this piece's.

    Workers with other shares of the block meet after each step.  A share's panels of the weights
    stay in one worker's cache for all steps.  With `shares` a constant 1, LLVM leaves all this out.

    With lengths, sequences are dealt to the blocks longest first, so that a block's live ones are
    its first rows at every step.
    """
    block, home = number // shares, number % shares
    meeting = counter(p.meetings, block * shares * SHARE_COUNTERS)
    first = split(p.B, p.plan.blocks, block)
    rows = split(p.B, p.plan.blocks, block + 1) - first
    if p.has_lengths:
        rows = (p.B - block + p.plan.blocks - 1) // p.plan.blocks
    index = offset(p.index, slot * 2 * p.plan.rows)
    length = offset(index, p.plan.rows)
    for r in range(rows):
        put(index, r, get(p.order, block + r * p.plan.blocks) if p.has_lengths else first + r)
        put(length, r, get(p.lengths, block + r * p.plan.blocks) if p.has_lengths else p.T)
    now = offset(p.states, forward_space(p, block, slot) * p.plan.space)
    after = offset(now, p.plan.held * p.plan.ldh)
    added = offset(after, p.plan.held * p.plan.ldh)

    for r in range(rows):
        begin(p, get(index, r))
    live = rows
    while live > 0 and get(length, live - 1) == 0:
        live -= 1
    turn = first_turn(meeting, shares, home, 1, 0)
    while turn.share >= 0:
        lo, hi = split(live, shares, turn.share), split(live, shares, turn.share + 1)
        for r in range(lo, hi):
            h0 = offset(p.h, get(index, r) * p.H)
            copy_row_padded(offset(now, r * p.plan.ldh), h0, p.R)
        turn = next_turn(meeting, shares, home, 1, turn)
    most = MR(p.packed) * (NR(p.packed) // LANES(p.packed))  # vectors of a tile
    beside = is_tanh(p) and most <= p.R
    t, waiting = 0, Tile(0, 0, 0, 0, 0)
    while live > 0:
        t += 1
        going = live  # rows that have a step t + 1
        while going > 0 and get(length, going - 1) == t:
            going -= 1
        # If there are two tiles of rows, the last tile's are not read by the next step's first.
        leaves = beside and shares == 1 and going > MR(p.packed)
        fill_added(p, added, live, index, t)
        turn = first_turn(meeting, shares, home, t + 1, turn.orphans)
        while turn.share >= 0:
            panel = split(p.plan.panels, shares, turn.share)
            panels = split(p.plan.panels, shares, turn.share + 1)
            waiting = forward_step(
                p, t, live, panel, panels, now, after, added, index, waiting, beside, leaves
            )
            turn = next_turn(meeting, shares, home, t + 1, turn)
        now, after = after, now
        live = going
    turn = first_turn(meeting, shares, home, t + 2, turn.orphans)
    while turn.share >= 0:
        for r in range(split(rows, shares, turn.share), split(rows, shares, turn.share + 1)):
            last = get(length, r)
            hold(p, get(index, r), last)
            state = offset(p.h, get(index, r) * p.H)
            for later in range(last + 1, p.T + 1):  # the last state stays
                to = offset(state, later * p.B * p.H)
                copy_row(to, offset(state, last * p.B * p.H), p.H)
        turn = next_turn(meeting, shares, home, t + 2, turn)


@inlined
def pack_backward(p, panel):
    """A panel of W_h^T, of which the last has W_x^T behind if they are joined.

    Else, behind those, a panel of W_x^T; for dot products, rows of W_x instead.
    """
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
    for c in range(n, min(width, n + p.plan.joined)):
        W_x = offset_bytes(p.W_x.data, (c - n) * p.W_x.r)
        for k in range(p.H):
            put(to, (k + 1) * width + c, get(offset_bytes(W_x, k * p.W_x.c), 0))


@njit
def clear_padding(p, number):
    """Past the end of some sequences, dx = 0; of those without any step, dh0."""
    begin = number * p.plan.cleared_rows
    for r in range(begin, min(begin + p.plan.cleared_rows, p.B)):
        b, length = get(p.order, r), get(p.lengths, r)
        if p.need_dx:
            for t in range(length, p.T):
                fill_rows(offset(p.dx, (t * p.B + b) * p.I), 1, p.I, p.I)
        if length == 0:
            fill_rows(offset(p.dh0, b * p.H), 1, p.H, p.H)
            if not p.every_step:
                copy_row(offset(p.dh0, b * p.H), row(p.dh, 0, b), p.H)
            end_at_start(p, b)


@inlined
def live_rows(p, first, live, t):
    """How many rows of a group from sequence `first` on have a step t; `live` have a step t + 1."""
    while live < p.plan.group and first + live < p.B and get(p.lengths, first + live) >= t:
        live += 1
    return live


@njit
def gather_inputs(p, buffer, block, first, lo, hi, shares, share):
    """Where x_t and h_{t-1} are, for a share of rows lo ... hi and all steps of a block.

    If they are not read in place, also [x_t, 1]; of tokens just the 1.

    A function of its own, for all steps: inlined, it takes registers from the loops around it.
    """
    capacity, lanes = p.plan.capacity, LANES(p.inputs)
    chunks = p.plan.x_chunks + p.plan.h_chunks
    where = offset(p.where, buffer * capacity)
    to = offset(p.inputs, buffer * chunks * capacity * lanes)
    whole = p.I // lanes * lanes  # columns of x in vectors without the 1
    one = one_at(p.inputs, p.I - whole)
    live = 0
    for t in range(block.t, block.low, -1):
        live = live_rows(p, first, live, t)
        rows = max(min(hi, live) - lo, 0)
        begin, end = lo + split(rows, shares, share), lo + split(rows, shares, share + 1)
        for r in range(begin, end):
            put(where, r, (t - 1) * p.B + get(p.order, first + r))
        for r in range(begin, begin if p.in_place else end):
            x = row(p.x, t - 1, get(p.order, first + r))
            place = offset(to, r * lanes)
            for v in range(0, whole, lanes):
                store(offset(place, v * capacity), load(offset(x, v)))
            last = one
            if whole < p.I:
                last = add(load_first(offset(x, whole), p.I - whole), one)
            store(offset(place, whole * capacity), last)
        where, to = offset(where, live), offset(to, live * lanes)


@inlined
def state_rows(p, buffer, at):
    """Where h_{t-1} goes in the buffer, if its row `at` is the first of step t: by columns."""
    lanes = LANES(p.inputs)
    chunks = p.plan.x_chunks + p.plan.h_chunks
    return offset(p.inputs, ((buffer * chunks + p.plan.x_chunks) * p.plan.capacity + at) * lanes)


class Span(NamedTuple):
    """Rows lo ... last of a step of a group; those before `going` have a next step, too."""

    first: int  # sequence of row 0
    lo: int
    going: int
    last: int


@inlined
def state_gradient_step(p, t, span, panel, panels, keeps, old, new, states, c):
    """dz_t = (dh_t + dz_{t+1} W_h^T) f'(h_t) of some rows, for the units of some panels.

    And beside it dx_{t+1} = dz_{t+1} W_x^T, if the weights are joined.

    old, new : dz_{t+1} and dz_t by rows
    states : where h_t goes, if the block `keeps` it for the weight gradients of step t + 1
    """
    width, lanes, height = NR(p.packed), LANES(p.packed), MR(p.packed)
    capacity, ldz = p.plan.capacity, p.plan.ldz
    stride = p.plan.height * width if p.R > 0 else 0
    tiles_going = tiles(span.going - span.lo, height)
    count = tiles_going + tiles(span.last - span.going, height)
    while panel < panels and count > 0:
        skip, take = panel * width, panels_at_once(span.last - span.lo, panels - panel)
        n = min(take * width, p.H + p.plan.joined - skip)
        start = offset(p.packed, panel * stride)
        panel += take
        for q in range(count):
            goes = q < tiles_going
            first, rows, parts, part, k = span.lo, span.going - span.lo, tiles_going, q, p.H
            if not goes:
                first, rows, k = span.going, span.last - span.going, 0
                parts, part = count - tiles_going, q - tiles_going
            r = first + split(rows, parts, part)
            m = first + split(rows, parts, part + 1) - r
            b = offset(start, width)
            tile_rows(m, n, k, ldz, offset(old, r * ldz), b, start, stride, c)
            if goes and skip + n > p.H:  # dx_{t+1} is behind, in the last of the panels
                last, order = (take - 1) * width, offset(p.order, span.first + r)
                dx, begin = offset(p.dx, t * p.B * p.I), p.H - skip - last
                scatter_rows(m, offset(c, last), begin, begin + p.I, order, dx, p.I)
            enters = p.every_step or not goes
            for i in range(m * take):  # one of them is 1
                line, begin = (r + i, skip) if take == 1 else (r, skip + i * width)
                place = span.first + line
                b = get(p.order, place)
                h = offset(row(p.h, t, b), begin)
                dh = offset(row(p.dh, t - 1, b), begin)
                # What step t - 1 will read: long series come from main memory.
                h_before = offset(row(p.h, t - 1, b), begin)
                dh_before = offset(row(p.dh, t - 2, b), begin)
                dz = offset(new, line * ldz + begin)
                kept = offset(states, line * lanes + begin * capacity)
                for v in range(0, width, lanes):
                    at, left = begin + v, p.H - begin - v
                    if left > 0:
                        before = offset(h_before, v)
                        prefetch(before)
                        prefetch(offset(dh_before, v))
                        gradient = load(offset(c, i * width + v))
                        if enters:
                            gradient = add(gradient, load_first(offset(dh, v), left))
                        state = load_first(offset(h, v), left)
                        if keeps and goes:
                            store(offset(kept, v * capacity), state)
                        gradient = gradient_at_z(p, gradient, state, before, place, at, left, goes)
                        store(offset(dz, v), gradient)


@inlined
def state_gradient(p, buffer, team, group, block, before, piece, shares, slot):
    """dz_t for a part of a group's rows and all steps of a time block, for a share of the units.

    Workers with other shares of the part meet after each step, as in `forward_block`.

    It goes into the buffer, with [x_t, 1] and h_{t-1}, for the other gradients.  dz of the step
    after the block's begins at row `before` of the buffer beside it.
    """
    capacity, ldz = p.plan.capacity, p.plan.ldz
    part, home = piece // shares, piece % shares
    lo, hi = split(block.live, p.plan.splits, part), split(block.live, p.plan.splits, part + 1)
    meeting = counter(p.meetings, (team * p.plan.splits + part) * shares * SHARE_COUNTERS)
    number = block.number * p.T + 1  # of the step, among all steps of the team
    c = offset(p.tiles, slot * MR(p.packed) * NR(p.packed))
    first = group * p.plan.group
    gather_inputs(p, buffer, block, first, lo, hi, shares, home)
    live, turn = 0, Turn(-1, 0)
    at = 0  # row of the buffer where step t begins
    old = offset(p.dz, ((buffer ^ 1) * capacity + before) * ldz)  # dz_{t+1}
    new = offset(p.dz, buffer * capacity * ldz)  # dz_t
    states = state_rows(p, buffer, 0)  # for h_t
    copies = p.R > 0 and not p.in_place
    for t in range(block.t, block.low, -1):
        live = live_rows(p, first, live, t)
        last = max(min(hi, live), lo)  # of the rows given, those that have a step t
        going = lo  # those that have a step t + 1
        while going < last and get(p.lengths, first + going) > t:
            going += 1
        span, keeps = Span(first, lo, going, last), t < block.t and copies
        states_before = state_rows(p, buffer, at)
        turn = first_turn(meeting, shares, home, number, turn.orphans)
        while turn.share >= 0:
            panel = split(p.plan.h_panels, shares, turn.share)
            panels = split(p.plan.h_panels, shares, turn.share + 1)
            state_gradient_step(p, t, span, panel, panels, keeps, old, new, states, c)
            if t == block.low + 1 and copies:
                lanes, width = LANES(p.inputs), NR(p.packed)
                for r in range(lo, last):
                    h = row(p.h, t - 1, get(p.order, first + r))
                    for v in range(panel * width, min(panels * width, p.H), lanes):
                        kept = offset(states_before, r * lanes + v * capacity)
                        store(kept, load_first(offset(h, v), p.H - v))
            turn = next_turn(meeting, shares, home, number, turn)
        states = states_before
        number += 1
        at += live
        old, new = new, offset(p.dz, (buffer * capacity + at) * ldz)


class Sums(NamedTuple):
    """Where gradients of the weights are summed."""

    dW_x: Any
    dW_h: Any
    db: Any


@inlined
def weight_sums(p, group):
    """A group's own sums, or the user's arrays, which all groups share."""
    if p.plan.own_sums:
        dW_x = offset(p.sums, group * p.plan.sum_rows * p.H)
        db = offset(dW_x, p.plan.x_rows * p.H)
        return Sums(dW_x, offset(db, p.H), db)
    return Sums(p.dW_x, p.dW_h, p.db)


@njit
def add_sums(p, part):
    """Rows of the groups' own sums, added up in the order of the groups."""
    lanes, rows = LANES(p.sums), p.plan.sum_rows
    lo, hi = split(rows, p.plan.sum_parts, part), split(rows, p.plan.sum_parts, part + 1)
    for r in range(lo, hi):
        to = offset(p.dW_x, r * p.H)
        if r == p.plan.x_rows:
            to = p.db
        if r > p.plan.x_rows:
            to = offset(p.dW_h, (r - p.plan.x_rows - 1) * p.H)
        for v in range(0, p.H, lanes):
            gradient = zeros(p.sums)
            for group in range(p.plan.groups):
                own = offset(p.sums, (group * rows + r) * p.H + v)
                gradient = add(gradient, load_first(own, p.H - v))
            store_first(offset(to, v), gradient, p.H - v)


@inlined
def weight_gradient(p, sums, buffer, block, unit, slot):
    """One unit of dW_x, db and dW_h: a panel of columns, a part of the rows of [x, 1] and h.

    Adds the sum over the buffer's rows; for the first time block it stores.  Of tokens, a panel's
    first part has dW_x.
    """
    width, lanes = NR(p.packed), LANES(p.packed)
    panel, part = unit // p.plan.parts, unit % p.plan.parts
    skip = panel * width
    n = min(width, p.H - skip)
    if part == 0:
        scatter(p, sums, buffer, block, skip, n)
    chunks = p.plan.x_chunks + p.plan.h_chunks
    c = offset(p.tiles, slot * MR(p.packed) * width)
    dz, ldz = offset(p.dz, buffer * p.plan.capacity * p.plan.ldz + skip), p.plan.ldz
    if p.plan.near > 0:
        together = offset(p.near, slot * p.plan.capacity * width)
        for r in range(block.rows):
            for v in range(0, n, lanes):
                store(offset(together, r * width + v), load(offset(dz, r * ldz + v)))
        dz, ldz = together, width
    for chunk in range(split(chunks, p.plan.parts, part), split(chunks, p.plan.parts, part + 1)):
        to_h = chunk >= p.plan.x_chunks
        base = (chunk - p.plan.x_chunks if to_h else chunk) * lanes
        end = min(lanes, (p.H if to_h else p.I + 1) - base)
        place = (buffer * chunks + chunk) * p.plan.capacity * lanes
        a, lda, index, ones = offset(p.inputs, place), lanes, p.numbers, 0
        if p.in_place:
            of = p.h if to_h else p.x
            a, lda = offset(of.data, base), of.r // ITEMSIZE(dz)
            index = offset(p.where, buffer * p.plan.capacity)
            ones = 0 if to_h or base + end <= p.I else 1  # the last column has a tile of its own
        count = tiles(end - ones, MT(p.packed))
        for q in range(count + ones):
            i, m = end - 1, 1
            if q < count:
                i = split(end - ones, count, q)
                m = split(end - ones, count, q + 1) - i
            else:
                a, lda = offset(p.one, -i), 0
            tile_columns(m, n, block.rows, p.plan.run, offset(a, i), lda, index, dz, ldz, c)
            for j in range(m):
                number = base + i + j
                to = offset(sums.dW_h if to_h else sums.dW_x, number * p.H)
                if not to_h and number == p.I:
                    to = sums.db
                to = offset(to, skip)
                for v in range(0, width, lanes):
                    if v < n:
                        gradient = load(offset(c, j * width + v))
                        if block.number > 0:
                            gradient = add(load_first(offset(to, v), n - v), gradient)
                        store_first(offset(to, v), gradient, n - v)


@inlined
def input_gradient(p, buffer, group, block, part, slot):
    """A part of dx_t = dz_t W_x^T and, if the block ends at step 1, of dh_0 = dz_1 W_h^T.

    If the weights are joined, dx_1 alone, beside dh_0: `state_gradient_step` has dx of other steps.

    If x has few columns, a tile would compute zeros in most lanes; then each element is a dot
    product of its own.
    """
    width, lanes, height = NR(p.packed), LANES(p.packed), MR(p.packed)
    ldz = p.plan.ldz
    dzs = offset(p.dz, buffer * p.plan.capacity * ldz)
    c = offset(p.tiles, slot * height * width)
    for of_state in range(2):
        # rows begin ... rows of dz, times panels of W^T, into rows index[0], ... of out
        begin, columns, joined, out = 0, p.I, 0, p.dx
        panel, panels = p.plan.first_x_panel, p.plan.x_panels
        index = offset(p.where, buffer * p.plan.capacity)
        if of_state:
            begin, columns, joined, out = block.last, p.H, p.plan.joined, p.dh0
            panel, panels = 0, p.plan.h_panels if block.low == 0 and p.R > 0 else 0
            index = offset(p.order, group * p.plan.group - block.last)
        count = tiles(block.rows - begin, height)
        lo = begin + split(count, p.plan.row_parts, part) * height
        hi = min(begin + split(count, p.plan.row_parts, part + 1) * height, block.rows)
        start = offset(p.packed, panel * p.plan.height * width)
        if p.plan.dots and not of_state:
            panels = 0
            for r in range(lo, hi):
                dz, to = offset(dzs, r * ldz), offset(out, get(index, r) * columns)
                whole, W_x = columns // DOTS * DOTS, offset(start, width)
                for i in range(0, whole, DOTS):
                    dots(offset(to, i), dz, offset(W_x, i * ldz), ldz, p.H)
                for i in range(whole, columns):
                    put(to, i, dot(dz, offset(W_x, i * ldz), p.H))
        for skip in range(0, panels * width, width):
            n, wide = min(width, columns - skip), min(width, columns + joined - skip)
            for r in range(lo, hi, height):
                m = min(height, hi - r)
                b = offset(start, width)
                tile_rows(m, wide, p.H, ldz, offset(dzs, r * ldz), b, start, 0, c)
                if not of_state:
                    scatter_rows(m, c, 0, n, offset(index, r), offset(out, skip), columns)
                    continue
                if wide > n:  # dx_1 is behind
                    scatter_rows(m, c, n, wide, offset(index, r), p.dx, p.I)
                for i in range(m):
                    to = offset(out, get(index, r + i) * columns + skip)
                    place = group * p.plan.group + r + i - block.last
                    for v in range(0, width, lanes):
                        left = n - v
                        if left > 0:
                            gradient = load(offset(c, i * width + v))
                            gradient = initial_gradient(p, gradient, place, skip + v, left)
                            store_first(offset(to, v), gradient, left)
            start = offset(start, p.plan.height * width)


# The same for cells that are not plain.
_cell_forward_step = exchanged(forward_step, **_cells.FUNCTIONS)
_cell_state_gradient_step = exchanged(state_gradient_step, **_cells.FUNCTIONS)
CELL = {
    "forward_block": exchanged(forward_block, forward_step=_cell_forward_step, **_cells.FUNCTIONS),
    "state_gradient": exchanged(
        state_gradient,
        state_gradient_step=_cell_state_gradient_step,
    ),
    "weight_gradient": exchanged(weight_gradient, **_cells.FUNCTIONS),
    "input_gradient": exchanged(input_gradient, **_cells.FUNCTIONS),
    "clear_padding": exchanged(clear_padding, **_cells.FUNCTIONS),
}
