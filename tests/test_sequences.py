"""Data sets: the forms they come in, what they are turned into, and what is refused."""

import numpy as np
import pytest

from fastbptt import _sequences
from fastbptt._criterion import Criterion
from fastbptt._sequences import Sequences

F4, F8 = np.dtype("float32"), np.dtype("float64")
mse, cross_entropy = Criterion("mse"), Criterion("cross_entropy")
ARRAYS = [np.arange(6.0).reshape(3, 2), np.zeros((0, 2)), np.arange(10.0, 14.0).reshape(2, 2)]
LENGTHS = [3, 0, 2]


def padded(arrays, T, value=np.nan):
    """(N, T, ...) that holds arrays of unequal length."""
    full = np.full((len(arrays), T, *arrays[0].shape[1:]), value)
    for row, a in zip(full, arrays, strict=True):
        row[: len(a)] = a
    return full


def read(x: Sequences, index=None):
    """The steps that count of some sequences, as a list."""
    index = np.arange(len(x)) if index is None else np.array(index, int)
    batch = x[index]
    return [batch[: x.lengths[n], b] for b, n in enumerate(index)]


def assert_holds(got, expected, dtype):
    for a, b in zip(read(got), expected, strict=True):
        np.testing.assert_array_equal(a, np.asarray(b, dtype), strict=True)
    np.testing.assert_array_equal(got.lengths, list(map(len, expected)))
    assert got.lengths.dtype == np.int64


# Minibatches


@pytest.mark.parametrize("form", ["list", "padded"])
def test_a_minibatch_is_time_major(form):
    given = (ARRAYS, None) if form == "list" else (padded(ARRAYS, 4), LENGTHS)
    x = _sequences.inputs(*given, 2, F8)
    assert len(x) == 3
    for index in ([0, 1, 2], [2, 0], [0, 0, 2], [1], [2]):
        got = x[np.array(index)]
        lengths = [LENGTHS[n] for n in index]
        assert got.shape == (max(lengths), len(index), 2)
        for b, n in enumerate(index):
            np.testing.assert_array_equal(got[: LENGTHS[n], b], ARRAYS[n])
    assert x[np.array([], int)].shape == (0, 0, 2)


def test_lengths_of_a_minibatch():
    x = _sequences.inputs(padded(ARRAYS, 4), [3, 1, 3], 2, F8)
    np.testing.assert_array_equal(x.lengths_of(np.array([1, 0])), [1, 3])
    assert x.lengths_of(np.array([0, 2])) is None
    alike = _sequences.inputs(padded(ARRAYS, 4), [2, 2, 2], 2, F8)
    assert alike.lengths_of(np.array([0, 2])) is None
    assert _sequences.inputs([], None, 2, F8).lengths_of(np.array([], int)) is None


def test_a_minibatch_is_a_copy():
    given = np.zeros((3, 4, 2))
    x = _sequences.inputs(given, None, 2, F8)
    x[np.arange(3)][...] = 1
    assert not given.any()
    y = _sequences.targets(given, x, "all", 2, mse, F8)
    y[np.arange(3)][...] = 1
    assert not given.any()


# Inputs


@pytest.mark.parametrize("dtype", [F4, F8])
def test_inputs_in_any_form(dtype):
    for T in (3, 5):
        assert_holds(_sequences.inputs(padded(ARRAYS, T), LENGTHS, 2, dtype), ARRAYS, dtype)
    for given in (ARRAYS, tuple(ARRAYS), [ARRAYS[0].tolist(), ARRAYS[1], ARRAYS[2].tolist()]):
        assert_holds(_sequences.inputs(given, None, 2, dtype), ARRAYS, dtype)
    full = np.arange(24).reshape(4, 3, 2)
    for given in (full, full.tolist(), list(full), full[::-1].copy()[::-1], full.astype(">f8")):
        assert_holds(_sequences.inputs(given, None, 2, dtype), list(full), dtype)


def test_inputs_of_one_feature():
    column = np.arange(5.0)[:, None]
    expected = [column[:2], column[2:]]
    for given in ([[0, 1], [2, 3, 4]], [np.arange(2), np.arange(2.0, 5)], expected):
        assert_holds(_sequences.inputs(given, None, 1, F4), expected, F4)
    got = _sequences.inputs([[0, 1, 9], [2, 3, 4]], None, 1, F4)
    assert_holds(got, [[[0], [1], [9]], [[2], [3], [4]]], F4)
    got = _sequences.inputs(np.array([[0, 1, 9], [2, 3, 4]]), np.array([2, 3], np.uint8), 1, F4)
    assert_holds(got, expected, F4)


