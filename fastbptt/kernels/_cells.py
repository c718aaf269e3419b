"""Cells that are not plain: what lies between z_t and h_t, and the way back.

The steps in `_steps` are written once and call the functions of `_plain`, where h_t = f(z_t) with f
one of three.  That worker pays for nothing more.  All other cells share a second one, the same with
the functions of this module in place of those: they decide by the fields of the task's `cell`.

    of rates        h_t = alpha f(z_t) + (1 - alpha) h_{t-1}
    of potentials   v_t = alpha z_t + (1 - alpha) v_{t-1}, h_t = f(v_t)

The product with 1 - alpha is rounded before the other is added, here and in the reference, so that
h_t > (1 - alpha) h_{t-1} says exactly whether f(z_t) > 0.
"""

from fastbptt.kernels._activation import activate_any, slope_any, slope_of_rate
from fastbptt.kernels._compiling import inlined
from fastbptt.kernels._noise import fill_noise
from fastbptt.kernels._rows import copy_row, copy_row_padded, fill_rows, row
from fastbptt.kernels._simd import (
    LANES,
    add,
    get,
    load,
    load_first,
    mul,
    multiply_add,
    offset,
    offset_bytes,
    prefetch,
    store,
    store_first,
)

LEAKS = {"rate": 1, "potential": 2}  # 0: none
OF_RATE, OF_POTENTIAL = LEAKS.values()


@inlined
def leaked(p, before, new, at):
    """alpha new + (1 - alpha) before, of a vector of units from unit `at` on."""
    return multiply_add(load(offset(p.cell.alpha, at)), new, kept(p, before, at))


@inlined
def kept(p, before, at):
    """(1 - alpha) before."""
    return mul(load(offset(p.cell.keep, at)), before)


# Forward


@inlined
def begin(p, b):
    """h_0 of sequence b, if what is given is v_0."""
    if p.cell.leak == OF_POTENTIAL:
        for at in range(0, p.H, LANES(p.h)):
            v = load_first(offset(p.cell.v, b * p.H + at), p.H - at)
            store_first(offset(p.h, b * p.H + at), activate_any(v, p.activation), p.H - at)


@inlined
def fill_added(p, added, rows, index, t):
    """Put what is added to z_t into the first rows; `index` has each row's sequence."""
    if p.cell.has_noise:
        for r in range(rows):
            noise = row(p.cell.noise, t - 1, get(index, r))
            following = offset_bytes(noise, p.cell.noise.t)
            to = offset(added, r * p.plan.ldn)
            for v in range(0, p.H, LANES(p.h)):
                prefetch(offset(following, v))  # long series come from main memory
                store(offset(to, v), load_first(offset(noise, v), p.H - v))
    if p.cell.draws:
        step, first = p.cell.first_step + t - 1, p.cell.first_sequence
        scale, seed = p.cell.scale, p.cell.seed
        fill_noise(added, p.plan.ldn, rows, p.H, scale, seed, step, first, index)
    if p.cell.has_tokens:
        for r in range(rows):
            token = get(p.cell.tokens, (t - 1) * p.B + get(index, r))
            W_x, to = offset_bytes(p.W_x.data, token * p.W_x.r), offset(added, r * p.plan.ldn)
            if p.cell.has_noise or p.cell.draws:
                for at in range(0, p.H, LANES(to)):
                    more = load_first(offset(W_x, at), p.H - at)
                    store(offset(to, at), add(load(offset(to, at)), more))
            else:
                copy_row_padded(to, W_x, p.H)


@inlined
def is_tanh(p):
    """Whether nothing but tanh lies between z_t and h_t."""
    return False


@inlined
def new_state(p, z, t, b, at, left, before, added):
    """h_t of a vector of units of sequence b: of unit `at` and those behind, `left` in all.

    before : their h_{t-1}
    added : what is added to their z
    """
    if p.cell.adds:
        z = add(z, load(added))
    if p.cell.leak == OF_POTENTIAL:
        v = offset(p.cell.v, b * p.H + at)
        z = leaked(p, load_first(offset(v, (t - 1) * p.cell.v_t), left), z, at)
        store_first(offset(v, t * p.cell.v_t), z, left)
    h = activate_any(z, p.activation)
    if p.cell.leak == OF_RATE:
        h = leaked(p, load(before), h, at)
    return h


