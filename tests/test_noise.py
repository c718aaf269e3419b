"""Noise: the generator's published answers, equal bits in kernels and reference, and statistics."""

# pyright: reportCallIssue=false
# (a Numba intrinsic is called with one argument less than it is defined with)

import copy
import json
import math
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from test_threads import always_launch, using

import fastbptt
from fastbptt import _noise
from fastbptt._stack import Stack
from fastbptt.kernels import _noise as kernel
from fastbptt.kernels._simd import LANES, load_first, offset, pointer, store, store_first

FLOATS = pytest.mark.parametrize("dtype", [np.float32, np.float64])
# The lines "philox4x32 10" of tests/kat_vectors in Random123 (D. E. Shaw Research): four words of
# the counter, two of the key, four of the answer.
KNOWN_ANSWERS = """
00000000 00000000 00000000 00000000 00000000 00000000 6627e8d5 e169c58d bc57ac4c 9b00dbd8
ffffffff ffffffff ffffffff ffffffff ffffffff ffffffff 408f276d 41c83b0e a20bc7c6 6d5451fd
243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0 d16cfe09 94fdcceb 5001e420 24126ea1
"""
MANY = 2_000_000


@njit(nogil=True)
def fill(out, H, rows, scale, seed, step, first, index):
    kernel.fill_noise(
        pointer(out), out.shape[1], rows, H, pointer(scale), seed, step, first, pointer(index)
    )


@njit(nogil=True)
def words_of(out, call, sequence, step, seed):
    """out[w] = word w of a vector of calls; out is (4, lanes)."""
    p = pointer(out)
    words = kernel.draw_words(p, call, sequence, step, seed)
    for w in range(4):
        store(offset(p, w * out.shape[1]), words[w])


@njit(nogil=True)
def lanes_of(a):
    return LANES(pointer(a))


@njit(nogil=True)
def transform(a, b, u, v):
    """a, b = the normal numbers of the random bits u, v."""
    pu, pv = pointer(u), pointer(v)
    for i in range(0, len(u), LANES(pu)):
        n = len(u) - i
        x, y = kernel.box_muller(load_first(offset(pu, i), n), load_first(offset(pv, i), n))
        store_first(offset(pointer(a), i), x, n)
        store_first(offset(pointer(b), i), y, n)


def padded(scale):
    """With zeros up to whole pairs, as kernels take it."""
    return np.append(scale, np.zeros(-len(scale) % _noise.PAIR, scale.dtype))


def bits(a):
    return a.view(f"u{a.itemsize}")


def as_int64(seed):
    return np.uint64(seed).view(np.int64)


# The generator


def known_answers():
    for line in KNOWN_ANSWERS.split("\n")[1:-1]:
        words = [int(word, 16) for word in line.split()]
        yield words[:4], words[4] | words[5] << 32, words[6:]


def test_philox_gives_the_published_answers():
    for counter, seed, answer in known_answers():
        assert [int(word) for word in _noise.philox(counter, seed)] == answer


def test_the_kernels_words_are_the_published_answers():
    """The first, whose counter noise has in its high half, too."""
    _, seed, answer = next(known_answers())
    for dtype in (np.float32, np.float64):
        out = np.empty((4, lanes_of(np.empty(0, dtype))), dtype)
        words_of(out, 0, 0, 0, as_int64(seed))
        assert [int(a) >> 8 * out.itemsize - 32 for a in bits(out)[:, 0]] == answer


@FLOATS
def test_the_kernels_words_are_the_references(dtype):
    rng = np.random.default_rng(0)
    lanes = lanes_of(np.empty(0, dtype))
    out = np.empty((4, lanes), dtype)
    for draw in range(50):
        top = 2**32 if draw % 2 else 8
        call, sequence, step = (int(n) for n in rng.integers(0, top, 3) & ~(lanes - 1))
        seed = int(rng.integers(0, 2**64, dtype=np.uint64))
        words_of(out, call, sequence, step, as_int64(seed))
        calls = np.arange(call, call + lanes)
        expected = _noise.philox((calls, sequence, step, _noise.HIGH), seed)
        if dtype is np.float64:
            low = _noise.philox((calls, sequence, step, _noise.LOW), seed)
            expected = [a << np.uint64(32) | b for a, b in zip(expected, low, strict=True)]
        np.testing.assert_array_equal(bits(out), np.array(expected).astype(bits(out).dtype))


