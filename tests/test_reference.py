"""The definition itself, judged by hand-worked numbers, closed forms and finite differences."""

import ast
import pathlib

import numpy as np
import pytest
from measure import STEP, central_differences

from fastbptt import reference

T, B, I, H = 4, 3, 2, 5
NAMES = ("W_x", "W_h", "b", "x", "h0")
LENGTHS = pytest.mark.parametrize("lengths", [None, np.array([4, 0, 2])], ids=["full", "ragged"])
ACTIVATIONS = pytest.mark.parametrize("activation", list(reference.ACTIVATIONS))


def run_forward(arguments, lengths=None, activation="tanh"):
    W_x, W_h, b, x, h0 = arguments
    h = np.full((len(x) + 1, *h0.shape), np.nan, h0.dtype)
    h[0] = h0
    reference.forward((W_x, W_h, b), x, h, lengths, activation)
    return h


def run_backward(arguments, h, dh, lengths=None, activation="tanh", need_dx=True):
    """Gradients by the names in NAMES."""
    W_x, W_h, b, x, _ = arguments
    dW_x, dW_h, db, dx, dh0 = (np.full_like(a, np.nan) for a in arguments)
    reference.backward(
        (W_x, W_h, b),
        x,
        h,
        dh,
        (dW_x, dW_h, db),
        dx if need_dx else None,
        dh0,
        lengths,
        activation,
    )
    return dict(zip(NAMES, (dW_x, dW_h, db, dx, dh0), strict=True))


def draw(seed):
    rng = np.random.default_rng(seed)
    shapes = ((I, H), (H, H), (H,), (T, B, I), (B, H))
    return [rng.standard_normal(shape) for shape in shapes]


def away_from_kinks(arguments, lengths):
    """Whether no argument of relu comes near 0, where it has no derivative."""
    W_x, W_h, b, x, _ = arguments
    h = run_forward(arguments, lengths, "relu")
    return np.abs(x @ W_x + h[:-1] @ W_h + b).min() > 1e3 * STEP


def assert_agrees_with_differences(got, loss, a, name):
    """Check a gradient with respect to a, which `loss` reads, against central differences."""
    expected = central_differences(loss, a)
    scale = max(1, np.abs(expected).max())
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8 * scale, err_msg=name)


@ACTIVATIONS
@LENGTHS
@pytest.mark.parametrize("last_only", [False, True], ids=["every step", "last step"])
def test_gradients_agree_with_central_differences(activation, lengths, last_only):
    arguments = next(a for a in map(draw, range(100)) if away_from_kinks(a, lengths))
    counts = np.arange(T)[:, None] < (np.full(B, T) if lengths is None else lengths)
    dh = np.random.default_rng(0).standard_normal((B, H) if last_only else (T, B, H))

    def loss():
        h = run_forward(arguments, lengths, activation)
        return (dh * h[-1]).sum() if last_only else (dh * h[1:])[counts].sum()

    h = run_forward(arguments, lengths, activation)
    got = run_backward(arguments, h, dh, lengths, activation)
    for name, a in zip(NAMES, arguments, strict=True):
        assert_agrees_with_differences(got[name], loss, a, name)


ONES = np.ones((1, 1)), np.ones((1, 1)), np.zeros(1)
SEQUENCES = np.array([[1, 0, 0], [0, 1, 1], [1, 1, 1]], float)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        ("tanh", [[0.76, 0.64, 0.57], [0, 0.76, 0.94], [0.76, 0.94, 0.96]]),
        ("relu", [[1, 1, 1], [0, 1, 2], [1, 2, 3]]),
        ("identity", [[1, 1, 1], [0, 1, 2], [1, 2, 3]]),
    ],
)
def test_hand_worked_states(activation, expected):
    arguments = *ONES, SEQUENCES.T[:, :, None], np.zeros((3, 1))
    h = run_forward(arguments, None, activation)
    np.testing.assert_allclose(h[1:, :, 0].T, expected, atol=0.005)


