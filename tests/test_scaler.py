"""The scaler of sequences, beside scikit-learn's own on the steps that count."""

import doctest
import importlib

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastbptt.estimators import RNNRegressor, SequenceScaler

N, T, I = 7, 5, 3
LENGTHS = np.array([5, 1, 3, 0, 4, 5, 2])
OPTIONS = pytest.mark.parametrize(
    "options", [{}, {"with_mean": False}, {"with_std": False}], ids=["both", "std", "mean"]
)


@parametrize_with_checks([SequenceScaler(), SequenceScaler(with_mean=False)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def draw(features=I, dtype=float):
    x = np.random.default_rng(0).standard_normal((N, T, features))
    return (x * np.arange(1, features + 1) + 10).astype(dtype)


def ragged(features=I, dtype=float):
    return [a[:n] for a, n in zip(draw(features, dtype), LENGTHS, strict=True)]


@OPTIONS
def test_lists_are_scaled_by_all_their_steps(options):
    X = ragged()
    expected = StandardScaler(**options).fit(np.concatenate(X))
    scaler = SequenceScaler(**options).fit(X)
    for name in ("mean_", "scale_"):
        np.testing.assert_array_equal(getattr(scaler, name), getattr(expected, name))
    assert scaler.scaler_.n_samples_seen_ == LENGTHS.sum()
    got = scaler.transform(X)
    assert isinstance(got, list)
    for a, x in zip(got, X, strict=True):
        np.testing.assert_array_equal(a, expected.transform(x) if len(x) else x)
    for a, x in zip(scaler.inverse_transform(got), X, strict=True):
        np.testing.assert_allclose(a, x, rtol=1e-14)


@OPTIONS
def test_padding_neither_counts_nor_changes(options):
    X, counted = draw(), np.arange(T) < LENGTHS[:, None]
    X[~counted] = np.nan
    expected = SequenceScaler(**options).fit(ragged())
    scaler = SequenceScaler(**options).fit(X, lengths=LENGTHS)
    for name in ("mean_", "scale_"):
        np.testing.assert_array_equal(getattr(scaler, name), getattr(expected, name))
    got = scaler.transform(X, lengths=LENGTHS)
    for a, of_list, n in zip(got, expected.transform(ragged()), LENGTHS, strict=True):
        np.testing.assert_array_equal(a[:n], of_list)
    assert np.isnan(got[~counted]).all()
    np.testing.assert_array_equal(scaler.fit_transform(X, lengths=LENGTHS), got)
    back = scaler.inverse_transform(got, LENGTHS)
    np.testing.assert_allclose(back, X, rtol=1e-14)


def test_a_table_is_series_of_one_feature():
    X = draw(1)
    expected = SequenceScaler().fit(X)
    scaler = SequenceScaler().fit(X[..., 0])
    assert scaler.mean_ == X.mean()
    assert scaler.n_features_in_ == T
    np.testing.assert_array_equal(scaler.transform(X[..., 0]), expected.transform(X)[..., 0])
    assert scaler.get_feature_names_out().tolist() == [f"x{t}" for t in range(T)]
    series = [a[:, 0] for a in ragged(1)]
    got = SequenceScaler().fit_transform(series)
    assert [a.shape for a in got] == [(n,) for n in LENGTHS]
    np.testing.assert_allclose(np.concatenate(got).std(), 1)


def test_names_of_features():
    assert SequenceScaler().fit(ragged()).get_feature_names_out().tolist() == ["x0", "x1", "x2"]


@pytest.mark.parametrize("form", [draw, ragged])
def test_partial_fit_counts_all_that_came(form):
    X = form()
    expected = SequenceScaler().fit(X)
    scaler = SequenceScaler().partial_fit(X[:2]).partial_fit(X[2:])
    for name in ("mean_", "scale_"):
        np.testing.assert_allclose(getattr(scaler, name), getattr(expected, name), rtol=1e-14)
    np.testing.assert_array_equal(scaler.fit(X[:2]).mean_, SequenceScaler().fit(X[:2]).mean_)


@pytest.mark.parametrize("form", [draw, ragged])
def test_float32_stays(form):
    X = form(dtype="float32")
    for a in SequenceScaler().fit_transform(X):
        assert a.dtype == np.float32
    for a in SequenceScaler().fit_transform([x.astype(int) for x in X]):
        assert a.dtype == np.float64


def test_inputs_are_left_as_they_are():
    X = draw()
    before = X.copy()
    scaler = SequenceScaler().fit(X, lengths=LENGTHS)
    scaler.inverse_transform(scaler.transform(X))
    scaler.transform([*X])
    np.testing.assert_array_equal(X, before)


def test_in_a_pipeline():
    X = ragged()
    y = [a.cumsum(axis=0) for a in X]
    regressor = RNNRegressor(
        output="all", hidden_size=8, epochs=120, learning_rate=0.02, random_state=0
    )
    pipeline = make_pipeline(SequenceScaler(), regressor).fit(X, y)
    assert pipeline.score(X, y) > 0.8


def test_what_does_not_fit():
    scaler = SequenceScaler()
    with pytest.raises(NotFittedError):
        scaler.transform(draw())
    scaler.fit(draw())
    before = scaler.mean_
    for call in (scaler.fit, scaler.partial_fit):
        with pytest.raises(ValueError, match="contains NaN"):
            call(np.full((2, 3, I), np.nan))
    assert scaler.mean_ is before
    with pytest.raises(ValueError, match="X has 2 features, but SequenceScaler is expecting 3"):
        scaler.transform(draw(2))
    with pytest.raises(ValueError, match=r"X has shape \(5, 3\), expected 3 axes, .* I = 3.*\[X\]"):
        scaler.transform(draw()[0])
    with pytest.raises(ValueError, match="lengths is given with a list X"):
        scaler.fit(ragged(), lengths=LENGTHS)
    with pytest.raises(ValueError, match=r"lengths\[0\] is 6, expected 0 to 5"):
        scaler.fit(draw(), lengths=LENGTHS + 1)
    with pytest.raises(ValueError, match=r"X has shape \(3,\), expected \(N, T\) or \(N, T, I\)"):
        scaler.fit(np.zeros(3), lengths=[1, 1, 1])


def test_docstring_examples():
    got = doctest.testmod(importlib.import_module("fastbptt.estimators._scaler"))
    assert got.attempted
    assert not got.failed
