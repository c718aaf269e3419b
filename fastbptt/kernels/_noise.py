"""Noise on vectors: the formulas of `fastbptt/_noise.py`, operation for operation.

A vector's lanes are neighbouring calls of Philox, whose w-th words belong to neighbouring units: no
number changes its lane.  Philox multiplies 32 bits by 32 bits to 64, which CPUs do in lanes of 64
bits.  So its words live in the low halves of such lanes, as two sets: in float32 the even calls and
the odd ones, in float64 the two halves of each call's bits.  What the upper halves hold never
matters: a product reads the low ones, and leaves the low word of its result where it belongs.

Nothing is fused and no sum reordered, so the bits are the reference's on every CPU.
"""

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from fastbptt._noise import (
    ANGLE,
    ATANH,
    BLOCK,
    CALLS,
    COS,
    HIGH,
    LN2,
    LOW,
    MANTISSA,
    MULTIPLIERS,
    PAIR,
    ROOT_HALF,
    ROUNDS,
    SIN,
    WEYL,
    WORDS,
)
from fastbptt.kernels._simd import (
    INT32,
    INT64,
    LANES,
    Vec,
    VectorType,
    emit_splat,
    get,
    ir_vector,
    load,
    mul,
    offset,
    store,
)


def _philox(builder, counter, keys):
    """Four words in the low halves of 64-bit lanes, out of four such words.

    keys : for each round, the two words of the key in all lanes
    """
    c0, c1, c2, c3 = counter
    low = 0xFFFFFFFF
    for k0, k1 in keys:
        p, q = ((c & low).times_int(m) for m, c in zip(MULTIPLIERS, (c0, c2), strict=True))
        c0, c1 = q.shifted_right(32) ^ c1 ^ k0, q
        c2, c3 = p.shifted_right(32) ^ c3 ^ k1, p
    return c0, c1, c2, c3


