"""What more cores than this machine has would gain: one worker's share at a time, on one core.

    python -m benchmarks.cores ["100 32 256 512" ...] [--threads 4 8 ...] [--dtype float64]

A call is planned for so many threads.  Then each worker's share of it runs alone, on one core: its
pieces of packing, its blocks or its share of the units, its part of the weight and input gradients,
with nobody to wait for, and its thread's own clock tells how long that takes.  What the slowest
worker of each phase takes is what the phase would take.  Added is what it costs to work together,
measured with two threads here:

- to start and end the parallel loop: what it takes with two, for every doubling of the threads;
- a meeting of n workers, after a step that is cut into shares and where a phase waits for another:
  two threads meet, one in the places of n - 1 (it raises their counters one after the other, which
  they would do at once), for n up to 32; of 64, twice what it takes 32;
- the states or state gradients that a worker reads from other cores' caches: bytes times what a
  byte costs two threads that exchange halves of such an array.

Not in it: a frequency that sinks when all cores work, the memory's bandwidth shared by all, caches
shared by more cores, and processors of several sockets.  "here" is what two threads really take, to
hold the prediction for two against.
"""

import argparse
import functools
import math
import time
from typing import NamedTuple

import numba
import numpy as np
from numba import types

import fastbptt
from fastbptt.kernels import _threads
from fastbptt.kernels._calls import BackwardTask, ForwardTask
from fastbptt.kernels._compiling import SOURCE, compile_callback, exchanged, inlined
from fastbptt.kernels._machine import LINE
from fastbptt.kernels._schedules import (
    END,
    FORWARD,
    GRADIENT,
    PACK,
    STATE,
    SUM,
    TEAM,
    Walk,
    backward_piece,
    buffer_of,
    first_phase,
    forward_piece,
    phase_of,
)
from fastbptt.kernels._simd import get, offset, put
from fastbptt.kernels._steps import (
    add_sums,
    forward_block,
    input_gradient,
    pack_backward,
    pack_forward,
    state_gradient,
    weight_gradient,
    weight_sums,
)
from fastbptt.kernels._threads import fetch
from fastbptt.kernels._waiting import SHARE_COUNTERS, Turn, first_turn, next_turn

from .pieces import backward_call, compiled, forward_call
from .suite.common import TINY, arrays, calls, sizes, take_turns

SHAPES = "100 32 256 512", "100 64 128 256", "50 128 512 1024", "200 256 16 32"  # T B I H
THREADS = 2, 4, 8, 16, 32, 64
TURNS, ROUNDS = 5, 100
FEW, MANY = 20, 60  # meetings in a row
NUMBERS = 1 << 11  # int64, in an array that two threads exchange


# Shares: pieces are dealt out evenly, and every worker has those of its slot.

EVERYTHING, PACKING, STATES, GRADIENTS, SUMS = range(5)


@inlined
def _home_share(shares, count, home, step, orphans):
    """In place of `first_turn`: the worker's own share."""
    return Turn(home, 0)


@inlined
def _no_more(shares, count, home, step, turn):
    """In place of `next_turn`: all others have done theirs."""
    return Turn(-1, 0)


_alone = {"first_turn": _home_share, "next_turn": _no_more}
lone_block = exchanged(forward_block, **_alone)
lone_gradient = exchanged(state_gradient, **_alone)


@inlined
def _mine(part, wanted, number, workers, slot):
    return part == EVERYTHING or (part == wanted and number % workers == slot)


def _forward_workers(source):
    """Workers that do a part of their share each."""

    def sharer(part):
        def worker(task, slot):
            source  # noqa: B018
            p, ticket = fetch(task), 0
            piece = forward_piece(p, ticket)
            while piece.kind != END:
                if piece.kind == PACK and _mine(part, PACKING, piece.number, p.plan.threads, slot):
                    pack_forward(p, piece.number)
                if piece.kind == FORWARD and _mine(
                    part, STATES, piece.number, p.plan.threads, slot
                ):
                    lone_block(p, piece.number, p.plan.shares, slot)
                ticket += 1
                piece = forward_piece(p, ticket)

        return worker

    return [sharer(part) for part in (EVERYTHING, PACKING, STATES)]


