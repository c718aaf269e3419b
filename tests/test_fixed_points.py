"""Fixed points against networks worked by hand, and Jacobians against central differences."""

import doctest
import re

import numpy as np
import pytest

from fastbptt import RNN, Leak, _fixed_points, reference
from fastbptt.diagnostics import FixedPoints, fixed_points

LEAKS = pytest.mark.parametrize(
    "leak", [None, Leak(0.3), Leak(0.3, "potential")], ids=["plain", "rate", "potential"]
)


def build(W_h, W_x=None, b=None, **options):
    """A model of one layer with these weights, in float64 and NumPy unless told otherwise."""
    W_h = np.atleast_2d(np.array(W_h, float))
    W_x = np.zeros((1, len(W_h))) if W_x is None else np.atleast_2d(W_x)
    options = {"dtype": "float64", "backend": "numpy", **options}
    made = RNN(len(W_x), len(W_h), 1, seed=0, **options)
    weights = {"W_x": W_x, "W_h": W_h, "b": np.zeros(len(W_h)) if b is None else b}
    made.set_parameters({f"layers.0.{name}": a for name, a in weights.items()})
    return made


def next_states(model, x, s):
    """F(s) for states s (n, L H), by the model itself."""
    L, n = model.num_layers, len(s)
    state = np.stack(np.split(s, L, axis=1))
    inputs = np.broadcast_to(x, (n, 1, model.input_size))
    _, after = model.predict(inputs, state=state, return_state=True)
    return np.concatenate(after, axis=1)


def upper_root(w, b=0.0):
    """The largest h = tanh(w h + b), from above."""
    h = 1.0
    for _ in range(10_000):
        h = np.tanh(w * h + b)
    return h


# Worked by hand


@LEAKS
def test_a_unit_that_excites_itself_enough_has_three(leak):
    """h = tanh(w h): 0 and two others.  Of potentials v = w h."""
    w, h = 1.5, upper_root(1.5)
    found = fixed_points(build(w, leak=leak), 0.0)
    scale = w if leak is not None and leak.of == "potential" else 1
    np.testing.assert_allclose(found.points[:, 0], [-scale * h, scale * h, 0], atol=1e-12)
    alpha = 1 if leak is None else 0.3
    slopes = [1 - alpha + alpha * w * (1 - h**2)] * 2 + [1 - alpha + alpha * w]
    np.testing.assert_allclose(found.jacobian[:, 0, 0], slopes, rtol=1e-12)
    np.testing.assert_allclose(found.eigenvalues[:, 0], slopes, rtol=1e-12)
    assert found.stable.tolist() == [True, True, False]
    assert found.unstable.tolist() == [0, 0, 1]
    assert (found.q < 1e-30).all()


@LEAKS
@pytest.mark.parametrize("w", [0.0, 0.5, 0.9, -3.0])
def test_a_unit_that_does_not_has_one(w, leak):
    found = fixed_points(build(w, leak=leak), 0.0)
    np.testing.assert_allclose(found.points, [[0]], atol=1e-12)
    assert found.stable.tolist() == [abs(1 - (leak.alpha if leak else 1) * (1 - w)) < 1]


def test_an_input_takes_two_of_three_away():
    """Two of h = tanh(1.5 h + x) meet where 1.5 (1 - h^2) = 1; beyond they leave a slow point."""
    made, h = build(1.5, W_x=1.0), -np.sqrt(1 / 3)
    x = np.arctanh(h) - 1.5 * h  # the slope is 1 there
    assert x == pytest.approx(0.2075, abs=1e-4)
    assert len(fixed_points(made, x - 0.01)) == 3
    beyond = fixed_points(made, x + 0.01)
    np.testing.assert_allclose(beyond.points, [[upper_root(1.5, x + 0.01)]], rtol=1e-12)
    slow = fixed_points(made, x + 0.01, tolerance=1e-3)
    assert len(slow) == 2
    np.testing.assert_allclose(slow.points[0 if slow.q[0] > 1e-9 else 1], [h], atol=0.02)
    speed = (np.tanh(1.5 * h + x + 0.01) - h) ** 2 / 2
    assert slow.q.max() == pytest.approx(speed, rel=0.1)


def test_two_units_apart_have_nine():
    """Each of them has three: four points are stable, four saddles, and 0 is a source."""
    found, h = fixed_points(build(1.5 * np.eye(2)), 0.0), upper_root(1.5)
    expected = {(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)}
    assert {tuple(np.rint(p / h).astype(int).tolist()) for p in found.points} == expected
    assert len(found) == 9
    assert found.unstable.tolist() == [0] * 4 + [1] * 4 + [2]
    np.testing.assert_allclose(np.abs(found.points / h) % 1 % 1, 0, atol=1e-9)


