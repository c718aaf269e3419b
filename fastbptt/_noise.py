"""Noise: normal numbers as a function of a seed, a step, a sequence and a unit.

Philox 4x32-10 (Salmon, Moraes, Dror and Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3")
turns a counter of four 32-bit words, under the 64-bit seed as its key, into four random words; the
method of Box and Muller (1958) turns two words into two normal numbers.  There is no state: any
number can be drawn by itself, in any order, by any thread.

The formulas below use no function whose last bit depends on a library or a CPU: only integers, and
the operations that IEEE 754 rounds correctly (add, multiply, divide, square root), none of them
fused.  Compiled kernels do the same operations in the same order and draw the same bits.
"""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import numpy as np

from fastbptt import _checks

# Philox 4x32: multipliers, what is added to the key after each round, rounds (Salmon et al. 2011,
# and philox.h of their library Random123).
MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
WEYL = 0x9E3779B9, 0xBB67AE85
ROUNDS = 10

# A counter's words: call, sequence, step, half.  Of the 64 units from 64 q on, unit 64 q + 16 w + l
# has word w of call 16 q + l: 16 calls side by side fill whole vectors of neighbouring units.  In
# float64 the word has 32 more bits, from the same place in the other half.
CALLS, WORDS = 16, 4
BLOCK, PAIR = CALLS * WORDS, CALLS * 2  # units of all words, and of two
HIGH, LOW = 0, 1
LAYER = 2  # no half: the call's words 0 and 1 are the seed of another layer

# (atanh(s)/s - 1) / s^2 for m = (1 + s) / (1 - s) from sqrt(1/2) to sqrt(2), (sin(a)/a - 1) / a^2
# and (cos(a) - 1) / a^2 for |a| <= pi/4, as polynomials in s^2 and a^2, lowest power first.
# Minimax in the error relative to atanh, sin and cos, by Remez exchange in 60-digit arithmetic:
# 2^-30.2, 2^-28.0, 2^-33.9 for 32 bits; 2^-59.5, 2^-57.9, 2^-64.5 for 64.
ATANH = {
    32: (0.3333338804291435591513512, 0.1998878698474811381269039, 0.1493546929867394822681301),
    64: (
        0.333333333333336707787566,
        0.1999999999970818500971881,
        0.1428571437100797221391026,
        0.1111109930536796150174684,
        0.09091781203922670636628546,
        0.07657049379538898197237522,
        0.07397737999816937381575156,
    ),
}
SIN = {
    32: (
        -0.1666665460951222510593588,
        0.008332160759508624136128652,
        -0.0001951528286655805602151726,
    ),
    64: (
        -0.166666666666666307293065,
        0.008333333333322118532324901,
        -0.0001984126982958949160340928,
        0.000002755731362136883517599038,
        -2.505074776012683371663156e-8,
        1.589622999458886294627831e-10,
    ),
}
COS = {
    32: (
        -0.4999999969447471319066778,
        0.04166662035698786668120981,
        -0.001388668164346513210717294,
        0.00002438356688738039896829197,
    ),
    64: (
        -0.499999999999999995098195,
        0.04166666666666646984685194,
        -0.001388888888886199972575457,
        0.00002480158728409452562458727,
        -0.0000002755731311726600404846324,
        2.087558212381834776566928e-9,
        -1.135328109156761061139164e-11,
    ),
}
LN2 = 0.69314718055994530942
ANGLE = 0.78539816339744830962 / 2**31  # pi/4 at 2^31
ROOT_HALF = {32: 0x3F3504F3, 64: 0x3FE6A09E667F3BCD}  # bits of sqrt(1/2)
MANTISSA = {32: 23, 64: 52}


