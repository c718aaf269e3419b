"""Activations and slopes on vectors, held to NumPy in a wider type and to what they promise."""

# pyright: reportCallIssue=false
# (a Numba intrinsic is called with one argument less than it is defined with)

import numpy as np
import pytest
from numba import njit

from fastbptt import reference
from fastbptt.kernels._activation import (
    CODES,
    LARGE,
    ONE_FROM,
    PLAIN,
    SLOPE_ONE_FROM,
    SMALL,
    ZERO_FROM,
    activate,
    activate_any,
    slope,
    slope_any,
    slope_of_rate,
)
from fastbptt.kernels._simd import LANES, load_first, offset, pointer, store_first

FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])
ULPS = 2
LARGEST = {np.float32: 0x7F800000, np.float64: 0x7FF0000000000000}  # bits of infinity
MANTISSA = {np.float32: 23, np.float64: 52}
UINT = {np.float32: np.uint32, np.float64: np.uint64}
WIDER = {np.float32: np.float64, np.float64: np.longdouble}


@njit(nogil=True)
def apply(out, values, code):
    """out = f(values); the last vector is a part of one."""
    o, p = pointer(out), pointer(values)
    for i in range(0, len(values), LANES(p)):
        n = len(values) - i
        store_first(offset(o, i), activate(load_first(offset(p, i), n), code), n)


@njit(nogil=True)
def apply_slope(out, values, code):
    """out = f'(z) for values = f(z)."""
    o, p = pointer(out), pointer(values)
    for i in range(0, len(values), LANES(p)):
        n = len(values) - i
        store_first(offset(o, i), slope(load_first(offset(p, i), n), code), n)


def run(kernel, values, name):
    out = np.full_like(values, 7)
    kernel(out, values, CODES[name])
    return out


def tanh(values):
    return run(apply, values, "tanh")


def bits(values):
    return values.view(f"u{values.itemsize}")


def branch_points():
    """Where the formula changes: to the other form, to another power of two, to the constant 1."""
    powers = (2 * np.arange(0, 30) + 1) * np.log(2) / 4  # 2 s / ln 2 rounds to another integer
    return np.concatenate([[SMALL, *ONE_FROM.values()], powers, powers - np.log(2) / 4])[:, None]


def consecutive(points, dtype, count):
    """`count` consecutive floats to either side of each point, rows that ascend."""
    at = bits(points.astype(dtype)).astype(np.int64) + np.arange(-count, count + 1)
    return np.maximum(at, 0).astype(UINT[dtype]).view(dtype)


def stratified(dtype):
    """A million numbers: every exponent as often, subnormals too, more of those where f bends."""
    rng = np.random.default_rng(0)
    shift = MANTISSA[dtype]
    exponents = np.arange(LARGEST[dtype] >> shift)
    near_one = (LARGEST[dtype] >> shift + 1) + np.arange(-30, 6)  # 2^-30 … 2^6
    each = 500_000 // (2 * len(exponents)), 250_000 // len(near_one)
    exponents = np.concatenate([exponents.repeat(each[0]), near_one.repeat(each[1])])
    fractions = rng.integers(0, 1 << shift, len(exponents))
    sizes = ((exponents << shift) + fractions).astype(UINT[dtype]).view(dtype)
    points = branch_points()
    sizes = np.concatenate([sizes, consecutive(points, dtype, 500).ravel()])
    return np.concatenate([sizes, -sizes])


def ulps(got, expected):
    """Distance in units of the last place that `got`'s type has at the exact result."""
    info = np.finfo(got.dtype)
    exponent = np.maximum(np.frexp(expected)[1] - 1, info.minexp)
    unit = np.ldexp(np.ones((), expected.dtype), exponent - info.nmant)
    return np.abs(got.astype(expected.dtype) - expected) / unit


@FLOATS
def test_tanh_is_within_two_units_of_the_last_place(dtype):
    wider = WIDER[dtype]
    if np.finfo(wider).nmant == np.finfo(dtype).nmant:
        pytest.skip("no type wider than float64 here")
    values = stratified(dtype)
    assert len(values) >= 800_000
    got = tanh(values)
    error = ulps(got, np.tanh(values.astype(wider)))
    worst = np.argmax(error)
    assert error[worst] <= ULPS, f"tanh({values[worst]!r}) = {got[worst]!r}: {error[worst]} ULP"


