"""Rounding errors: of tanh in units of the last place, of gradients compared with plain NumPy."""

import numpy as np

import fastbptt
from fastbptt import kernels, reference

from .common import arrays, shown

WIDER = {"float32": np.float64, "float64": np.longdouble}
SHAPE = "50 32 32 64"


class Accuracy:
    version, timeout = "1", 120
    param_names = ("dtype",)
    params = (("float32", "float64"),)

    def setup(self, dtype):
        if np.finfo(WIDER[dtype]).nmant == np.finfo(dtype).nmant:
            raise NotImplementedError("no type wider than float64 here")

    @shown("Largest error of tanh", "ULP")
    def track_tanh(self, dtype):
        """The largest error over a million numbers: states after one step of one unit."""
        rng = np.random.default_rng(0)
        sizes = 2 ** rng.uniform(-12, 5, 500_000)
        values = np.concatenate([sizes, -sizes]).astype(dtype)
        one, zero = np.ones((1, 1), dtype), np.zeros((1, 1), dtype)
        params = fastbptt.Params(one, zero, np.zeros(1, dtype))
        got = fastbptt.forward(params, values[None, :, None])[1, :, 0]
        exact = np.tanh(values.astype(WIDER[dtype]))
        return float(np.max(np.abs(got - exact) / np.spacing(np.abs(exact).astype(dtype))))

    @shown("Error of gradients over plain NumPy's", "times plain NumPy's error")
    def track_gradients(self, dtype):
        """Root mean square error over the reference's in the same type, of the worst gradient."""
        exact = gradients(reference, dtype, WIDER[dtype])
        errors = (
            [np.sqrt(np.mean((g - e) ** 2)) for g, e in zip(got, exact, strict=True)]
            for got in (gradients(kernels, dtype, dtype), gradients(reference, dtype, dtype))
        )
        return float(max(ours / plain for ours, plain in zip(*errors, strict=True)))


def gradients(backend, drawn, dtype):
    """dW_x, dW_h, db, dx, dh0, computed in `dtype` from arrays drawn in another one."""
    params, x, dh = arrays(SHAPE, drawn)
    params, x, dh = [w.astype(dtype) for w in params], x.astype(dtype), dh.astype(dtype)
    T, B, _ = x.shape
    h = np.zeros((T + 1, B, dh.shape[2]), dtype)
    backend.forward(params, x, h, None, "tanh")
    dparams, dx, dh0 = [np.empty_like(w) for w in params], np.empty_like(x), np.empty_like(h[0])
    backend.backward(params, x, h, dh, dparams, dx, dh0, None, "tanh")
    return *dparams, dx, dh0
