"""Calls that are made again and again with the same arrays, as in the training of a small network.

What follows from the shapes, and the memory that the work takes, is found once, and a call made
ready: in the smallest ones Python takes longer for that than the kernels for all they do.
"""

import functools
from collections.abc import Callable

import numpy as np

from fastbptt.kernels import _threads
from fastbptt.kernels._activation import CODES, PLAIN
from fastbptt.kernels._calls import BackwardCall, ForwardCall
from fastbptt.kernels._drivers import (
    ALL,
    ALONE_BELOW,
    NO_DH0,
    NO_DX,
    NO_W_h,
    Weights,
    kind_of,
    prepared_backward,
    prepared_forward,
)

Call = Callable[[], object]
REPEATED = PLAIN  # the activations that these calls know


def repeated_forward(params: Weights, x: np.ndarray, h: np.ndarray, activation: str) -> Call:
    """What :func:`fastbptt.kernels.forward` does with these arrays, as a function to call again.

    Parameters
    ----------
    params, x, h, activation
        As for `forward`.  Arrays may change, but stay where they are; x is (T, B, I) with
        contiguous rows, T and B are at least 1, and all sequences have T steps.

    Returns
    -------
    callable
    """
    T, B, I = x.shape
    W_x, W_h, b = params
    R, H, dtype = len(W_h), len(b), h.dtype

    def prepare(threads):
        run, worker, plan, total = prepared_forward(B, I, H, R, dtype, threads)
        call = ForwardCall(
            x=x, W_x=W_x, W_h=W_h, b=b, h=h, by_length=ALL, activation=CODES[activation],
            plan=plan, work=np.empty(total, np.uint8),
        )  # fmt: skip
        return run, call, worker

    kind = kind_of("forward", B, I, H, R, dtype, True)
    return _repeated(kind, T * B, 2 * T * B * H * (I + R), prepare)


def repeated_readout(W_y: np.ndarray, b_y: np.ndarray, h: np.ndarray, y: np.ndarray) -> Call:
    """The same of :func:`fastbptt.kernels.readout`."""
    params = W_y, NO_W_h[y.dtype], b_y
    return repeated_forward(params, h[None], y[None], "identity")


def repeated_backward(
    params: Weights, x: np.ndarray, h: np.ndarray, dh: np.ndarray, dparams: Weights,
    dx: np.ndarray | None, dh0: np.ndarray, activation: str,
) -> Call:  # fmt: skip
    """The same of :func:`fastbptt.kernels.backward`; rows of dh are contiguous, too."""
    T, B, I = x.shape
    W_x, W_h, _ = params
    dW_x, dW_h, db = dparams
    R, H, dtype, every_step = len(W_h), len(db), db.dtype, dh.ndim == 3
    operations = 4 * T * B * H * (I + R)
    small, need_dx = operations < ALONE_BELOW, dx is not None
    dh, filled = (dh if every_step else dh[None]), (NO_DX[dtype] if dx is None else dx)

    def prepare(threads):
        key = T, B, I, H, R, dtype, small, threads, need_dx
        run, worker, plan, total = prepared_backward(*key)
        call = BackwardCall(
            x=x, W_x=W_x, W_h=W_h, h=h, dh=dh, every_step=every_step, dW_x=dW_x, dW_h=dW_h, db=db,
            dx=filled, dh0=dh0, by_length=ALL, activation=CODES[activation], plan=plan,
            work=np.empty(total, np.uint8),
        )  # fmt: skip
        return run, call, worker

    kind = kind_of("backward", B, I, H, R, dtype, need_dx, True)
    return _repeated(kind, T * B, operations, prepare)


def repeated_readout_backward(
    W_y: np.ndarray, h: np.ndarray, dy: np.ndarray, dW_y: np.ndarray, db_y: np.ndarray,
    dh: np.ndarray,
) -> Call:  # fmt: skip
    """The same of :func:`fastbptt.kernels.readout_backward`."""
    dtype, dy = dy.dtype, dy[None]
    params, dparams = (W_y, NO_W_h[dtype], db_y), (dW_y, NO_W_h[dtype], db_y)  # b is not read
    no_dh0 = NO_DH0[dtype]
    return repeated_backward(params, h[None], dy, dy, dparams, dh[None], no_dh0, "identity")


def _repeated(kind, steps, operations, prepare):
    """A function that makes a call: what ``prepare(threads)`` returns of it.

    That is the entry point, what it is given, and the worker; other arguments are as for `Claim`.
    """
    if operations < ALONE_BELOW:
        run, call, _ = prepare(1)
        return functools.partial(run, call)
    prepare = functools.cache(prepare)

    def repeat():
        claim = _threads.Claim(kind, steps, operations)
        run, call, worker = prepare(claim.threads)
        claim.use(worker, run(call))

    return repeat
