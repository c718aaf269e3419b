"""Checkpointed passes give what the plain ones do, from few states, and turn the same away."""

import doctest
import inspect
import math
from typing import Any

import numpy as np
import pytest
from measure import central_differences, peak

import fastbptt
from fastbptt import Leak, backward_checkpointed, checkpointed, forward_checkpointed, rnn
from fastbptt._stack import Stack
from fastbptt.checkpointed import (
    Checkpoints,
    backward_windows,
    forward_windows,
    window_size,
    windows,
)

T, B, I, H = 7, 4, 2, 5
STEPS = pytest.mark.parametrize("T", [0, 1, 2, 3, 4, 5, 16, 17, 100])
BACKENDS = pytest.mark.parametrize("backend", list(rnn.BACKENDS))
DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def draw(T=T, dtype="float64"):
    """Weights, inputs and an initial state."""
    rng = np.random.default_rng(0)
    params = fastbptt.init_params(I, H, dtype=dtype, seed=1)
    params.b[...] = rng.standard_normal(H)
    x, h0 = rng.standard_normal((T, B, I)), rng.standard_normal((B, H))
    return params, x.astype(dtype), h0.astype(dtype)


def draw_lengths(T):
    """None; and all steps, none, and some."""
    return None, np.array([T, 0, (T + 1) // 2, max(T - 1, 0)])


def flat(gradients):
    return [a for a in (*gradients.params, gradients.x, gradients.h0) if a is not None]


def assert_close(got, expected, tolerance):
    for a, b in zip(flat(got), flat(expected), strict=True):
        scale = np.abs(b).max(initial=1e-300)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * scale, strict=True)


@STEPS
@DTYPES
@BACKENDS
def test_states_at_the_starts_of_windows(T, dtype, backend):
    params, x, h0 = draw(T, dtype)
    for lengths in draw_lengths(T):
        for activation in ("tanh", "relu"):
            for initial in (None, h0):
                given = {"lengths": lengths, "activation": activation, "backend": backend}
                h = fastbptt.forward(params, x, initial, **given)
                got = forward_checkpointed(params, x, initial, **given)
                starts = list(range(0, max(T, 1), got.steps))
                np.testing.assert_array_equal(got.h, h[[*starts, T]], strict=True)


@STEPS
@DTYPES
@BACKENDS
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_gradients(T, dtype, backend, activation):
    params, x, h0 = draw(T, dtype)
    every = np.random.default_rng(2).standard_normal((T, B, H)).astype(dtype)
    last = np.random.default_rng(3).standard_normal((B, H)).astype(dtype)
    for lengths in draw_lengths(T):
        given: Any = {"lengths": lengths, "activation": activation, "backend": backend}
        h = fastbptt.forward(params, x, h0, **given)
        checkpoints = forward_checkpointed(params, x, h0, **given)
        for dh in (every, last):
            expected = fastbptt.backward(params, x, h, dh, **given)
            got = backward_checkpointed(params, x, checkpoints, dh, **given)
            assert isinstance(got, fastbptt.Gradients)
            assert isinstance(got.params, fastbptt.Params)
            assert_close(got, expected, TOLERANCE[dtype])
            rest = backward_checkpointed(params, x, checkpoints, dh, need_dx=False, **given)
            assert rest.x is None
            for a, b in zip(flat(rest), flat(got._replace(x=None)), strict=True):
                np.testing.assert_array_equal(a, b)
        by_window = backward_checkpointed(
            params, x, checkpoints, lambda t, h: every[t : t + len(h)], **given
        )
        at_once = backward_checkpointed(params, x, checkpoints, every, **given)
        for a, b in zip(flat(by_window), flat(at_once), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("lengths", [None, [7, 0, 3, 6]], ids=["full", "ragged"])
def test_gradients_agree_with_central_differences(lengths):
    """loss = sum(h[1:]**4) / 4 over what counts, whose gradient is computed from the states."""
    params, x, h0 = draw()
    counts = np.arange(T)[:, None] < (np.full(B, T) if lengths is None else np.array(lengths))

    def loss():
        return (fastbptt.forward(params, x, h0, lengths=lengths)[1:][counts] ** 4).sum() / 4

    checkpoints = forward_checkpointed(params, x, h0, lengths=lengths)
    got = backward_checkpointed(params, x, checkpoints, lambda t, h: h**3, lengths=lengths)
    for a, gradient in zip((*params, x, h0), flat(got), strict=True):
        expected = central_differences(loss, a)
        assert expected.any()
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)


def test_what_the_callable_is_given():
    """Windows from the last to the first, with the states that the forward pass has there."""
    params, x, h0 = draw()
    h = fastbptt.forward(params, x, h0)
    checkpoints = forward_checkpointed(params, x, h0)
    seen = []

    def dh(t, states):
        np.testing.assert_array_equal(states, h[1 + t : 1 + t + len(states)], strict=True)
        seen.append((t, len(states)))
        return np.zeros_like(states)

    backward_checkpointed(params, x, checkpoints, dh)
    assert checkpoints.steps == 3
    assert seen == [(6, 1), (3, 3), (0, 3)]


def test_gradients_that_the_callable_returns_are_left_as_they_are():
    params, x, h0 = draw()
    dh = np.ones((T, B, H))
    dh.flags.writeable = False
    checkpoints = forward_checkpointed(params, x, h0)
    backward_checkpointed(params, x, checkpoints, dh)
    backward_checkpointed(params, x, checkpoints, lambda t, h: dh[t : t + len(h)])
    backward_checkpointed(params, x, checkpoints, dh[0])


def test_no_sequences():
    params, x, _ = draw()
    x = x[:, :0]
    for lengths in (None, []):
        checkpoints = forward_checkpointed(params, x, lengths=lengths)
        assert checkpoints.h.shape == (4, 0, H)
        got = backward_checkpointed(params, x, checkpoints, np.zeros((0, H)), lengths=lengths)
        assert not any(a.any() for a in got.params)
        assert (got.x.shape, got.h0.shape) == ((T, 0, I), (0, H))  # pyright: ignore


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "uint64"])
def test_lengths_of_any_integer(dtype):
    params, x, h0 = draw(100)
    lengths = np.array([100, 0, 50, 11], dtype)
    got = forward_checkpointed(params, x, h0, lengths=lengths)
    expected = fastbptt.forward(params, x, h0, lengths=lengths)
    np.testing.assert_array_equal(got.h[-1], expected[-1])
    dh = np.ones((B, H))
    gradients = backward_checkpointed(params, x, got, dh, lengths=lengths)
    assert_close(gradients, fastbptt.backward(params, x, expected, dh, lengths=lengths), 1e-12)


