"""The backend's four functions: plan, allocate, compile once, run on one thread or on several."""

import functools
import threading
from typing import Any

import numba
import numpy as np
from numba import njit, types
from numba.core import config
from numba.core.registry import cpu_target

from fastbptt._noise import PAIR, Noise
from fastbptt._uninterrupted import computed_once, without_notice
from fastbptt.kernels import _compiling, _threads
from fastbptt.kernels._activation import CODES, PLAIN
from fastbptt.kernels._blocking import plan_backward, plan_forward
from fastbptt.kernels._calls import (
    BackwardCall,
    BackwardCell,
    BackwardTask,
    CellBackwardCall,
    CellBackwardTask,
    CellForwardCall,
    CellForwardTask,
    ForwardCall,
    ForwardCell,
    ForwardTask,
    Matrix,
    numba_type,
    with_cell,
    words,
)
from fastbptt.kernels._cells import LEAKS
from fastbptt.kernels._compiling import SOURCE, exchanged, inlined
from fastbptt.kernels._machine import lanes
from fastbptt.kernels._rows import fill_rows
from fastbptt.kernels._schedules import (
    CLEAR,
    COUNTERS,
    END,
    ENDED,
    FORWARD,
    GRADIENT,
    GRADIENTS,
    LEFT,
    PACK,
    PACKED,
    STATE,
    STATES,
    SUM,
    TEAM,
    TEAM_COUNTERS,
    TEAM_TICKETS,
    TICKETS,
    Walk,
    backward_piece,
    buffer_of,
    first_phase,
    forward_piece,
    phase_of,
)
from fastbptt.kernels._simd import align, cast, cast_like, fetch_add, get, offset, pointer, put
from fastbptt.kernels._steps import (
    CELL,
    add_sums,
    clear_padding,
    forward_block,
    input_gradient,
    pack_backward,
    pack_forward,
    state_gradient,
    weight_gradient,
    weight_sums,
)
from fastbptt.kernels._threads import address, call, fetch, keep
from fastbptt.kernels._waiting import (
    counter,
    draw_ticket,
    wait_for,
    wait_for_late_workers,
)

# Below so many floating-point operations, 4 us of one core or more, a call stays on one thread:
# starting others takes 2 us and more.
ALONE_BELOW = 400_000


# Each kind of long piece is compiled by itself: in one function with the others it is 2 to 5 %
# slower, since LLVM then shares registers out among them all.


@njit
def state_piece(task, buffer, team, group, block, before, number, slot):
    state_gradient(fetch(task), buffer, team, group, block, before, number, 1, slot)


@njit
def shared_state_piece(task, buffer, team, group, block, before, number, slot):
    p = fetch(task)
    state_gradient(p, buffer, team, group, block, before, number, p.plan.shares, slot)


@njit
def weight_piece(task, buffer, group, block, unit, slot):
    p = fetch(task)
    weight_gradient(p, weight_sums(p, group), buffer, block, unit, slot)


@njit
def input_piece(task, buffer, group, block, part, slot):
    input_gradient(fetch(task), buffer, group, block, part, slot)


