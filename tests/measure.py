"""What several tests measure: derivatives by finite differences, memory of a call."""

import tracemalloc

import numpy as np

STEP = 1e-6


def central_differences(loss, a, step=STEP):
    """Derivative of ``loss()``, which reads `a`, with respect to each of its elements.

    The relative error is about step**2 = 1e-12 by truncation, eps/step = 2e-10 by rounding.
    """
    derivative = np.zeros_like(a)
    for index in np.ndindex(a.shape):
        value = a[index]
        a[index] = value + step
        above = loss()
        a[index] = value - step
        below = loss()
        a[index] = value
        derivative[index] = (above - below) / (2 * step)
    return derivative


def peak(function):
    """Most bytes that a call has in use; NumPy reports its allocations to tracemalloc.

    It is called once before, since what is compiled or loaded then stays.
    """
    function()
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
