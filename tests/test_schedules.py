"""Schedules, walked in plain Python: each piece once, after all it waits for, in its own buffer."""

import random
import types
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from fastbptt.kernels import _schedules
from fastbptt.kernels._blocking import CLEARED_ROWS, plan_backward, plan_forward


def uncompiled(module):
    """A module's functions as written, each calling the others as written."""
    names = dict(vars(module))
    for name, value in names.items():
        if hasattr(value, "py_func"):
            names[name] = types.FunctionType(value.py_func.__code__, names, name)
    return types.SimpleNamespace(**names)


S = uncompiled(_schedules)

# T B I H and dtype: one group and several, with sums of their own and without, one time block and
# many, fewer rows than a tile; a readout (R = 0).
SHAPES = [
    (3, 3, 1, 1), (10, 32, 3, 16), (50, 32, 32, 64), (64, 20, 1, 50), (100, 64, 64, 128),
    (30, 128, 256, 512), (40, 37, 5, 33), (9, 301, 17, 48), (120, 4, 30, 61), (1, 1, 1, 1),
    (7, 700, 3, 9), (300, 1, 8, 64), (2, 64, 9, 420), (25, 1100, 2, 70), (3, 2100, 300, 700),
]  # fmt: skip
THREADS = [1, 2, 3, 8, 64]


def fields(plan):
    """A plan's fields as attributes, Python integers."""
    return types.SimpleNamespace(**{name: int(plan[name][0]) for name in plan.dtype.names})


def lengths_of(T, B, kind):
    rng = np.random.default_rng(T * B)
    found = {
        "all": np.full(B, T),
        "some": rng.integers(0, T + 1, B),
        "none": np.zeros(B, int),
        "one": np.where(np.arange(B) == 0, T, 0),
    }[kind]
    return np.sort(found)[::-1].tolist()


class Workers:
    """Workers that walk the list of a task, each as far as it gets before it must wait.

    What a worker has in hand, `first` and `after` return.
    """

    first: Callable
    ready: Callable
    begin: Callable
    end: Callable
    after: Callable

    def __init__(self, threads, seed):
        self.random = random.Random(seed)
        self.counters = [0] * _schedules.COUNTERS
        self.threads = threads

    def draw(self):
        self.counters[_schedules.TICKETS] += 1
        return self.counters[_schedules.TICKETS] - 1

    def run(self):
        """One worker at a time begins or ends a piece, in a random order; nobody waits for ever."""
        walks = {}
        idle = self.random.randrange(self.threads)  # so many never start
        slots = self.random.sample(range(self.threads), self.threads - idle)
        for slot in slots:
            walks[slot] = self.first(slot)
        busy, waiting = {}, set(slots)
        while waiting or busy:
            able = [slot for slot in waiting if self.ready(walks[slot])]
            assert able or busy, "all wait"
            slot = self.random.choice(sorted(able) + sorted(busy))
            if slot in busy:
                self.end(slot, busy.pop(slot))
                walks[slot] = self.after(slot, walks[slot])
                waiting.add(slot)
            else:
                waiting.remove(slot)
                if walks[slot].kind != _schedules.END:
                    busy[slot] = self.begin(slot, walks[slot])


class Forward(Workers):
    def __init__(self, p, seed):
        super().__init__(p.plan.threads, seed)
        self.p, self.done, self.spaces = p, Counter(), {}

    def first(self, slot):
        return S.forward_piece(self.p, self.draw())

    def after(self, slot, piece):
        return S.forward_piece(self.p, self.draw())

    def ready(self, piece):
        return self.counters[_schedules.PACKED] >= piece.packed

    def begin(self, slot, piece):
        if piece.kind == _schedules.FORWARD:
            packs = [key for key in self.done if key[0] == _schedules.PACK]
            assert len(packs) == self.p.plan.panels
            block = piece.number // self.p.plan.shares
            space = S.forward_space(self.p, block, slot)
            assert 0 <= space < self.p.plan.spaces
            holders = self.spaces.setdefault(space, [])
            assert all(each == block for each in holders), "two blocks at once in one space"
            assert self.p.R > 0 or not holders, "two workers at once in one space of a readout"
            holders.append(block)
        return piece

    def end(self, slot, piece):
        self.done[piece.kind, piece.number] += 1
        if piece.kind == _schedules.PACK:
            self.counters[_schedules.PACKED] += 1
        else:
            block = piece.number // self.p.plan.shares
            self.spaces[S.forward_space(self.p, block, slot)].remove(block)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward(shape, threads):
    _, B, I, H = shape
    for R in (H, 0):
        plan = fields(plan_forward(B, I, H, R, 4, threads))
        workers = Forward(types.SimpleNamespace(plan=plan, R=R), seed=B + threads)
        workers.run()
        expected = [(_schedules.PACK, n) for n in range(plan.panels)]
        expected += [(_schedules.FORWARD, n) for n in range(plan.blocks * plan.shares)]
        assert workers.done == dict.fromkeys(expected, 1)