def philox(counter: tuple[Any, Any, Any, Any], seed: int) -> tuple[np.ndarray, ...]:
    """Four random words of 32 bits for each counter.

    Parameters
    ----------
    counter : four ints or arrays of int
        Words of 32 bits, of shapes that broadcast.
    seed : int
        The key: 0 to 2^64 - 1, its low word first.

    Returns
    -------
    tuple of four ndarray of uint64, below 2^32
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint64) for c in counter))
    return _rounds(c0, c1, c2, c3, seed)


def _rounds(c0: Any, c1: Any, c2: Any, c3: Any, seed: int) -> tuple[Any, Any, Any, Any]:
    """:func:`philox` of arrays, or of ints, as ints."""
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(ROUNDS):
        p, q = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = (q >> 32) ^ c1 ^ k0, q & 0xFFFFFFFF
        c2, c3 = (p >> 32) ^ c3 ^ k1, p & 0xFFFFFFFF
        k0, k1 = (k0 + WEYL[0]) & 0xFFFFFFFF, (k1 + WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def box_muller(
    u: tuple[np.ndarray, ...], v: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Two independent standard normal numbers out of the random words u and v.

    ``r cos(phi)`` and ``r sin(phi)`` with ``r = sqrt(-2 ln u)`` for u in (0, 1] and a uniform phi.
    The 30 lower bits of v are an angle between -pi/4 and pi/4, signed; the two others choose the
    quarter of the circle: the cosine's sign, and which of the two numbers is which.

    Parameters
    ----------
    u, v : tuple of ndarray of uint64, below 2^32
        One word each for float32; two for float64, the one of the higher bits first.

    Returns
    -------
    tuple of two ndarray, float32 or float64
        At most 6.8 in size in float32, and 9.5 in float64.
    """
    dtype = np.dtype(np.float32 if len(u) == 1 else np.float64)
    radius = np.sqrt(_minus_two_log(_uniform(u, dtype)))
    angle = _signed(v, dtype) * dtype.type(ANGLE)
    square, bits = angle * angle, dtype.itemsize * 8
    sin = _polynomial(SIN[bits], square) * square * angle + angle
    cos = _polynomial(COS[bits], square) * square + dtype.type(1)
    sin, cos = sin * radius, cos * radius
    cos = np.where(v[0] >> np.uint64(31) != 0, -cos, cos)
    swap = v[0] >> np.uint64(30) & np.uint64(1) != 0
    return np.where(swap, sin, cos), np.where(swap, cos, sin)


def _uniform(words: tuple[np.ndarray, ...], dtype: np.dtype) -> np.ndarray:
    """The words as a number in (0, 1]."""
    high = words[0].astype(np.uint32).astype(dtype)
    if len(words) == 1:
        return high * dtype.type(2**-32) + dtype.type(2**-33)
    low = words[1].astype(dtype)
    return high * dtype.type(2**-32) + (low * dtype.type(2**-64) + dtype.type(2**-65))


def _signed(words: tuple[np.ndarray, ...], dtype: np.dtype) -> np.ndarray:
    """All but the upper two bits as a number in [-2^31, 2^31)."""
    shifted = (words[0] << np.uint64(2)).astype(np.uint32)
    high = shifted.view(np.int32).astype(dtype)
    return high if len(words) == 1 else high + words[1].astype(dtype) * dtype.type(2**-30)


def _minus_two_log(u: np.ndarray) -> np.ndarray:
    """-2 ln u = -2 (e ln 2 + 2 atanh(s)) for u = 2^e m, s = (m - 1) / (m + 1)."""
    dtype, bits = u.dtype, u.itemsize * 8
    kind = np.dtype(f"i{u.itemsize}").type
    exponent = (u.view(kind) - kind(ROOT_HALF[bits])) >> kind(MANTISSA[bits])
    m = (u.view(kind) - (exponent << kind(MANTISSA[bits]))).view(dtype)
    s = (m - dtype.type(1)) / (m + dtype.type(1))
    square, s = s * s, s * dtype.type(-4)
    log = _polynomial(ATANH[bits], square) * square * s + s
    return exponent.astype(dtype) * dtype.type(-2 * LN2) + log


def _polynomial(coefficients: tuple[float, ...], x: np.ndarray) -> np.ndarray:
    *others, value = (x.dtype.type(c) for c in coefficients)
    for c in reversed(others):
        value = value * x + c
    return np.asarray(value)