def _backward_workers(source):
    """The same for a backward call; a team's pieces are dealt out among its members."""

    def sharer(part):
        def worker(task, slot):
            source  # noqa: B018
            p, place = fetch(task), 0
            weights, members = p.plan.h_panels * p.plan.parts, p.plan.members
            walk = Walk(p.plan, p.B, p.has_lengths, p.lengths)
            member = slot // p.plan.teams
            piece = backward_piece(walk, place)
            while piece.kind != END:
                if piece.kind == PACK and _mine(part, PACKING, piece.number, p.plan.threads, slot):
                    pack_backward(p, piece.number)
                if piece.kind == SUM and _mine(part, SUMS, piece.number, p.plan.threads, slot):
                    add_sums(p, piece.number)
                ticket, phase, team = 0, first_phase(walk, piece.number), piece.number
                first = place == p.plan.packs + team  # a team has a piece for each member
                its = team % p.plan.threads == slot % p.plan.teams
                while piece.kind == TEAM and first and (its or part == EVERYTHING):
                    phase = phase_of(walk, phase, ticket)
                    if phase.kind == END:
                        break
                    number, group = ticket - phase.start, phase.group
                    if phase.kind == STATE and _mine(part, STATES, number, members, member):
                        block, before = phase.block, phase.other.last
                        buffer, shares = buffer_of(walk, team, block, slot), p.plan.shares
                        lone_gradient(p, buffer, team, group, block, before, number, shares, slot)
                    if phase.kind == GRADIENT and _mine(part, GRADIENTS, number, members, member):
                        block, buffer = phase.other, buffer_of(walk, team, phase.other, slot)
                        if number < weights:
                            weight_gradient(p, weight_sums(p, group), buffer, block, number, slot)
                        else:
                            input_gradient(p, buffer, group, block, number - weights, slot)
                    ticket += 1
                place += 1
                piece = backward_piece(walk, place)

        return worker

    return [sharer(part) for part in (EVERYTHING, PACKING, STATES, GRADIENTS, SUMS)]


_WORKERS = {
    ForwardTask: _forward_workers(SOURCE),
    BackwardTask: _backward_workers(SOURCE),
}


def _parts(run, call, task, dtype, check):
    """Seconds of each part of the work but the first, which does all: of each slot's share."""
    everything, *parts = compiled(_WORKERS[task], task, call, dtype)
    call.plan["worker"] = everything.address
    threads, at = call.plan["threads"][0], run(call)
    if threads > 1:  # or it has been done
        everything.ctypes(at, 0)
    if call.plan["shares"][0] == 1:  # with shares, nobody has waited for the others' numbers
        check()
    timed = [functools.partial(part.ctypes, at, slot) for part in parts for slot in range(threads)]
    seconds = take_turns(timed, TURNS, together=1e-3, clock=time.thread_time)
    return np.array(seconds).reshape(len(parts), threads)


class Share(NamedTuple):
    """What a call for so many threads takes, seconds, without what it costs to work together."""

    seconds: float
    meetings: dict[int, int]  # of so many workers: how many
    read: float  # bytes from other caches


def forward_share(shape, dtype, threads):
    T, _, _, H = sizes(shape)
    params, x, _ = arrays(shape, dtype.name)
    run, call = forward_call(shape, dtype, threads)
    plan = call.plan

    def check():
        expected = fastbptt.forward(fastbptt.Params(*params), x)
        assert np.array_equal(call.h, expected), "the shares are not the whole"

    packing, states = _parts(run, call, ForwardTask, dtype, check)
    shares = int(plan["shares"][0])
    meetings, read = {threads: 1} if threads > 1 else {}, 0.0  # until all is packed
    if shares > 1:
        meetings[shares] = meetings.get(shares, 0) + T + 2
        read = T * plan["rows"][0] * H * dtype.itemsize * (shares - 1) / shares
    return Share(packing.max() + states.max(), meetings, read)


