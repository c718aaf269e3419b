"""A layer's forward, its backward with every gradient, and both: kernels and reference."""

from .common import WATCHED, calls


class Layer:
    version, timeout = "1", 120
    # A setup makes asv time single calls: many of them, and shapes that take 20 us at least.
    repeat = (5, 100, 1.0)
    param_names = "T B I H", "dtype", "backend"
    params = WATCHED, ("float32", "float64"), ("numba", "numpy")

    def setup(self, shape, dtype, backend):
        self.forward, self.backward = calls(shape, dtype, backend)

    def time_forward(self, *_):
        self.forward()

    def time_backward(self, *_):
        self.backward()

    def time_both(self, *_):
        self.forward()
        self.backward()