@intrinsic
def draw_words(typingctx, p, call, sequence, step, seed):
    """The random bits of a vector of calls from `call` on: four vectors, one for each word.

    They are bits in the lanes of p's type: 32 for float32; for float64 the word of the high half
    above that of the low half.
    """
    words = types.UniTuple(VectorType(p.dtype), WORDS)

    def emit(context, builder, signature, args):
        _, call_, sequence_, step_, seed_ = args
        type_ = ir_vector(p.dtype)
        single = isinstance(type_.element, ir.FloatType)
        lanes = ir.VectorType(INT64, type_.count // 2 if single else type_.count)

        def splat(number):
            return emit_splat(builder, number, lanes)

        index = range(lanes.count)
        calls = splat(call_)
        if single:
            even, odd = (
                calls.plus_int(Vec(builder, ir.Constant(lanes, [2 * i + o for i in index])))
                for o in (0, 1)
            )
            sets = (even, HIGH), (odd, HIGH)
        else:
            calls = calls.plus_int(Vec(builder, ir.Constant(lanes, [*index])))
            sets = (calls, LOW), (calls, HIGH)
        keys, key = [], [seed_, builder.lshr(seed_, INT64(32))]
        for _ in range(ROUNDS):
            keys.append([splat(builder.and_(k, INT64(0xFFFFFFFF))) for k in key])
            key = [builder.add(k, INT64(w)) for k, w in zip(key, WEYL, strict=True)]
        below, above = (
            _philox(builder, (calls, splat(sequence_), splat(step_), calls.constant(half)), keys)
            for calls, half in sets
        )
        both = [
            builder.bitcast(((low & 0xFFFFFFFF) | (high << 32)).value, type_)
            for low, high in zip(below, above, strict=True)
        ]
        return context.make_tuple(builder, words, both)

    return words(p, types.int64, types.int64, types.int64, types.int64), emit


def _convert(builder, value, to, signed=False):
    """Integers of 32 bits as floats."""
    convert = builder.sitofp if signed else builder.uitofp
    return Vec(builder, convert(value, to))


def _halves(builder, x):
    """The words of 32 bits in the lanes of x, the one of the higher bits first."""
    if isinstance(x.type.element, ir.FloatType):
        return (x.bits().value,)
    narrow = ir.VectorType(INT32, x.type.count)
    return tuple(builder.trunc(x.bits().shifted_right(n).value, narrow) for n in (32, 0))


def _uniform(builder, x):
    """Random bits as a number in (0, 1]."""
    parts = [_convert(builder, part, x.type) for part in _halves(builder, x)]
    if len(parts) == 1:
        return parts[0] * 2**-32 + x.constant(2**-33)
    return parts[0] * 2**-32 + (parts[1] * 2**-64 + x.constant(2**-65))


def _signed(builder, x):
    """All but the upper two of the random bits as a number in [-2^31, 2^31)."""
    first, *rest = _halves(builder, x)
    high = _convert(builder, (Vec(builder, first) << 2).value, x.type, signed=True)
    return high + _convert(builder, rest[0], x.type) * 2**-30 if rest else high


def _minus_two_log(builder, u):
    bits = 64 if isinstance(u.type.element, ir.DoubleType) else 32
    shifted = u.bits().plus_int(u.bits().constant(-ROOT_HALF[bits]))
    power = shifted & (-1 << MANTISSA[bits])
    exponent = shifted
    if bits == 64:  # 32 bits hold it, and all CPUs shift and convert those
        narrow = ir.VectorType(INT32, u.type.count)
        exponent = Vec(builder, builder.trunc(shifted.shifted_right(32).value, narrow))
    exponent = (exponent >> MANTISSA[bits] - bits + 32).value
    m = u.bits().minus_int(power).as_float(u)
    s = (m - u.constant(1.0)) / (m + u.constant(1.0))
    square, s = s * s, s * -4.0
    log = _polynomial(ATANH[bits], square) * square * s + s
    return _convert(builder, exponent, u.type, signed=True) * (-2 * LN2) + log


def _polynomial(coefficients, x):
    *others, value = (x.constant(c) for c in coefficients)
    for c in reversed(others):
        value = value * x + c
    return value


def _square_root(x):
    bits = 64 if isinstance(x.type.element, ir.DoubleType) else 32
    kind = ir.FunctionType(x.type, [x.type])
    name = f"llvm.sqrt.v{x.type.count}f{bits}"
    f = cgutils.get_or_insert_function(x.builder.module, kind, name)
    return Vec(x.builder, x.builder.call(f, [x.value]))


@intrinsic
def box_muller(typingctx, u, v):
    """Two vectors of standard normal numbers out of two of random bits."""
    pair = types.UniTuple(u, 2)

    def emit(context, builder, signature, args):
        u_, v_ = (Vec(builder, a) for a in args)
        bits = 64 if isinstance(u_.type.element, ir.DoubleType) else 32
        radius = _square_root(_minus_two_log(builder, _uniform(builder, u_)))
        angle = _signed(builder, v_) * ANGLE
        square = angle * angle
        sin = _polynomial(SIN[bits], square) * square * angle + angle
        cos = _polynomial(COS[bits], square) * square + square.constant(1.0)
        sin, cos = sin * radius, cos * radius
        random = v_.bits()
        cos = (cos.bits() ^ (random & (1 << (bits - 1)))).as_float(u_)
        none = random.constant(0).value
        swap = builder.icmp_signed("!=", (random & (1 << (bits - 2))).value, none)
        both = [builder.select(swap, a.value, b.value) for a, b in ((sin, cos), (cos, sin))]
        return context.make_tuple(builder, pair, both)

    return pair(u, v), emit


@njit
def fill_noise(to, stride, rows, H, scale, seed, step, first, index):
    """to[r, :H] = scale times the normal numbers of a step and of sequence first + index[r].

    The random bits of all rows come first, in the places of the numbers: a core works on as many of
    its next instructions as it sees at once, and those of other rows wait for nothing.

    to : rows of `stride` elements, room for whole PAIRs of which is written
    scale : (H,) and zeros up to a whole PAIR
    seed : int64 of the seed's bits
    """
    for r in range(rows):
        row, sequence = offset(to, r * stride), first + get(index, r)
        for q in range(0, H, BLOCK):
            for u in range(q, min(q + CALLS, H), LANES(to)):
                words = draw_words(to, q // WORDS + u - q, sequence, step, seed)
                store(offset(row, u), words[0])
                store(offset(row, u + CALLS), words[1])
                if q + PAIR < H:
                    store(offset(row, u + PAIR), words[2])
                    store(offset(row, u + PAIR + CALLS), words[3])
    for r in range(rows):
        row = offset(to, r * stride)
        for q in range(0, H, PAIR):
            for u in range(q, min(q + CALLS, H), LANES(to)):
                v = u + CALLS
                a, b = box_muller(load(offset(row, u)), load(offset(row, v)))
                store(offset(row, u), mul(a, load(offset(scale, u))))
                store(offset(row, v), mul(b, load(offset(scale, v))))
