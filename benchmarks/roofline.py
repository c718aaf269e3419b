"""Where a forward and a backward spend their time, and what limits each part.

    python -m benchmarks.roofline [--dtype float64] ["100 64 64 128" ...]

One thread, so that parts can be told apart.  The compiled entry points do what a worker at an
address does; here it is one that does a part of the work and leaves out the rest, over the same
blocks and in the same memory.  A part's limit is the larger of its multiply-adds over the core's
FMA rate and its traffic with main memory over the core's bandwidth; both rates are measured.
"""

import argparse
import functools

import numba
import numpy as np
from numba import cfunc, njit, types

import fastbptt
from fastbptt.kernels import blocking, drivers
from fastbptt.kernels.activation import activate
from fastbptt.kernels.loops import (
    BackwardTask,
    ForwardTask,
    forward_block,
    input_gradient,
    pack_backward,
    pack_forward,
    state_gradient,
    task_type,
    weight_gradient,
    weight_sums,
)
from fastbptt.kernels.simd import LANES, load, offset, pointer, put, store
from fastbptt.kernels.team import SOURCE, fetch

from .common import SHAPES, arrays, operations, sizes, take_turns
from .peak import burner

ROW = "{:<18}{:>11}{:>11}{:>9}{:>8}"
COPIED = 64 << 20  # bytes: beyond any cache
TANHS = 2048  # elements, in the L1 cache


