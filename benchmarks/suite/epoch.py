"""An epoch of training: `fit` beside the same loop in torch, and beside its kernel calls.

1,347 sequences of 64 numbers in 10 classes, as in scikit-learn's digits, 64 hidden units,
minibatches of 32, Adam, the gradient's norm clipped at 1.  The numbers are drawn at random: the
time does not depend on them.
"""

import functools

import numpy as np

import fastbptt

from .common import need, need_fastbptt, shown, sizes, take_turns
from .rivals import PAUSE, equal_threads

N, T, I, H, O, BATCH = 1347, 64, 1, 64, 10, 32
STEPS, EPOCHS = 32, 8


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


def over_kernels(shape):
    """Time of a step, in epochs of 32, over that of a layer's and a readout's calls, both ways."""
    T, B, I, H = sizes(shape)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((STEPS * B, T, I)).astype("float32")
    y = rng.standard_normal((STEPS * B, 1)).astype("float32")
    model, optimizer = fastbptt.RNN(I, H, 1, seed=0), fastbptt.Adam()
    params, first = fastbptt.init_params(I, H, seed=0), x[:B].transpose(1, 0, 2)
    W_y, b_y = np.ones((H, 1), "float32"), np.zeros(1, "float32")

    def train():
        fastbptt.fit(
            model, x, y, optimizer=optimizer, epochs=EPOCHS, batch_size=B, clip_norm=1.0,
            progress=False, seed=0,
        )  # fmt: skip

    def kernels():
        for _ in range(STEPS * EPOCHS):
            h = fastbptt.forward(params, first)
            dy = fastbptt.readout(W_y, b_y, h[-1])
            *_, dh = fastbptt.readout_backward(W_y, h[-1], dy)
            fastbptt.backward(params, first, h, dh, need_dx=False)

    step, calls = take_turns((train, kernels))
    return step / calls


class Epoch:
    version, timeout = "1", 300
    rounds, repeat = 1, (3, 20, 2.0)

    def setup(self):
        need_fastbptt("fit", "RNN")
        self.epoch = run("fastbptt")

    @shown("Epoch of training: time")
    def time_epoch(self):
        self.epoch()


class Steps:
    """What Python adds to a step: minibatch, loss, clipping, Adam; and what it saves."""

    version, timeout = "1", 300
    param_names = ("T B I H",)
    params = (("10 32 3 16", "8 64 8 32", "50 32 32 64"),)

    def setup(self, shape):
        need_fastbptt("fit", "RNN", "readout", "readout_backward")

    @shown("Step of training: time over that of its kernel calls", "times the kernels")
    def track_over_kernels(self, shape):
        return over_kernels(shape)


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
