"""Time of one forward and one backward call, for each backend."""

import functools

import numpy as np

import fastbptt


@functools.cache
def _arrays(T, B, I, H, dtype):
    """Inputs, the states and a loss's gradient at each of them; one shape's for all benchmarks."""
    rng = np.random.default_rng(0)
    params = fastbptt.init_params(I, H, dtype=dtype, seed=rng)
    x = rng.standard_normal((T, B, I)).astype(dtype)
    h = fastbptt.forward(params, x, backend="numpy")
    dh = rng.standard_normal((T, B, H)).astype(dtype)
    return params, x, h, dh


class Core:
    param_names = ("T B I H", "dtype", "backend")
    params = (
        (
            "10 32 3 16",
            "50 32 32 64",
            "64 20 1 50",
            "100 64 64 128",
            "100 64 128 256",
            "1000 1 8 64",
        ),
        ("float32", "float64"),
        ("numba", "numpy"),
    )

    def setup(self, shape, dtype, backend):
        T, B, I, H = map(int, shape.split())
        self.arrays = params, x, h, dh = _arrays(T, B, I, H, dtype)
        # The first call compiles; the next ones write to the same memory.
        self.h = fastbptt.forward(params, x, backend=backend)
        self.gradients = fastbptt.backward(params, x, h, dh, backend=backend)

    def time_forward(self, shape, dtype, backend):
        params, x, _, _ = self.arrays
        fastbptt.forward(params, x, backend=backend, out=self.h)

    def time_backward(self, shape, dtype, backend):
        params, x, h, dh = self.arrays
        fastbptt.backward(params, x, h, dh, backend=backend, out=self.gradients)
