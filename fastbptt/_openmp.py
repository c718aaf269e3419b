"""An OpenMP runtime that this process has already, for the kernels to run their threads in.

Two runtimes disturb each other: after a parallel loop the threads of GNU's spin for milliseconds,
on the very cores that the other's threads then want.  So where another library has one, as PyTorch
has, calls borrow its threads, and Numba's are never started.
"""

from collections.abc import Callable
from typing import NamedTuple


class Pool(NamedTuple):
    """Threads of another library.

    Attributes
    ----------
    parallel : int
        Address of the runtime's ``void GOMP_parallel(void (*body)(void *), void *data, unsigned
        threads, unsigned flags)``.
    size : callable
        Returns how many threads the other library runs its own loops on.
    """

    parallel: int
    size: Callable[[], int]


borrowed: Pool | None = None