def test_a_float_of_each_type_comes_from_the_same_word():
    noise = fastbptt.Noise(1.0, 3)
    single, double = (noise.draw(30, 20, 100, dtype) for dtype in ("float32", "float64"))
    error = np.abs(single - double)
    assert error.max() < 4e-4
    assert np.mean(error < 1e-6) > 0.97


# Normal numbers


def exact(u, v, dtype):
    """Box and Muller's numbers in the widest type there is, of a u that `dtype` holds."""
    b, wide, pi = 8 * u.itemsize, np.longdouble, np.longdouble("3.14159265358979323846264338327950")
    if b == 32:
        uniform = np.ldexp(u.astype(dtype) + dtype(0.5), -32)
    else:
        low = (u & np.uint64(0xFFFFFFFF)).astype(dtype) + 0.5
        uniform = np.ldexp((u >> np.uint64(32)).astype(dtype) + np.ldexp(low, -32), -32)
    uniform = uniform.astype(wide)
    angle = np.ldexp((v << np.array(2, v.dtype)).view(f"i{v.itemsize}").astype(wide), -b - 1) * pi
    radius = np.sqrt(-2 * np.log(uniform))
    cos, sin = radius * np.cos(angle), radius * np.sin(angle)
    cos = np.where(v >> np.array(b - 1, v.dtype) == 1, -cos, cos)
    swap = v >> np.array(b - 2, v.dtype) & np.array(1, v.dtype) == 1
    return np.where(swap, sin, cos), np.where(swap, cos, sin)


def random_words(dtype, count):
    """Random words, and those at the ends and where formulas change."""
    kind = np.dtype(f"u{np.dtype(dtype).itemsize}")
    b, rng = 8 * kind.itemsize, np.random.default_rng(1)
    ends = [[0], [2**b - 1], [2 ** (b - 1)], [2 ** (b - 2)], [3 * 2 ** (b - 2)], [2 ** (b - 3)]]
    powers = [[1 << i] for i in range(b)]
    roots = [[int(2.0**i * math.sqrt(0.5))] for i in range(8, b)]
    near = np.array([*ends, *powers, *roots], np.uint64) + np.arange(-3, 4).astype(np.uint64)
    near = near.ravel().astype(kind)
    u, v = np.meshgrid(near, near)
    more = (rng.integers(0, 2**b, count, kind) for _ in range(2))
    return [np.concatenate([a.ravel(), m]) for a, m in zip((u, v), more, strict=True)]


def reference_normals(u, v):
    if u.itemsize == 4:
        return _noise.box_muller((u.astype(np.uint64),), (v.astype(np.uint64),))
    low = np.uint64(0xFFFFFFFF)
    return _noise.box_muller(*((a >> np.uint64(32), a & low) for a in (u, v)))


@FLOATS
def test_normal_numbers_have_the_references_bits(dtype):
    u, v = random_words(dtype, 100_000)
    got = np.empty(len(u), dtype), np.empty(len(u), dtype)
    transform(*got, u.view(dtype), v.view(dtype))
    for a, expected in zip(got, reference_normals(u, v), strict=True):
        np.testing.assert_array_equal(bits(a), bits(expected))


@FLOATS
def test_normal_numbers_are_those_of_box_and_muller(dtype):
    if np.finfo(np.longdouble).nmant == np.finfo(dtype).nmant:
        pytest.skip("no type wider than float64 here")
    u, v = random_words(dtype, 100_000)
    for got, expected in zip(reference_normals(u, v), exact(u, v, dtype), strict=True):
        assert np.isfinite(got).all()
        wrong = np.abs(got - expected) / np.spacing(np.abs(got))
        assert wrong.max() <= 4, (u[wrong.argmax()], v[wrong.argmax()], wrong.max())


@FLOATS
def test_the_farthest_numbers(dtype):
    """Of u nearest to 0, and of u nearest to 1, which gives 0."""
    b, kind = np.dtype(dtype).itemsize * 8, np.dtype(f"u{np.dtype(dtype).itemsize}")
    u, v = np.array([0, 2**b - 1], kind), np.zeros(2, kind)
    cos, sin = reference_normals(u, v)
    # float64's u has 32 bits more, to half of the last
    assert cos[0] == pytest.approx(math.sqrt(2 * (b + 1) * math.log(2)), rel=1e-6)
    assert cos[1] == sin[0] == sin[1] == 0


