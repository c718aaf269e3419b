"""One sequence at a time: every step waits for the one before."""

from .common import SINGLE, calls


class Single:
    version, timeout = "1", 120
    repeat = (5, 100, 1.0)
    param_names = "T B I H", "backend"
    params = (SINGLE, "200 1 16 256"), ("numba", "numpy")

    def setup(self, shape, backend):
        self.forward, self.backward = calls(shape, "float32", backend)

    def time_forward(self, *_):
        self.forward()

    def time_backward(self, *_):
        self.backward()