def test_relu_cuts_at_zero():
    arguments = *ONES, np.array([-1.0, 3.0]).reshape(2, 1, 1), np.zeros((1, 1))
    h = run_forward(arguments, None, "relu")
    np.testing.assert_array_equal(h.ravel(), [0, 0, 3])


def test_linear_scalar_network_has_the_closed_form():
    # h_t = w^t h_0 + sum_s w^(t-s) u x_s; the loss is sum_t h_t²
    u, w, h0, steps = 0.7, 0.9, 0.4, 6
    x = np.random.default_rng(0).standard_normal(steps)
    t, s = np.arange(1, steps + 1)[:, None], np.arange(1, steps + 1)
    power = np.where(t >= s, w ** np.maximum(t - s, 0), 0)
    slope = np.where(t > s, (t - s) * w ** np.maximum(t - s - 1, 0), 0)  # d power / d w
    t = t.ravel()
    h = power @ (u * x) + w**t * h0

    weights = np.array([[u]]), np.array([[w]]), np.zeros(1)
    arguments = *weights, x.reshape(-1, 1, 1), np.array([[h0]])
    states = run_forward(arguments, None, "identity")
    np.testing.assert_allclose(states[1:].ravel(), h, rtol=1e-14)
    got = run_backward(arguments, states, 2 * states[1:], None, "identity")
    expected = {
        "W_x": 2 * h @ (power @ x),
        "W_h": 2 * h @ (slope @ (u * x) + t * w ** (t - 1) * h0),
        "b": 2 * h @ power.sum(axis=1),
        "x": 2 * u * (h @ power),
        "h0": 2 * h @ w**t,
    }
    for name in NAMES:
        np.testing.assert_allclose(got[name].ravel(), expected[name], rtol=1e-13, err_msg=name)


def run_readout(W_y, b_y, h):
    y = np.full((len(h), len(b_y)), np.nan)
    reference.readout(W_y, b_y, h, y)
    return y


def run_readout_backward(W_y, h, dy, need_dh=True):
    dW_y, db_y, dh = np.full_like(W_y, np.nan), np.full(len(W_y.T), np.nan), np.full_like(h, np.nan)
    reference.readout_backward(W_y, h, dy, dW_y, db_y, dh if need_dh else None)
    return dW_y, db_y, dh


def test_readout_gradients_agree_with_central_differences():
    N, O = 7, 3
    rng = np.random.default_rng(0)
    W_y, b_y, h, dy = (rng.standard_normal(shape) for shape in ((H, O), (O,), (N, H), (N, O)))

    def loss():
        return (dy * run_readout(W_y, b_y, h)).sum()

    got = run_readout_backward(W_y, h, dy)
    for name, gradient, a in zip(("W_y", "b_y", "h"), got, (W_y, b_y, h), strict=True):
        assert_agrees_with_differences(gradient, loss, a, name)


def test_readout_without_dh_the_rest_is_the_same():
    _, W_y, _, _, h = draw(0)
    full = run_readout_backward(W_y, h, h)
    *rest, dh = run_readout_backward(W_y, h, h, need_dh=False)
    assert np.isnan(dh).all()  # not written
    for got, expected in zip(rest, full[:2], strict=True):
        np.testing.assert_array_equal(got, expected)


def test_hand_worked_readout():
    W_y, b_y = np.array([[1.0, 2], [3, 4]]), np.array([10.0, 20])
    h, dy = np.array([[1.0, 0], [0, 1], [1, -1]]), np.array([[1.0, 0], [0, 1], [2, 3]])
    np.testing.assert_array_equal(run_readout(W_y, b_y, h), [[11, 22], [13, 24], [8, 18]])
    dW_y, db_y, dh = run_readout_backward(W_y, h, dy)
    np.testing.assert_array_equal(dW_y, [[3, 3], [-2, -2]])
    np.testing.assert_array_equal(db_y, [3, 4])
    np.testing.assert_array_equal(dh, [[1, 3], [2, 4], [8, 18]])


