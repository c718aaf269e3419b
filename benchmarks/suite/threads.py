"""One thread and two."""

import numba

from .common import calls, shown


class Threads:
    version, timeout = "1", 120
    rounds, repeat = 1, (5, 100, 1.0)
    param_names = "T B I H", "threads"
    params = ("100 64 64 128",), (1, 2)

    def setup(self, shape, threads):
        if threads > numba.config.NUMBA_NUM_THREADS:
            raise NotImplementedError(f"Numba may use {numba.config.NUMBA_NUM_THREADS} threads")
        numba.set_num_threads(threads)
        self.forward, self.backward = calls(shape)

    @shown("Threads: time of a forward")
    def time_forward(self, *_):
        self.forward()

    @shown("Threads: time of a backward")
    def time_backward(self, *_):
        self.backward()