@pytest.mark.slow
def test_tanh_of_every_float32():
    size, before = 1 << 23, 0.0
    for first in range(0, 1 << 31, size):
        values = np.arange(first, first + size, dtype=np.uint32).view(np.float32)
        got, mirrored = tanh(values), tanh(-values)
        np.testing.assert_array_equal(bits(mirrored) ^ np.uint32(1 << 31), bits(got))
        nan = np.isnan(values)
        np.testing.assert_array_equal(np.isnan(got), nan)
        values, got = values[~nan], got[~nan]
        error = ulps(got, np.tanh(values.astype(np.float64)))
        assert error.max(initial=0) <= ULPS, values[np.argmax(error)]
        assert (np.diff(got, prepend=before) >= 0).all()
        before = got.max(initial=0)


@FLOATS
def test_tanh_is_odd_to_the_bit(dtype):
    values = stratified(dtype)
    np.testing.assert_array_equal(bits(tanh(-values)), bits(-tanh(values)))


@FLOATS
def test_tanh_stays_within_one(dtype):
    assert np.abs(tanh(stratified(dtype))).max() == 1


@FLOATS
def test_tanh_is_one_only_where_it_rounds_to_one(dtype):
    """The clamp is no lower than where the exact result is nearer to 1 than to the float below."""
    values = consecutive(branch_points(), dtype, 500).ravel()
    exact = np.tanh(values.astype(WIDER[dtype]))
    below = 1 - np.finfo(dtype).epsneg  # the float before 1
    assert (tanh(values)[exact < below - np.finfo(dtype).epsneg] < 1).all()
    assert (tanh(values)[values >= ONE_FROM[np.dtype(dtype).itemsize * 8]] == 1).all()


@FLOATS
def test_tanh_never_descends_where_its_formula_changes(dtype):
    rows = consecutive(branch_points(), dtype, 500)
    got = tanh(rows.ravel()).reshape(rows.shape)
    assert (np.diff(got, axis=1) >= 0).all()


@FLOATS
def test_tanh_keeps_zeros_and_subnormals(dtype):
    tiny = np.finfo(dtype).tiny
    sizes = np.linspace(0, tiny, 1001, dtype=dtype)
    values = np.concatenate([sizes, -sizes, [np.finfo(dtype).smallest_subnormal]]).astype(dtype)
    assert np.signbit(values[1001])
    np.testing.assert_array_equal(bits(tanh(values)), bits(values))


@FLOATS
def test_tanh_of_infinity_and_nan(dtype):
    info = np.finfo(dtype)
    values = np.array([np.inf, -np.inf, info.max, info.min, np.nan, -np.nan], dtype)
    np.testing.assert_array_equal(tanh(values), [1, -1, 1, -1, np.nan, np.nan])


@FLOATS
@pytest.mark.parametrize("count", range(1, 36))
def test_parts_of_a_vector(dtype, count):
    """A value's result does not depend on its place in a vector; nothing behind is written."""
    values = np.linspace(-3, 3, 40, dtype=dtype)
    out = np.full_like(values, 7)
    apply(out[:count], values[:count], CODES["tanh"])
    np.testing.assert_array_equal(out[:count], tanh(values)[:count])
    assert (out[count:] == 7).all()


@FLOATS
def test_relu_and_identity(dtype):
    info = np.finfo(dtype)
    ends = [0.0, -0.0, np.inf, -np.inf, info.smallest_subnormal, -info.smallest_subnormal, np.nan]
    values = np.concatenate([ends, np.linspace(-2, 2, 11)]).astype(dtype)
    np.testing.assert_array_equal(run(apply, values, "relu"), np.maximum(values, 0))
    np.testing.assert_array_equal(bits(run(apply, values, "identity")), bits(values))


@FLOATS
def test_slopes(dtype):
    one = dtype(1)
    tiny = np.finfo(dtype).smallest_subnormal
    h = np.concatenate([np.linspace(-1, 1, 101), [-0.0, tiny, one - np.finfo(dtype).epsneg]])
    h = h.astype(dtype)
    np.testing.assert_array_equal(run(apply_slope, h, "tanh"), (one - h) * (one + h))
    np.testing.assert_array_equal(run(apply_slope, h, "relu"), (h > 0).astype(dtype))
    np.testing.assert_array_equal(run(apply_slope, h, "identity"), np.ones_like(h))


