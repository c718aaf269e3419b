"""What a kernel call is made of: the one place that names its parts, their types and their order.

A *call* is what Python hands to a compiled entry point, a *task* what the entry point leaves in the
workspace for the workers.  The annotations of their fields give the Numba types.
"""

from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _given(ndim):
    """A user's input array: of any strides and alignment, and read-only."""
    return lambda dtype, plan: types.Array(dtype, ndim, "A", readonly=True, aligned=False)


def _filled(ndim):
    """An array to fill: C-contiguous."""
    return lambda dtype, plan: types.Array(dtype, ndim, "C")


def _of(dtype, ndim):
    """A C-contiguous array of a given type."""
    return lambda *_: types.Array(dtype, ndim, "C")


def _plan_array(dtype, plan):
    return types.Array(plan, 1, "C", aligned=False)


def _pointer(dtype, plan):
    return types.CPointer(dtype)


def _int_pointer(dtype, plan):
    return types.CPointer(types.int64)


Given1 = Annotated[np.ndarray, _given(1)]
Given2 = Annotated[np.ndarray, _given(2)]
Given3 = Annotated[np.ndarray, _given(3)]
Filled1 = Annotated[np.ndarray, _filled(1)]
Filled2 = Annotated[np.ndarray, _filled(2)]
Filled3 = Annotated[np.ndarray, _filled(3)]
Ints2 = Annotated[np.ndarray, _of(types.int64, 2)]
Workspace = Annotated[np.ndarray, _of(types.uint8, 1)]
PlanArray = Annotated[np.ndarray, _plan_array]  # one record, made by `_blocking`

Floats = Annotated[Any, _pointer]  # pointer to elements of the call's dtype
Ints = Annotated[Any, _int_pointer]  # pointer to int64
Plan = Annotated[Any, lambda dtype, plan: plan]


class ForwardCall(NamedTuple):
    """Arguments of the forward entry point."""

    x: Given3
    W_x: Given2
    W_h: Given2  # (0, 0) for a readout
    b: Given1
    h: Filled3
    by_length: Ints2  # (2, B) sequences, longest first, and their lengths; (2, 0) if all have T
    activation: int
    plan: PlanArray
    work: Workspace


class BackwardCall(NamedTuple):
    """Arguments of the backward entry point."""

    x: Given3
    W_x: Given2
    W_h: Given2  # (0, 0) for a readout
    h: Given3
    dh: Given3
    every_step: bool  # dh is (T, B, H), not (1, B, H)
    dW_x: Filled2
    dW_h: Filled2
    db: Filled1
    dx: Filled3  # (0, 0, 0) if it is not wanted
    dh0: Filled2
    by_length: Ints2  # as in `ForwardCall`
    activation: int
    plan: PlanArray
    work: Workspace


class _OfForward(NamedTuple):
    """What follows the fields of `ForwardCall` where the cell is not plain; see `_cells`."""

    leak: int
    alphas: Filled2  # (2, H and up to a whole vector): alpha and 1 - alpha, 1 and 0 behind
    v: Filled3  # potentials (T + 1, B, H), or (1, B, H); (0, 0, 0) if there are none
    noise: Given3  # (0, 0, 0) if no array is given
    scale: Filled1  # of noise that is drawn, (H,) and 0 up to a whole PAIR; (0,) if none is
    seed: int
    first_step: int
    first_sequence: int
    tokens: Ints2  # (T, B) if they stand in place of x, which is (T, B, 0); else (0, 0)


class _OfBackward(NamedTuple):
    """What follows the fields of `BackwardCall` where the cell is not plain; see `_cells`."""

    leak: int
    alphas: Filled2  # as above
    dv: Given2  # gradient at the last potentials, (B, H); (0, 0) if it is 0
    tokens: Ints2


class Matrix(NamedTuple):
    """A user's array of two or three axes: where element (t, r, c) lies, strides in bytes."""

    data: Floats
    t: int
    r: int
    c: int