def test_readout_of_no_rows():
    W_y, b_y = draw(0)[1], draw(0)[2]  # H by H
    assert run_readout(W_y, b_y, np.zeros((0, H))).shape == (0, H)
    dW_y, db_y, dh = run_readout_backward(W_y, np.zeros((0, H)), np.zeros((0, H)))
    assert dh.shape == (0, H)
    assert not dW_y.any()
    assert not db_y.any()


def test_a_sequence_stops_at_its_length():
    W_x, W_h, b, x, h0 = draw(0)
    lengths = np.array([4, 0, 2])
    h = run_forward((W_x, W_h, b, x, h0), lengths)
    for i, length in enumerate(lengths):
        alone = run_forward((W_x, W_h, b, x[:length, i : i + 1], h0[i : i + 1]))
        np.testing.assert_allclose(h[: length + 1, i], alone[:, 0], rtol=0, atol=1e-14)
        np.testing.assert_array_equal(h[length:, i], np.broadcast_to(h[length, i], (5 - length, H)))


def test_no_steps():
    W_x, W_h, b, x, h0 = draw(0)
    dh = np.random.default_rng(1).standard_normal((B, H))
    arguments = W_x, W_h, b, x[:0], h0
    h = run_forward(arguments)
    got = run_backward(arguments, h, dh)
    np.testing.assert_array_equal(h[0], h0)
    np.testing.assert_array_equal(got["h0"], dh)
    assert not any(got[name].any() for name in ("W_x", "W_h", "b"))
    got = run_backward(arguments, h, np.zeros((0, B, H)))
    np.testing.assert_array_equal(got["h0"], np.zeros((B, H)))


def test_no_sequences():
    W_x, W_h, b, x, h0 = draw(0)
    arguments = W_x, W_h, b, x[:, :0], h0[:0]
    h = run_forward(arguments)
    got = run_backward(arguments, h, np.zeros((T, 0, H)))
    assert not any(got[name].any() for name in NAMES)


@LENGTHS
def test_without_dx_the_rest_is_the_same(lengths):
    arguments = draw(0)
    h = run_forward(arguments, lengths)
    full = run_backward(arguments, h, h[1:], lengths)
    rest = run_backward(arguments, h, h[1:], lengths, need_dx=False)
    assert np.isnan(rest.pop("x")).all()  # not written
    for name, got in rest.items():
        np.testing.assert_array_equal(got, full[name])


@pytest.mark.skipif(
    np.finfo(np.longdouble).nmant < 63, reason="here longdouble is no wider than float64"
)
@pytest.mark.parametrize("activation", ["relu", "identity"])
def test_works_in_longdouble_throughout(activation):
    # 1 + 2**-60 is 1 in float64
    ones, tiny = [a.astype(np.longdouble) for a in ONES], np.longdouble(2) ** -60
    x = np.array([1, tiny]).reshape(2, 1, 1)
    arguments = *ones, x, np.zeros((1, 1), np.longdouble)
    h = run_forward(arguments, None, activation)
    np.testing.assert_array_equal(h.ravel(), [0, 1, 1 + tiny])
    got = run_backward(arguments, h, h[1:], np.array([2]), activation)
    np.testing.assert_array_equal(got["x"].ravel(), [2 + tiny, 1 + tiny])
    np.testing.assert_array_equal(got["b"], 3 + 2 * tiny)


def test_is_short_and_imports_only_numpy():
    source = pathlib.Path(reference.__file__).read_text()
    assert len(source.splitlines()) <= 250
    nodes = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Import | ast.ImportFrom)]
    assert [ast.unparse(n) for n in nodes] == ["from typing import Any", "import numpy as np"]