class Place(NamedTuple):
    """Where a worker is: at a piece of the list that all share, or of its team's."""

    kind: int
    piece: Any
    ticket: int
    phase: Any


class Backward(Workers):
    """Also who writes and reads which buffer, and in which order sums are added up."""

    def __init__(self, p, seed):
        super().__init__(p.plan.threads, seed)
        self.p = p
        self.teams = [[0] * _schedules.TEAM_COUNTERS for _ in range(p.plan.teams)]
        self.done = Counter()
        self.steps = Counter()  # (group, low): pieces of its state gradients done
        self.written = {}  # buffer -> (group, block) whose state gradients it holds
        self.gone = {}  # (group, block) -> its other gradients done
        self.order = {}  # (group or 0, unit) -> blocks in the order in which they were added

    def first(self, slot):
        piece = S.backward_piece(self.p, self.draw())
        if piece.kind == _schedules.TEAM:
            return Place(_schedules.TEAM, piece, -1, S.first_phase(self.p, piece.number))
        return Place(piece.kind, piece, 0, None)

    def after(self, slot, place):
        if place.phase is None:
            return self.first(slot)
        ticket, team = place.ticket + 1, self.teams[place.piece.number]
        if self.p.plan.members > 1:
            ticket = team[_schedules.TEAM_TICKETS]
            team[_schedules.TEAM_TICKETS] += 1
        phase = S.phase_of(self.p, place.phase, ticket)
        if phase.kind == _schedules.END:
            return self.first(slot)
        return Place(phase.kind, place.piece, ticket, phase)

    def ready(self, place):
        piece, phase = place.piece, place.phase
        if self.counters[_schedules.PACKED] < piece.packed:
            return False
        if self.counters[_schedules.LEFT] < piece.left:
            return False
        if phase is None or self.p.plan.members == 1:
            return True
        team = self.teams[piece.number]
        return (
            team[_schedules.STATES] >= phase.states
            and team[_schedules.GRADIENTS] >= phase.gradients
        )

    def count(self, kind):
        return sum(number for key, number in self.done.items() if key[0] == kind)

    def begin(self, slot, place):
        p, plan, kind, phase = self.p, self.p.plan, place.kind, place.phase
        if kind not in (_schedules.PACK, _schedules.CLEAR):
            prepared = self.count(_schedules.PACK) + self.count(_schedules.CLEAR)
            assert prepared == S.prepared(p)
        if kind == _schedules.SUM:
            assert self.count(_schedules.LEAVE) == plan.groups
        if phase is None or kind == _schedules.TEAM:
            return kind, None, None, place.piece.number, None, None
        team, number = place.piece.number, place.ticket - phase.start
        group, block, other = phase.group, phase.block, phase.other
        assert 0 <= number < phase.pieces
        if kind == _schedules.STATE:
            buffer = S.buffer_of(p, team, block, slot)
            assert 0 <= buffer < 2 * min(plan.threads, plan.teams)
            if block.t < p.lengths[group * plan.group]:  # goes on from the block before
                before = group, other.low
                assert other.low == block.t
                assert self.steps[before] == S.state_pieces(p)
                assert self.written[buffer ^ 1] == before
            held = self.written.get(buffer)
            if held != (group, block.low):
                assert held is None or self.gone[held] == S.gradient_pieces(p), "still to be read"
                self.written[buffer] = group, block.low
                self.gone[group, block.low] = 0
            return kind, group, block, number, buffer, team
        if kind == _schedules.GRADIENT:
            buffer = S.buffer_of(p, team, other, slot)
            assert self.written[buffer] == (group, other.low)
            assert self.steps[group, other.low] == S.state_pieces(p)
            unit = group if plan.own_sums else 0, number
            self.order.setdefault(unit, []).append((group, other.low))
            assert (len(self.order[unit]) == 1) == (other.number == 0)  # the first one stores
            return kind, group, other, number, buffer, team
        assert kind == _schedules.LEAVE
        blocks = blocks_of(p, group)
        gone = [self.gone.get((group, low)) for _, low in blocks]
        assert gone == [S.gradient_pieces(p)] * len(blocks)
        return kind, group, block, group, None, team

    def end(self, slot, piece):
        kind, group, block, number, buffer, team = piece
        if kind == _schedules.TEAM:
            return
        if kind == _schedules.STATE:
            assert self.written[buffer] == (group, block.low)
            self.steps[group, block.low] += 1
            self.done[kind, group, block.t, block.low, number] += 1
            self.teams[team][_schedules.STATES] += 1
        elif kind == _schedules.GRADIENT:
            assert self.written[buffer] == (group, block.low)
            self.gone[group, block.low] += 1
            self.done[kind, group, block.t, block.low, number] += 1
            self.teams[team][_schedules.GRADIENTS] += 1
        else:
            self.done[kind, number] += 1
            if kind != _schedules.SUM:
                left = kind == _schedules.LEAVE
                self.counters[_schedules.LEFT if left else _schedules.PACKED] += 1