def test_a_rotation_has_complex_eigenvalues():
    """1.2 exp(±i angle) around 0, which it leaves in a spiral."""
    angle = 0.4
    c, s = np.cos(angle), np.sin(angle)
    found = fixed_points(build(1.2 * np.array([[c, s], [-s, c]])), 0.0)
    np.testing.assert_allclose(found.points, [[0, 0]], atol=1e-12)
    expected = {1.2 * np.exp(1j * angle), 1.2 * np.exp(-1j * angle)}
    for got, a in zip(sorted(found.eigenvalues[0], key=np.imag), sorted(expected, key=np.imag),
                      strict=True):  # fmt: skip
        assert got == pytest.approx(a, rel=1e-9)
    assert found.unstable.tolist() == [2]


def test_a_rectified_unit_above_and_below_threshold():
    """h = max(2 h - 1, 0): at 0 nothing gets through, at 1 everything is doubled."""
    found = fixed_points(build(2.0, b=[-1.0], activation="relu"), 0.0)
    np.testing.assert_allclose(found.points, [[0], [1]], atol=1e-12)
    np.testing.assert_array_equal(found.jacobian.ravel(), [0, 2])


@LEAKS
def test_a_line_attractor(leak):
    """W_h keeps what lies along u and halves the rest: every point of the line is fixed."""
    u = np.array([2.0, 1, -2]) / 3
    W_h = 0.5 * (np.eye(3) + np.outer(u, u))
    found = fixed_points(build(W_h, activation="identity", leak=leak), 0.0)
    assert len(found) > 100
    along = found.points @ u
    np.testing.assert_allclose(found.points, np.outer(along, u), atol=1e-9)
    assert along.min() < -1
    assert along.max() > 1
    np.testing.assert_allclose(found.eigenvalues[:, 0], 1, rtol=1e-12)
    assert not found.stable.any()
    assert not found.unstable.any()
    assert "marginal" in repr(found)


# Any network


@LEAKS
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@pytest.mark.parametrize("num_layers", [1, 2])
def test_points_and_jacobians_of_any_network(activation, leak, num_layers):
    leak = leak and Leak([0.3, 0.5, 0.8, 1], leak.of)
    made = RNN(2, 4, 1, num_layers=num_layers, activation=activation, leak=leak, seed=3,
               spectral_radius=0.9, dtype="float64", backend="numpy")  # fmt: skip
    x = np.array([0.5, -1])
    found = fixed_points(made, x, samples=8, steps=100)
    assert len(found)
    assert found.points.shape == (len(found), 4 * num_layers)
    after = next_states(made, x, found.points)
    np.testing.assert_allclose(after, found.points, atol=1e-10)
    np.testing.assert_allclose(found.q, ((after - found.points) ** 2).sum(1) / 2, atol=1e-28)
    for k, step in enumerate(1e-6 * np.eye(4 * num_layers)):
        ends = (next_states(made, x, found.points + sign * step) for sign in (1, -1))
        slope = np.subtract(*ends) / 2e-6
        np.testing.assert_allclose(found.jacobian[:, :, k], slope, rtol=1e-6, atol=1e-8)
    for J, of_point in zip(found.jacobian, found.eigenvalues, strict=True):
        np.testing.assert_allclose(of_point.sum(), np.trace(J), rtol=1e-9, atol=1e-12)
        assert (np.diff(np.abs(of_point)) <= 1e-12).all()


@LEAKS
def test_the_gradient_that_is_descended_is_that_of_the_speed(leak):
    """One tiny step of Adam goes against the sign of the slope of q, by differences."""
    made = RNN(2, 3, 1, num_layers=2, leak=leak, seed=1, dtype="float64", backend="numpy")
    s = np.random.default_rng(0).standard_normal((5, 6))
    x, stack = np.array([0.3, 0.1]), made.network.stack

    def q(s):
        return ((next_states(made, x, s) - s) ** 2).sum(axis=1) / 2

    slopes = np.stack([(q(s + d) - q(s - d)) / 2e-6 for d in 1e-6 * np.eye(6)], axis=1)
    moved = _fixed_points._descend(stack, x, s, 1) - s
    np.testing.assert_array_equal(np.sign(moved), -np.sign(slopes))


@LEAKS
def test_kernels_in_float32_find_the_same(leak):
    options = {"leak": leak, "seed": 5, "spectral_radius": 1.3}
    made = RNN(1, 10, 1, dtype="float32", **options)
    before = made.vector.copy()
    got = fixed_points(made, [0.5])
    np.testing.assert_array_equal(made.vector, before)
    wide = RNN(1, 10, 1, dtype="float64", backend="numpy", **options)
    wide.vector[...] = made.vector
    expected = fixed_points(wide, [0.5])
    stable = expected.points[expected.stable]
    assert len(stable)
    for point in [*stable, expected.points[-1]]:
        assert np.abs(got.points - point).max(axis=1).min() < 1e-6


