"""All weights as one vector: to look at, to set, and for optimizers that know nothing of models."""

import numpy as np
import pytest

from fastbptt.model import RNN

N, T, I, O = 6, 5, 2, 3


def build(**options):
    return RNN(I, 4, O, num_layers=2, seed=0, **options)


def draw(output="last"):
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((n, I)) for n in (5, 1, 3, 5, 2, 4)]
    y = [rng.standard_normal((len(a), O)) for a in x]
    return x, y if output == "all" else np.array([a[-1] for a in y])


# The vector


def test_the_vector_holds_all_parameters_in_order():
    made = build()
    expected = np.concatenate([a.ravel() for a in made.parameters().values()])
    np.testing.assert_array_equal(made.vector, expected)
    made.vector[0] = 7
    assert made.parameters()["layers.0.W_x"][0, 0] == 7


def test_a_vector_that_is_set_is_copied():
    made, given = build(), np.arange(build().vector.size, dtype=float)
    made.vector = given
    given[...] = 0
    np.testing.assert_array_equal(made.vector, np.arange(given.size))
    assert made.vector.dtype == np.float32
    assert made.parameters()["b_y"][-1] == given.size - 1
    other = build()
    other.vector = made.vector.tolist()
    x, _ = draw()
    np.testing.assert_array_equal(other.predict(x), made.predict(x))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (
            lambda v: v[1:],
            ValueError,
            r"vector has shape \(78,\), expected \(79,\): \(P,\), all we",
        ),
        (lambda v: v[np.newaxis], ValueError, r"vector has shape \(1, 79\), expected \(79,\)"),
        (lambda v: v * 1j, TypeError, "vector has dtype complex64, expected real numbers"),
        (lambda v: v * np.nan, ValueError, "vector holds NaN, infinity or values too large for fl"),
        (lambda v: np.full(v.shape, 1e39), ValueError, "vector holds .* too large for float32"),
    ],
)
def test_another_vector_changes_nothing(change, error, words):
    made = build()
    before = made.vector.copy()
    with pytest.raises(error, match=words):
        made.vector = change(before)
    np.testing.assert_array_equal(made.vector, before)


# As a function of it


@pytest.mark.parametrize("output", ["last", "all"])
@pytest.mark.parametrize("loss", ["mse", "ssr"])
def test_objective_is_the_loss_and_its_gradient(output, loss):
    made, other = build(output=output, dropout=0.5), build(output=output)
    f, vector = made.objective(*draw(output), loss=loss), 0.5 * made.vector
    before = made.vector.copy()
    value, gradient = f(vector)
    other.vector = vector
    expected, grads = other.loss_and_grads(*draw(output), loss=loss)
    assert type(value) is float
    assert value == expected
    assert gradient.dtype == np.float64
    expected = np.concatenate([a.ravel() for a in grads.values()])
    np.testing.assert_array_equal(gradient, expected)
    np.testing.assert_array_equal(made.vector, before)
    f(-vector)  # fills memory of its own
    np.testing.assert_array_equal(gradient, expected)


def test_objective_with_lengths_and_classes():
    made, x = (
        build(output="all", dtype="float64"),
        np.random.default_rng(1).standard_normal((N, T, I)),
    )
    y, lengths = np.random.default_rng(2).integers(0, O, (N, T)), [5, 3, 0, 1, 5, 2]
    value, gradient = made.objective(x, y, lengths, "cross_entropy")(made.vector)
    expected, grads = made.loss_and_grads(x, y, lengths, "cross_entropy")
    assert value == expected
    np.testing.assert_array_equal(gradient, np.concatenate([a.ravel() for a in grads.values()]))


@pytest.mark.parametrize("output", ["last", "all"])
def test_objective_with_weights(output):
    made, (x, y) = build(output=output, dtype="float64"), draw(output)
    weight = np.array([1.0, 0, 2, 3, 1, 0.5])
    value, gradient = made.objective(x, y, sample_weight=weight)(made.vector)
    assert value == pytest.approx(made.evaluate(x, y, sample_weight=weight), rel=1e-12)
    _, grads = made.loss_and_grads(x, y, sample_weight=weight)
    np.testing.assert_array_equal(gradient, np.concatenate([a.ravel() for a in grads.values()]))


def test_objective_of_what_does_not_fit():
    made, (x, y) = build(), draw()
    with pytest.raises(ValueError, match="y has shape"):
        made.objective(x, y[1:])
    with pytest.raises(ValueError, match="loss is 'other'"):
        made.objective(x, y, loss="other")
    with pytest.raises(ValueError, match=r"vector has shape \(3,\), expected \(79,\)"):
        made.objective(x, y)(np.zeros(3))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scipy_minimizes(dtype):
    """L-BFGS finds the least squares that NumPy finds for a network without bends or memory."""
    minimize = pytest.importorskip("scipy.optimize").minimize
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((50, 1, I)), rng.standard_normal((50, 1))
    made = RNN(I, 3, 1, activation="identity", dtype=dtype, seed=0)
    found = minimize(made.objective(x, y), made.vector, jac=True, method="L-BFGS-B")
    made.vector = found.x
    columns = np.c_[x[:, 0], np.ones(50)]
    residuals = y - columns @ np.linalg.lstsq(columns, y, rcond=None)[0]
    assert made.evaluate(x, y) == pytest.approx(np.mean(residuals**2), rel=1e-6)
    assert made.evaluate(x, y) == pytest.approx(found.fun, rel=1e-6)


# The summary


def test_summary_of_a_small_model():
    """Counted by hand: 2 x 4, 4 x 4 and 4; twice 8 x 4 ... and 8 bytes each."""
    made = RNN(2, 4, 1, num_layers=2, bidirectional=True, output="all", dtype="float64")
    title, _, *rows, total = made.summary().splitlines()
    assert title == 'RNN, tanh, output "all", float64'
    assert len(rows) == 14
    assert rows[0].split() == ["layers.0.W_x", "(2,", "4)", "8", "64"]
    assert rows[9].split() == ["layers.1.reverse.W_x", "(8,", "4)", "32", "256"]
    assert rows[-1].split() == ["b_y", "(1,)", "1", "8"]
    of_layers = 2 * (8 + 16 + 4) + 2 * (32 + 16 + 4)
    assert total.split() == ["total", str(of_layers + 8 + 1), f"{8 * (of_layers + 9):,}"]
    assert len({len(row) for row in rows}) == 1