def test_no_inputs():
    for x in (
        _sequences.inputs([], None, 2, F4),
        _sequences.inputs(np.zeros((0, 5, 2)), None, 2, F4),
        _sequences.inputs(np.zeros((0, 5, 2)), [], 2, F4),
    ):
        assert len(x) == 0
    for x in (
        _sequences.inputs([[], []], None, 1, F4),
        _sequences.inputs(np.zeros((2, 0)), None, 1, F4),
        _sequences.inputs(np.zeros((2, 3)), [0, 0], 1, F4),
    ):
        assert_holds(x, [np.zeros((0, 1))] * 2, F4)


@pytest.mark.parametrize(
    ("x", "lengths", "size", "error", "words"),
    [
        (np.zeros((3, 4)), None, 2, ValueError,
         "x has shape (3, 4), expected (N, T, I) with I = 2, (N, T) of integers, or"),
        (np.zeros((3, 2)), None, 2, ValueError,
         "or a list of arrays: pass [x] for one sequence of 3 steps"),
        (np.array([np.zeros(3), np.zeros(2)], object), None, 1, TypeError,
         "x is an array of objects, expected numbers, or a list: pass [*x]"),
        (np.zeros((3, 4, 2)), None, 1, ValueError,
         "x has shape (3, 4, 2), expected (N, T, I) or (N, T) with I = 1, or a list of arrays"),
        (np.zeros(3), None, 1, ValueError, "x has shape (3,), expected (N, T, I) or (N, T) with"),
        (3.0, None, 1, ValueError, "x has shape (), expected (N, T, I) or (N, T)"),
        (None, None, 1, TypeError, "x has dtype object, expected real numbers"),
        (np.array(["a"]), None, 1, TypeError, "x has dtype <U1, expected real numbers"),
        (np.zeros((1, 2, 1), complex), None, 1, TypeError, "x has dtype complex128"),
        (np.ma.masked_array(np.zeros((1, 2))), None, 1, TypeError, "x is a MaskedArray"),
        ([1.0, 2.0], None, 1, ValueError, "x[0] has shape (), expected (T, 1)"),
        ([[[1.0, 2.0]], [1.0, 2.0]], None, 2, ValueError, "x[1] has shape (2,), expected (T, 2)"),
        ([[[1.0, 2.0]], []], None, 2, ValueError, "x[1] has shape (0,), expected (T, 2)"),
        ([[[1.0, 2.0, 3.0]]], None, 2, ValueError, "x[0] has shape (1, 3), expected (T, 2)"),
        ([[0.0], [[1.0], [1.0, 2.0]]], None, 1, ValueError, "x[1] is ragged, expected an array"),
        ([[0.0], ["a"]], None, 1, TypeError, "x[1] has dtype <U1, expected real numbers"),
        ([[0.0], None], None, 1, TypeError, "x[1] has dtype object, expected real numbers"),
        ([[0.0], np.ma.masked_array([0.0])], None, 1, TypeError, "x[1] is a MaskedArray"),
        ([[0.0]], [1], 1, ValueError, "lengths is given with a list x"),
        (np.zeros((2, 3)), [3, 4], 1, ValueError, "lengths[1] is 4, expected 0 to 3: T of x"),
        (np.zeros((2, 3)), [3, -1], 1, ValueError, "lengths[1] is -1, expected 0 to 3: T of x"),
        (np.zeros((2, 3)), [3], 1, ValueError, "lengths has shape (1,), expected (2,): one for"),
        (np.zeros((2, 3)), 3, 1, ValueError, "lengths has shape (), expected (2,): one for"),
        (np.zeros((2, 3)), [3, 2.0], 1, TypeError, "lengths has dtype float64, expected integers"),
        (np.zeros((2, 3)), [True, True], 1, TypeError, "lengths has dtype bool, expected integer"),
        (np.zeros((2, 3)), [[3], [1, 2]], 1, ValueError, "lengths is ragged"),
        (np.zeros((2, 3)), np.ma.masked_array([3, 2]), 1, TypeError, "lengths is a MaskedArray"),
        (np.zeros((2, 3)), ["3", "2"], 1, TypeError, "lengths has dtype <U1, expected integers"),
        (np.zeros((2, 3)), np.array([3, 2**64 - 1], np.uint64), 1, ValueError, "lengths[1] is 18"),
    ],
)  # fmt: skip
def test_inputs_that_do_not_fit(x, lengths, size, error, words):
    with pytest.raises(error) as caught:
        _sequences.inputs(x, lengths, size, F4)
    assert words in str(caught.value)