@FLOATS
def test_slope_of_tanh_keeps_nan(dtype):
    assert np.isnan(run(apply_slope, np.array([np.nan], dtype), "tanh")).all()


# Those of cells that are not plain

NEW = pytest.mark.parametrize("name", ["sigmoid", "softplus", "rectified_tanh"])


@njit(nogil=True)
def apply_any(out, values, code):
    """out = f(values) by the worker of all cells."""
    o, p = pointer(out), pointer(values)
    for i in range(0, len(values), LANES(p)):
        n = len(values) - i
        store_first(offset(o, i), activate_any(load_first(offset(p, i), n), code), n)


@njit(nogil=True)
def apply_slope_any(out, values, code):
    o, p = pointer(out), pointer(values)
    for i in range(0, len(values), LANES(p)):
        n = len(values) - i
        store_first(offset(o, i), slope_any(load_first(offset(p, i), n), code), n)


@njit(nogil=True)
def apply_slope_of_rate(out, h, before, kept, alpha, code):
    o, p = pointer(out), pointer(h)
    for i in range(0, len(h), LANES(p)):
        n = len(h) - i
        a, b = load_first(offset(p, i), n), load_first(offset(pointer(before), i), n)
        c, d = (load_first(offset(pointer(kept), i), n), load_first(offset(pointer(alpha), i), n))
        store_first(offset(o, i), slope_of_rate(a, b, c, d, code), n)


def exact(name, z):
    """f(z) from functions of the C library, in the type of z."""
    with np.errstate(over="ignore", invalid="ignore"):  # in what is not chosen
        if name == "sigmoid":
            return np.where(z < 0, np.exp(z) / (1 + np.exp(z)), 1 / (1 + np.exp(-z)))
        if name == "softplus":
            return np.where(z < 0, np.log1p(np.exp(z)), z + np.log1p(np.exp(-z)))
        return np.where(z > 0, np.tanh(z), 0)


def new_branch_points():
    """Where formulas change: near and far, another power of two, clamps."""
    powers = (2 * np.arange(0, 120) + 1) * np.log(2) / 2
    ends = *ZERO_FROM.values(), *SLOPE_ONE_FROM.values(), *(np.log(2) * n for n in LARGE.values())
    return np.concatenate([branch_points()[:, 0], [1, 2 * SMALL, *ends], powers])[:, None]


def samples(dtype):
    """Of all sizes, both signs; more where the functions bend; those where formulas change."""
    rng, dense = np.random.default_rng(1), (200_000,)
    values = [
        rng.uniform(-3, 3, dense), rng.uniform(-110, 20, dense), rng.uniform(-760, -690, dense)
    ]  # fmt: skip
    points = consecutive(new_branch_points(), dtype, 200).ravel()
    each = np.concatenate([*values, *(v.astype("d") for v in (points, -points))]).astype(dtype)
    return np.concatenate([each, stratified(dtype)[::3]])


def widest(dtype):
    wider = WIDER[dtype]
    if np.finfo(wider).nmant == np.finfo(dtype).nmant:
        pytest.skip("no type wider than float64 here")
    return wider


@FLOATS
@NEW
def test_others_are_within_two_units_of_the_last_place(name, dtype):
    wider = widest(dtype)
    values = samples(dtype)
    got = run(apply_any, values, name)
    error = ulps(got, exact(name, values.astype(wider)))
    worst = np.argmax(error)
    assert error[worst] <= ULPS, f"{name}({values[worst]!r}) = {got[worst]!r}: {error[worst]} ULP"


@FLOATS
@NEW
def test_others_never_descend(name, dtype):
    values = np.sort(samples(dtype))
    assert (np.diff(run(apply_any, values, name)) >= 0).all()
    for sign in (1, -1):
        rows = sign * consecutive(new_branch_points(), dtype, 500)
        got = run(apply_any, rows.ravel(), name).reshape(rows.shape)
        assert (sign * np.diff(got, axis=1) >= 0).all()