@pytest.mark.slow
def test_every_37th_radius_and_angle_of_float32():
    for first in range(0, 1 << 32, 37 << 20):
        words = np.arange(first, min(first + (37 << 20), 1 << 32), 37, np.uint64).astype(np.uint32)
        same = np.full_like(words, 0x9E3779B9)
        for u, v in ((words, same), (same, words)):
            got = np.empty(len(words), np.float32), np.empty(len(words), np.float32)
            transform(*got, u.view(np.float32), v.view(np.float32))
            for a, expected in zip(got, reference_normals(u, v), strict=True):
                assert np.isfinite(a).all()
                np.testing.assert_array_equal(bits(a), bits(expected))


# Rows


@FLOATS
@pytest.mark.parametrize("H", [1, 3, 8, 15, 16, 17, 31, 33, 49, 64, 65, 100, 130])
def test_rows_have_the_references_bits(dtype, H):
    """Whatever sequences they are of; nothing behind a whole pair is written, nor another row."""
    rng = np.random.default_rng(H)
    scale, seed = rng.uniform(0, 2, H).astype(dtype), 0xFEDCBA9876543210
    noise = fastbptt.Noise(scale, seed, first_step=7, first_sequence=1000)
    index = rng.permutation(9)
    whole = noise.draw(4, 9, H, dtype)
    out = np.full((7, padded(scale).size + 5), 7, dtype)
    for t in range(4):
        fill(out, H, 6, padded(scale), as_int64(seed), 7 + t, 1000, index)
        np.testing.assert_array_equal(bits(out[:6, :H].copy()), bits(whole[t, index[:6]]))
        assert (out[:, -5:] == 7).all()
        assert (out[6] == 7).all()


def test_the_last_steps_and_sequences_there_are():
    last = 2**32 - 1
    noise = fastbptt.Noise(1.0, 2**64 - 1, first_step=last, first_sequence=last)
    out = np.full((1, 32), 7, np.float32)
    fill(
        out,
        20,
        1,
        padded(np.ones(20, np.float32)),
        as_int64(2**64 - 1),
        last,
        last,
        np.zeros(1, int),
    )
    np.testing.assert_array_equal(out[:, :20], noise.draw(1, 1, 20, "float32")[0])


# Prints the bits of noise from the kernels, for whatever CPU Numba is told to compile for.
PROGRAM = """
import json, sys
sys.path[:0] = sys.argv[1:]
import numpy as np
from test_noise import fill, lanes_of, padded
found = []
for dtype in (np.float32, np.float64):
    out = np.empty((3, 128), dtype)
    fill(out, 100, 3, padded(np.full(100, 0.3, dtype)), 5, 9, 2, np.arange(3))
    found.append([lanes_of(out), out[:, :100].tobytes().hex()])
print(json.dumps(found))
"""


@pytest.mark.skipif(
    os.uname().machine != "x86_64" if hasattr(os, "uname") else True, reason="names of x86 CPUs"
)
@pytest.mark.parametrize(("cpu", "width"), [("haswell", 32), ("x86-64", 16)])
def test_the_width_of_vectors_and_fused_operations_change_no_bit(cpu, width):
    folders = [str(Path(fastbptt.__file__).parents[1]), str(Path(__file__).parent)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *folders],
        env={**os.environ, "NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": ""},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    noise = fastbptt.Noise(0.3, 5, first_step=9, first_sequence=2)
    for (lanes, found), dtype in zip(json.loads(done.stdout), ("float32", "float64"), strict=True):
        expected = noise.draw(1, 3, 100, dtype)
        assert lanes * expected.itemsize == width
        assert found == expected.tobytes().hex()


# What a number depends on


@FLOATS
def test_a_number_depends_on_its_place_alone(dtype):
    noise = fastbptt.Noise(0.5, 11)
    whole = noise.draw(12, 10, 70, dtype)
    np.testing.assert_array_equal(noise.draw(12, 10, 5, dtype), whole[:, :, :5])
    np.testing.assert_array_equal(noise.draw(3, 2, 70, dtype), whole[:3, :2])
    part = noise.at(step=4, sequence=7).draw(8, 3, 70, dtype)
    np.testing.assert_array_equal(part, whole[4:, 7:])
    again = noise.at(step=1).at(step=3, sequence=7)
    assert (again.first_step, again.first_sequence) == (4, 7)