# Targets


def inputs_of(lengths):
    return _sequences.inputs([np.zeros((n, 1)) for n in lengths], None, 1, F4)


@pytest.mark.parametrize("dtype", [F4, F8])
def test_targets_of_the_last_step(dtype):
    x = inputs_of(LENGTHS)
    y = np.arange(6).reshape(3, 2)
    for given in (y, y.tolist(), list(y), y.astype("float64")):
        got = _sequences.targets(given, x, "last", 2, mse, dtype)
        np.testing.assert_array_equal(got, y.astype(dtype), strict=True)
    for given in (np.arange(3), [0, 1, 2], [[0], [1], [2]], (0.0, 1.0, 2.0)):
        got = _sequences.targets(given, x, "last", 1, mse, dtype)
        np.testing.assert_array_equal(got, np.arange(3.0)[:, None].astype(dtype), strict=True)


@pytest.mark.parametrize("dtype", [F4, F8])
def test_targets_of_every_step(dtype):
    x = inputs_of(LENGTHS)
    for given in (ARRAYS, [a.astype(int) for a in ARRAYS], padded(ARRAYS, 3), padded(ARRAYS, 5)):
        assert_holds(_sequences.targets(given, x, "all", 2, mse, dtype), ARRAYS, dtype)
    column = [a[:, :1] for a in ARRAYS]
    flat = [a[:, 0] for a in ARRAYS]
    for given in (column, flat, [a.tolist() for a in flat], padded(flat, 4), padded(column, 4)):
        assert_holds(_sequences.targets(given, x, "all", 1, mse, dtype), column, dtype)


def test_classes():
    x = inputs_of(LENGTHS)
    for size in (1, 4):
        got = _sequences.targets([2, 0, 3], x, "last", size, cross_entropy, F4)
        np.testing.assert_array_equal(got, np.array([2, 0, 3], np.int64), strict=True)
        classes = [np.array([1, 2, 3]), np.array([], int), np.array([0, 3])]
        for given in (classes, [a.tolist() for a in classes], padded(classes, 4, 7).astype("u1")):
            got = _sequences.targets(given, x, "all", size, cross_entropy, F4)
            assert_holds(got, classes, np.int64)
        unsigned = padded(classes, 4, 7).astype("u8")
        unsigned[1], unsigned[2, 2:] = 2**64 - 1, 2**63  # past a sequence's length anything goes
        assert_holds(_sequences.targets(unsigned, x, "all", size, cross_entropy, F4), classes, "i8")
        first_empty = [[], [1, 2]]  # to NumPy, a list without numbers in it has floats
        got = _sequences.targets(first_empty, inputs_of([0, 2]), "all", size, cross_entropy, F4)
        assert_holds(got, first_empty, np.int64)


def test_probabilities():
    x = inputs_of([2, 1])
    y = [np.array([[0, 1, 0], [1, 0, 0]]), np.array([[0, 0, 1]])]
    assert_holds(_sequences.targets(y, x, "all", 3, cross_entropy, F4), y, F4)
    got = _sequences.targets(y[0], x, "last", 3, cross_entropy, F4)
    np.testing.assert_array_equal(got, y[0].astype(F4), strict=True)


WITHOUT = ", or integer classes without the last axis"