def backward_share(shape, dtype, threads):
    T, _, I, H = sizes(shape)
    params, x, dh = arrays(shape, dtype.name)
    params = fastbptt.Params(*params)
    h = fastbptt.forward(params, x)
    run, call = backward_call(shape, dtype, h, threads)
    plan = call.plan

    def check():
        (dW_x, dW_h, db), dx, dh0 = fastbptt.backward(params, x, h, dh)
        for name, expected in {"dW_x": dW_x, "dW_h": dW_h, "db": db, "dx": dx, "dh0": dh0}.items():
            assert np.array_equal(getattr(call, name), expected), f"the shares do not give {name}"

    packing, states, gradients, sums = _parts(run, call, BackwardTask, dtype, check)
    members, shares, groups = (int(plan[name][0]) for name in ("members", "shares", "groups"))
    blocks = math.ceil(T / (int(plan["capacity"][0]) // int(plan["group"][0])))
    working = np.count_nonzero(np.arange(members) < plan["splits"][0] * shares)
    if working == members:
        seconds = (states + gradients).max()
    else:  # some do other gradients meanwhile, but for those of the last block
        chain = states.max() + gradients.sum() / threads / blocks
        seconds = max(chain, (states.sum() + gradients.sum()) / threads)
    meetings, read = {threads: 2} if threads > 1 else {}, 0.0  # until all is packed, and for sums
    if members > 1:
        its = groups if plan["teams"][0] == 1 else 1
        meetings[members] = meetings.get(members, 0) + 2 * blocks * its
        rows = T * plan["group"][0] * its * dtype.itemsize
        # For weight gradients panels of dz, and parts of h and x; for those of inputs rows of dz.
        panels, parts, row_parts = (int(plan[k][0]) for k in ("h_panels", "parts", "row_parts"))
        units = math.ceil(panels * parts / members)
        columns = min(units, panels) / panels * H + min(units, parts) / parts * (H + I)
        columns += math.ceil(row_parts / members) / row_parts * H
        read += rows * columns * (members - 1) / members
        if shares > 1:
            meetings[shares] = meetings.get(shares, 0) + T * its
            read += rows / plan["splits"][0] * H * (shares - 1) / shares
    return Share(packing.max() + seconds + sums.max(), meetings, read)


# Working together, measured with two threads


def _meeting_worker(source):
    def worker(counters, slot):
        """Meetings of `count` workers: slot 0 is one of them, slot 1 all others."""
        source  # noqa: B018
        count, meetings, words = get(counters, 0), get(counters, 1), get(counters, 2)
        total = 0
        shares = offset(counters, LINE // 8)
        data = offset(shares, 64 * SHARE_COUNTERS * LINE // 8)
        orphans = ((1 << count) - 1) & ~3 if slot == 1 else 0
        for step in range(1, meetings + 1):
            # Two halves and two arrays by turns, as states of this step and of the next.
            array = offset(data, step % 2 * NUMBERS)
            turn = first_turn(shares, count, slot, step, orphans)
            while turn.share >= 0:
                if turn.share < 2:
                    for k in range(turn.share * words // 2, (turn.share + 1) * words // 2, 8):
                        put(array, k, step)
                turn = next_turn(shares, count, slot, step, turn)
            for k in range(0, words, 8):
                total += get(array, k)
        put(data, 2 * NUMBERS + 8 * slot, total)

    return worker


def _nothing_worker(source):
    def worker(counters, slot):
        source  # noqa: B018

    return worker


@functools.cache
def _meeting_compiled():
    signature = types.void(types.CPointer(types.int64), types.intp)
    made = _meeting_worker(SOURCE), _nothing_worker(SOURCE)
    return [compile_callback(signature, worker) for worker in made]


class Together(NamedTuple):
    """Seconds that it costs to work together."""

    launch: float  # of two threads
    meeting: dict[int, float]  # of so many workers
    byte: float  # from another core's cache

    def cost(self, share, threads):
        launch = self.launch * math.log2(threads) if threads > 1 else 0.0
        met = sum(count * self.meeting[workers] for workers, count in share.meetings.items())
        return launch + met + share.read * self.byte


def together(counts):
    """Measure what it costs two threads to work together."""
    meeting, nothing = _meeting_compiled()
    numba.set_num_threads(2)
    memory = np.zeros(LINE // 8 + 64 * SHARE_COUNTERS * LINE // 8 + 2 * NUMBERS + 16, np.int64)

    def launch(worker, *numbers):
        memory[:] = 0
        memory[: len(numbers)] = numbers
        _threads.launch(worker.address, memory.ctypes.data, 2)

    kinds = [(count, 0) for count in counts] + [(2, NUMBERS)]
    timed = [functools.partial(launch, nothing)]
    timed += [
        functools.partial(launch, meeting, count, meetings, words)
        for count, words in kinds
        for meetings in (FEW, MANY)
    ]
    loop, *seconds = take_turns(timed, ROUNDS, together=0.01)
    # Without what passes until the second thread has come.
    *met, exchanging = np.diff(np.reshape(seconds, (-1, 2)))[:, 0] / (MANY - FEW)
    if loop > 1e-4 or min(met) <= 0:
        raise SystemExit("The two threads hardly ever ran side by side: the machine is too busy.")
    byte = max((exchanging - met[0]) / (8 * NUMBERS / 2), 0.0)
    return Together(loop, dict(zip(counts, met, strict=True)), byte)


def main():
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--threads", nargs="*", type=int, default=THREADS)
    cli.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    cli.add_argument("shapes", nargs="*", default=SHAPES, metavar="'T B I H'")
    args = cli.parse_args()
    dtype = np.dtype(args.dtype)
    # A meeting may be of fewer workers than there are threads, of any number: powers of two are
    # measured, others take what the next one takes.
    counts = [2**k for k in range(1, 6)]
    measured = together(counts)
    meeting = {n: measured.meeting[2 ** math.ceil(math.log2(n))] for n in range(2, counts[-1] + 1)}
    for n in range(counts[-1] + 1, max(args.threads) + 1):
        meeting[n] = meeting[counts[-1]] * 2 ** math.ceil(math.log2(n / counts[-1]))
    measured = measured._replace(meeting=meeting)
    costs = ", ".join(f"{n}: {1e9 * meeting[n]:.0f}" for n in counts)
    print(f"Two threads here: the parallel loop {1e6 * measured.launch:.1f} us; a meeting, ns, of "
          f"{costs} workers; {1e-9 / measured.byte if measured.byte else math.inf:.1f} GB/s from "
          "the other core's cache")  # fmt: skip
    print("\n| T B I H | threads | forward | backward | together, us | speed-up | of ideal |"
          "\n| --- |" + " ---: |" * 6)  # fmt: skip
    numba.set_num_threads(1)
    python = sum(take_turns(calls(TINY, dtype.name)))  # what it does round both calls
    for shape in args.shapes:
        numba.set_num_threads(1)
        alone = [share(shape, dtype, 1) for share in (forward_share, backward_share)]
        whole = sum(share.seconds for share in alone) + python
        for threads in args.threads:
            both = [share(shape, dtype, threads) for share in (forward_share, backward_share)]
            cost = sum(measured.cost(share, threads) for share in both)
            gains = [
                one.seconds / (many.seconds + measured.cost(many, threads))
                for one, many in zip(alone, both, strict=True)
            ]
            gain = whole / (sum(share.seconds for share in both) + cost + python)
            cells = f"{gains[0]:.1f} | {gains[1]:.1f} | {1e6 * cost:.0f} | {gain:.1f}"
            print(f"| {shape} | {threads} | {cells} | {gain / threads:.2f} |", flush=True)
        if numba.config.NUMBA_NUM_THREADS > 1:
            one = sum(take_turns(calls(shape, dtype.name), TURNS))
            numba.set_num_threads(2)
            gain = one / sum(take_turns(calls(shape, dtype.name), TURNS))
            print(f"| {shape} | 2, here | | | | {gain:.1f} | {gain / 2:.2f} |", flush=True)


if __name__ == "__main__":
    main()
