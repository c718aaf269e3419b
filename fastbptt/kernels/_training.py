"""What a training step does beside the layers: losses, and Adam's step on all weights at once.

These do the operations of :mod:`fastbptt.losses` and :mod:`fastbptt.optimizers` in their order,
each rounded by itself.  So they give the same bits; but for the cross-entropy, whose exp is that of
`_activation`, and whose sums are not taken in halves.
"""

import math

import numba
import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

from fastbptt._uninterrupted import computed_once
from fastbptt.kernels import _compiling
from fastbptt.kernels._activation import exp_minus
from fastbptt.kernels._compiling import SOURCE
from fastbptt.kernels._simd import (
    INT32,
    INT64,
    LANES,
    Vec,
    emit_load,
    get,
    load_first,
    offset,
    pointer,
    put,
    store_first,
)

# NumPy sums up to so many numbers in so many lanes, and halves what is more.
TOGETHER, PAIRWISE_LANES = 128, 8
# What `adam` returns.
FINITE, NOT_FINITE, NOT_DONE = 0, 1, 2


@intrinsic
def _few_squares(typingctx, p, n):
    """The sum over k < n of p[k]^2 in float64, in the order in which NumPy sums up to TOGETHER."""
    lanes, double = PAIRWISE_LANES, ir.DoubleType()

    def squares(builder, value, kind):
        if value.type != kind:
            value = builder.fpext(value, kind)
        return builder.fmul(value, value)

    def emit(context, builder, signature, args):
        p, n = args
        wide, narrow = ir.VectorType(double, lanes), ir.VectorType(p.type.pointee, lanes)

        def loop(start, end, width, first, kind, load):
            """The sum of squares of p[start:end], `width` together, added to `first`."""
            before, body = builder.block, builder.append_basic_block()
            after = builder.append_basic_block()
            builder.cbranch(builder.icmp_signed("<", start, end), body, after)
            builder.position_at_end(body)
            k, total = builder.phi(INT64), builder.phi(kind)
            more = builder.fadd(total, squares(builder, load(builder.gep(p, [k])), kind))
            following = builder.add(k, INT64(width))
            for phi, begin, next_ in ((k, start, following), (total, first, more)):
                phi.add_incoming(begin, before)
                phi.add_incoming(next_, body)
            builder.cbranch(builder.icmp_signed("<", following, end), body, after)
            builder.position_at_end(after)
            found = builder.phi(kind)
            found.add_incoming(first, before)
            found.add_incoming(more, body)
            return found

        whole = builder.and_(n, INT64(-lanes))
        none = ir.Constant(wide, [0.0] * lanes)
        v = loop(
            INT64(0), whole, lanes, none, wide, lambda at: emit_load(builder, at, narrow).value
        )
        width = lanes
        while width > 1:  # ((0 + 1) + (2 + 3)) + ((4 + 5) + (6 + 7))
            width //= 2
            even, odd = (
                ir.Constant(ir.VectorType(INT32, width), [2 * i + one for i in range(width)])
                for one in range(2)
            )
            v = builder.fadd(builder.shuffle_vector(v, v, even), builder.shuffle_vector(v, v, odd))
        total = builder.extract_element(v, INT32(0))
        return loop(whole, n, 1, total, double, lambda at: builder.load(at))

    return types.float64(p, types.intp), emit


@njit
def sum_of_squares(p, n):
    """The sum over k < n of p[k]^2 in float64, with the bits of NumPy's."""
    if n <= TOGETHER:
        return _few_squares(p, n)
    half = n // 2
    half -= half % PAIRWISE_LANES
    return sum_of_squares(p, half) + sum_of_squares(offset(p, half), n - half)


@intrinsic
def _exp_minus(typingctx, v):
    """exp(-v) for v of at least 0."""

    def emit(context, builder, signature, args):
        return exp_minus(Vec(builder, args[0])).value

    return v(v), emit


def _mse(source, number):
    """:func:`fastbptt.losses.mse` but for a division: the sum of squares."""

    def mse(y, target, dy):
        source  # noqa: B018
        n = len(y)
        for i in range(n):
            dy[i] = y[i] - target[i]
        total = sum_of_squares(pointer(dy), n)
        factor = number(2 / n)
        for i in range(n):
            dy[i] *= factor
        return total

    return mse


def _cross_entropy(source, number):
    """:func:`fastbptt.losses.cross_entropy` but for a division: the sum; negative if not done."""

    def cross_entropy(y, classes, weight, count, dy):
        source  # noqa: B018
        n, O = y.shape
        p, d, wanted, weights = pointer(y), pointer(dy), pointer(classes), pointer(weight)
        weighted, total = len(weight) > 0, 0.0
        for r in range(n):
            w = get(weights, r) if weighted else number(1)
            fits = get(wanted, r) >= 0 and get(wanted, r) < O
            if not (w == 0 or (fits and w > 0 and w < math.inf)):
                return -1.0
        for r in range(n):
            w = get(weights, r) if weighted else number(1)
            if w == 0:
                continue
            top = get(p, r * O)
            for k in range(r * O, r * O + O):
                top = max(top, get(p, k))
            for k in range(r * O, r * O + O):
                put(d, k, top - get(p, k))
            total += get(d, r * O + get(wanted, r)) * w
        for k in range(0, n * O, LANES(d)):
            store_first(offset(d, k), _exp_minus(load_first(offset(d, k), n * O - k)), n * O - k)
        for r in range(n):
            w = get(weights, r) if weighted else number(1)
            if w == 0:  # it does not count
                for k in range(r * O, r * O + O):
                    put(d, k, number(0))
                continue
            whole = 0.0
            for k in range(r * O, r * O + O):
                whole += get(d, k)
            total += math.log(whole) * w
            k = r * O + get(wanted, r)
            wanted_share = number(get(d, k) / whole) - number(1)
            for c in range(r * O, r * O + O):
                put(d, c, number(get(d, c) / whole) * w / count)
            put(d, k, wanted_share * w / count)
        return total

    return cross_entropy