def _workers(source, shared):
    """What threads run, for plans that cut steps into shares and for those that do not.

    `source` is part of their key in the cache.
    """

    def forward_worker(task, slot):
        """Next piece, wait, do, repeat; see `_schedules`.

        With packing in a loop of its own, the steps take 3 to 5 % less time.
        """
        source  # noqa: B018
        p = fetch(task)
        tickets, packed = counter(p.counters, TICKETS), counter(p.counters, PACKED)
        piece = forward_piece(p, draw_ticket(tickets, slot))
        while piece.kind == PACK:
            pack_forward(p, piece.number)
            fetch_add(packed, 1)
            piece = forward_piece(p, draw_ticket(tickets, slot))
        wait_for(packed, piece.packed)
        while piece.kind == FORWARD:
            if shared:
                forward_block(p, piece.number, p.plan.shares, slot)
            else:
                forward_block(p, piece.number, 1, slot)
            piece = forward_piece(p, draw_ticket(tickets, slot))
        wait_for_late_workers(counter(p.counters, ENDED), p.plan.threads)

    def backward_worker(task, slot):
        """Next piece, wait, do, repeat, and within a team likewise; see `_schedules`."""
        source  # noqa: B018
        p = fetch(task)
        tickets, left = counter(p.counters, TICKETS), counter(p.counters, LEFT)
        weights, alone = p.plan.h_panels * p.plan.parts, p.plan.members == 1
        walk = Walk(p.plan, p.B, p.has_lengths, p.lengths)
        piece = backward_piece(walk, draw_ticket(tickets, slot))
        while piece.kind != END:
            wait_for(counter(p.counters, PACKED), piece.packed)
            wait_for(left, piece.left)
            if piece.kind == PACK:
                pack_backward(p, piece.number)
                fetch_add(counter(p.counters, PACKED), 1)
            elif piece.kind == CLEAR:
                clear_padding(p, piece.number)
                fetch_add(counter(p.counters, PACKED), 1)
            elif piece.kind == SUM:
                add_sums(p, piece.number)
            elif piece.kind == TEAM:
                team = piece.number
                counters = counter(p.teams, team * TEAM_COUNTERS)
                states, gradients = counter(counters, STATES), counter(counters, GRADIENTS)
                ticket, phase = -1, first_phase(walk, team)
                while True:
                    ticket += 1
                    if not alone:
                        ticket = draw_ticket(counter(counters, TEAM_TICKETS), slot)
                    phase = phase_of(walk, phase, ticket)
                    if phase.kind == END:
                        break
                    if not alone:
                        wait_for(states, phase.states)
                        wait_for(gradients, phase.gradients)
                    number, group = ticket - phase.start, phase.group
                    if phase.kind == STATE:
                        block, before = phase.block, phase.other.last
                        buffer = buffer_of(walk, team, block, slot)
                        if shared:
                            shared_state_piece(
                                task, buffer, team, group, block, before, number, slot
                            )
                        else:
                            state_piece(task, buffer, team, group, block, before, number, slot)
                        if not alone:
                            fetch_add(states, 1)
                    elif phase.kind == GRADIENT:
                        block, buffer = phase.other, buffer_of(walk, team, phase.other, slot)
                        if number < weights:
                            weight_piece(task, buffer, group, block, number, slot)
                        else:
                            input_piece(task, buffer, group, block, number - weights, slot)
                        if not alone:
                            fetch_add(gradients, 1)
                    else:  # LEAVE
                        if get(p.lengths, group * p.plan.group) == 0:  # no step counts
                            fill_rows(weight_sums(p, group).dW_x, p.plan.sum_rows, p.H, p.H)
                        fetch_add(left, 1)
            piece = backward_piece(walk, draw_ticket(tickets, slot))
        wait_for_late_workers(counter(p.counters, ENDED), p.plan.threads)

    return forward_worker, backward_worker


@inlined
def matrix(a, t):
    """A user's array of axes (t, r, c) or (r, c), as workers see it; t: bytes from step to step."""
    return Matrix(pointer(a), t, a.strides[a.ndim - 2], a.strides[a.ndim - 1])


@inlined
def cleared_counters(start, count):
    """Counters that workers share, at 0."""
    counters = cast(start, types.int64)
    for number in range(count):
        put(counter(counters, number), 0, 0)
    return counters


@inlined
def is_row_by_row(a):
    """Whether each row of a user's array (T, B, n) lies as far behind the one before, by elements.

    Of step after step; h has one step more.
    """
    t, r = a.strides[0], a.strides[1]
    return r % a.itemsize == 0 and (t == a.shape[1] * r or a.shape[0] == 1)


@inlined
def whole_task(p, given, start):
    """What workers are given: p, and of a cell that is not plain more; see below."""
    return p


