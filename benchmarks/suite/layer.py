"""A layer's forward, and its backward with every gradient."""

from .common import WATCHED, calls, shown


class Layer:
    version, timeout = "1", 120
    # A setup makes asv time single calls: many of them, and shapes that take 20 us at least.
    rounds, repeat = 1, (5, 100, 1.0)
    param_names = "T B I H", "dtype"
    params = WATCHED, ("float32", "float64")

    def setup(self, shape, dtype):
        self.forward, self.backward = calls(shape, dtype)

    @shown("Layer: time of a forward")
    def time_forward(self, *_):
        self.forward()

    @shown("Layer: time of a backward")
    def time_backward(self, *_):
        self.backward()