class ForwardTask(NamedTuple):
    """One forward call, as workers see it.  Pointers lead into user arrays and the workspace.

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
    plan: Plan
    packed: Floats  # (panels, height, NR): R rows of W_h, I of W_x, b
    states: Floats  # in each of the spaces (2, held, ldh), and a cell's (rows, ldn), see `_cells`
    index: Ints  # (threads, 2, rows)
    counters: Ints
    meetings: Ints  # counters of each block's shares


class BackwardTask(NamedTuple):
    """One backward call, as workers see it.  Pointers lead into user arrays and the workspace.

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
    plan: Plan
    packed: Floats  # (packs, height, NR): zeros, then H rows of W_h^T (unless R = 0) or W_x^T
    dz: Floats  # (buffers, capacity, ldz): dz_t by rows
    inputs: Floats  # (buffers, chunks, capacity, lanes): [x_t, 1] and h_{t-1} by columns
    in_place: bool  # weight gradients read x and h where they lie, and `inputs` stays empty
    where: Ints  # (buffers, capacity): (t - 1) B + b, the row of x_t, dx_t, h_{t-1} among all
    numbers: Ints  # (capacity,): 0, 1, ...
    one: Floats  # (1,): the column of ones, if x is read in place
    sums: Floats  # (groups, x_rows + 1 + R, H): dW_x, db and dW_h of groups with sums of their own
    near: Floats  # (threads, capacity, NR): a panel of dz, copied together; see `plan.near`
    tiles: Floats  # (threads, MR, NR)
    counters: Ints
    teams: Ints  # counters of each team
    meetings: Ints  # counters of the shares of each part of a team's rows


class ForwardCell(NamedTuple):
    """What workers know of a cell beside `ForwardTask`; see `_cells`."""

    leak: int
    alpha: Floats  # (H,) and up to a whole vector; 1 behind
    keep: Floats  # 1 - alpha
    v: Floats  # (T + 1, B, H), or (B, H)
    v_t: int  # elements from step to step, or 0
    adds: bool  # whether anything is added to z
    has_noise: bool
    noise: Matrix
    draws: bool  # noise of its own, see `_noise`
    scale: Floats  # (H,) and 0 up to a whole PAIR
    seed: int
    first_step: int
    first_sequence: int
    has_tokens: bool
    tokens: Ints  # (T, B)


class BackwardCell(NamedTuple):
    """What workers know of a cell beside `BackwardTask`; see `_cells`."""

    leak: int
    alpha: Floats
    keep: Floats
    has_dv: bool
    dv: Matrix  # gradient at the last potentials, (B, H)
    carried: Floats  # (B, ldz), a row for each place in `order`
    has_tokens: bool
    tokens: Ints  # (T, B)


def _extended(name: str, declared: Any, more: dict[str, Any]) -> Any:
    """A tuple like the one declared, with more fields behind."""
    fields: Any = [*_hints(declared).items(), *more.items()]
    return NamedTuple(name, fields)


def _hints(declared):
    return get_type_hints(declared, include_extras=True)


CellForwardCall = _extended("CellForwardCall", ForwardCall, _hints(_OfForward))
CellBackwardCall = _extended("CellBackwardCall", BackwardCall, _hints(_OfBackward))
CellForwardTask = _extended("CellForwardTask", ForwardTask, {"cell": ForwardCell})
CellBackwardTask = _extended("CellBackwardTask", BackwardTask, {"cell": BackwardCell})


@intrinsic
def with_cell(typingctx, p, cell):
    """A task and its cell as one task."""
    declared = {ForwardTask: CellForwardTask, BackwardTask: CellBackwardTask}[p.instance_class]
    whole = types.NamedTuple([*p.types, cell], declared)

    def emit(context, builder, signature, args):
        values = [*cgutils.unpack_tuple(builder, args[0]), args[1]]
        return context.make_tuple(builder, whole, values)

    return whole(p, cell), emit


def _fields(declared):
    return _hints(declared).values()


def numba_type(declared, dtype, plan):
    """Numba type of a call or a task.

    Parameters
    ----------
    declared : type
        One of the classes above.
    dtype : numba.types.Float
    plan : numba.types.Record
        Of the call's plan.
    """

    def kind(hint):
        if get_origin(hint) is Annotated:
            return get_args(hint)[1](dtype, plan)
        return {int: types.intp, bool: types.boolean}.get(hint) or numba_type(hint, dtype, plan)

    return types.NamedTuple([kind(hint) for hint in _fields(declared)], declared)


def words(task):
    """64-bit words that a task takes at most."""
    return sum([words(hint) if hasattr(hint, "_fields") else 1 for hint in _fields(task)])
