"""The Numba backend: :mod:`fastbptt.reference`'s functions, compiled for the CPU at hand.

Read from the bottom up: `simd` (vocabulary), `activation`, `tile` (the multiply-adds), `loops`
(one thread's work), `blocking` (sizes), `team` (threads), `drivers` (the calls).
"""

from fastbptt.kernels._drivers import backward, forward, readout, readout_backward, warmup

__all__ = ["backward", "forward", "readout", "readout_backward", "warmup"]
