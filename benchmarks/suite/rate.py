"""Time per operation, and compared with the machine's limit.

`Rate` is what changes are judged by: the least times of many calls of a few milliseconds, on one
thread, since on a shared machine a core is rarely ours for longer, let alone two.  asv takes less
of anything to be better, so numbers that are nicer to look at, but grow, are in `Shown`, which
asv.conf.json excludes from the search for regressions.
"""

import numba

from .common import calls, operations, shown, take_turns
from .peak import burner

SHAPES = "64 20 1 50", "20 32 64 128", "10 32 256 256"


def rates(shape, dtype, threads):
    """Operations per second of forward, backward and the machine."""
    numba.set_num_threads(threads)
    burn, most = burner(dtype)
    counts = (*operations(shape), most)
    least = take_turns((*calls(shape, dtype), burn), turns=20)
    return [count / s for count, s in zip(counts, least, strict=True)]


class Rate:
    version, timeout = "1", 120
    param_names = ("T B I H",)
    params = (SHAPES,)

    @shown("Forward: time of an operation", "ns/FLOP")
    def track_forward_ns_per_flop(self, shape):
        return 1e9 / rates(shape, "float32", 1)[0]

    @shown("Backward: time of an operation", "ns/FLOP")
    def track_backward_ns_per_flop(self, shape):
        return 1e9 / rates(shape, "float32", 1)[1]

    @shown("Forward: time over the machine's limit", "times the FMA limit")
    def track_forward_times_limit(self, shape):
        forward, _, peak = rates(shape, "float32", 1)
        return peak / forward

    @shown("Backward: time over the machine's limit", "times the FMA limit")
    def track_backward_times_limit(self, shape):
        _, backward, peak = rates(shape, "float32", 1)
        return peak / backward


class Shown:
    version, timeout = "1", 120
    param_names = "T B I H", "dtype"
    params = ("100 64 64 128",), ("float32", "float64")

    @shown("Operations per second", "GFLOP/s")
    def track_gflops(self, shape, dtype):
        forward, backward, _ = rates(shape, dtype, numba.config.NUMBA_NUM_THREADS)
        return 3e-9 / (1 / forward + 2 / backward)  # the backward has twice the operations

    @shown("Share of the machine's peak", "% of FMA peak")
    def track_share_of_peak(self, shape, dtype):
        forward, backward, peak = rates(shape, dtype, numba.config.NUMBA_NUM_THREADS)
        return 300 / (1 / forward + 2 / backward) / peak