def blocks_of(p, group):
    """The time blocks of a group, as (t, low), by counting rows step by step."""
    plan = p.plan
    lengths = p.lengths[group * plan.group : (group + 1) * plan.group]
    blocks, t = [], lengths[0]
    while t > 0:
        low, rows = t, 0
        while low > 0:
            live = sum(length >= low for length in lengths)
            if rows + live > plan.capacity:
                break
            rows, low = rows + live, low - 1
        assert low < t, "a block of no step"
        blocks.append((t, low))
        t = low
    return blocks


@pytest.mark.parametrize("kind", ["all", "some", "none", "one"])
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_backward(shape, threads, kind):
    T, B, I, H = shape
    T = min(T, 40) if B > 100 else T
    for R, small, itemsize in ((H, False, 4), (H, True, 8), (0, False, 4)):
        plan = fields(plan_backward(T, B, I, H, R, itemsize, small, 1 if small else threads, True))
        lengths = lengths_of(T, B, kind)
        p = types.SimpleNamespace(plan=plan, B=B, lengths=lengths, has_lengths=kind != "all")
        workers = Backward(p, seed=T + threads)
        workers.run()
        expected = [(_schedules.PACK, n) for n in range(plan.packs)]
        if kind != "all":
            expected += [(_schedules.CLEAR, n) for n in range(-(-B // CLEARED_ROWS))]
        steps = []
        for group in range(plan.groups):
            for t, low in blocks_of(p, group):
                steps.append((group, low))
                states, gradients = range(S.state_pieces(p)), range(S.gradient_pieces(p))
                expected += [(_schedules.STATE, group, t, low, n) for n in states]
                expected += [(_schedules.GRADIENT, group, t, low, n) for n in gradients]
            if plan.own_sums:
                expected.append((_schedules.LEAVE, group))
        if plan.own_sums:
            expected += [(_schedules.SUM, n) for n in range(plan.sum_parts)]
        assert workers.done == dict.fromkeys(expected, 1)
        # Each unit adds up the blocks in one order, whoever does it.
        for (group, _), order in workers.order.items():
            assert order == [each for each in steps if not plan.own_sums or each[0] == group]


def test_there_are_schedules_of_both_kinds():
    plans = [fields(plan_backward(T, B, I, H, H, 4, False, 2, True)) for T, B, I, H in SHAPES]
    assert {plan.own_sums for plan in plans} == {0, 1}
    assert max(plan.groups for plan in plans if plan.own_sums) > 2
    assert any(plan.groups > 1 for plan in plans if not plan.own_sums)
