"""The backend's four functions: plan, allocate, compile once, run on one thread or on several."""

import functools
import threading

import numba
import numpy as np
from numba import types
from numba.core import config

from fastbptt._uninterrupted import computed_once
from fastbptt.kernels import _blocking, _compiling, _team
from fastbptt.kernels._activation import CODES
from fastbptt.kernels._compiling import SOURCE, inlined
from fastbptt.kernels._loops import (
    BackwardTask,
    ForwardTask,
    Matrix,
    add_sums,
    fill_rows,
    forward_block,
    input_gradient,
    pack_backward,
    pack_forward,
    past_the_end,
    split,
    state_gradient,
    task_type,
    time_block,
    weight_gradient,
    weight_sums,
)
from fastbptt.kernels._simd import align, cast, fetch_add, get, offset, pointer, put
from fastbptt.kernels._team import (
    address,
    call,
    counter,
    draw,
    fetch,
    keep,
    meet,
    wait,
)

# Below so many floating-point operations, 4 us of one core or more, a call stays on one thread:
# starting others takes 2 us and more.
ALONE_BELOW = 400_000
# Counters that workers share: tickets drawn, and pieces of each kind that are done; of groups with
# sums of their own, the second kind counts whole groups.
TICKETS, PACKED, STATES, WEIGHTS, MET = range(5)

# Sequences whose padding one ticket clears.
PAST_ROWS = 16


@inlined
def wait_for_blocks(p, with_states, with_weights, units):
    """Until so many time blocks have their state gradients, and their others, by all workers."""
    if not p.plan.own_sums:
        wait(counter(p.counters, STATES), with_states * p.plan.splits)
        wait(counter(p.counters, WEIGHTS), with_weights * units)


@inlined
def next_piece(p, done, ticket, slot):
    """Count a piece as done; the ticket of the next, drawn or, in a group of one's own, in turn."""
    if p.plan.own_sums:
        return ticket + 1
    fetch_add(done, 1)
    return draw(counter(p.counters, TICKETS), slot)


def _workers(source):
    """What threads run; `source` is part of their key in the cache."""

    def forward_worker(task, slot):
        """Pack the weights, then take blocks of sequences through all steps."""
        source  # noqa: B018
        p = fetch(task)
        tickets, packed = counter(p.counters, TICKETS), counter(p.counters, PACKED)
        ticket = draw(tickets, slot)
        while ticket < p.plan.panels:
            pack_forward(p, ticket)
            fetch_add(packed, 1)
            ticket = draw(tickets, slot)
        wait(packed, p.plan.panels)
        while ticket < p.plan.panels + p.plan.blocks:
            forward_block(p, ticket - p.plan.panels, slot)
            ticket = draw(tickets, slot)
        meet(counter(p.counters, MET), p.plan.threads)

    def backward_worker(task, slot):
        """Go back through time block by block: state gradients and, a block behind, the others.

        The order of the work is that of the tickets: packing; then for every group of sequences and
        every time block its splits (ranges of rows), and the units of the time block before.
        So there are two buffers, and what lags in one phase is caught up in the other.  All workers
        walk through the same sequence and do the pieces whose tickets they drew.

        Where every group has sums of its own, a ticket is for all pieces of a group, done one after
        the other in buffers of the worker's own; in the end tickets are for rows of the sum of all.
        """
        source  # noqa: B018
        p = fetch(task)
        tickets, packed = counter(p.counters, TICKETS), counter(p.counters, PACKED)
        states, weights = counter(p.counters, STATES), counter(p.counters, WEIGHTS)
        packs = p.plan.packs
        pasts = (p.B + PAST_ROWS - 1) // PAST_ROWS if p.has_lengths else 0
        ticket = draw(tickets, slot)
        while ticket < packs + pasts:
            if ticket < packs:
                pack_backward(p, ticket)
            else:
                begin = (ticket - packs) * PAST_ROWS
                for r in range(begin, min(begin + PAST_ROWS, p.B)):
                    past_the_end(p, r)
            fetch_add(packed, 1)
            ticket = draw(tickets, slot)
        wait(packed, packs + pasts)

        own = p.plan.own_sums
        groups = (p.B + p.plan.group - 1) // p.plan.group
        gradients = p.plan.h_panels * p.plan.parts
        units = gradients + p.plan.row_parts
        number = packs + pasts  # ticket of the piece that comes next
        block = 0
        for first in range(0, p.B, p.plan.group):
            group = first // p.plan.group
            sums, t = weight_sums(p, group), get(p.lengths, first)
            if own:
                number, block = packs + pasts + group, 0
                if ticket != number:  # another worker's group
                    continue
                if t == 0:
                    fill_rows(sums.dW_x, p.plan.sum_rows, p.H, p.H)
            # Where there are no more groups than threads, each has two buffers of its own.
            buffers = 2 * (group if groups <= p.plan.threads else slot) if own else 0
            waiting, waiting_last = 0, 0  # rows of the block before, and where its last step begins
            while t > 0 or waiting > 0:
                low, rows, last, live = time_block(p, first, t)
                pieces = p.plan.splits if rows > 0 else 0
                while ticket < number + pieces:
                    wait_for_blocks(p, block, block - 1, units)
                    part = ticket - number
                    lo, hi = split(live, p.plan.splits, part), split(live, p.plan.splits, part + 1)
                    buffer = buffers + (block & 1)
                    state_gradient(p, buffer, first, t, low + 1, waiting_last, lo, hi, slot)
                    ticket = next_piece(p, states, ticket, slot)
                number += pieces
                # A group of the worker's own need not lag, while the buffer is in its cache.
                behind = block if own else block - 1
                waiting = rows if own else waiting
                begin, ends = (last, low == 0) if own else (waiting_last, t == 0)
                pieces = units if waiting > 0 else 0
                while ticket < number + pieces:
                    wait_for_blocks(p, block, behind, units)
                    buffer, unit = buffers + (behind & 1), ticket - number
                    if unit < gradients:
                        weight_gradient(p, sums, buffer, waiting, unit, behind == 0, slot)
                    else:
                        part = unit - gradients
                        input_gradient(p, buffer, first, waiting, begin, ends, part, slot)
                    ticket = next_piece(p, weights, ticket, slot)
                number += pieces
                block += 1 if rows > 0 else 0
                waiting, waiting_last, t = 0 if own else rows, last, low
            if own:
                fetch_add(states, 1)
                ticket = draw(tickets, slot)
        if own:
            number = packs + pasts + groups
            while ticket < number + p.plan.sum_parts:
                wait(states, groups)
                add_sums(p, groups, ticket - number)
                ticket = draw(tickets, slot)
        meet(counter(p.counters, MET), p.plan.threads)

    return forward_worker, backward_worker


