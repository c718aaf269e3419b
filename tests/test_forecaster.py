"""Forecasts, by a regressor that finds linear rules exactly where there is one, and by networks."""

import doctest
import importlib
import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LinearRegression

from fastbptt.estimators import RNNForecaster, RNNRegressor

# Not as the others: pyright takes from its declaration that it returns a dict or a list.
clone = importlib.import_module("sklearn.base").clone
STRATEGIES = pytest.mark.parametrize("strategy", ["recursive", "direct", "multioutput"])


class Linear(RegressorMixin, BaseEstimator):
    """Least squares on all numbers of a window."""

    def __init__(self, fit_intercept=True):
        self.fit_intercept = fit_intercept

    def fit(self, X, y):
        self.shapes_ = X.shape, y.shape
        self.model_ = LinearRegression(fit_intercept=self.fit_intercept)
        self.model_.fit(X.reshape(len(X), -1), y)
        return self

    def predict(self, X):
        return self.model_.predict(X.reshape(len(X), -1))


def oscillation(T=80):
    """y_t = 1.9 y_{t-1} - 0.97 y_{t-2} + 3, in units of hundreds."""
    y = np.empty(T)
    y[:2] = 500, 700
    for t in range(2, T):
        y[t] = 1.9 * y[t - 1] - 0.97 * y[t - 2] + 3
    return y


def driven(T=80):
    """A series that X at the same time drives: y_t = 0.5 y_{t-1} + 2 x_t - z_t."""
    X = np.random.default_rng(0).standard_normal((T, 2)) * [1, 100] + 7
    y = np.zeros(T)
    for t in range(1, T):
        y[t] = 0.5 * y[t - 1] + X[t] @ [2, -1]
    return y, X


@STRATEGIES
@pytest.mark.parametrize("scale", [True, False])
def test_a_linear_rule_is_continued(strategy, scale):
    y = oscillation()
    forecaster = RNNForecaster(Linear(), window_length=3, strategy=strategy, scale=scale)
    forecaster.fit(y[:60], fh=[1, 2, 7])
    np.testing.assert_allclose(forecaster.predict(), y[[60, 61, 66]], rtol=1e-6)
    np.testing.assert_allclose(forecaster.predict([7, 1]), y[[66, 60]], rtol=1e-6)
    np.testing.assert_allclose(forecaster.predict(2), y[[61]], rtol=1e-6)
    assert len(forecaster.estimators_) == (3 if strategy == "direct" else 1)
    assert forecaster.fh_.tolist() == [1, 2, 7]


def test_the_recursive_strategy_goes_any_number_of_steps():
    y = oscillation()
    forecaster = RNNForecaster(Linear(), window_length=3).fit(y[:60])
    np.testing.assert_allclose(forecaster.predict(range(1, 21)), y[60:], rtol=1e-5)
    assert forecaster.predict().shape == (1,)


@STRATEGIES
def test_several_series_are_forecast_together(strategy):
    """The second is what the first was a step before."""
    y = oscillation()
    both = np.c_[y[1:], y[:-1] / 100]
    forecaster = RNNForecaster(Linear(), window_length=2, strategy=strategy)
    got = forecaster.fit(both[:60], fh=[1, 3]).predict()
    np.testing.assert_allclose(got, both[[60, 62]], rtol=1e-6)
    got = forecaster.fit(y[:60, None], fh=[1, 3]).predict()
    np.testing.assert_allclose(got, y[[60, 62], None], rtol=1e-6)


@pytest.mark.parametrize("form", [np.asarray, lambda a: a[:, 0]], ids=["two", "one"])
def test_what_is_known_ahead_is_used(form):
    y, X = driven()
    if form(X).ndim == 1:
        y = np.convolve(X[:, 0], [2, 1])[: len(y)]  # y_t = 2 x_t + x_{t-1}
    forecaster = RNNForecaster(Linear(), window_length=2).fit(y[:60], form(X)[:60])
    got = forecaster.predict(range(1, 11), form(X)[60:75])
    np.testing.assert_allclose(got, y[60:70], rtol=1e-8)


@pytest.mark.parametrize("strategy", ["direct", "multioutput"])
def test_what_is_known_at_the_times_forecast_is_used(strategy):
    """y_t = x_t: each horizon has X at its own time in the window."""
    _, X = driven()
    forecaster = RNNForecaster(Linear(), window_length=2, strategy=strategy)
    forecaster.fit(X[:60, 1], X[:60], fh=[2, 5])
    np.testing.assert_allclose(forecaster.predict(X=X[60:]), X[[61, 64], 1], rtol=1e-9)
    [N, length, features], _ = forecaster.estimators_[-1].shapes_
    assert (N, length) == (60 - 2 - 5 + 1, 2)
    assert features == 1 + (2 if strategy == "direct" else 4)
    if strategy == "direct":
        got = forecaster.predict(2, X[60:62])
        np.testing.assert_allclose(got, X[[61], 1], rtol=1e-9)


@STRATEGIES
def test_update_moves_on_without_training(strategy):
    y, X = driven()
    forecaster = RNNForecaster(Linear(), window_length=4, strategy=strategy)
    forecaster.fit(y[:60], X[:60], fh=[1])
    estimators = forecaster.estimators_
    for start, stop in ((60, 61), (61, 75)):  # shorter and longer than a window
        forecaster.update(y[start:stop], X[start:stop])
    np.testing.assert_allclose(forecaster.predict(1, X[75:]), y[[75]], rtol=1e-8)
    assert forecaster.estimators_ is estimators