@FLOATS
def test_scale_is_for_all_units_or_each(dtype):
    scale = np.array([0, 0.5, 2])
    one = fastbptt.Noise(1, 0).draw(5, 4, 3, dtype)
    each = fastbptt.Noise(scale, 0).draw(5, 4, 3, dtype)
    np.testing.assert_array_equal(each, one * scale.astype(dtype))
    assert each.dtype == dtype
    assert not fastbptt.Noise(0.0, 0).draw(5, 4, 3, dtype).any()


# In a layer


def layer(T, B, I, H, dtype, seed=0):
    rng = np.random.default_rng(seed)
    params = fastbptt.init_params(I, H, dtype=dtype, seed=rng)
    return params, rng.standard_normal((T, B, I)).astype(dtype)


BACKENDS = pytest.mark.parametrize("backend", ["numba", "numpy"])
SHAPES = pytest.mark.parametrize("shape", [(1, 1, 1, 1), (7, 5, 3, 20), (6, 40, 2, 100)], ids=str)


@FLOATS
@BACKENDS
@SHAPES
def test_a_layer_adds_what_is_drawn(backend, shape, dtype):
    """The same bits as an array of it."""
    T, B, _, H = shape
    params, x = layer(*shape, dtype)
    noise = fastbptt.Noise(np.linspace(0, 1, H), 2**63 + 17, first_step=5, first_sequence=3)
    lengths = np.random.default_rng(1).integers(0, T + 1, B)
    for options in ({}, {"lengths": lengths}, {"leak": fastbptt.Leak(0.3)}):
        got = fastbptt.forward(params, x, noise=noise, backend=backend, **options)
        drawn = noise.draw(T, B, H, dtype)
        expected = fastbptt.forward(params, x, noise=drawn, backend=backend, **options)
        np.testing.assert_array_equal(bits(got), bits(expected))


@FLOATS
def test_a_sequences_noise_does_not_depend_on_its_batch_or_on_threads(dtype, monkeypatch):
    always_launch(monkeypatch.setattr)
    params, x = layer(20, 64, 40, 50, dtype)
    noise = fastbptt.Noise(0.5, 1)
    with using(1):
        alone = fastbptt.forward(params, x, noise=noise)
    with using(2):
        np.testing.assert_array_equal(fastbptt.forward(params, x, noise=noise), alone)
    for first, last in ((0, 1), (10, 30), (63, 64)):
        its = noise.at(sequence=first)
        got = fastbptt.forward(params, x[:, first:last], noise=its)
        np.testing.assert_array_equal(got, alone[:, first:last])


def test_windows_of_time_draw_what_the_whole_draws():
    params, x = layer(20, 8, 4, 50, "float32")
    noise = fastbptt.Noise(0.5, 1)
    whole, h = fastbptt.forward(params, x, noise=noise), None
    for t in range(0, 20, 7):
        window = fastbptt.forward(params, x[t : t + 7], h, noise=noise.at(step=t))
        np.testing.assert_array_equal(window[1:], whole[t + 1 : t + 8])
        h = np.ascontiguousarray(window[-1])


def test_gradients_of_a_noisy_layer_are_finite_differences():
    """The noise is a constant: the same at every evaluation."""
    params, x = layer(5, 3, 2, 9, "float64")
    noise, rng = fastbptt.Noise(0.7, 2), np.random.default_rng(3)
    d = rng.standard_normal((5, 3, 9))

    def loss(W_h):
        moved = fastbptt.Params(params.W_x, W_h, params.b)
        return (fastbptt.forward(moved, x, noise=noise)[1:] * d).sum()

    h = fastbptt.forward(params, x, noise=noise)
    gradient = fastbptt.backward(params, x, h, d).params.W_h
    way = rng.standard_normal((9, 9))
    change = (loss(params.W_h + 1e-6 * way) - loss(params.W_h - 1e-6 * way)) / 2e-6
    assert change == pytest.approx((gradient * way).sum(), rel=1e-7)


@pytest.mark.parametrize("last", [False, True])
def test_checkpoints_draw_the_same_noise_again(last):
    params, x = layer(23, 6, 4, 20, "float64")
    noise = fastbptt.Noise(0.5, 8, first_step=2**32 - 23)
    h = fastbptt.forward(params, x, noise=noise)
    dh = h[-1] if last else h[1:]
    expected = fastbptt.backward(params, x, h, dh)
    checkpoints = fastbptt.forward_checkpointed(params, x, noise=noise)
    np.testing.assert_array_equal(checkpoints.h, [*h[:23:5], h[23]])
    got = fastbptt.backward_checkpointed(params, x, checkpoints, dh, noise=noise)
    for a, b in zip((*got.params, got.x, got.h0), (*expected.params, expected.x, expected.h0),
                    strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12 * np.abs(b).max())
    wrong: dict = {"noise": noise.draw(1, 6, 20)}
    with pytest.raises(TypeError, match="noise is a ndarray, expected"):
        fastbptt.forward_checkpointed(params, x, **wrong)


