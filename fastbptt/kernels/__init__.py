"""The Numba backend: :mod:`fastbptt.reference`'s functions, compiled for the CPU at hand.

README.md beside this file says how a call runs, what the words mean, and in which order to read.
"""

from fastbptt.kernels._drivers import backward, forward, readout, readout_backward, warmup
from fastbptt.kernels._repeated import (
    REPEATED,
    repeated_backward,
    repeated_forward,
    repeated_readout,
    repeated_readout_backward,
)
from fastbptt.kernels._training import adam, cross_entropy, mse

__all__ = [
    "REPEATED", "adam", "backward", "cross_entropy", "forward", "mse", "readout",
    "readout_backward", "repeated_backward", "repeated_forward", "repeated_readout",
    "repeated_readout_backward", "warmup",
]  # fmt: skip