def _entry_points(source):
    """The two compiled functions that Python calls; `source` is part of their key in the cache.

    Each lays down a task and, if the plan is for one thread, has the plan's worker do it.  It
    returns the address of the task, for the threads of other plans.
    """

    def forward(given):
        source  # noqa: B018
        T, B, I = given.x.shape
        R, H = len(given.W_h), len(given.b)
        plan, start, states = given.plan[0], align(pointer(given.work)), pointer(given.h)
        has_lengths = given.by_length.size > 0
        if R == 0:  # of a readout h is (T, B, H): there is no initial state in front
            states = offset(states, -B * H)
        p = ForwardTask(
            T=T, B=B, I=I, H=H, R=R,
            activation=given.activation,
            x=matrix(given.x, given.x.strides[0]),
            W_x=matrix(given.W_x, 0),
            W_h=matrix(given.W_h, 0),
            b=Matrix(pointer(given.b), 0, 0, given.b.strides[0]),
            h=states,
            has_lengths=has_lengths,
            order=pointer(given.by_length),
            lengths=offset(pointer(given.by_length), B),
            plan=plan,
            packed=cast_like(offset(start, plan.packed_at), states),
            states=cast_like(offset(start, plan.states_at), states),
            index=cast(offset(start, plan.index_at), types.int64),
            counters=cleared_counters(offset(start, plan.counters_at), COUNTERS),
            meetings=cleared_counters(offset(start, plan.meetings_at), plan.meetings),
        )  # fmt: skip
        task = keep(offset(start, plan.task_at), whole_task(p, given, start))
        if plan.threads == 1:
            call(plan.worker, address(task), 0)
        return address(task)

    def backward(given):
        source  # noqa: B018
        T, B, I = given.x.shape
        R, H = len(given.W_h), len(given.db)
        plan, start, db = given.plan[0], align(pointer(given.work)), pointer(given.db)
        has_lengths = given.by_length.size > 0
        order = pointer(given.by_length)
        lengths = offset(order, B)
        if not has_lengths:
            order = cast(offset(start, plan.order_at), types.int64)
            lengths = offset(order, B)
            for r in range(B):
                put(order, r, r)
                put(lengths, r, T)
        if get(lengths, 0) == 0:  # no step counts
            fill_rows(pointer(given.dW_x), len(given.dW_x), H, H)
            fill_rows(pointer(given.dW_h), H, H, H)
            fill_rows(db, 1, H, H)
        h_t = given.h.strides[0] if R > 0 else 0
        dh_t = given.dh.strides[0] if given.every_step else 0
        in_place = plan.close and is_row_by_row(given.x) and (R == 0 or is_row_by_row(given.h))
        numbers = cast(offset(start, plan.numbers_at), types.int64)
        for k in range(0 if in_place else plan.capacity):
            put(numbers, k, k)
        one = cast_like(offset(start, plan.one_at), db)
        put(one, 0, 1.0)
        p = BackwardTask(
            T=T, B=B, I=I, H=H, R=R,
            activation=given.activation,
            x=matrix(given.x, given.x.strides[0]),
            W_x=matrix(given.W_x, 0),
            W_h=matrix(given.W_h, 0),
            h=matrix(given.h, h_t),
            dh=matrix(given.dh, dh_t),
            every_step=given.every_step,
            dW_x=pointer(given.dW_x),
            dW_h=pointer(given.dW_h),
            db=db,
            dx=pointer(given.dx),
            need_dx=len(given.dx) > 0,
            dh0=pointer(given.dh0),
            has_lengths=has_lengths,
            order=order,
            lengths=lengths,
            plan=plan,
            packed=cast_like(offset(start, plan.packed_at), db),
            dz=cast_like(offset(start, plan.dz_at), db),
            inputs=cast_like(offset(start, plan.inputs_at), db),
            in_place=in_place,
            where=cast(offset(start, plan.where_at), types.int64),
            numbers=numbers,
            one=one,
            sums=cast_like(offset(start, plan.sums_at), db),
            near=cast_like(offset(start, plan.near_at), db),
            tiles=cast_like(offset(start, plan.tiles_at), db),
            counters=cleared_counters(offset(start, plan.counters_at), COUNTERS),
            teams=cleared_counters(offset(start, plan.teams_at), plan.team_counters),
            meetings=cleared_counters(offset(start, plan.meetings_at), plan.meetings),
        )  # fmt: skip
        task = keep(offset(start, plan.task_at), whole_task(p, given, start))
        if plan.threads == 1:
            call(plan.worker, address(task), 0)
        return address(task)

    return forward, backward


@inlined
def whole_forward_task(p, given, start):
    noise, v = given.noise, given.v
    cell = ForwardCell(
        leak=given.leak,
        alpha=pointer(given.alphas),
        keep=offset(pointer(given.alphas), given.alphas.shape[1]),
        v=pointer(v),
        v_t=p.B * p.H if len(v) > 1 else 0,
        adds=noise.size > 0 or given.scale.size > 0 or given.tokens.size > 0,
        has_noise=noise.size > 0,
        noise=matrix(noise, noise.strides[0]),
        draws=given.scale.size > 0,
        scale=pointer(given.scale),
        seed=given.seed,
        first_step=given.first_step,
        first_sequence=given.first_sequence,
        has_tokens=given.tokens.size > 0,
        tokens=pointer(given.tokens),
    )
    return with_cell(p, cell)


