"""The first call of a process, and what comes before it, in fresh processes."""

import fastbptt

from .common import shown

FIRST_GRADIENT = """
import numpy as np, fastbptt
params = fastbptt.init_params(3, 16, seed=0)
x = np.zeros((10, 32, 3), np.float32)
h = fastbptt.forward(params, x)
fastbptt.backward(params, x, h, h[-1])
"""
EMPTY_CACHE = """
import os, tempfile
directory = tempfile.TemporaryDirectory()
os.environ["NUMBA_CACHE_DIR"] = directory.name
import fastbptt
"""


class Start:
    """Imports and the first forward and backward, with kernels in the cache on disk."""

    version, timeout = "1", 300
    rounds, number, repeat, warmup_time = 1, 1, 5, 0.0

    def setup(self):
        fastbptt.warmup()

    @shown("Start: time of the import")
    def timeraw_import(self):
        return "import fastbptt"

    @shown("Start: time to the first gradient")
    def timeraw_first_gradient(self):
        return FIRST_GRADIENT


class Compile:
    """All kernels of float32, with nothing on disk."""

    version, timeout = "1", 600
    number, repeat, rounds, warmup_time = 1, 1, 1, 0.0

    @shown("Start: time to compile all kernels of float32")
    def timeraw_warmup(self):
        return "fastbptt.warmup()", EMPTY_CACHE