@inlined
def cleared_counters(start, plan):
    """The counters that the workers of a task share."""
    counters = cast(offset(start, plan.counters_at), types.int64)
    for number in range(_blocking.COUNTERS):
        put(counter(counters, number), 0, 0)
    return counters


def _entry_points(source):
    """The two compiled functions that Python calls; `source` is part of their key in the cache.

    Each fills in a task and, if the plan is for one thread, has the worker at the given address
    do it.  It returns the address of the task, for the threads of other plans.
    """

    def forward(x, W_x, W_h, b, h, order, lengths, activation, plan, work, worker):
        source  # noqa: B018
        T, B, I = x.shape
        R, H = len(W_h), len(b)
        # Of a readout h is (T, B, H): there is no initial state in front.
        states = pointer(h) if R > 0 else offset(pointer(h), -B * H)
        start = align(pointer(work))
        size = plan[0]
        counters = cleared_counters(start, size)
        p = ForwardTask(
            T, B, I, H, R, activation,
            Matrix(pointer(x), x.strides[0], x.strides[1], x.strides[2]),
            Matrix(pointer(W_x), 0, W_x.strides[0], W_x.strides[1]),
            Matrix(pointer(W_h), 0, W_h.strides[0], W_h.strides[1]),
            Matrix(pointer(b), 0, 0, b.strides[0]),
            states, len(order) > 0, pointer(order), pointer(lengths), size,
            offset(start, size.packed_at), offset(start, size.states_at),
            offset(start, size.tiles_at), cast(offset(start, size.index_at), types.int64),
            counters,
        )  # fmt: skip
        task = keep(offset(start, size.task_at), p)
        if size.threads == 1:
            call(worker, address(task), 0)
        return address(task)

    def backward(
        x, W_x, W_h, h, dh, every_step, dW_x, dW_h, db, dx, need_dx, dh0,
        order, lengths, activation, plan, work, worker,
    ):  # fmt: skip
        source  # noqa: B018
        T, B, I = x.shape
        R, H = len(W_h), len(db)
        start = align(pointer(work))
        size = plan[0]
        counters = cleared_counters(start, size)
        has_lengths = len(order) > 0
        by_length, its_length = pointer(order), pointer(lengths)
        if not has_lengths:
            by_length = cast(offset(start, size.order_at), types.int64)
            its_length = offset(by_length, B)
            for r in range(B):
                put(by_length, r, r)
                put(its_length, r, T)
        if get(its_length, 0) == 0:  # no step counts
            fill_rows(pointer(dW_x), I, H, H)
            fill_rows(pointer(dW_h), H, H, H)
            fill_rows(pointer(db), 1, H, H)
        h_t = h.strides[0] if R > 0 else 0
        dh_t = dh.strides[0] if every_step else 0
        p = BackwardTask(
            T, B, I, H, R, activation,
            Matrix(pointer(x), x.strides[0], x.strides[1], x.strides[2]),
            Matrix(pointer(W_x), 0, W_x.strides[0], W_x.strides[1]),
            Matrix(pointer(W_h), 0, W_h.strides[0], W_h.strides[1]),
            Matrix(pointer(h), h_t, h.strides[1], h.strides[2]),
            Matrix(pointer(dh), dh_t, dh.strides[1], dh.strides[2]), every_step,
            pointer(dW_x), pointer(dW_h), pointer(db), pointer(dx), need_dx, pointer(dh0),
            has_lengths, by_length, its_length, size,
            offset(start, size.packed_at), offset(start, size.dz_at),
            offset(start, size.inputs_at), cast(offset(start, size.where_at), types.int64),
            offset(start, size.sums_at), offset(start, size.tiles_at), counters,
        )  # fmt: skip
        task = keep(offset(start, size.task_at), p)
        if size.threads == 1:
            call(worker, address(task), 0)
        return address(task)

    return forward, backward


