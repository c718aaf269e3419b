"""Activations f and their slopes f' on vectors.

The codes are what kernels receive; `f'` is written in terms of h = f(z), as in the reference.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbptt.kernels._simd import INT64, Vec

CODES = {"tanh": 0, "relu": 1, "identity": 2, "sigmoid": 3, "softplus": 4, "rectified_tanh": 5}
PLAIN = "tanh", "relu", "identity"  # those that the worker for plain layers knows

# (expm1(r) - r) / r^2 for |r| <= ln(2)/2 as a polynomial in r, and (tanh(s) - s) / s^3 for
# |s| <= SMALL as one in s^2; lowest power first.  Minimax in the error relative to expm1(r) and
# tanh(s), by Remez exchange in 60-digit arithmetic: 2^-26.2 and 2^-29.8 with five coefficients,
# 2^-55.6 and 2^-55.5 with ten.
EXPM1 = {
    32: (
        0.4999999814957756623,
        0.16666543424445384059,
        0.041667200730433014982,
        0.0083665471194146427098,
        0.0013882515212956579815,
    ),
    64: (
        0.5000000000000005179302821,
        0.1666666666666658928818427,
        0.04166666666657675528969643,
        0.00833333333338954542176922,
        0.001388888893156468090995077,
        0.0001984126971902323880713976,
        0.00002480150527401509533507629,
        0.000002755740752639740272764137,
        0.0000002762603780749333030497562,
        2.505378058092752356820147e-8,
    ),
}
TANH = {
    32: (
        -0.3333331753288470871181851,
        0.1333258513936256688062914,
        -0.05385219630442853520436788,
        0.02107117754135678952527416,
        -0.006273485362504066937392582,
    ),
    64: (
        -0.3333333333333230977425616,
        0.133333333331681987790539,
        -0.05396825387582961258260539,
        0.02186948596881822888996055,
        -0.00886319442321414343236646,
        0.003591719039620912380544842,
        -0.001453213471097737643167526,
        0.0005791271597895109215211452,
        -0.0002102861110775432978833774,
        0.00005101008413594595376045156,
    ),
}
SMALL = 0.55
LOG2_E = 1.4426950408889634074
# ln(2) = LN2_HIGH + LN2_LOW, the high part with so few bits that n * LN2_HIGH is exact, for
# CPUs without a fused multiply-add.
LN2 = {
    32: (0.693145751953125, 1.42860682030941723212e-6),
    64: (0.693147180369123816490, 1.90821492927058770002e-10),
}
# tanh(x) rounds to 1 from here on: 1 - tanh(x) = 2 / (e^2x + 1) < 2^-25 for x > 13 ln 2, and
# < 2^-54 for x > 27.5 ln 2.
ONE_FROM = {32: 9.02, 64: 19.07}
# Adding and subtracting 1.5 * 2^23 (2^52) rounds to the nearest integer, which the low bits of the
# sum hold, in two's complement.
ROUND = {32: 12582912.0, 64: 6755399441055744.0}
MANTISSA = {32: 23, 64: 52}


def tanh(x):
    """s + s^3 P(s^2) for s = |x| up to SMALL, from there on 1 - 2 / (exp(2s) + 1); then the sign.

    exp(t) = 2^n + 2^n expm1(r) with n = round(t / ln 2), r = t - n ln 2 and expm1(r) =
    r + r^2 Q(r).  P and Q have equally many coefficients, so that one evaluation serves both.
    In either form only the last addition, and little of what comes before, rounds visibly:
    1.4 ULP at most.  NaN passes: it fails the comparison with the clamp.
    """
    bits = 64 if isinstance(x.type.element, ir.DoubleType) else 32
    sign = x.bits() & (1 << (bits - 1))
    size = (x.bits() & ((1 << (bits - 1)) - 1)).as_float(x)
    size = (size > ONE_FROM[bits]).where(x.constant(ONE_FROM[bits]), size)

    t = size * 2.0
    rounded = t.fma(LOG2_E, ROUND[bits])
    n = rounded - ROUND[bits]
    high, low = LN2[bits]
    r = n.fma(-low, n.fma(-high, t))

    large = size > SMALL
    v = large.where(r, size * size)
    s = large.where(r, size)
    *coefficients, q = [
        large.where(x.constant(Q), x.constant(P))
        for Q, P in zip(EXPM1[bits], TANH[bits], strict=True)
    ]
    for coefficient in reversed(coefficients):
        q = q.fma(v, coefficient)
    p = (s * v).fma(q, s)
    power = (rounded.bits() << MANTISSA[bits]).plus_int(x.constant(1.0).bits()).as_float(x)  # 2^n
    size = large.where(1.0 - x.constant(2.0) / power.fma(p, power + 1.0), p)
    return (size.bits() | sign).as_float(x)


def relu(z):
    """max(z, 0), NaN kept."""
    return (z.constant(0.0) > z).where(z.constant(0.0), z)


def tanh_slope(h):
    return (1.0 - h) * (h + 1.0)


def relu_slope(h):
    return (h > 0.0).where(h.constant(1.0), h.constant(0.0))


def one(h):
    return h.constant(1.0)


def _by_code(builder, code, value, functions):
    """functions[code](value), code known at run time only."""
    result = cgutils.alloca_once(builder, value.type)
    done = builder.append_basic_block()
    blocks = [builder.append_basic_block() for _ in functions]
    switch = builder.switch(code, blocks[0])
    for i, (function, block) in enumerate(zip(functions, blocks, strict=True)):
        if i:
            switch.add_case(INT64(i), block)
        builder.position_at_end(block)
        builder.store(function(Vec(builder, value)).value, result)
        builder.branch(done)
    builder.position_at_end(done)
    return builder.load(result)


@intrinsic
def activate(typingctx, z, code):
    """f(z), f by its code."""

    def emit(context, builder, signature, args):
        return _by_code(builder, args[1], args[0], (tanh, relu, lambda z: z))

    return z(z, types.intp), emit


@intrinsic
def activate_any(typingctx, z, code):
    """f(z), f any by its code."""

    def emit(context, builder, signature, args):
        return _by_code(builder, args[1], args[0], (tanh, relu, lambda z: z))

    return z(z, types.intp), emit


@intrinsic
def slope_any(typingctx, h, code):
    """f'(z) for h = f(z), f any by its code."""

    def emit(context, builder, signature, args):
        return _by_code(builder, args[1], args[0], (tanh_slope, relu_slope, one))

    return h(h, types.intp), emit


@intrinsic
def rate_slope(typingctx, h, before, kept, alpha, code):
    """f'(z) for h = alpha f(z) + kept, with kept = (1 - alpha) before, f by its code.

    f(z) = before + (h - before) / alpha, within the bounds of f.  Where f is 0 for z < 0, h > kept
    says whether f(z) > 0.
    """

    def emit(context, builder, signature, args):
        h_, before_, kept_, alpha_ = (Vec(builder, value) for value in args[:4])
        rises = h_ > kept_

        def within(low, high):
            f = before_ + (h_ - before_) / alpha_
            f = (f > high).where(f.constant(high), f)
            return (f.constant(low) > f).where(f.constant(low), f)

        def of_tanh(_):
            return tanh_slope(within(-1.0, 1.0))

        def of_relu(_):
            return rises.where(h_.constant(1.0), h_.constant(0.0))

        return _by_code(builder, args[4], args[0], (of_tanh, of_relu, one))

    return h(h, before, kept, alpha, types.intp), emit


@intrinsic
def slope(typingctx, h, code):
    """f'(z) for h = f(z), f by its code."""

    def emit(context, builder, signature, args):
        return _by_code(builder, args[1], args[0], (tanh_slope, relu_slope, one))

    return h(h, types.intp), emit
