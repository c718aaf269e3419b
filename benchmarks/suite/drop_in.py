"""A training step in PyTorch: `fastbptt.torch.RNN` beside `torch.nn.RNN`.

Everything that a step takes: forward, readout, loss, backward, Adam.  A case names T B I H, the
number of classes, and what is read: the "last" states, "all" of them, or the last ones of "packed"
sequences, whose lengths are spread evenly from 1 to T.
"""

import functools

import numpy as np

from .common import need, shown, take_turns
from .rivals import PAUSE, equal_threads

CASES = (
    "50 32 32 64 10 last",
    "50 32 32 64 10 all",
    "100 64 64 128 10 last",
    "100 64 64 128 10 all",
    "100 64 128 256 10 last",
    "100 64 128 256 10 all",
    "784 128 1 128 10 last",
    "64 32 96 256 96 all",  # characters
    "100 64 64 128 10 packed",
    "100 64 128 256 10 packed",
)
KINDS = "fastbptt", "torch"


def step(kind, case):
    """A training step as a function of no arguments that returns the loss; called twice before."""
    import torch
    from torch.nn.utils.rnn import pack_padded_sequence

    *shape, reads = case.split()
    T, B, I, H, O = map(int, shape)
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.standard_normal((T, B, I), dtype=np.float32))
    y = torch.from_numpy(rng.integers(0, O, (T, B) if reads == "all" else B))
    if reads == "packed":
        lengths = torch.linspace(T, 1, B).long()
        x = pack_padded_sequence(x, lengths)

    torch.manual_seed(0)
    if kind == "fastbptt":
        import fastbptt.torch

        rnn = fastbptt.torch.RNN(I, H)
    else:
        rnn = torch.nn.RNN(I, H)
    readout = torch.nn.Linear(H, O)
    optimizer = torch.optim.Adam([*rnn.parameters(), *readout.parameters()])

    def run():
        optimizer.zero_grad()
        outputs, h_n = rnn(x)
        states = outputs if reads == "all" else h_n[0]
        loss = torch.nn.functional.cross_entropy(readout(states).flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        return loss.detach()

    run()
    run()
    return run


@functools.cache  # asv sets up before every call that it times
def cached_step(kind, case):
    return step(kind, case)


class Rivals:
    """Our time over theirs."""

    version, timeout = "1", 300
    param_names = ("T B I H O reads",)
    params = (("50 32 32 64 10 last", "100 64 64 128 10 all", "100 64 64 128 10 packed"),)

    def setup(self, case):
        need("torch")
        need("fastbptt.torch")

    @shown("Step in PyTorch: our time over torch.nn.RNN's", "of their time")
    def track_share_of_time(self, case):
        equal_threads()
        ours, theirs = take_turns([cached_step(kind, case) for kind in KINDS], 4, PAUSE)
        return ours / theirs
