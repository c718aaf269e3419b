"""The forms that sequences come in, scikit-learn's tools that make tables, and clear errors."""

from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.ensemble import BaggingClassifier, BaggingRegressor

from fastbptt.estimators import RNNClassifier, RNNRegressor, SequenceScaler, to_column

N, T, I = 24, 6, 2
SMALL = {"hidden_size": 8, "learning_rate": 0.02, "epochs": 3, "random_state": 0}
BOTH = pytest.mark.parametrize("kind", [RNNRegressor, RNNClassifier], ids=lambda k: k.__name__)


def draw(*shape) -> Any:
    return np.random.default_rng(0).standard_normal(shape)


def ragged(features=I) -> Any:
    lengths = np.random.default_rng(1).integers(1, T + 1, N)
    return [a[:length] for a, length in zip(draw(N, T, features), lengths, strict=True)]


def objects(X):
    """One array in each element."""
    found = np.empty(len(X), object)
    found[:] = [*X]
    return found


def labels(kind):
    return np.arange(N) % 3 if kind is RNNClassifier else draw(N)


def assert_alike(kind, X, others):
    expected = kind(**SMALL).fit(X, labels(kind))
    for other in others:
        got = kind(**SMALL).fit(other, labels(kind))
        np.testing.assert_array_equal(got.model_.vector, expected.model_.vector)
        np.testing.assert_array_equal(got.predict(other), expected.predict(X))


# Objects


@BOTH
def test_objects_are_lists(kind):
    assert_alike(kind, ragged(), [objects(ragged()), to_column(ragged()), (*ragged(),)])
    assert_alike(kind, ragged(1), [objects([a[:, 0].tolist() for a in ragged(1)])])
    assert_alike(kind, draw(N, T, I), [to_column(draw(N, T, I)), objects(draw(N, T, I))])


def test_a_column_holds_each_sequence():
    np.testing.assert_array_equal(to_column(ragged())[3, 0], ragged()[3])
    for X in (draw(N, T, I), draw(N, T), to_column(ragged()), objects(ragged())):
        got = to_column(X)
        assert got.shape == (N, 1)
        assert got.dtype == object
        for [a], n in zip(got, range(N), strict=True):
            expected = X[n, 0] if np.shape(X) == (N, 1) else X[n]
            np.testing.assert_array_equal(a, expected)


@BOTH
def test_bagging(kind):
    """Each is trained on its own sample, and the mean or the vote of all is predicted."""
    bagging: Any = BaggingClassifier if kind is RNNClassifier else BaggingRegressor
    X, y = ragged(), labels(kind)
    with pytest.raises(ValueError, match="inhomogeneous"):
        bagging(kind(**SMALL), n_estimators=3).fit(X, y)
    for given in (X, draw(N, T, I)):
        column = to_column(given)
        made = bagging(kind(**SMALL), n_estimators=3, random_state=0).fit(column, y)
        assert len({e.model_.vector.tobytes() for e in made.estimators_}) == 3
        if kind is RNNRegressor:
            expected = np.mean([e.predict(given) for e in made.estimators_], axis=0)
            np.testing.assert_allclose(made.predict(column), expected, rtol=1e-12)
        else:
            expected = np.mean([e.predict_proba(given) for e in made.estimators_], axis=0)
            np.testing.assert_allclose(made.predict_proba(column), expected, rtol=1e-12)


# What says which axis is which


def test_series_of_arrays():
    pandas = pytest.importorskip("pandas")
    for kind in (RNNRegressor, RNNClassifier):
        series = pandas.Series(ragged(), index=range(100, 100 + N))
        assert_alike(
            kind, ragged(), [series, series.to_frame(), [pandas.DataFrame(a) for a in ragged()]]
        )
    scaled = SequenceScaler().fit_transform(pandas.Series(ragged()))
    for a, b in zip(scaled, SequenceScaler().fit_transform(ragged()), strict=True):
        np.testing.assert_array_equal(a, b)
    y = pandas.Series([a.sum(axis=1) for a in ragged()])
    estimator = RNNRegressor(**SMALL, output="all").fit(ragged(), y)
    expected = RNNRegressor(**SMALL, output="all").fit(ragged(), [*y])
    np.testing.assert_array_equal(estimator.model_.vector, expected.model_.vector)


