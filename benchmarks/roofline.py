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
from numba import njit

import fastbptt
from fastbptt.kernels._activation import activate
from fastbptt.kernels._calls import BackwardTask, ForwardTask
from fastbptt.kernels._compiling import SOURCE
from fastbptt.kernels._schedules import (
    END,
    FORWARD,
    GRADIENT,
    PACK,
    STATE,
    TEAM,
    Walk,
    backward_piece,
    buffer_of,
    first_phase,
    forward_piece,
    phase_of,
)
from fastbptt.kernels._simd import LANES, load, offset, pointer, put, store
from fastbptt.kernels._steps import (
    forward_block,
    input_gradient,
    pack_backward,
    pack_forward,
    state_gradient,
    weight_gradient,
    weight_sums,
)
from fastbptt.kernels._threads import fetch

from .pieces import backward_call, compiled, forward_call
from .suite.common import SHAPES, arrays, sizes, take_turns
from .suite.peak import burner

ROW = "{:<18}{:>11}{:>11}{:>9}{:>8}"
COPIED = 64 << 20  # bytes: beyond any cache
TANHS = 2048  # elements, in the L1 cache


NOTHING, PACKING, STATES, WEIGHTS, INPUTS = range(5)


def _forward_workers(source):
    """Workers that walk through a forward call and do a part of it each."""

    def walker(part):
        def worker(task, slot):
            source  # noqa: B018
            p, ticket = fetch(task), 0
            piece = forward_piece(p, ticket)
            while piece.kind != END:
                if part == PACKING and piece.kind == PACK:
                    pack_forward(p, piece.number)
                if part == STATES and piece.kind == FORWARD:
                    forward_block(p, piece.number, 1, slot)
                ticket += 1
                piece = forward_piece(p, ticket)

        return worker

    return [walker(part) for part in (NOTHING, PACKING, STATES)]


def _backward_workers(source):
    """The same for a backward call."""

    def walker(part):
        def worker(task, slot):
            source  # noqa: B018
            p, place = fetch(task), 0
            weights = p.plan.h_panels * p.plan.parts
            walk = Walk(p.plan, p.B, p.has_lengths, p.lengths)
            piece = backward_piece(walk, place)
            while piece.kind != END:
                if piece.kind == PACK and part == PACKING:
                    pack_backward(p, piece.number)
                ticket, phase, team = 0, first_phase(walk, piece.number), piece.number
                while piece.kind == TEAM:
                    phase = phase_of(walk, phase, ticket)
                    if phase.kind == END:
                        break
                    number, group = ticket - phase.start, phase.group
                    if phase.kind == STATE and number == 0:
                        block, before = phase.block, phase.other.last
                        buffer = buffer_of(walk, team, block, slot)
                        if part == STATES:
                            state_gradient(p, buffer, team, group, block, before, 0, 1, slot)
                        if part in (WEIGHTS, INPUTS):  # state gradients would say where rows are
                            k = buffer * p.plan.capacity
                            for t in range(block.t, block.low, -1):
                                row = (t - 1) * p.B + group * p.plan.group
                                for r in range(block.live):
                                    put(p.where, k, row + r)
                                    k += 1
                    if phase.kind == GRADIENT:
                        block, buffer = phase.other, buffer_of(walk, team, phase.other, slot)
                        if part == WEIGHTS and number < weights:
                            weight_gradient(p, weight_sums(p, group), buffer, block, number, slot)
                        if part == INPUTS and number >= weights:
                            input_gradient(p, buffer, group, block, number - weights, slot)
                    ticket += 1
                place += 1
                piece = backward_piece(walk, place)

        return worker

    return [walker(part) for part in (NOTHING, PACKING, STATES, WEIGHTS, INPUTS)]


_WORKERS = {
    ForwardTask: _forward_workers(SOURCE),
    BackwardTask: _backward_workers(SOURCE),
}


def _calls(run, call, task, dtype):
    """The call with each of the workers of its task, as functions of no arguments."""
    found = []
    for worker in compiled(_WORKERS[task], task, call, dtype):
        plan = call.plan.copy()
        plan["worker"] = worker.address
        found.append(functools.partial(run, call._replace(plan=plan)))
    return found


def _forward_parts(shape, dtype):
    """Each part of a forward as a function of no arguments, and the states they fill."""
    run, call = forward_call(shape, dtype)
    return _calls(run, call, ForwardTask, dtype), call.h


def _backward_parts(shape, dtype, h):
    """Each part of a backward, and the gradients they fill."""
    run, call = backward_call(shape, dtype, h)
    return _calls(run, call, BackwardTask, dtype), (
        call.dW_x, call.dW_h, call.db, call.dx, call.dh0,
    )  # fmt: skip


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
        *_forward_parts(shape, dtype)[0],
        *_backward_parts(shape, dtype, h)[0],
    )
    forward, backward, f0, f1, f2, b0, b1, b2, b3, b4 = take_turns(calls)
    steps, size = T * B, dtype.itemsize
    _, call = backward_call(shape, dtype, h)
    joined = int(call.plan["joined"][0])  # inputs whose gradients come with those of states
    apart = I - joined
    found = {
        "forward": (f2 - f0, 2 * steps * H * (I + H), steps * (I + H) * size),
        "state gradient": (
            b2 - b0, 2 * steps * H * (H + joined), steps * (I + 2 * H + joined) * size
        ),
        "weight gradient": (b3 - b0, 2 * steps * H * (I + 1 + H), 0),
        "input gradient": (b4 - b0, 2 * steps * H * apart, steps * apart * size),
        "packing": (f1 - f0 + b1 - b0, 0, 0),
    }  # fmt: skip
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