@pytest.mark.parametrize("T", [0, 1, 7, 30])
@pytest.mark.parametrize("of", ["rate", "potential"])
@pytest.mark.parametrize("last_only", [False, True], ids=["every step", "last step"])
def test_leaky_units(last_only, of, T):
    params, x, h0 = draw(T)
    leak = Leak(np.random.default_rng(0).uniform(0.1, 1, H), of)
    for lengths in draw_lengths(T):
        options: Any = {"lengths": lengths, "leak": leak, "activation": "softplus"}
        v = np.empty((T + 1, B, H))
        h = fastbptt.forward(params, x, h0, v=v if of == "potential" else None, **options)
        dh = np.random.default_rng(1).standard_normal((B, H) if last_only else (T, B, H))
        expected = fastbptt.backward(params, x, h, dh, **options)
        got = forward_checkpointed(params, x, h0, **options)
        carried = v if of == "potential" else h
        np.testing.assert_array_equal(got.h[:-1], carried[: max(T, 1) : got.steps])
        np.testing.assert_array_equal(got.h[-1], carried[-1])
        assert_close(backward_checkpointed(params, x, got, dh, **options), expected, 1e-12)


@pytest.mark.parametrize("T", [0, 1, 7])
@pytest.mark.parametrize("with_dropout", [False, True])
@pytest.mark.parametrize("ends", ["outputs", "last", "both"])
@pytest.mark.parametrize("leak", [None, Leak(0.4), Leak(0.4, "potential")], ids=str)
def test_a_stack_of_layers(leak, ends, with_dropout, T):
    """In windows a stack gives what it gives at once; the generator ends in the same state."""
    params, x, _ = draw(T)
    layers = [params, fastbptt.init_params(H, H, dtype="float64", seed=2)]
    stack, rng = Stack(layers, dropout=0.4, leak=leak), np.random.default_rng(2)
    h0, dlast, dh = (rng.standard_normal(shape) for shape in ((2, B, H), (2, B, H), (T, B, H)))
    generators = [np.random.default_rng(3) if with_dropout else None for _ in range(2)]
    for lengths in draw_lengths(T):
        given: Any = {"lengths": lengths, "rng": generators[0]}
        passed = stack.forward(x, h0, **given)
        expected: Any = stack.backward(
            passed, None if ends == "last" else dh, None if ends == "outputs" else dlast
        )
        starts, found, given["rng"] = [], [], generators[1]
        for part in forward_windows(stack, x, h0, steps=3, starts=starts, **given):
            found.append(stack.outputs(part).copy())
            last = part.last
        np.testing.assert_array_equal(np.concatenate(found), stack.outputs(passed))
        np.testing.assert_array_equal(last, passed.last)
        got: Any = backward_windows(
            stack, x, starts, None if ends == "last" else lambda t, h: dh[t : t + len(h)],
            None if ends == "outputs" else dlast, lengths=lengths, steps=3,
        )  # fmt: skip
        for a, b in zip(got.layers, expected.layers, strict=True):
            for each, other in zip(a, b, strict=True):
                np.testing.assert_allclose(each, other, rtol=0, atol=1e-12)
        np.testing.assert_allclose(got.x, expected.x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(got.h0, expected.h0, rtol=0, atol=1e-12)
    if with_dropout:
        states = [rng.bit_generator.state for rng in generators if rng is not None]
        assert states[0] == states[1]


def test_what_lies_past_a_sequence_changes_no_bit():
    params, x, h0 = draw()
    lengths = np.array([7, 0, 3, 6])
    dh = np.ones((T, B, H))
    past = np.arange(T)[:, None] >= lengths
    results = []
    for value in (0, np.nan):
        x[past] = dh[past] = value
        checkpoints = forward_checkpointed(params, x, h0, lengths=lengths)
        gradients = backward_checkpointed(params, x, checkpoints, dh, lengths=lengths)
        results.append([checkpoints.h, *flat(gradients)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not results[0][4][past].any(), "dx past a sequence's length: expected 0"


def test_memory():
    T, B, H = 20_000, 2, 64
    params = fastbptt.init_params(1, H, seed=0)
    x = np.ones((T, B, 1), np.float32)

    def gradients():
        checkpoints = forward_checkpointed(params, x)
        backward_checkpointed(params, x, checkpoints, lambda t, h: h, need_dx=False)

    assert peak(gradients) < (T * B * H * 4) / 8


@pytest.mark.parametrize(
    ("T", "steps"), [(0, 1), (1, 1), (2, 2), (4, 2), (5, 3), (9, 3), (10, 4), (10_000, 100)]
)
def test_window_size(T, steps):
    assert window_size(T) == steps
    assert steps == max(math.ceil(math.sqrt(T)), 1)


def test_windows():
    x = np.arange(14).reshape(7, 2)
    got: Any = list(windows(x, np.array([7, 4]), 3))
    assert [len(w) for w, _ in got] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate([w for w, _ in got]), x)
    assert [clipped.tolist() for _, clipped in got] == [[3, 3], [3, 1], [1, 0]]
    assert [clipped for _, clipped in windows(x, None, 3)] == [None] * 3
    [(nothing, clipped)] = windows(x[:0], np.array([0, 0]), 3)
    assert nothing.shape == (0, 2)
    np.testing.assert_array_equal(clipped, [0, 0])


# What does not fit


@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("params", None, TypeError, "params is a NoneType, expected Params(W_x, W_h, b)"),
        ("x", None, TypeError, "x is a NoneType, expected a numpy.ndarray"),
        ("x", np.zeros((T, B, I)).tolist(), TypeError, "x is a list, expected a numpy.ndarray"),
        ("x", np.zeros((T, I)), ValueError, "x has shape (7, 2), expected (T, B, I)"),
        ("x", np.zeros((T, B, I), int), TypeError, "x has dtype int64, expected float32 or"),
        ("h0", np.zeros((B, I)), ValueError, "h0 has shape (4, 2), expected (4, 5): (B, H)"),
        ("h0", [[0.0] * H] * B, TypeError, "h0 is a list, expected a numpy.ndarray"),
        ("lengths", [7, 0, 3], ValueError, "lengths has shape (3,), expected (4,): one for"),
        ("lengths", [8, 0, 3, 6], ValueError, "lengths[0] is 8, expected 0 to 7: T of x"),
        ("lengths", [7, -1, 3, 6], ValueError, "lengths[1] is -1, expected 0 to 7: T of x"),
        ("lengths", [True] * 4, TypeError, "lengths has dtype bool, expected integers"),
        ("lengths", [7.0] * 4, TypeError, "lengths has dtype float64, expected integers"),
        ("lengths", [[7], [0, 3], [], []], ValueError, "lengths is ragged"),
        ("activation", "elu", ValueError, "activation is 'elu', expected one of 'tanh'"),
        ("backend", "torch", ValueError, "backend is 'torch', expected one of 'numba'"),
        ("dh", None, TypeError, "dh is a NoneType, expected a numpy.ndarray"),
        ("dh", np.zeros((B, H)).tolist(), TypeError, "dh is a list, expected a numpy.ndarray"),
        ("dh", np.zeros((B, I)), ValueError,
         "dh has shape (4, 2), expected (7, 4, 5): (T, B, H), or (4, 5): (B, H) for the last"),
        ("dh", np.zeros((T - 1, B, H)), ValueError, "dh has shape (6, 4, 5), expected (7, 4, 5)"),
        ("dh", np.zeros((T + 2, B, H)), ValueError, "dh has shape (9, 4, 5), expected (7, 4, 5)"),
        ("dh", np.zeros((T, B, H), "f4"), TypeError, "dh has dtype float32, expected float64 as"),
        ("dh", np.zeros((B, H), "f4"), TypeError, "dh has dtype float32, expected float64 as"),
        ("dh", lambda t, h: None, TypeError, "dh is a NoneType, expected a numpy.ndarray"),
        ("dh", lambda t, h: h[:, :1], ValueError, "dh has shape (1, 1, 5), expected (1, 4, 5)"),
        ("checkpoints", None, TypeError, "checkpoints is a NoneType, expected Checkpoints"),
        ("checkpoints", np.zeros((4, B, H)), TypeError, "checkpoints is a ndarray, expected Check"),
        ("checkpoints", Checkpoints(np.zeros((3, B, H)), 3), ValueError,
         "checkpoints.h has shape (3, 4, 5), expected (4, 4, 5): (C + 1, B, H) for x's 7 steps"),
        ("checkpoints", Checkpoints(np.zeros((4, B, I)), 3), ValueError, "checkpoints.h has shape"),
        ("checkpoints", Checkpoints(np.zeros((4, B, H), "f4"), 3), TypeError,
         "checkpoints.h has dtype float32, expected float64"),
    ],
)  # fmt: skip
def test_arguments(name, value, error, words):
    params, x, h0 = draw()
    given = {"params": params, "x": x, "lengths": [7, 0, 3, 6]}
    checkpoints = forward_checkpointed(**given)
    calls = {
        forward_checkpointed: {**given, "h0": h0},
        backward_checkpointed: {**given, "checkpoints": checkpoints, "dh": np.ones((B, H))},
    }
    taken = [f for f in calls if name in inspect.signature(f).parameters]
    assert taken
    for function in taken:
        function(**calls[function])
        with pytest.raises(error) as caught:
            function(**{**calls[function], name: value})
        assert words in str(caught.value)


def test_docstring_examples():
    got = doctest.testmod(checkpointed)
    assert got.attempted
    assert not got.failed


@pytest.mark.parametrize("function", [forward_checkpointed, backward_checkpointed])
def test_docstrings_name_every_parameter(function):
    doc = inspect.getdoc(function) or ""
    parameters = doc.split("Parameters\n")[1].split("\n\n")[0]
    named = {n for line in parameters.splitlines() for n in line.split(" : ")[0].split(", ")}
    assert named >= set(inspect.signature(function).parameters)
