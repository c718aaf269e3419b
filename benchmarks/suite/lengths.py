"""Sequences of unequal length in a batch: padding should cost little."""

import numpy as np

import fastbptt

from .common import arrays, shown, sizes

SHAPE = "100 64 64 128"


class Lengths:
    version, timeout = "1", 120
    rounds, repeat = 1, (5, 100, 1.0)
    param_names = ("lengths",)
    params = (("all T", "0 to T", "one of T, the others T/10"),)

    def setup(self, kind):
        T, B, _, _ = sizes(SHAPE)
        self.lengths = {
            "all T": np.full(B, T),
            "0 to T": np.linspace(0, T, B).astype(int),
            "one of T, the others T/10": np.where(np.arange(B) == 0, T, T // 10),
        }[kind]
        params, self.x, self.dh = arrays(SHAPE)
        self.layer = fastbptt.Params(*params)
        self.time_both(kind)

    @shown("Unequal lengths: time of forward and backward")
    def time_both(self, _):
        h = fastbptt.forward(self.layer, self.x, lengths=self.lengths)
        fastbptt.backward(self.layer, self.x, h, self.dh, lengths=self.lengths)