# Where it begins


def test_states_of_trials():
    """Only near them: from the basin of one of three points the descent finds that."""
    made, h = build(3.0, W_x=1.0), upper_root(3.0)
    trials = np.full((8, 20, 1), 2.0)
    [states] = made.states(trials)
    found = fixed_points(made, 0.0, states, samples=50, noise=0.01)
    np.testing.assert_allclose(found.points, [[h]], rtol=1e-10)
    found = fixed_points(made, 0.0, states.reshape(-1, 1), samples=400, noise=0)
    np.testing.assert_allclose(found.points, [[h]], rtol=1e-10)
    assert len(fixed_points(made, 0.0, states, noise=2.0)) == 3


def test_the_same_seed_finds_the_same():
    made = RNN(1, 8, 1, seed=5, spectral_radius=1.5, dtype="float64", backend="numpy")
    one, same, other = (fixed_points(made, 0, samples=9, seed=seed) for seed in (1, 1, 2))
    for a, b in zip(vars(one).values(), vars(same).values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(one.points, other.points)


def test_states_that_are_infinite_are_left_out():
    states = np.array([[np.inf], [np.nan], [0.5]])
    found = fixed_points(build(0.5), 0.0, states, noise=0)
    np.testing.assert_allclose(found.points, [[0]], atol=1e-12)
    with pytest.raises(ValueError, match="states holds NaN or infinity in every state"):
        fixed_points(build(0.5), 0.0, states[:2])


def test_one_from_which_all_run_away():
    """h = 2 h + 1 at -1, looked for from states up to 2^64."""
    found = fixed_points(build(2.0, b=[1.0], activation="identity"), 0.0)
    np.testing.assert_allclose(found.points, [[-1]], rtol=1e-12)
    assert found.unstable.tolist() == [1]


def test_there_may_be_none():
    none = fixed_points(build(1.0, b=[1.0], activation="identity"), 0.0)  # h + 1
    assert len(none) == 0
    assert none.points.shape == (0, 1)
    assert none.jacobian.shape == (0, 1, 1)
    assert none.stable.shape == none.unstable.shape == (0,)
    assert repr(none) == "0 fixed points"


def test_it_is_a_table():
    J = np.array([0.5, -1.5, 1]).reshape(3, 1, 1)
    found = FixedPoints(np.zeros((3, 1)), np.array([0, 1e-32, 0]), J, J[..., 0].astype(complex))
    assert repr(found).splitlines() == [
        "3 fixed points",
        "point        q  |eigenvalue|",
        "    0  0.0e+00        0.5000  stable",
        "    1  1.0e-32        1.5000  1 unstable direction",
        "    2  0.0e+00        1.0000  marginal",
    ]


def test_a_long_table_leaves_points_out():
    n = 50
    points = np.arange(n, dtype=float)[:, None]
    found = FixedPoints(points, np.zeros(n), np.zeros((n, 1, 1)), np.zeros((n, 1), complex))
    lines = repr(found).splitlines()
    assert lines[0] == "50 fixed points"
    assert len(lines) == 2 + 20 + 2
    assert lines[-2:] == ["    …", "   49  0.0e+00        0.0000  stable"]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": None}, TypeError, "model is a NoneType, expected an RNN"),
        ({"model": RNN(1, 2, 1, bidirectional=True)}, ValueError, "bidirectional, expected one"),
        ({"x": [1, 2]}, ValueError, "x has shape (2,), expected (1,): (I,)"),
        ({"x": [np.nan]}, ValueError, "x holds NaN or infinity, expected finite numbers"),
        ({"x": "a"}, TypeError, "x has dtype"),
        ({"states": np.zeros((3, 3))}, ValueError, "states has shape (3, 3), expected (..., 2)"),
        ({"states": np.zeros((0, 2))}, ValueError, "states has shape (0, 2), expected (..., 2)"),
        ({"samples": 0}, ValueError, "samples is 0, expected at least 1"),
        ({"steps": -1}, ValueError, "steps is -1, expected at least 0"),
        ({"noise": -1}, ValueError, "noise is -1"),
        ({"tolerance": np.nan}, ValueError, "tolerance is nan"),
        ({"distance": -0.1}, ValueError, "distance is -0.1"),
    ],
)
def test_what_does_not_fit(arguments, error, words):
    with pytest.raises(error, match=re.escape(words)):
        fixed_points(**{"model": build(np.eye(2)), "x": 0.0, **arguments})


def test_docstring_examples():
    got = doctest.testmod(_fixed_points)
    assert got.attempted
    assert not got.failed
