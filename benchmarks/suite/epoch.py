"""An epoch of training: `fit` beside the same loop in torch.

1,347 sequences of 64 numbers in 10 classes, as in scikit-learn's digits, 64 hidden units,
minibatches of 32, Adam, the gradient's norm clipped at 1.  The numbers are drawn at random: the
time does not depend on them.
"""

import functools
import time

import numpy as np

import fastbptt

from .common import need, need_fastbptt, shown, take_turns
from .rivals import PAUSE, equal_threads

N, T, I, H, O, BATCH = 1347, 64, 1, 64, 10, 32


def data():
    rng = np.random.default_rng(0)
    return rng.standard_normal((N, T, I)).astype("float32"), rng.integers(0, O, N)


def with_fastbptt():
    x, y = data()
    model, optimizer = fastbptt.RNN(I, H, O, seed=0), fastbptt.Adam()

    def epoch():
        fastbptt.fit(
            model, x, y, loss="cross_entropy", optimizer=optimizer, epochs=1, batch_size=BATCH,
            clip_norm=1.0, progress=False, seed=0,
        )  # fmt: skip

    return epoch


def with_torch():
    import torch

    torch.manual_seed(0)
    x, y = map(torch.from_numpy, data())
    rnn, readout = torch.nn.RNN(I, H, batch_first=True), torch.nn.Linear(H, O)
    weights = [*rnn.parameters(), *readout.parameters()]
    optimizer = torch.optim.Adam(weights)

    def epoch():
        total = 0.0
        for index in torch.randperm(N).split(BATCH):
            optimizer.zero_grad()
            _, last = rnn(x[index])
            loss = torch.nn.functional.cross_entropy(readout(last[0]), y[index])
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, 1.0)
            optimizer.step()
            total += loss.item() * len(index)
        return total / N

    return epoch


LIBRARIES = {"fastbptt": with_fastbptt, "torch": with_torch}


@functools.cache  # asv sets up before every call that it times
def run(library):
    """An epoch of a library as a function, called once before."""
    epoch = LIBRARIES[library]()
    epoch()
    return epoch


def inside(epoch):
    """Seconds of an epoch, and of those in the passes through stack and readout."""
    from fastbptt import _network, _stack

    spent = 0.0
    calls = (
        (_stack.Stack, "forward"), (_stack.Stack, "backward"),
        (_network.Network, "_read"), (_network.Network, "_read_backward"),
    )  # fmt: skip

    def timed(function):
        def call(*args, **kwargs):
            nonlocal spent
            start = time.perf_counter()
            result = function(*args, **kwargs)
            spent += time.perf_counter() - start
            return result

        return call

    originals = [getattr(*call) for call in calls]
    try:
        for call, function in zip(calls, originals, strict=True):
            setattr(*call, timed(function))
        start = time.perf_counter()
        epoch()
        return time.perf_counter() - start, spent
    finally:
        for call, function in zip(calls, originals, strict=True):
            setattr(*call, function)


class Epoch:
    version, timeout = "1", 300
    rounds, repeat = 1, (3, 20, 2.0)

    def setup(self):
        need_fastbptt("fit", "RNN")
        self.epoch = run("fastbptt")

    @shown("Epoch of training: time")
    def time_epoch(self):
        self.epoch()

    @shown("Epoch of training: share outside the layers", "%")
    def track_share_outside_core(self):
        """Of the least of ten epochs: shuffling, loss, clipping, Adam."""
        total, core = min(inside(self.epoch) for _ in range(10))
        return 100 * (1 - core / total)

    track_share_outside_core.version = "2"


class Rivals:
    """Our time over theirs."""

    version, timeout = "1", 300
    param_names = ("library",)
    params = (("torch",),)

    def setup(self, library):
        need(library)
        need_fastbptt("fit", "RNN")

    @shown("Epoch of training: our time over theirs", "of their time")
    def track_share_of_time(self, library):
        equal_threads()
        ours, theirs = take_turns((run("fastbptt"), run(library)), 4, PAUSE)
        return ours / theirs