def _adam(source, number):
    """The compiled function for a dtype; `source` is part of its key in the cache."""

    def adam(p, d, m, v, max_norm, beta_1, rest_1, beta_2, rest_2, eps, rate, share):
        source  # noqa: B018
        factor = number(1)
        if max_norm < math.inf:
            squares = sum_of_squares(pointer(d), len(d))
            if not 1e-280 < squares < math.inf:
                return NOT_DONE
            norm = math.sqrt(squares)
            if max_norm < norm:
                if max_norm / norm <= 1e-30:
                    return NOT_DONE
                factor = number(max_norm / norm)
        finite = True
        for i in range(len(p)):
            d_i = d[i] * factor
            m_i = m[i] * beta_1 + d_i * rest_1
            v_i = v[i] * beta_2 + d_i * d_i * rest_2
            s = m_i / (math.sqrt(v_i) + eps) * rate
            s = s + p[i] * share if share > 0 else s
            p_i = p[i] - s
            d[i], m[i], v[i], p[i] = d_i, m_i, v_i, p_i
            finite &= abs(p_i) < math.inf
        return FINITE if finite else NOT_FINITE

    return adam


@computed_once
def _compiled(make, dtype):
    """The entry point of one of the functions above."""
    number = numba.from_dtype(dtype)
    vector, rows = (types.Array(number, axes, "C") for axes in (1, 2))
    signature = {
        _adam: (*[vector] * 4, types.float64, *[number] * 7),
        _mse: (vector,) * 3,
        _cross_entropy: (rows, types.Array(types.int64, 1, "C"), vector, number, rows),
    }[make]
    # What is divided by zero becomes infinite or NaN, as in NumPy.
    return _compiling.compile_entry_point(
        signature, make(SOURCE, dtype.type), nogil=True, error_model="numpy"
    )


def adam(
    p: np.ndarray, d: np.ndarray, m: np.ndarray, v: np.ndarray, max_norm: float, beta_1: float,
    beta_2: float, eps: float, rate: float, share: float,
) -> bool | None:  # fmt: skip
    """A step of :class:`fastbptt.Adam`, whose arrays and factors these are, on clipped gradients.

    Parameters
    ----------
    p, d, m, v : ndarray, (P,)
        All of one dtype and C-contiguous.  What is clipped is `d` itself.
    max_norm : float
        Infinity for none.
    beta_1, beta_2, eps, rate, share : float
        See `Adam._factors`.

    Returns
    -------
    bool or None
        Whether `p` is finite; or None if nothing is done, since the norm is extreme.
    """
    run = _compiled(_adam, p.dtype)
    done = run(p, d, m, v, max_norm, beta_1, 1 - beta_1, beta_2, 1 - beta_2, eps, rate, share)
    return None if done == NOT_DONE else done == FINITE


# Losses take what most minibatches are, and turn all else away.


def mse(
    y: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None
) -> tuple[float, np.ndarray] | None:
    """:func:`fastbptt.losses.mse`; None unless targets have y's dtype and both are C-contiguous."""
    fit = target.dtype is y.dtype and target.shape == y.shape and weight is None
    if not (fit and y.size and _plain(y, target)):
        return None
    dy = np.empty(y.shape, y.dtype)
    total = _compiled(_mse, y.dtype)(y.reshape(-1), target.reshape(-1), dy.reshape(-1))
    return total / y.size, dy


NO_WEIGHT = {np.dtype(name): np.empty(0, name) for name in ("f4", "f8")}


def cross_entropy(
    y: np.ndarray, target: np.ndarray, weight: np.ndarray | None = None
) -> tuple[float, np.ndarray] | None:
    """:func:`fastbptt.losses.cross_entropy`; None unless targets are classes, as int64."""
    rows, n, O = y.shape[:-1], target.size, y.shape[-1]
    if not (target.dtype == np.int64 and target.shape == rows and n and _plain(y, target)):
        return None
    count, weights = n, NO_WEIGHT[y.dtype]
    if weight is not None:
        if not (weight.dtype is y.dtype and weight.shape == rows and weight.flags.carray):
            return None
        weights = weight.reshape(n)
        count = float(np.add.reduce(weights, dtype=np.float64)) or 1.0
    dy, run = np.empty(y.shape, y.dtype), _compiled(_cross_entropy, y.dtype)
    total = run(y.reshape(n, O), target.reshape(n), weights, count, dy.reshape(n, O))
    return (total / count, dy) if total >= 0 else None


def _plain(y, target):
    return y.flags.carray and target.flags.carray