@inlined
def whole_backward_task(p, given, start):
    cell = BackwardCell(
        leak=given.leak,
        alpha=pointer(given.alphas),
        keep=offset(pointer(given.alphas), given.alphas.shape[1]),
        has_dv=given.dv.size > 0,
        dv=matrix(given.dv, 0),
        carried=cast_like(offset(start, given.plan[0].carried_at), p.db),
        has_tokens=given.tokens.size > 0,
        tokens=pointer(given.tokens),
    )
    return with_cell(p, cell)


_alone, _shared = _workers(SOURCE, False), _workers(SOURCE, True)
_forward, _backward = _entry_points(SOURCE)

# The same for cells that are not plain.
_cell_forward_worker = exchanged(_alone[0], **CELL)
_cell_backward_worker = exchanged(
    _alone[1],
    state_piece=exchanged(state_piece, **CELL),
    weight_piece=exchanged(weight_piece, **CELL),
    input_piece=exchanged(input_piece, **CELL),
    **CELL,
)
_cell_forward = exchanged(_forward, whole_task=whole_forward_task)
_cell_backward = exchanged(_backward, whole_task=whole_backward_task)


def _types(task, dtype, plan):
    """Numba's of the numbers, of the plan, and of the task that workers read."""
    if config.DISABLE_JIT:
        raise RuntimeError("NUMBA_DISABLE_JIT is set: only backend='numpy' works without compiling")
    dtype, plan = numba.from_dtype(dtype), numba.typeof(plan).dtype
    return dtype, plan, numba_type(task, dtype, plan)


def _compile_entry_point(function, declared, task, dtype, plan):
    """The compiled function, for calls as declared."""
    dtype, plan, kept = _types(task, dtype, plan)
    context = cpu_target.target_context
    assert context.get_abi_sizeof(context.get_value_type(kept)) <= 8 * words(task)
    signature = (numba_type(declared, dtype, plan),)
    return _compiling.compile_entry_point(signature, function, nogil=True)


def _compile_worker(function, task, dtype, plan):
    """The address of the compiled function."""
    _, _, kept = _types(task, dtype, plan)
    signature = types.void(types.CPointer(kept), types.intp)
    return _compiling.compile_callback(signature, function).address


# Each is compiled when first needed: entry points for plain cells and for all others, workers for
# plain cells ("plain"), for plain cells' steps that are shared ("shared"), and for all other cells.


@computed_once
def _forward_entry_point(dtype, cell):
    plan = plan_forward(1, 1, 1, 1, dtype.itemsize, 1)
    if cell:
        declared = CellForwardCall, CellForwardTask
        return _compile_entry_point(_cell_forward, *declared, dtype, plan)
    return _compile_entry_point(_forward, ForwardCall, ForwardTask, dtype, plan)


@computed_once
def _forward_worker(dtype, kind):
    plan = plan_forward(1, 1, 1, 1, dtype.itemsize, 1)
    if kind == "cell":
        return _compile_worker(_cell_forward_worker, CellForwardTask, dtype, plan)
    worker, _ = _shared if kind == "shared" else _alone
    return _compile_worker(worker, ForwardTask, dtype, plan)


@computed_once
def _backward_entry_point(dtype, cell):
    plan = plan_backward(1, 1, 1, 1, 1, dtype.itemsize, True, 1, True)
    if cell:
        declared = CellBackwardCall, CellBackwardTask
        return _compile_entry_point(_cell_backward, *declared, dtype, plan)
    return _compile_entry_point(_backward, BackwardCall, BackwardTask, dtype, plan)


@computed_once
def _backward_worker(dtype, kind):
    plan = plan_backward(1, 1, 1, 1, 1, dtype.itemsize, True, 1, True)
    if kind == "cell":
        return _compile_worker(_cell_backward_worker, CellBackwardTask, dtype, plan)
    _, worker = _shared if kind == "shared" else _alone
    return _compile_worker(worker, BackwardTask, dtype, plan)


def _prepared(entry_point, worker, plan):
    """What calls of a kind need: entry point, worker, plan, bytes of its workspace."""
    _compiling.warn_of_troubles()
    plan["worker"] = worker
    return entry_point, worker, plan, int(plan["total"][0])


_prepared_for = set()  # (direction, dtype, cell): of what calls there are compiled functions


