"""Calls whose workers do a part of the work, for `roofline.py` and `cores.py`."""

import functools

import numba
import numpy as np
from numba import types

from fastbptt.kernels import _drivers
from fastbptt.kernels._blocking import plan_backward, plan_forward
from fastbptt.kernels._calls import BackwardCall, ForwardCall, numba_type
from fastbptt.kernels._compiling import compile_callback

from .suite.common import arrays, operations, sizes


def compiled(workers, task, call, dtype):
    """The workers of a kind of task, compiled for what the call's plan is of."""
    return _compiled(tuple(workers), task, dtype, numba.typeof(call.plan).dtype)


@functools.cache
def _compiled(workers, task, dtype, plan):
    pointed = types.CPointer(numba_type(task, numba.from_dtype(dtype), plan))
    signature = types.void(pointed, types.intp)
    return [compile_callback(signature, worker) for worker in workers]


def forward_call(shape, dtype, threads=1):
    """The entry point of a forward, and a call for it with states of its own."""
    T, B, I, H = sizes(shape)
    (W_x, W_h, b), x, _ = arrays(shape, dtype.name)
    plan = plan_forward(B, I, H, H, dtype.itemsize, threads)
    call = ForwardCall(
        x=x, W_x=W_x, W_h=W_h, b=b, h=np.zeros((T + 1, B, H), dtype), by_length=_drivers.ALL,
        activation=0, plan=plan, work=np.zeros(plan["total"][0], np.uint8),
    )  # fmt: skip
    return _drivers._forward_entry_point(dtype, False), call


def backward_call(shape, dtype, h, threads=1):
    """The same of a backward from the states h, with gradients of its own."""
    T, B, I, H = sizes(shape)
    (W_x, W_h, _), x, dh = arrays(shape, dtype.name)
    small = operations(shape)[1] < _drivers.ALONE_BELOW
    plan = plan_backward(T, B, I, H, H, dtype.itemsize, small, threads, True)
    call = BackwardCall(
        x=x, W_x=W_x, W_h=W_h, h=h, dh=dh, every_step=True, dW_x=np.zeros((I, H), dtype),
        dW_h=np.zeros((H, H), dtype), db=np.zeros(H, dtype), dx=np.zeros((T, B, I), dtype),
        dh0=np.zeros((B, H), dtype), by_length=_drivers.ALL, activation=0, plan=plan,
        work=np.zeros(plan["total"][0], np.uint8),
    )  # fmt: skip
    return _drivers._backward_entry_point(dtype, False), call