@inlined
def hold(p, b, last):
    """Keep v of sequence b as it is after its last step."""
    if p.cell.leak == OF_POTENTIAL and p.cell.v_t > 0:
        v = offset(p.cell.v, b * p.H)
        for t in range(last, p.T):
            copy_row(offset(v, (t + 1) * p.cell.v_t), offset(v, last * p.cell.v_t), p.H)


# Backward.  Of rates, with g_t the loss's gradient at h_t,
#
#     g_t = dh_t + (1 - alpha) g_{t+1} + dz_{t+1} W_h^T      dz_t = alpha f'(z_t) g_t
#
# of potentials, with dv_t that at v_t,
#
#     dv_t = f'(v_t) (dh_t + dz_{t+1} W_h^T) + (1 - alpha) dv_{t+1}      dz_t = alpha dv_t
#
# where the given dv stands in place of (1 - alpha) dv_{t+1} at a sequence's last step.
# What is passed on with 1 - alpha lies in `carried`, a row for each place in `order`.


@inlined
def scatter(p, sums, buffer, block, skip, n):
    """dW_x[x_t] += dz_t for the n units of a panel, row by row in the buffer's order."""
    if p.cell.has_tokens:
        capacity, ldz = p.plan.capacity, p.plan.ldz
        dW_x, dz = offset(sums.dW_x, skip), offset(p.dz, buffer * capacity * ldz + skip)
        if block.number == 0:
            fill_rows(dW_x, p.plan.x_rows, n, p.H)
        for r in range(block.rows):
            token = get(p.cell.tokens, get(p.where, buffer * capacity + r))
            to = offset(dW_x, token * p.H)
            for at in range(0, n, LANES(dz)):
                gradient = add(load_first(offset(to, at), n - at), load(offset(dz, r * ldz + at)))
                store_first(offset(to, at), gradient, n - at)


@inlined
def gradient_at_z(p, gradient, h, before, place, at, left, goes):
    """dz_t of a vector of units from dh_t + dz_{t+1} W_h^T and h_t.

    before : their h_{t-1}
    place : of the sequence in the order of all
    goes : whether the sequence has a step t + 1
    """
    carried = offset(p.cell.carried, place * p.plan.ldz + at)
    if p.cell.leak != OF_RATE:
        gradient = mul(gradient, slope_any(h, p.activation))
    if p.cell.leak > 0:
        if goes:
            gradient = add(gradient, load(carried))
        elif p.cell.has_dv:
            dv = row(p.cell.dv, 0, get(p.order, place))
            gradient = add(gradient, load_first(offset(dv, at), left))
        store(carried, kept(p, gradient, at))
        alpha = load(offset(p.cell.alpha, at))
        if p.cell.leak == OF_RATE:
            old = load_first(before, left)
            prefetch(offset_bytes(before, -p.h.t))  # what step t - 1 will read so
            f_slope = slope_of_rate(h, old, kept(p, old, at), alpha, p.activation)
            gradient = mul(gradient, f_slope)
        gradient = mul(gradient, alpha)
    return gradient


@inlined
def to_potential(p, gradient, b, at, left):
    """The gradient at v_0 of sequence b from that at h_0."""
    h = load_first(offset(row(p.h, 0, b), at), left)
    return mul(gradient, slope_any(h, p.activation))


@inlined
def initial_gradient(p, gradient, place, at, left):
    """The gradient of the initial state from dz_1 W_h^T."""
    if p.cell.leak == OF_POTENTIAL:
        gradient = to_potential(p, gradient, get(p.order, place), at, left)
    if p.cell.leak > 0:
        gradient = add(gradient, load(offset(p.cell.carried, place * p.plan.ldz + at)))
    return gradient


@inlined
def end_at_start(p, b):
    """dh0 of sequence b, which has no step: from the gradient at h_0 to that at v_0."""
    if p.cell.leak == OF_POTENTIAL:
        for at in range(0, p.H, LANES(p.dh0)):
            dh0, left = offset(p.dh0, b * p.H + at), p.H - at
            gradient = to_potential(p, load_first(dh0, left), b, at, left)
            if p.cell.has_dv:
                gradient = add(gradient, load_first(offset(row(p.cell.dv, 0, b), at), left))
            store_first(dh0, gradient, left)


# All of these, in place of those of `_plain`.
FUNCTIONS = {
    f.__name__: f
    for f in (
        begin,
        fill_added,
        is_tanh,
        new_state,
        hold,
        scatter,
        gradient_at_z,
        initial_gradient,
        end_at_start,
    )
}
