"""The plain cell: h_t = f(z_t).  `_cells` has the same functions for all others."""

from fastbptt.kernels._activation import CODES, activate, slope
from fastbptt.kernels._compiling import inlined
from fastbptt.kernels._machine import spare_registers
from fastbptt.kernels._simd import mul

TANH, SPARE_REGISTERS = CODES["tanh"], spare_registers()


@inlined
def begin(p, b):
    pass


@inlined
def fill_added(p, added, rows, index, t):
    pass


@inlined
def is_tanh(p):
    """Whether h_t = tanh(z_t), and `tile_states` can take it beside products."""
    return SPARE_REGISTERS and p.activation == TANH


@inlined
def new_state(p, z, t, b, at, left, before, added):
    return activate(z, p.activation)


@inlined
def hold(p, b, last):
    pass


@inlined
def scatter(p, sums, buffer, block, skip, n):
    pass


@inlined
def gradient_at_z(p, gradient, h, before, place, at, left, goes):
    return mul(gradient, slope(h, p.activation))


@inlined
def initial_gradient(p, gradient, place, at, left):
    return gradient


@inlined
def end_at_start(p, b):
    pass
