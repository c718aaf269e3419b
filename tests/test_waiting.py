"""Meetings: each share of each step is done once, after the whole step before."""

import functools
import threading

import numpy as np
import pytest
from numba import njit

from fastbptt.kernels._simd import get, offset, pointer, put
from fastbptt.kernels._waiting import SHARE_COUNTERS, Turn, first_turn, next_turn

STEPS = 2000


@functools.cache
def member():
    """A worker, compiled: a share of a step reads what all wrote in the step before."""

    @njit(nogil=True)
    def run(counters, values, done, home, first, last):
        shares, turn = values.shape[1], Turn(-1, 0)
        meeting = pointer(counters)  # pyright: ignore[reportCallIssue]
        for step in range(first, last + 1):
            before = offset(pointer(values), (step - 1) % 2 * shares)
            after = offset(pointer(values), step % 2 * shares)
            turn = first_turn(meeting, shares, home, step, turn.orphans)
            while turn.share >= 0:
                total = 0
                for each in range(shares):
                    total += get(before, each)
                put(after, turn.share, total % 1009 + turn.share)
                done[step, turn.share] += 1
                turn = next_turn(meeting, shares, home, step, turn)
        return turn.orphans

    return run


def expected(shares, steps):
    values = np.ones(shares, np.int64)
    for _ in range(steps):
        values = values.sum() % 1009 + np.arange(shares)
    return values


def meeting_of(shares):
    counters = np.zeros(SHARE_COUNTERS * shares * 8, np.int64)  # each in a cache line of its own
    values, done = np.ones((2, shares), np.int64), np.zeros((STEPS + 1, shares), np.int64)
    return counters, values, done


@pytest.mark.parametrize("homes", [[0], [0, 1], [1, 3], [0, 1, 2, 3], [2, 2]], ids=str)
def test_with_workers_who_never_come(homes):
    counters, values, done = meeting_of(4)
    run = member()
    run(*meeting_of(1), 0, 1, 1)  # compiles
    threads = [
        threading.Thread(target=run, args=(counters, values, done, home, 1, STEPS))
        for home in homes
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (done[1:] == 1).all()
    np.testing.assert_array_equal(values[STEPS % 2], expected(4, STEPS))


def test_a_worker_who_comes_late_finds_all_done():
    counters, values, done = meeting_of(3)
    run = member()
    assert run(counters, values, done, 1, 1, STEPS) == 0b101  # shares 0 and 2 lacked their workers
    assert run(counters, values, done, 0, 1, STEPS) == 0
    assert (done[1:] == 1).all()
    np.testing.assert_array_equal(values[STEPS % 2], expected(3, STEPS))
