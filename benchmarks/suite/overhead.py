"""What a call costs when there is next to nothing to compute."""

import numpy as np

import fastbptt

from .common import TINY, calls, need_fastbptt, shown


class Overhead:
    version, timeout = "1", 120
    # No setup, which asv would run between any two calls; looking up `calls` costs 0.2 us of a
    # call's 6 us or so.
    rounds, number, repeat = 1, 1000, (5, 20, 1.0)

    @shown("A call with next to no work: time of a forward")
    def time_forward(self):
        calls(TINY)[0]()

    @shown("A call with next to no work: time of a backward")
    def time_backward(self):
        calls(TINY)[1]()


class Readout:
    version, timeout = "1", 120
    rounds, repeat = 1, (5, 100, 1.0)
    param_names = ("rows H O",)
    params = (("32 64 10", "2048 128 96"),)

    def setup(self, shape):
        need_fastbptt("readout", "readout_backward")
        rows, H, O = map(int, shape.split())
        rng = np.random.default_rng(0)
        draw = rng.standard_normal
        self.W_y, self.b_y, self.h, self.dy = (
            draw(s).astype("float32") for s in ((H, O), O, (rows, H), (rows, O))
        )
        self.time_both(shape)

    @shown("Readout: time of both ways")
    def time_both(self, _):
        fastbptt.readout(self.W_y, self.b_y, self.h)
        fastbptt.readout_backward(self.W_y, self.h, self.dy)