_forward_worker, _backward_worker = _workers(SOURCE)
_forward, _backward = _entry_points(SOURCE)


def _given(dtype, ndim):
    """Type of a user's input array: any strides, alignment, and read-only."""
    return types.Array(numba.from_dtype(dtype), ndim, "A", readonly=True, aligned=False)


def _filled(dtype, ndim):
    """Type of an array to fill: C-contiguous."""
    return types.Array(numba.from_dtype(dtype), ndim, "C")


_alive = []  # what owns the machine code that entry points and addresses lead to
_INTS, _SIZE, _FLAG = types.Array(types.int64, 1, "C"), types.intp, types.boolean


def _compile(entry, worker, task, dtype, plan, arrays):
    """An entry point for these types of arrays, and the address of its worker.

    Numba's dispatcher would look at each argument's type again: 0.4 us in a call of 4 us.
    """
    if config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set: only backend='numpy' works without compiling")
    plan = numba.typeof(plan)
    task = types.CPointer(task_type(task, numba.from_dtype(dtype), plan.dtype))
    rest = _INTS, _INTS, _SIZE, plan, _filled(dtype, 1), _SIZE
    compiled = _compiling.compile_callback(types.void(task, _SIZE), worker)
    run = _compiling.compile_function((*arrays, *rest), entry, nogil=True)
    (only,) = run.overloads.values()
    _alive.extend((run, compiled))
    return only.entry_point, compiled.address


@computed_once
def _compiled_forward(dtype):
    in_, out = functools.partial(_given, dtype), functools.partial(_filled, dtype)
    arrays = in_(3), in_(2), in_(2), in_(1), out(3)
    plan, _ = _blocking.forward(1, 1, 1, 1, dtype.itemsize, 1)
    return _compile(_forward, _forward_worker, ForwardTask, dtype, plan, arrays)


@computed_once
def _compiled_backward(dtype):
    in_, out = functools.partial(_given, dtype), functools.partial(_filled, dtype)
    arrays = (in_(3), in_(2), in_(2), in_(3), in_(3), _FLAG, out(2), out(2), out(1), out(3), _FLAG,
              out(2))  # fmt: skip
    plan, _ = _blocking.backward(1, 1, 1, 1, 1, dtype.itemsize, True, 1, True)
    return _compile(_backward, _backward_worker, BackwardTask, dtype, plan, arrays)


@functools.lru_cache(maxsize=1024)
def _planned_forward(B, I, H, R, dtype, threads):
    """What a forward call needs: entry point, worker, plan, elements of its workspace."""
    compiled = _compiled_forward(dtype)
    _compiling.warn_of_troubles()
    return (*compiled, *_blocking.forward(B, I, H, R, dtype.itemsize, threads))


@functools.lru_cache(maxsize=1024)
def _planned_backward(T, B, I, H, R, dtype, small, threads, need_dx):
    plan = _blocking.backward(T, B, I, H, R, dtype.itemsize, small, threads, need_dx)
    compiled = _compiled_backward(dtype)
    _compiling.warn_of_troubles()
    return (*compiled, *plan)


# Bytes of workspace that a thread keeps between calls, at most.  New memory costs time where it
# is touched first, a third of a call of 5 ms when malloc returns it to the system every time.
# While a call has it nobody keeps it: a signal handler's call in the middle finds none.
KEPT = 32 << 20
_kept = threading.local()

NO_INTS = np.zeros(0, np.int64)
_DTYPES = np.dtype(np.float32), np.dtype(np.float64)
NO_W_h = {dtype: np.zeros((0, 0), dtype) for dtype in _DTYPES}
NO_DX = {dtype: np.zeros((0, 0, 0), dtype) for dtype in _DTYPES}
NO_DH0 = {dtype: np.zeros((0, 0), dtype) for dtype in _DTYPES}