@dataclasses.dataclass(frozen=True, eq=False)
class Noise:
    """Normal numbers to add to a layer's inputs, drawn where they are used.

    What is added at a step to a sequence's unit is a function of the seed and of the numbers of the
    step, the sequence and the unit, and of nothing else: not of the batch, the number of units, the
    threads, the backend or the CPU.  Nothing of the size of the states is stored.  The numbers of
    float32 are those of float64 to within 4e-4, and mostly 1e-6: they stem from fewer bits.

    Parameters
    ----------
    scale : float or ndarray, (H,)
        Standard deviation, at least 0; one for all units, or one for each.
    seed : int
        0 to 2^64 - 1.
    first_step, first_sequence : int, default 0
        The numbers of the first step and of the first sequence of a call, for a call that goes on
        where another ended, or computes a part of a batch; 0 to 2^32 - 1.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value.

    See Also
    --------
    forward, RNN.predict : Add it.

    Notes
    -----
    Philox 4x32-10 (Salmon et al. 2011) with the method of Box and Muller (1958), at most 6.8
    standard deviations far out in float32 and 9.5 in float64.

    Examples
    --------
    >>> import fastbptt
    >>> noise = fastbptt.Noise(0.1, seed=0)
    >>> whole = noise.draw(20, 4, 5, "float32")
    >>> whole.shape
    (20, 4, 5)
    >>> part = noise.at(step=10, sequence=2).draw(10, 2, 5, "float32")
    >>> bool((part == whole[10:, 2:]).all())
    True
    """

    scale: float | np.ndarray
    seed: int
    first_step: int = 0
    first_sequence: int = 0

    def __post_init__(self) -> None:
        scale = self.scale
        if isinstance(scale, np.ndarray) and scale.ndim:
            if scale.ndim != 1:
                raise ValueError(f"scale has shape {scale.shape}, expected a number or (H,)")
            if scale.dtype.kind not in "iuf":
                raise TypeError(f"scale has dtype {scale.dtype}, expected numbers")
            scale = scale.astype(np.float64)
            scale.flags.writeable = False
            wrong = np.flatnonzero(~((scale >= 0) & (scale < np.inf)))
            if len(wrong):
                unit = wrong[0]
                raise ValueError(f"scale[{unit}] is {scale[unit]}, expected at least 0 and finite")
        else:
            scale = _checks.number("scale", scale)
        object.__setattr__(self, "scale", scale)
        for name, bits in (("seed", 64), ("first_step", 32), ("first_sequence", 32)):
            value = _checks.integer(name, getattr(self, name), 0)
            if value >= 1 << bits:
                raise ValueError(f"{name} is {value}, expected 0 to 2^{bits} - 1")
            object.__setattr__(self, name, value)

    def at(self, *, step: int = 0, sequence: int = 0) -> Noise:
        """The noise of a call whose first step and sequence are these of this noise's calls.

        Parameters
        ----------
        step, sequence : int, default 0

        Returns
        -------
        Noise
        """
        step, sequence = operator.index(step), operator.index(sequence)
        return dataclasses.replace(
            self, first_step=self.first_step + step, first_sequence=self.first_sequence + sequence
        )

    def of_layer(self, number: int) -> Noise:
        """The noise of a layer of a stack: this one's for layer 0, others of the same scale.

        Parameters
        ----------
        number : int
            0 to 2^32 - 1.

        Returns
        -------
        Noise
        """
        if number == 0:
            return self
        low, high, *_ = _rounds(number, 0, 0, LAYER, self.seed)
        return dataclasses.replace(self, seed=high << 32 | low)

    def draw(self, T: int, B: int, H: int, dtype: Any = "float64") -> np.ndarray:
        """The numbers that a layer of H units adds in T steps of B sequences.

        Parameters
        ----------
        T, B, H : int
            Steps, sequences, units.
        dtype : {"float32", "float64"}, default "float64"

        Returns
        -------
        ndarray, (T, B, H)
        """
        dtype = _checks.float_dtype("dtype", dtype)
        T, B, H = (_checks.integer(name, n, 0) for name, n in (("T", T), ("B", B), ("H", H)))
        check_noise(self, T, B, H, dtype)
        blocks = -(-H // BLOCK)
        counter = (
            np.arange(blocks * CALLS).reshape(blocks, CALLS),
            np.arange(self.first_sequence, self.first_sequence + B)[:, None, None],
            np.arange(self.first_step, self.first_step + T)[:, None, None, None],
        )
        halves = (HIGH, LOW) if dtype.itemsize == 8 else (HIGH,)
        words = [philox((*counter, half), self.seed) for half in halves]
        normal = np.empty((T, B, blocks, WORDS, CALLS), dtype)
        for w in range(0, WORDS, 2):
            u, v = (tuple(half[i] for half in words) for i in (w, w + 1))
            normal[..., w, :], normal[..., w + 1, :] = box_muller(u, v)
        return normal.reshape(T, B, blocks * BLOCK)[..., :H] * scales(self, H, dtype)


def check_type(noise: Any) -> Noise | None:
    if noise is not None and not isinstance(noise, Noise):
        raise TypeError(f"noise is a {type(noise).__name__}, expected a fastbptt.Noise")
    return noise


def check_noise(noise: Noise, T: int, B: int, H: int, dtype: np.dtype) -> None:
    """Raise ValueError if a call's steps or sequences have no numbers, or units no scale."""
    for name, first, count in (
        ("step", noise.first_step, T),
        ("sequence", noise.first_sequence, B),
    ):
        if first + count > 1 << 32:
            raise ValueError(
                f"noise: the last {name} has number {first + count - 1}, expected 0 to 2^32 - 1"
            )

    scale = np.asarray(noise.scale)
    if scale.ndim and scale.shape != (H,):
        raise ValueError(
            f"noise has a scale of shape {scale.shape}, expected {(H,)}: one for each unit"
        )
    if scale.size and scale.max() > np.finfo(dtype).max / 16:
        raise ValueError(f"noise has a scale of {scale.max()}, too large for {dtype}")


def scales(noise: Noise, H: int, dtype: np.dtype) -> np.ndarray:
    """The scale of each of H units."""
    return np.broadcast_to(noise.scale, (H,)).astype(dtype)
