"""Fill the cache on disk with the kernels that most tests need, in the order in which they do."""

import os
import platform
import sys

import numpy as np

import fastbptt

DTYPES = "float32", "float64"
OTHER = {"NUMBA_CPU_NAME": "haswell", "NUMBA_NUM_THREADS": "4"}  # see test_digests.py


def compile_all():
    for leak in (None, fastbptt.Leak(0.5)):
        for dtype in DTYPES:
            params, x = fastbptt.init_params(1, 1, dtype=dtype), np.ones((1, 1, 1), dtype)
            h = fastbptt.forward(params, x, leak=leak)
            fastbptt.backward(params, x, h, h[1:], leak=leak)
    for dtype in DTYPES:
        fastbptt.warmup(dtype)


if __name__ == "__main__":
    if sys.argv[1:] == ["other"]:
        fastbptt.warmup()
    else:
        compile_all()
        if platform.machine() == "x86_64":
            again = [sys.executable, __file__, "other"]
            os.execve(sys.executable, again, {**os.environ, **OTHER})
