"""Activations f and their slopes f' on vectors.

The codes are what kernels receive; `f'` is written in terms of h = f(z), as in the reference.
"""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbptt.kernels._machine import target
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
# (atanh(s) / s - 1) / w for s = sqrt(w) up to 1/3, as a polynomial in w: minimax in the error
# relative to atanh(s), 2^-27.7 and 2^-59.4, found in the same way.
ATANH = {
    32: (
        0.3333320814680310300444982,
        0.2001076362647655557552838,
        0.1400090246753260840460922,
        0.1400599427915315925801574,
    ),
    64: (
        0.3333333333333315485045059,
        0.2000000000007755818306305,
        0.1428571427405898736618376,
        0.1111111197682417383087542,
        0.09090872239501830796489198,
        0.07693274197170421234570358,
        0.06650560676976874459847739,
        0.06052472569189583849421606,
        0.04172485147984315546069339,
        0.0850487960788746987827105,
    ),
}
# log(cosh(sqrt(w) / 2)) / w for w up to 1: minimax in the error relative to log(1 + exp(-sqrt(w))),
# 2^-26.7 and 2^-60.2.
LOG_COSH = {
    32: (
        0.1249998536228893873180449,
        -0.005207001261895872790092603,
        0.0003433164006022106791822115,
        -0.0000216645999888506162590633,
    ),
    64: (
        0.1249999999999999334967641,
        -0.005208333333330295084411869,
        0.0003472222221733008911017201,
        -0.00002635168611319509168595355,
        0.000002135690392349319579820781,
        -0.0000001803175936180683439213433,
        1.565026806206322801974149e-8,
        -1.375957287335029595234492e-9,
        1.154049995508465882572259e-10,
        -6.966725340169900856646085e-12,
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
# exp(-x) rounds to 0 from here on: it is below 2^-150, and 2^-1075, half the least subnormal.
ZERO_FROM = {32: 104.0, 64: 745.2}
# Powers of two that are 1 + themselves, and far from overflow.
LARGE = {32: 64.0, 64: 512.0}
# 1 - exp(-x) rounds to 1 from here on, where exp(-x) < 2^-25, and 2^-54.
SLOPE_ONE_FROM = {32: 17.4, 64: 37.5}
TINY = {32: 2.0**-126, 64: 2.0**-1022}
# Adding and subtracting 1.5 * 2^23 (2^52) rounds to the nearest integer, which the low bits of the
# sum hold, in two's complement; with the exponent's bias added as well, shifted to where a number's
# exponent is, they make the power of two.
ROUND = {32: 12582912.0, 64: 6755399441055744.0}
BIAS = {32: 127, 64: 1023}
MANTISSA = {32: 23, 64: 52}


def _bits(x):
    return 64 if isinstance(x.type.element, ir.DoubleType) else 32


def _size(x):
    """|x|."""
    return (x.bits() & ((1 << (_bits(x) - 1)) - 1)).as_float(x)


def _polynomial(v, coefficients):
    """Their sum times the powers of v, the lowest power first."""
    *rest, q = coefficients
    for coefficient in reversed(rest):
        q = q.fma(v, coefficient)
    return q


def _less_n_ln2(n, t):
    """t - n ln 2."""
    high, low = LN2[_bits(t)]
    return n.fma(-low, n.fma(-high, t))


def tanh(x):
    """s + s^3 P(s^2) for s = |x| up to SMALL, from there on 1 - 2 / (exp(2s) + 1); then the sign.

    exp(t) = 2^n + 2^n expm1(r) with n = round(t / ln 2), r = t - n ln 2 and expm1(r) =
    r + r^2 Q(r).  P and Q have equally many coefficients, so that one evaluation serves both.
    In either form only the last addition, and little of what comes before, rounds visibly:
    1.4 ULP at most.  NaN passes: it fails the comparison with the clamp.
    """
    return tanh_end(x, *tanh_begin(x))


def tanh_begin(x):
    """The longer part of `tanh`: s + s^3 P(s^2) for small s, and exp(2s) + 1 for large ones."""
    bits = _bits(x)
    size = _size(x)
    size = (size > ONE_FROM[bits]).where(x.constant(ONE_FROM[bits]), size)

    t = size * 2.0
    shifted = t.fma(LOG2_E, ROUND[bits] + BIAS[bits])
    n = shifted - (ROUND[bits] + BIAS[bits])
    # n is 26 at most, or 55: so small that if n ln 2 is not rounded, one constant will do.
    r = n.fma(-sum(LN2[bits]), t) if target()[1] else _less_n_ln2(n, t)

    large = size > SMALL
    v = large.where(r, size * size)
    s = large.where(r, size)
    pairs = zip(EXPM1[bits], TANH[bits], strict=True)
    q = _polynomial(v, [large.where(x.constant(Q), x.constant(P)) for Q, P in pairs])
    p = (s * v).fma(q, s)
    power = (shifted.bits() << MANTISSA[bits]).as_float(x)  # 2^n
    return p, power.fma(p, power + 1.0)


def tanh_end(x, p, total):
    """tanh(x) from what `tanh_begin` returned."""
    sign = x.bits() & (1 << (_bits(x) - 1))
    size = (_size(x) > SMALL).where(1.0 - x.constant(2.0) / total, p)
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
def slope(typingctx, h, code):
    """f'(z) for h = f(z), f by its code."""

    def emit(context, builder, signature, args):
        return _by_code(builder, args[1], args[0], (tanh_slope, relu_slope, one))

    return h(h, types.intp), emit


# The others, for cells that are not plain.


def _least(x, limit):
    """min(x, limit), NaN kept."""
    return (x > limit).where(x.constant(limit), x)


def _exp(t):
    """(n, p) with exp(t) = 2^n (1 + p), |p| < 0.42, n a whole number; see `tanh`."""
    n, r = _reduced(t)
    q = _polynomial(r, [r.constant(Q) for Q in EXPM1[_bits(t)]])
    return n, (r * r).fma(q, r)


def _reduced(t):
    """(n, r) with t = n ln 2 + r, n a whole number."""
    bits = _bits(t)
    n = t.fma(LOG2_E, ROUND[bits]) - ROUND[bits]
    return n, _less_n_ln2(n, t)


def _power_of_two(n):
    """2^n, a normal number, for whole n."""
    bits = _bits(n)
    whole = (n + ROUND[bits]).bits() << MANTISSA[bits]
    return whole.plus_int(n.constant(1.0).bits()).as_float(n)


def sigmoid(z):
    """1/2 + tanh(z/2) / 2 near 0, from |z| = 2 SMALL on 1 / (1 + exp(-z)).

    There 1 + 2^n (1 + p) is summed from the smaller of the terms 1 and 2^n on.  Where it would
    overflow the 1 no longer counts; so the quotient is scaled in the end.  It never descends: what
    rounds visibly follows z one way.  1.8 ULP at most.  P and Q are those of `tanh`.
    """
    bits = _bits(z)
    size = _size(z)
    t = _least(_least(z, SLOPE_ONE_FROM[bits]) * -1.0, ZERO_FROM[bits])
    n, r = _reduced(t)
    s = z * 0.5
    far = size > 2 * SMALL
    v = far.where(r, s * s)
    pairs = zip(EXPM1[bits], TANH[bits], strict=True)
    q = _polynomial(v, [far.where(z.constant(Q), z.constant(P)) for Q, P in pairs])
    s = far.where(r, s)
    p = (s * v).fma(q, s)

    exponent = _least(n, LARGE[bits])
    power = _power_of_two(exponent)
    above = power > 1.0
    one = z.constant(1.0)
    total = power.fma(p, above.where(one, power)) + above.where(power, one)
    return far.where(one / total * _power_of_two(exponent - n), p.fma(0.5, 0.5))


def exp_minus(size):
    """exp(-size) for size of at least 0."""
    bits = _bits(size)
    n, p = _exp(_least(size, ZERO_FROM[bits]) * -1.0)
    # It may be subnormal: two powers of two
    exponent = _least(n * -1.0, LARGE[bits]) * -1.0
    return (p + 1.0) * _power_of_two(exponent) * _power_of_two(n - exponent)


def softplus(z):
    """ln(2) + (z/2 + w G(w)) with w = z^2 for |z| <= 1, beyond max(z, 0) + log(1 + exp(-|z|)).

    With u = exp(-|z|), s = u / (2 + u), w = s^2, log(1 + u) = 2 atanh(s) = 2 s + 2 s w Q(w), which
    is u - (u^2/2 - s (u^2/2 + 2 w Q(w))).  G and Q have equally many coefficients.  It never
    descends: in either form the last sum is that of an exact term and a smaller one.  1.7 ULP at
    most.
    """
    bits = _bits(z)
    size = _size(z)
    near = z.constant(1.0) >= size
    u = exp_minus(size)
    s = u / (u + 2.0)
    w = near.where(z * z, s * s)
    pairs = zip(LOG_COSH[bits], ATANH[bits], strict=True)
    q = _polynomial(w, [near.where(z.constant(G), z.constant(Q)) for G, Q in pairs])
    half = u * u * 0.5
    high, low = LN2[bits]
    far_sum = relu(z) + (u - (half - s * (w * 2.0).fma(q, half)))
    return near.where(z.fma(0.5, w.fma(q, low)) + high, far_sum)


def rectified_tanh(z):
    return relu(tanh(z))


def sigmoid_slope(h):
    return h * (1.0 - h)


def softplus_slope(h):
    """-expm1(-h)."""
    n, p = _exp(_least(h, SLOPE_ONE_FROM[_bits(h)]) * -1.0)
    power = _power_of_two(n)
    return (1.0 - power) - power * p


def rectified_tanh_slope(h):
    return (h > 0.0).where(tanh_slope(h), h.constant(0.0))


# By their codes: f, f' in terms of h = f(z), and the bounds of f.
_ALL = (
    (tanh, tanh_slope, (-1.0, 1.0)),
    (relu, relu_slope, (0.0, None)),
    (lambda z: z, one, (None, None)),
    (sigmoid, sigmoid_slope, (0.0, 1.0)),
    (softplus, softplus_slope, (0.0, None)),
    (rectified_tanh, rectified_tanh_slope, (0.0, 1.0)),
)


@intrinsic
def activate_any(typingctx, z, code):
    """f(z), f any by its code."""

    def emit(context, builder, signature, args):
        return _by_code(builder, args[1], args[0], [f for f, _, _ in _ALL])

    return z(z, types.intp), emit


@intrinsic
def slope_any(typingctx, h, code):
    """f'(z) for h = f(z), f any by its code."""

    def emit(context, builder, signature, args):
        return _by_code(builder, args[1], args[0], [df for _, df, _ in _ALL])

    return h(h, types.intp), emit


@intrinsic
def slope_of_rate(typingctx, h, before, kept, alpha, code):
    """f'(z) for h = alpha f(z) + kept, with kept = (1 - alpha) before, f any by its code.

    f(z) = before + (h - before) / alpha, within the bounds of f.  Of a function that is not
    negative, f(z) > 0 where h > kept: exactly, since kept was rounded before f was added.
    """

    def emit(context, builder, signature, args):
        h_, before_, kept_, alpha_ = (Vec(builder, value) for value in args[:4])

        def at(df, low, high):
            def found(_):
                f = before_ + (h_ - before_) / alpha_
                if high is not None:
                    f = (f > high).where(f.constant(high), f)
                if low == 0:
                    tiny = f.constant(TINY[_bits(f)])
                    f = (tiny > f).where(tiny, f)
                    f = (kept_ >= h_).where(f.constant(0.0), f)
                elif low is not None:
                    f = (f.constant(low) > f).where(f.constant(low), f)
                return df(f)

            return found

        functions = [at(df, *bounds) for _, df, bounds in _ALL]
        return _by_code(builder, args[4], args[0], functions)

    return h(h, before, kept, alpha, types.intp), emit