def _workers(source):
    """Workers that do a part each."""

    def nothing(task, slot):
        source  # noqa: B018

    def pack_for_forward(task, slot):
        source  # noqa: B018
        p = fetch(task)
        for panel in range(p.plan.panels):
            pack_forward(p, panel)

    def states(task, slot):
        source  # noqa: B018
        p = fetch(task)
        for block in range(p.plan.blocks):
            forward_block(p, block, slot)

    def pack_for_backward(task, slot):
        source  # noqa: B018
        p = fetch(task)
        for panel in range(p.plan.packs):
            pack_backward(p, panel)

    def state_gradients(task, slot):
        source  # noqa: B018
        p = fetch(task)
        for first in range(0, p.B, p.plan.group):
            rows = min(p.plan.group, p.B - first)
            steps = p.plan.capacity // rows
            for t in range(p.T, 0, -steps):
                state_gradient(p, 0, first, t, max(t - steps, 0) + 1, 0, 0, rows, slot)

    def weight_gradients(task, slot):
        source  # noqa: B018
        p = fetch(task)
        for first in range(0, p.B, p.plan.group):
            sums, rows = weight_sums(p, first // p.plan.group), min(p.plan.group, p.B - first)
            steps = p.plan.capacity // rows
            for t in range(p.T, 0, -steps):
                for unit in range(p.plan.h_panels * p.plan.parts):
                    weight_gradient(p, sums, 0, rows * min(steps, t), unit, t == p.T, slot)

    def input_gradients(task, slot):
        source  # noqa: B018
        p = fetch(task)
        for first in range(0, p.B, p.plan.group):
            rows = min(p.plan.group, p.B - first)
            steps = p.plan.capacity // rows
            for t in range(p.T, 0, -steps):
                # where the rows of dx lie, for there are no state gradients that say it
                for r in range(rows * min(steps, t)):
                    put(p.where, r, (t - 1 - r // rows) * p.B + first + r % rows)
                for part in range(p.plan.row_parts):
                    input_gradient(p, 0, first, rows * min(steps, t), 0, False, part, slot)

    return {
        ForwardTask: (nothing, pack_for_forward, states),
        BackwardTask: (
            nothing,
            pack_for_backward,
            state_gradients,
            weight_gradients,
            input_gradients,
        ),
    }


@functools.cache
def _compiled(task, dtype):
    """The workers of a kind of task, compiled, by name."""
    plan = {
        ForwardTask: lambda: blocking.forward(1, 1, 1, 1, dtype.itemsize, 1),
        BackwardTask: lambda: blocking.backward(1, 1, 1, 1, 1, dtype.itemsize, True, 1, True),
    }[task]()[0]
    pointed = types.CPointer(task_type(task, numba.from_dtype(dtype), numba.typeof(plan).dtype))
    compile_ = cfunc(types.void(pointed, types.intp), cache=True)
    return {worker.__name__: compile_(worker) for worker in _workers(SOURCE)[task]}


def _forward_parts(shape, dtype):
    """Each part of a forward as a function of no arguments."""
    T, B, I, H = sizes(shape)
    (W_x, W_h, b), x, _ = arrays(shape, dtype.name)
    h = np.zeros((T + 1, B, H), dtype)
    run, _ = drivers._compiled_forward(dtype)
    plan, total = blocking.forward(B, I, H, H, dtype.itemsize, 1)
    work, none = np.zeros(total, dtype), drivers.NO_INTS
    return {
        name: functools.partial(
            run, x, W_x, W_h, b, h, none, none, 0, plan, work, worker.address
        )
        for name, worker in _compiled(ForwardTask, dtype).items()
    }  # fmt: skip


def _backward_parts(shape, dtype):
    T, B, I, H = sizes(shape)
    (W_x, W_h, _), x, dh = arrays(shape, dtype.name)
    h = np.full((T + 1, B, H), 0.5, dtype)
    dx = np.zeros((T, B, I), dtype)
    gradients = np.zeros((I, H), dtype), np.zeros((H, H), dtype), np.zeros(H, dtype)
    dh0, none = np.zeros((B, H), dtype), drivers.NO_INTS
    run, _ = drivers._compiled_backward(dtype)
    small = operations(shape)[1] < drivers.ALONE_BELOW
    plan, total = blocking.backward(T, B, I, H, H, dtype.itemsize, small, 1, True)
    work = np.zeros(total, dtype)
    return {
        name: functools.partial(
            run, x, W_x, W_h, h, dh, True, *gradients, dx, True, dh0, none, none, 0, plan, work,
            worker.address,
        )
        for name, worker in _compiled(BackwardTask, dtype).items()
    }  # fmt: skip


@njit(nogil=True)
def _tanhs(a):
    p = pointer(a)
    for i in range(0, len(a), LANES(p)):
        store(offset(p, i), activate(load(offset(p, i)), 0))


@functools.cache
def rates(dtype):
    """One core's multiply-adds (operations), bytes copied and tanhs a second."""
    burn, most = burner(dtype.name)
    a, small = np.zeros(COPIED // 8), np.zeros(TANHS, dtype)
    b = a.copy()
    _tanhs(small)
    burning, copying, tanhs = take_turns(
        (burn, lambda: np.copyto(b, a), lambda: _tanhs(small)), turns=20
    )
    # A copy reads one, reads the other as well before it writes it, or not, as the CPU will.
    return most / burning, 2 * a.nbytes / copying, TANHS / tanhs


def parts(shape, dtype):
    """Seconds, operations and bytes of main memory of each part."""
    T, B, I, H = sizes(shape)
    params, x, dh = arrays(shape, dtype.name)
    params = fastbptt.Params(*params)
    h = fastbptt.forward(params, x)
    calls = (
        lambda: fastbptt.forward(params, x),
        lambda: fastbptt.backward(params, x, h, dh),
        *_forward_parts(shape, dtype).values(),
        *_backward_parts(shape, dtype).values(),
    )
    forward, backward, f0, f1, f2, b0, b1, b2, b3, b4 = take_turns(calls)
    steps, size = T * B, dtype.itemsize
    found = {
        "forward": (f2 - f0, 2 * steps * H * (I + H), steps * (I + H) * size),
        "state gradient": (b2 - b0, 2 * steps * H * H, steps * (I + 2 * H) * size),
        "weight gradient": (b3 - b0, 2 * steps * H * (I + 1 + H), 0),
        "input gradient": (b4 - b0, 2 * steps * H * I, steps * I * size),
        "packing": (f1 - f0 + b1 - b0, 0, 0),
    }
    done = sum(seconds for seconds, _, _ in found.values())
    found["the rest"] = forward + backward - done, 0, 0
    return found


def main():
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    cli.add_argument("shapes", nargs="*", default=SHAPES, metavar="'T B I H'")
    args = cli.parse_args()
    numba.set_num_threads(1)
    dtype = np.dtype(args.dtype)
    flops, bandwidth, tanhs = rates(dtype)
    print(f"One thread, {dtype}: FMA {flops / 1e9:.0f} GFLOP/s, copy {bandwidth / 1e9:.1f} GB/s,"
          f" tanh {1e9 / tanhs:.2f} ns an element")  # fmt: skip
    for shape in args.shapes:
        T, B, _, H = sizes(shape)
        print()
        print(ROW.format(f"T B I H = {shape}", "us", "limit us", "reached", "of all"))
        found = parts(shape, dtype)
        total = sum(seconds for seconds, _, _ in found.values())
        for name, (seconds, flop, moved) in found.items():
            limit = max(flop / flops, moved / bandwidth)
            reached = f"{100 * limit / seconds:.0f} %" if limit else ""
            print(ROW.format(name, f"{1e6 * seconds:.1f}", f"{1e6 * limit:.1f}" if limit else "",
                             reached, f"{100 * seconds / total:.0f} %"))  # fmt: skip
        print(ROW.format("tanh in forward", "", f"{1e6 * T * B * H / tanhs:.1f}", "", ""))


if __name__ == "__main__":
    main()