def _rows(a):
    """A copy with whole rows to read vectors from, for an array whose elements lie apart.

    As it is where a row has but one.  Callers look at the stride first: most arrays need no call.
    """
    return a if a.shape[-1] == 1 else np.ascontiguousarray(a)


def _take_workspace(total, dtype):
    """Memory for a call: what this thread keeps, if it is large enough."""
    work = _kept.__dict__.pop(dtype.char, None)
    return np.empty(total, dtype) if work is None or len(work) < total else work


def _keep_workspace(work):
    """Keep a call's memory for this thread's next one."""
    if work.nbytes <= KEPT:
        _kept.__dict__[work.dtype.char] = work


def _longest_first(lengths, T, B):
    """Order of the sequences, their lengths in that order, and the steps that count in all."""
    if lengths is None:
        return NO_INTS, NO_INTS, T * B
    order = np.argsort(-lengths, kind="stable")
    return order, lengths[order], int(lengths.sum())


def forward(params, x, h, lengths, activation):
    """See :func:`fastbptt.reference.forward`."""
    if len(x) and x.shape[1]:
        _run_forward(params, x, h, lengths, activation)


def readout(W_y, b_y, h, y):
    """See :func:`fastbptt.reference.readout`."""
    if len(h):
        _run_forward((W_y, NO_W_h[y.dtype], b_y), h[None], y[None], None, "identity")


def _run_forward(params, x, h, lengths, activation):
    T, B, I = x.shape
    W_x, W_h, b = params
    R, H, dtype = len(W_h), len(b), h.dtype
    size = dtype.itemsize
    x = x if x.strides[-1] == size else _rows(x)
    order, lengths, steps = _longest_first(lengths, T, B)
    operations = 2 * steps * H * (I + R)
    turn = None
    if operations >= ALONE_BELOW:
        turn = _team.Turn(("forward", B if R else 0, I, H, dtype), steps, operations)
    threads = turn.threads if turn else 1
    run, worker, plan, total = _planned_forward(B, I, H, R, dtype, threads)
    work = _take_workspace(total, dtype)  # holds the task, until all threads are done with it
    task = run(
        x, W_x, W_h, b, h, order, lengths, CODES[activation], plan,
        work, worker,
    )  # fmt: skip
    if turn:
        turn.end(worker, task)
    _keep_workspace(work)


def backward(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    """See :func:`fastbptt.reference.backward`."""
    every_step = dh.ndim == 3
    if len(x) and x.shape[1]:
        dh = dh if every_step else dh[None]
        _run_backward(params, x, h, dh, every_step, dparams, dx, dh0, lengths, activation)
    else:
        for gradient in dparams:
            gradient[...] = 0
        dh0[...] = 0 if every_step else dh


def readout_backward(W_y, h, dy, dW_y, db_y, dh):
    """See :func:`fastbptt.reference.readout_backward`."""
    if not len(h):
        dW_y[...] = db_y[...] = 0
        return
    dtype, dy = dy.dtype, dy[None]
    params, dparams = (W_y, NO_W_h[dtype], None), (dW_y, NO_W_h[dtype], db_y)
    dx = None if dh is None else dh[None]
    _run_backward(params, h[None], dy, dy, True, dparams, dx, NO_DH0[dtype], None, "identity")


def _run_backward(params, x, h, dh, every_step, dparams, dx, dh0, lengths, activation):
    T, B, I = x.shape
    W_x, W_h, _ = params
    dW_x, dW_h, db = dparams
    R, H, dtype, need_dx = len(W_h), len(db), db.dtype, dx is not None
    size = dtype.itemsize
    x = x if x.strides[-1] == size else _rows(x)
    h = h if h.strides[-1] == size else _rows(h)
    dh = dh if dh.strides[-1] == size else _rows(dh)
    order, lengths, steps = _longest_first(lengths, T, B)
    operations = 4 * steps * H * (I + R)
    turn, small = None, operations < ALONE_BELOW
    if not small:
        turn = _team.Turn(("backward", B if R else 0, I, H, dtype, need_dx), steps, operations)
    threads = turn.threads if turn else 1
    run, worker, plan, total = _planned_backward(T, B, I, H, R, dtype, small, threads, need_dx)
    work = _take_workspace(total, dtype)  # holds the task, until all threads are done with it
    task = run(
        x, W_x, W_h, h, dh, every_step, dW_x, dW_h, db,
        dx if need_dx else NO_DX[dtype], need_dx, dh0, order, lengths, CODES[activation], plan,
        work, worker,
    )  # fmt: skip
    if turn:
        turn.end(worker, task)
    _keep_workspace(work)


def warmup(dtype):
    """Compile all that calls of this dtype run, or load it from the cache."""
    _compiled_forward(dtype)
    _compiled_backward(dtype)
    _team.warmup()
    _compiling.warn_of_troubles()