def _by_cells(direction, dtype):
    """Whether a readout is to run by the functions of cells that are not plain.

    Both give the same bits.  But a model that leaks, is noisy or reads tokens has no other use for
    the functions for plain cells, whose compilation takes as long as all of its own.  On the way
    back the readout comes first: what went forward says which.
    """
    if (direction, dtype, False) in _prepared_for:
        return False
    return (direction, dtype, True) in _prepared_for or ("forward", dtype, True) in _prepared_for


@functools.lru_cache(maxsize=1024)
def prepared_forward(B, I, H, R, dtype, threads, cell=False, adds=False):
    plan = plan_forward(B, I, H, R, dtype.itemsize, threads, cell, adds)
    worker = _forward_worker(dtype, _kind(plan, cell))
    prepared = _prepared(_forward_entry_point(dtype, cell), worker, plan)
    _prepared_for.add(("forward", dtype, cell))
    return prepared


@functools.lru_cache(maxsize=1024)
def prepared_backward(T, B, I, H, R, dtype, small, threads, need_dx, cell=False, tokens=0):
    plan = plan_backward(T, B, I, H, R, dtype.itemsize, small, threads, need_dx, cell, tokens)
    worker = _backward_worker(dtype, _kind(plan, cell))
    prepared = _prepared(_backward_entry_point(dtype, cell), worker, plan)
    _prepared_for.add(("backward", dtype, cell))
    return prepared


def _kind(plan, cell):
    """The kind of worker that a plan is for."""
    return "cell" if cell else "shared" if plan["shares"][0] > 1 else "plain"


# Bytes of workspace that a thread keeps between calls, at most.  New memory costs time where it
# is touched first, a third of a call of 5 ms when malloc returns it to the system every time.
# While a call has it nobody keeps it: a signal handler's call in the middle finds none.
KEPT = 32 << 20
_kept = threading.local()

ALL = np.zeros((2, 0), np.int64)  # all sequences have T steps
_DTYPES = np.dtype(np.float32), np.dtype(np.float64)
NO_W_h = {dtype: np.zeros((0, 0), dtype) for dtype in _DTYPES}
NO_SCALE = {dtype: np.zeros(0, dtype) for dtype in _DTYPES}
NO_DX = {dtype: np.zeros((0, 0, 0), dtype) for dtype in _DTYPES}
NO_DH0 = NO_LEAK = {dtype: np.zeros((0, 0), dtype) for dtype in _DTYPES}
NO_TOKENS = np.zeros((0, 0), np.int64)
# Cells that do as plain ones: what follows `work` in a CellForwardCall and a CellBackwardCall.
AS_PLAIN = {
    dtype: (0, NO_LEAK[dtype], NO_DX[dtype], NO_DX[dtype], NO_SCALE[dtype], 0, 0, 0, NO_TOKENS)
    for dtype in _DTYPES
}
AS_PLAIN_BACK = {dtype: (0, NO_LEAK[dtype], NO_DH0[dtype], NO_TOKENS) for dtype in _DTYPES}


def _rows(a):
    """The array, or a copy with whole rows to read vectors from if its elements lie apart."""
    apart = a.strides[-1] != a.itemsize and a.shape[-1] != 1
    return np.ascontiguousarray(a) if apart else a


def kind_of(direction, B, I, H, R, dtype, *more):
    """Which calls cost the same for each step, see `Claim`; of readouts, those of any B."""
    return direction, B if R else 0, I, H, dtype, *more


def _take_workspace(total):
    """Memory for a call: what this thread keeps, if that is large enough."""
    work = _kept.__dict__.pop("work", None)
    return np.empty(total, np.uint8) if work is None or len(work) < total else work


def _longest_first(lengths):
    """Order of the sequences and their lengths in that order, and the steps that count in all."""
    order = np.argsort(-lengths, kind="stable")
    return np.stack((order, lengths[order])), int(lengths.sum())


Weights = tuple[np.ndarray, np.ndarray, np.ndarray]  # (W_x, W_h, b), or their gradients
Leaking = tuple[np.ndarray, str]  # alpha (H,), and of what


def _with_tokens(params, x):
    """Weights, inputs and tokens: of tokens x, no inputs, and rows of W_x to read vectors from."""
    if x.ndim == 3:
        return params, x, NO_TOKENS
    W_x, W_h, b = params
    inputs = np.zeros((*x.shape, 0), W_x.dtype)
    return (_rows(W_x), W_h, b), inputs, np.ascontiguousarray(x, np.int64)