@pytest.mark.parametrize(
    ("output", "size", "loss", "y", "error", "words"),
    [
        ("last", 2, mse, np.zeros((2, 2)), ValueError,
         "y has shape (2, 2), expected (N, O) with N = 3, as in x, and O = 2"),
        ("last", 2, mse, np.zeros(3), ValueError, "y has shape (3,), expected (N, O) with N = 3"),
        ("last", 1, mse, np.zeros((3, 2)), ValueError,
         "y has shape (3, 2), expected (N, O) or (N,) with N = 3, as in x, and O = 1"),
        ("last", 1, mse, 0.0, ValueError, "y has shape (), expected (N, O) or (N,) with N = 3"),
        ("last", 1, mse, None, TypeError, "y has dtype object, expected real numbers"),
        ("last", 1, mse, [1, [2, 3], 4], ValueError, "y is ragged, expected an array or a list"),
        ("last", 1, mse, ["a"] * 3, TypeError, "y has dtype <U1, expected real numbers"),
        ("last", 1, mse, np.ma.masked_array(np.zeros(3)), TypeError, "y is a MaskedArray"),
        ("last", 2, mse, [0, 1, 0], ValueError, "y has shape (3,), expected (N, O) with N = 3"),
        ("last", 2, cross_entropy, [0.0, 1.0, 0.0], ValueError,
         f"y has shape (3,), expected (N, O) with N = 3, as in x, and O = 2{WITHOUT}"),
        ("last", 2, cross_entropy, [0, 1], ValueError, f"and O = 2{WITHOUT}"),
        ("all", 2, mse, np.zeros((3, 2)), ValueError,
         "y has shape (3, 2), expected (N, T, O) with N = 3, as in x, and O = 2"),
        ("all", 1, mse, np.zeros((2, 3)), ValueError,
         "y has shape (2, 3), expected (N, T, O) or (N, T) with N = 3, as in x, and O = 1"),
        ("all", 1, mse, np.zeros((3, 2)), ValueError,
         "y has shape (3, 2), expected T of at least 3, x's longest"),
        ("all", 2, cross_entropy, np.zeros((3, 3)), ValueError, f"and O = 2{WITHOUT}"),
        ("all", 1, mse, [[1, 2, 3], []], ValueError,
         "y has sequences of lengths [3, 0], expected x's [3, 0, 2]"),
        ("all", 1, mse, [[1, 2, 3], [], [1]], ValueError,
         "y has sequences of lengths [3, 0, 1], expected x's [3, 0, 2]"),
        ("all", 1, mse, [[1, 2, 3], [], [1, "a"]], TypeError, "y[2] has dtype <U"),
        ("all", 2, mse, [[[1, 2]] * 3, np.zeros((0, 2)), [[1], [2]]], ValueError,
         "y[2] has shape (2, 1), expected (T, 2)"),
        ("all", 2, mse, [[1, 1, 0], [], [0, 1]], ValueError, "y[0] has shape (3,), expected (T, 2"),
        ("all", 2, cross_entropy, [[1, 1, 0], [], [0.0, 1.2]], ValueError,
         "y[0] has shape (3,), expected (T, 2)"),
        ("all", 2, cross_entropy, [[1, 1, 0], [], [[0, 1], [1, 0]]], ValueError,
         "y[0] has shape (3,), expected (T, 2)"),
        ("last", 2, cross_entropy, np.array([0, 2**64 - 1, 1], ">u8"), ValueError,
         "y has class 18446744073709551615, expected 0 to 1"),
        ("all", 2, cross_entropy, [[1, 1, 0], [], np.array([0, 2**63], np.uint64)], ValueError,
         "y has class 9223372036854775808, expected 0 to 1"),
        ("all", 2, cross_entropy, np.array([[1, 1, 0], [0, 0, 0], [0, 2**64 - 1, 0]], np.uint64),
         ValueError, "y has class 18446744073709551615, expected 0 to 1"),
    ],
)  # fmt: skip
def test_targets_that_do_not_fit(output, size, loss, y, error, words):
    with pytest.raises(error) as caught:
        _sequences.targets(y, inputs_of(LENGTHS), output, size, loss, F4)
    assert words in str(caught.value)


@pytest.mark.parametrize("T", [4, 6])
def test_targets_of_an_array_with_other_steps(T):
    x = _sequences.inputs(np.zeros((3, 5, 2)), [3, 0, 2], 2, F4)
    with pytest.raises(ValueError, match=f"y has shape .3, {T}, 1., expected T = 5, as in x"):
        _sequences.targets(np.zeros((3, T, 1)), x, "all", 1, mse, F4)


def test_inputs_are_the_same_numbers_as_a_window():
    rng = np.random.default_rng(0)
    long = rng.standard_normal((3, _sequences.MOST_BYTES // 8 + 1, 1))
    short = rng.standard_normal((5, 7, 2))
    tokens = rng.integers(0, 4, (5, 7))
    for found in (
        _sequences.inputs(short, None, 2, F8),
        _sequences.inputs(short, None, 2, F8).part(slice(1, 4)),
        _sequences.inputs(short, [7, 2, 0, 5, 7], 2, F8),
        _sequences.inputs(short, [4] * 5, 2, F8),  # of equal length, but not close together
        _sequences.inputs([*short], None, 2, F8),
        _sequences.inputs(short[:, :0], None, 2, F8),
        _sequences.inputs(long, None, 1, F8),
        _sequences.inputs(tokens, None, 4, F8),
    ):
        for index in ([2, 0, 2], [1], []):
            for given in ((), (2,), (2, 3)):
                got = found.inputs(np.array(index, int), *given)
                expected = found.window(np.array(index, int), *given)
                assert got.dtype == expected.dtype
                np.testing.assert_array_equal(got, expected)
                assert not np.shares_memory(got, found.steps)