@pytest.mark.slow
@NEW
def test_others_of_every_float32_that_matters(name):
    """Of sizes 2^-26 to 2^7, in ascending order: each within 2 ULP, and none below the one before.

    Nearer to 0 nothing changes but tanh, by its argument; farther out nothing.
    """
    size, before = 1 << 23, 0.0  # floats from a power of two to the next
    exponents = range(127 - 26, 127 + 7)
    for sign, exponent in [*((-1, e) for e in reversed(exponents)), *((1, e) for e in exponents)]:
        first = exponent * size
        values = np.arange(first, first + size, dtype=np.uint32).view(np.float32)
        values = values if sign > 0 else -values[::-1]
        got = run(apply_any, values, name)
        error = ulps(got, exact(name, values.astype(np.float64)))
        assert error.max() <= ULPS, values[np.argmax(error)]
        assert (np.diff(got, prepend=np.float32(before)) >= 0).all()
        before = got[-1]


@FLOATS
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sigmoid", [1, 0, 1, 0, np.nan, np.nan, 0.5, 0.5]),
        ("softplus", [np.inf, 0, "max", 0, np.nan, np.nan, "ln 2", "ln 2"]),
        ("rectified_tanh", [1, 0, 1, 0, np.nan, np.nan, 0, 0]),
    ],
)
def test_others_of_infinity_nan_and_zero(name, expected, dtype):
    info = np.finfo(dtype)
    values = np.array([np.inf, -np.inf, info.max, info.min, np.nan, -np.nan, 0.0, -0.0], dtype)
    words = {"max": info.max, "ln 2": dtype(np.log(2))}
    expected = np.array([words.get(e, e) if isinstance(e, str) else e for e in expected], dtype)
    np.testing.assert_array_equal(run(apply_any, values, name), expected)


@FLOATS
def test_the_other_worker_knows_the_plain_ones_too(dtype):
    values = samples(dtype)
    for name in PLAIN:
        got, expected = run(apply_any, values, name), run(apply, values, name)
        np.testing.assert_array_equal(bits(got), bits(expected))
        got, expected = run(apply_slope_any, values, name), run(apply_slope, values, name)
        np.testing.assert_array_equal(bits(got), bits(expected))


@FLOATS
def test_slopes_of_the_others(dtype):
    one = dtype(1)
    h = np.concatenate([np.linspace(0, 1, 101), [np.finfo(dtype).smallest_subnormal]]).astype(dtype)
    np.testing.assert_array_equal(run(apply_slope_any, h, "sigmoid"), h * (one - h))
    got = run(apply_slope_any, h, "rectified_tanh")
    np.testing.assert_array_equal(got, np.where(h > 0, (one - h) * (one + h), 0))
    wider = widest(dtype)
    h = np.abs(samples(dtype))
    h = h[h < 1e30]
    error = ulps(run(apply_slope_any, h, "softplus"), -np.expm1(-h.astype(wider)))
    assert error.max() <= ULPS
    ends = np.array([np.inf, np.nan], dtype)
    np.testing.assert_array_equal(run(apply_slope_any, ends, "softplus"), [1, np.nan])


@FLOATS
@pytest.mark.parametrize("name", CODES)
def test_slopes_at_rates_are_those_at_what_is_recovered(name, dtype):
    """As the reference has them, and within the bounds of each f."""
    rng = np.random.default_rng(0)
    n = 999
    alpha = rng.uniform(0.01, 1, n).astype(dtype)
    before, h = (rng.uniform(-1.2, 1.2, n).astype(dtype) for _ in range(2))
    kept = (1 - alpha) * before
    h[::7] = kept[::7]
    h[1::7] = np.nextafter(kept[1::7], dtype(9))
    h[5] = np.nan
    _, df, low, high = reference._FUNCTIONS[name]
    expected = df(reference._recovered(h, before, alpha, low, high))
    got = np.empty_like(h)
    apply_slope_of_rate(got, h, before, kept, alpha, CODES[name])
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=50 * np.finfo(dtype).eps)
    if name in ("relu", "rectified_tanh"):
        np.testing.assert_array_equal(got > 0, (h > kept) & (expected > 0))