def test_layers_of_a_stack_draw_their_own():
    noise = fastbptt.Noise(0.5, 12, first_step=3, first_sequence=4)
    assert noise.of_layer(0) is noise
    draws = [noise.of_layer(i).draw(50, 20, 100).ravel() for i in range(4)]
    for i, a in enumerate(draws):
        for b in draws[:i]:
            assert abs((a * b).mean()) < 5 * 0.25 / math.sqrt(a.size)
    other = noise.of_layer(2)
    assert (other.scale, other.first_step, other.first_sequence) == (0.5, 3, 4)
    rng = np.random.default_rng(0)
    params, x = layer(9, 5, 4, 20, "float64")
    above = fastbptt.init_params(20, 20, dtype="float64", seed=rng)
    passed = Stack([params, above]).forward(x, noise=noise)
    first = fastbptt.forward(params, x, noise=noise)
    np.testing.assert_array_equal(passed.h[0], first)
    second = fastbptt.forward(above, first[1:], noise=noise.of_layer(1))
    np.testing.assert_array_equal(passed.h[1], second)


@pytest.mark.parametrize(
    ("noise", "error", "message"),
    [
        (0.1, TypeError, "noise is a float, expected a numpy.ndarray or a fastbptt.Noise"),
        (fastbptt.Noise(np.ones(6), 0), ValueError, r"scale of shape \(6,\), expected \(5,\)"),
        (fastbptt.Noise(1e39, 0), ValueError, "too large for float32"),
        (fastbptt.Noise(1, 0, 2**32 - 2), ValueError, "the last step has number 4294967296"),
        (fastbptt.Noise(1, 0, 0, 2**32 - 1), ValueError, "the last sequence has number"),
    ],
)
@BACKENDS
def test_wrong_noise_of_a_layer(noise, error, message, backend):
    params, x = layer(3, 2, 4, 5, "float32")
    out = np.full((4, 2, 5), 7, np.float32)
    with pytest.raises(error, match=message):
        fastbptt.forward(params, x, noise=noise, backend=backend, out=out)
    assert (out == 7).all()


# Statistics: of fixed seeds, so that each test always passes or always fails.  Bounds are five
# standard deviations of what is measured, where it is of independent normal numbers.


