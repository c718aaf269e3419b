"""What a call costs when there is next to nothing to compute."""

import numpy as np

import fastbptt

from .common import TINY, calls, need_fastbptt


class Overhead:
    version, timeout = "1", 120
    # No setup, which asv would run between any two calls; looking up `calls` costs 0.2 us of a
    # call's 6 us or so.
    number, repeat = 1000, (5, 20, 1.0)
    param_names = ("backend",)
    params = (("numba", "numpy"),)

    def time_forward(self, backend):
        calls(TINY, "float32", backend)[0]()

    def time_backward(self, backend):
        calls(TINY, "float32", backend)[1]()


class Readout:
    version, timeout = "1", 120
    repeat = (5, 100, 1.0)
    param_names = "rows H O", "backend"
    params = ("32 64 10", "2048 128 96"), ("numba", "numpy")

    def setup(self, shape, backend):
        need_fastbptt("readout", "readout_backward")
        rows, H, O = map(int, shape.split())
        rng = np.random.default_rng(0)
        draw = rng.standard_normal
        self.W_y, self.b_y, self.h, self.dy = (
            draw(s).astype("float32") for s in ((H, O), O, (rows, H), (rows, O))
        )
        self.time_both(shape, backend)

    def time_both(self, shape, backend):
        fastbptt.readout(self.W_y, self.b_y, self.h, backend=backend)
        fastbptt.readout_backward(self.W_y, self.h, self.dy, backend=backend)