_known_alphas = {}  # by the id of an alpha that nobody writes to: it, and what it became


def _alphas(leak, H, dtype):
    """alpha and 1 - alpha, (2, H and up to a whole vector); 1 and 0 behind."""
    if leak is None:
        return NO_LEAK[dtype]
    alpha, _ = leak
    before, alphas = _known_alphas.get(id(alpha), (None, None))
    if before is alpha and alphas is not None:
        return alphas
    whole = lanes(dtype.itemsize)
    alphas = np.ones((2, -(-H // whole) * whole), dtype)
    alphas[0, :H] = alpha
    np.subtract(1, alphas[0], alphas[1])
    if alpha.flags.owndata and not alpha.flags.writeable:
        if len(_known_alphas) >= 64:
            _known_alphas.clear()
        _known_alphas[id(alpha)] = alpha, alphas
    return alphas


def forward(
    params: Weights, x: np.ndarray, h: np.ndarray, lengths: np.ndarray | None, activation: str,
    leak: Leaking | None = None, noise: Any = None, v: np.ndarray | None = None,
) -> None:  # fmt: skip
    """See :func:`fastbptt.reference.forward`."""
    if leak is None and noise is None and activation in PLAIN and x.ndim == 3:
        if len(x) and x.shape[1]:
            _run_forward(params, x, h, lengths, activation)
        return
    T, B = x.shape[:2]
    if not B or not (T or leak):
        return
    dtype = h.dtype
    params, x, tokens = _with_tokens(params, x)
    of = 0 if leak is None else LEAKS[leak[1]]
    v = NO_DX[dtype] if v is None else v if v.ndim == 3 else v[None]
    drawn = NO_SCALE[dtype], 0, 0, 0
    if isinstance(noise, Noise):
        seed = noise.seed - (noise.seed >> 63 << 64)  # the same 64 bits, signed
        scale = np.zeros(-(-h.shape[2] // PAIR) * PAIR, dtype)
        scale[: h.shape[2]] = noise.scale
        drawn = scale, seed, noise.first_step, noise.first_sequence
        noise = None
    noise = NO_DX[dtype] if noise is None else _rows(noise)
    cell = of, _alphas(leak, h.shape[2], dtype), v, noise, *drawn, tokens
    _run_forward(params, x, h, lengths, activation, cell)


def readout(W_y: np.ndarray, b_y: np.ndarray, h: np.ndarray, y: np.ndarray) -> None:
    """See :func:`fastbptt.reference.readout`."""
    if len(h):
        dtype = y.dtype
        cell = AS_PLAIN[dtype] if _by_cells("forward", dtype) else None
        _run_forward((W_y, NO_W_h[dtype], b_y), h[None], y[None], None, "identity", cell)


def _run_forward(params, x, h, lengths, activation, cell=None):
    T, B, I = x.shape
    W_x, W_h, b = params
    R, H, dtype = len(W_h), len(b), h.dtype
    if x.strides[-1] != dtype.itemsize:
        x = _rows(x)
    by_length, steps = (ALL, T * B) if lengths is None else _longest_first(lengths)
    operations = 2 * steps * H * (I + R)
    claim = None
    if operations >= ALONE_BELOW:
        kind = kind_of("forward", B, I, H, R, dtype, cell is None)
        claim = _threads.Claim(kind, steps, operations)
    threads = claim.threads if claim else 1
    key = B, I, H, R, dtype, threads
    if cell is not None:
        leak, alphas, v, noise, scale, seed, first_step, first_sequence, tokens = cell
        key = *key, True, noise.size + scale.size + tokens.size > 0
    run, worker, plan, total = prepared_forward(*key)
    work = _take_workspace(total)  # holds the task until all threads are done with it
    # The fields of ForwardCall in their order; to make one by name would take a tenth of the time
    # of a small call.  A test holds the names of what stands here to those of the fields.
    activation = CODES[activation]
    if cell is None:
        task = run((x, W_x, W_h, b, h, by_length, activation, plan, work))
    else:
        task = run((
            x, W_x, W_h, b, h, by_length, activation, plan, work, leak, alphas, v, noise, scale,
            seed, first_step, first_sequence, tokens,
        ))  # fmt: skip
    if claim:
        claim.use(worker, task)
    if total <= KEPT:
        _kept.work = work


def backward(
    params: Weights, x: np.ndarray, h: np.ndarray, dh: np.ndarray, dparams: Weights,
    dx: np.ndarray | None, dh0: np.ndarray, lengths: np.ndarray | None, activation: str,
    leak: Leaking | None = None, dv: np.ndarray | None = None,
) -> None:  # fmt: skip
    """See :func:`fastbptt.reference.backward`."""
    every_step = dh.ndim == 3
    if x.shape[1] and (len(x) or leak):
        cell = None
        if leak is not None or activation not in PLAIN or x.ndim == 2:
            of = 0 if leak is None else LEAKS[leak[1]]
            params, x, tokens = _with_tokens(params, x)
            dv = NO_DH0[h.dtype] if dv is None else _rows(dv)
            cell = of, _alphas(leak, h.shape[2], h.dtype), dv, tokens
        if not len(x):
            lengths = np.zeros(x.shape[1], np.int64)
        dh = dh if every_step else dh[None]
        _run_backward(params, x, h, dh, every_step, dparams, dx, dh0, lengths, activation, cell)
    else:
        for gradient in dparams:
            gradient[...] = 0
        dh0[...] = 0 if every_step else dh


def readout_backward(
    W_y: np.ndarray, h: np.ndarray, dy: np.ndarray, dW_y: np.ndarray, db_y: np.ndarray,
    dh: np.ndarray | None,
) -> None:  # fmt: skip
    """See :func:`fastbptt.reference.readout_backward`."""
    if not len(h):
        dW_y[...] = db_y[...] = 0
        return
    dtype, dy = dy.dtype, dy[None]
    params, dparams = (W_y, NO_W_h[dtype], None), (dW_y, NO_W_h[dtype], db_y)
    dx = None if dh is None else dh[None]
    cell = AS_PLAIN_BACK[dtype] if _by_cells("backward", dtype) else None
    no_dh0 = NO_DH0[dtype]
    _run_backward(params, h[None], dy, dy, True, dparams, dx, no_dh0, None, "identity", cell)


def _run_backward(params, x, h, dh, every_step, dparams, dx, dh0, lengths, activation, cell=None):
    T, B, I = x.shape
    W_x, W_h, _ = params
    dW_x, dW_h, db = dparams
    R, H, dtype, need_dx = len(W_h), len(db), db.dtype, dx is not None
    if not x.strides[-1] == h.strides[-1] == dh.strides[-1] == dtype.itemsize:
        x, h, dh = _rows(x), _rows(h), _rows(dh)
    by_length, steps = (ALL, T * B) if lengths is None else _longest_first(lengths)
    operations = 4 * steps * H * (I + R)
    claim, small = None, operations < ALONE_BELOW
    if not small:
        kind = kind_of("backward", B, I, H, R, dtype, need_dx, cell is None)
        claim = _threads.Claim(kind, steps, operations)
    threads = claim.threads if claim else 1
    key = T, B, I, H, R, dtype, small, threads, need_dx
    if cell is not None:
        leak, alphas, dv, tokens = cell
        key = *key, True, 0 if I else len(dW_x)
    run, worker, plan, total = prepared_backward(*key)
    work = _take_workspace(total)  # holds the task until all threads are done with it
    activation = CODES[activation]
    if not need_dx:
        dx = NO_DX[dtype]
    # The fields of BackwardCall in their order, see _run_forward.
    if cell is None:
        task = run(
            (x, W_x, W_h, h, dh, every_step, dW_x, dW_h, db, dx, dh0, by_length, activation, plan,
             work)
        )  # fmt: skip
    else:
        task = run(
            (x, W_x, W_h, h, dh, every_step, dW_x, dW_h, db, dx, dh0, by_length, activation, plan,
             work, leak, alphas, dv, tokens)
        )  # fmt: skip
    if claim:
        claim.use(worker, task)
    if total <= KEPT:
        _kept.work = work


def warmup(dtype: np.dtype) -> None:
    """Compile all that calls of this dtype run, or load it from the cache."""
    with without_notice():
        _forward_entry_point(dtype, False)
        _backward_entry_point(dtype, False)
        for kind in ("plain", "shared") if numba.get_num_threads() > 1 else ("plain",):
            _forward_worker(dtype, kind)
            _backward_worker(dtype, kind)
        _threads.warmup()
    _compiling.warn_of_troubles()