def sample(dtype, seed=0):
    """(T, B, H)."""
    return fastbptt.Noise(1.0, seed).draw(MANY // 16_000, 100, 160, dtype)


def normal_cdf(z):
    return 0.5 * (1 + np.array([math.erf(value) for value in z / math.sqrt(2)]))


@FLOATS
def test_numbers_pass_kolmogorov_and_smirnov(dtype):
    z = np.sort(sample(dtype).ravel()[::10].astype(np.float64))
    n, cdf = len(z), normal_cdf(z)
    ranks = np.arange(n)
    distance = max((cdf - ranks / n).max(), ((ranks + 1) / n - cdf).max())
    assert distance * math.sqrt(n) < 1.95  # beyond in 0.1 % of samples


@FLOATS
@pytest.mark.parametrize(
    # E z^k, and the variance of z^k
    ("power", "mean", "variance"), [(1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)],
)  # fmt: skip
def test_moments(dtype, power, mean, variance):
    z = sample(dtype).astype(np.float64)
    assert abs((z**power).mean() - mean) < 5 * math.sqrt(variance / z.size)


@FLOATS
def test_moments_of_every_unit_in_a_block(dtype):
    """Each word of a call, each half of a pair."""
    z = sample(dtype).reshape(-1, 160)
    n = len(z)
    assert np.abs(z.mean(axis=0)).max() < 5 / math.sqrt(n)
    assert np.abs((z**2).mean(axis=0) - 1).max() < 5 * math.sqrt(2 / n)


@FLOATS
@pytest.mark.parametrize("function", [lambda z: z, lambda z: (z**2 - 1) / math.sqrt(2)],
                         ids=["values", "squares"])  # fmt: skip
def test_no_correlation_along_steps_sequences_or_units(dtype, function):
    z = function(sample(dtype).astype(np.float64))
    T, B, H = z.shape
    for axis, size in enumerate((T, B, H)):
        for lag in (1, 2, 3, 4, 8, 16, 17, 32, 48, 64, 96):
            if lag < size:
                a = np.take(z, range(lag, size), axis)
                b = np.take(z, range(size - lag), axis)
                assert abs((a * b).mean()) < 5 / math.sqrt(a.size), (axis, lag)
    diagonal = z[1:, 1:, 1:] * z[:-1, :-1, :-1]
    assert abs(diagonal.mean()) < 5 / math.sqrt(diagonal.size)


@FLOATS
def test_no_correlation_between_seeds(dtype):
    z = sample(dtype, seed=12)
    for other in (13, 12 + 2**32, 12 + 2**63, 0, 12 << 32):
        product = z * sample(dtype, seed=other)
        assert abs(product.mean(dtype=np.float64)) < 5 / math.sqrt(product.size)


def test_no_correlation_between_a_call_and_the_next_counter_word():
    """Step and sequence exchanged."""
    z = fastbptt.Noise(1.0, 4).draw(100, 100, 100)
    a = z[~np.eye(100, dtype=bool)]
    b = z.transpose(1, 0, 2)[~np.eye(100, dtype=bool)]
    assert abs((a * b).mean()) < 5 * math.sqrt(2 / a.size)  # each product is there twice


@FLOATS
@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_tails(dtype, limit):
    z = sample(dtype)
    for count in (np.count_nonzero(z > limit), np.count_nonzero(z < -limit)):
        expected = z.size * math.erfc(limit / math.sqrt(2)) / 2
        assert abs(count - expected) < 5 * math.sqrt(expected)


# The class


def test_it_is_copied_and_pickled():
    noise = fastbptt.Noise(np.array([0.1, 0.2]), 5, 6, 7)
    for other in (copy.deepcopy(noise), pickle.loads(pickle.dumps(noise))):
        np.testing.assert_array_equal(other.draw(2, 2, 2), noise.draw(2, 2, 2))


def test_a_later_change_of_the_scale_given_changes_nothing():
    scale = np.ones(3)
    noise = fastbptt.Noise(scale, 0)
    scale[:] = 5
    kept = np.asarray(noise.scale)
    np.testing.assert_array_equal(kept, 1)
    assert not kept.flags.writeable


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((-0.1, 0), ValueError, "scale is -0.1, expected at least 0"),
        ((math.nan, 0), ValueError, "scale is nan"),
        ((math.inf, 0), ValueError, "scale is inf"),
        (("1", 0), TypeError, "scale is '1', expected a number"),
        ((np.ones((2, 3)), 0), ValueError, r"shape \(2, 3\), expected a number or \(H,\)"),
        ((np.array([1, -1.0]), 0), ValueError, r"scale\[1\] is -1.0, expected at least 0"),
        ((np.array(["a"]), 0), TypeError, "scale has dtype <U1"),
        ((1.0, -1), ValueError, "seed is -1, expected at least 0"),
        ((1.0, 2**64), ValueError, r"seed is 18446744073709551616, expected 0 to 2\^64 - 1"),
        ((1.0, 0.5), TypeError, "seed is 0.5, expected an integer"),
        ((1.0, 0, 2**32), ValueError, r"first_step is 4294967296, expected 0 to 2\^32 - 1"),
        ((1.0, 0, 0, -1), ValueError, "first_sequence is -1, expected at least 0"),
    ],
)  # fmt: skip
def test_wrong_arguments(arguments, error, message):
    with pytest.raises(error, match=message):
        fastbptt.Noise(*arguments)


def test_wrong_draws():
    noise = fastbptt.Noise(np.ones(3), 0, first_step=2**32 - 2)
    assert noise.draw(2, 1, 3).shape == (2, 1, 3)
    with pytest.raises(ValueError, match="the last step has number 4294967296"):
        noise.draw(3, 1, 3)
    with pytest.raises(ValueError, match=r"scale of shape \(3,\), expected \(4,\)"):
        noise.draw(1, 1, 4)
    with pytest.raises(ValueError, match="scale of 1e\\+200, too large for float32"):
        fastbptt.Noise(1e200, 0).draw(1, 1, 1, "float32")
    with pytest.raises(ValueError, match="the last sequence has number 4294967296"):
        fastbptt.Noise(1.0, 0).at(sequence=2**32 - 1).draw(1, 2, 1)
    assert fastbptt.Noise(1.0, 0).draw(0, 0, 0).shape == (0, 0, 0)