def test_what_the_regressor_is_given():
    """Scaled windows and targets, by hand: mean 3, deviation the root of 2."""
    seen = []

    class Seeing(Linear):
        def fit(self, X, y):
            seen.append((X, y))
            return super().fit(X, y)

    RNNForecaster(Seeing(), window_length=2, step_length=2).fit([1, 2, 3, 4, 5])
    [(X, y)] = seen
    root = np.sqrt(2)
    np.testing.assert_allclose(X[..., 0] * root, [[-2, -1], [0, 1]])
    np.testing.assert_allclose(y * root, [0, 2])


@STRATEGIES
def test_networks_learn_a_sine(strategy):
    t = np.arange(240)
    y = 50 + 20 * np.sin(2 * np.pi * t / 20)
    regressor = RNNRegressor(hidden_size=16, learning_rate=0.01, epochs=40, random_state=0)
    forecaster = RNNForecaster(regressor, window_length=20, strategy=strategy)
    got = forecaster.fit(y[:200], fh=[1, 5, 10]).predict()
    truth = y[[200, 204, 209]]
    assert np.abs(got - truth).max() < 0.3 * np.abs(y[199] - truth).max()


def test_the_default_regressor():
    forecaster = RNNForecaster(window_length=4).fit(oscillation(20))
    assert isinstance(forecaster.estimators_[0], RNNRegressor)
    assert forecaster.estimator is None


def test_parameters_clone_and_pickle():
    forecaster = RNNForecaster(Linear(), window_length=3).fit(oscillation())
    got = pickle.loads(pickle.dumps(forecaster))
    np.testing.assert_array_equal(got.predict([1, 4]), forecaster.predict([1, 4]))
    other = clone(forecaster).set_params(estimator__fit_intercept=False, strategy="direct")
    assert other.get_params()["estimator__fit_intercept"] is False
    with pytest.raises(NotFittedError):
        other.predict()


@pytest.mark.parametrize(
    ("parameters", "arguments", "error", "message"),
    [
        ({"window_length": 0}, {}, ValueError, "window_length is 0, expected at least 1"),
        ({"step_length": 1.5}, {}, TypeError, "step_length is 1.5, expected an integer"),
        ({"strategy": "dirrec"}, {}, ValueError, "strategy is 'dirrec', expected one of"),
        ({"strategy": "direct"}, {}, ValueError, "fh is None, expected steps ahead, with strategy"),
        ({}, {"fh": 0}, ValueError, "fh is 0, expected steps ahead, each at least 1"),
        ({}, {"fh": [1, 1]}, ValueError, "fh is .*no two alike"),
        ({}, {"fh": 1.5}, TypeError, "fh is 1.5, expected an integer"),
        ({}, {"fh": [[1], [2, 3]]}, TypeError, "fh is .*, expected an integer"),
        ({}, {"y": np.zeros((20, 1, 1))}, ValueError, r"y has shape \(20, 1, 1\), expected \(T,\)"),
        ({}, {"y": [1.0, np.nan] * 10}, ValueError, "y holds NaN or infinity"),
        ({}, {"y": ["a"] * 20}, TypeError, "y has dtype"),
        ({}, {"X": np.zeros(19)}, ValueError, "X has 19 time steps, expected 20 as y has"),
        ({"window_length": 20}, {}, ValueError, "series has 20 time steps, expected at least 21"),
    ],
)
def test_other_arguments_change_nothing(parameters, arguments, error, message):
    forecaster = RNNForecaster(Linear(), window_length=3).fit(oscillation())
    expected = forecaster.predict()
    before = forecaster.get_params()
    with pytest.raises(error, match=message):
        forecaster.set_params(**parameters).fit(**{"y": np.arange(20.0), **arguments})
    np.testing.assert_array_equal(forecaster.set_params(**before).predict(), expected)


def test_other_horizons_and_inputs_of_forecasts():
    y, X = driven()
    forecaster = RNNForecaster(Linear(), strategy="direct", window_length=3)
    with pytest.raises(NotFittedError):
        forecaster.predict()
    with pytest.raises(NotFittedError):
        forecaster.update(y)
    forecaster.fit(y, X, fh=[1, 3])
    with pytest.raises(ValueError, match=r"fh has \[2\], expected .* fitted for: \[1, 3\]"):
        forecaster.predict([1, 2])
    with pytest.raises(ValueError, match="X is None, expected 2 features as before"):
        forecaster.predict()
    with pytest.raises(ValueError, match=r"X has shape \(2, 2\), expected \(3, 2\)"):
        forecaster.predict(X=X[:2])
    with pytest.raises(ValueError, match="y has 2 series, expected 1 as before"):
        forecaster.update(X, X)
    with pytest.raises(ValueError, match=r"X has shape \(80, 1\), expected \(1, 0\)"):
        forecaster.fit(y, fh=[1]).predict(X=X[:, 0])


def test_docstring_examples():
    got = doctest.testmod(importlib.import_module("fastbptt.estimators._forecaster"))
    assert got.attempted
    assert not got.failed