def frames(pandas):
    """Frames that have a row for each step of one sequence, and what tells."""
    values = draw(N, 2)
    dates = pandas.date_range("2020-01-01", periods=N)
    return {
        "whose rows are times": pandas.DataFrame(values, index=dates),
        "whose rows are times:": pandas.DataFrame(values, dates.to_period("M"), ["x0", "x1"]),
        "whose columns are 'load', 'wind',": pandas.DataFrame(values, columns=["load", "wind"]),
        "whose columns are 'load', 'wind' …,": pandas.DataFrame(
            draw(N, 3), columns=["load", "wind", "sun"]
        ),
        "with the one column 'load'": pandas.DataFrame(values[:, :1], columns=["load"]),
    }


def test_a_frame_that_is_one_sequence():
    pandas = pytest.importorskip("pandas")
    for why, frame in frames(pandas).items():
        message = f"X is a data frame {why.rstrip(':')}.* pass .X. for one sequence of {N} steps.*"
        for kind in (RNNRegressor, RNNClassifier):
            with pytest.raises(ValueError, match=message + r"datasets.windows.*X.to_numpy\(\)"):
                kind(**SMALL).fit(frame, labels(kind))
        with pytest.raises(ValueError, match=message):
            SequenceScaler().fit(frame)
        # what it says
        y = [np.arange(N)]
        got = RNNRegressor(**SMALL, output="all").fit([frame], y).predict([frame])
        assert [a.shape for a in got] == [(N,)]
        SequenceScaler().fit([frame])
        RNNRegressor(**SMALL).fit(frame.to_numpy(), labels(RNNRegressor))


def test_a_frame_of_series():
    """Columns that are numbers, or differ in them alone, are steps."""
    pandas = pytest.importorskip("pandas")
    for columns in (range(T), [f"t{k}" for k in range(T)], [f"lag_{k}_h" for k in range(T)]):
        frame = pandas.DataFrame(draw(N, T), columns=columns)
        for kind in (RNNRegressor, RNNClassifier):
            estimator = kind(**SMALL).fit(frame, labels(kind))
            np.testing.assert_array_equal(
                estimator.predict(frame),
                kind(**SMALL).fit(draw(N, T), labels(kind)).predict(draw(N, T)),
            )


def test_xarray():
    xarray = pytest.importorskip("xarray")
    X = xarray.DataArray(draw(N, T, I), dims=("sample", "time", "feature"))
    message = (
        r"X is an xarray.DataArray with the dimensions \('sample', 'time', 'feature'\).*numpy\(\)"
    )
    for kind in (RNNRegressor, RNNClassifier):
        with pytest.raises(TypeError, match=message):
            kind(**SMALL).fit(X, labels(kind))
    with pytest.raises(TypeError, match=r"xarray.Dataset with the dimensions"):
        SequenceScaler().fit(X.to_dataset(name="x"))
    given = X.transpose("sample", "time", "feature").to_numpy()
    RNNRegressor(**SMALL).fit(given, labels(RNNRegressor))


@BOTH
def test_one_sequence_for_an_estimator_of_more_features(kind):
    estimator = kind(**SMALL).fit(draw(N, T, I), labels(kind))
    with pytest.raises(ValueError, match=r"X has shape \(9, 2\), expected 3 axes, .*pass \[X\]"):
        estimator.predict(draw(9, I))
    assert len(estimator.predict([draw(9, I)])) == 1


@BOTH
def test_nested_lists_of_unequal_lengths(kind):
    with pytest.raises(ValueError, match=r"X is a nested list whose parts differ.*\[np.asarray"):
        kind(**SMALL).fit([a.tolist() for a in ragged()], labels(kind))


@BOTH
def test_objects_that_are_no_sequences(kind):
    for X in (objects(["a"] * N), objects([{}] * N)):
        with pytest.raises((TypeError, ValueError)):
            kind(**SMALL).fit(X, labels(kind))
