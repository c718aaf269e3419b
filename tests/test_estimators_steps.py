"""Estimators with a target for every step: sequence labelling, and regression at each step."""

import pickle
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_val_score

import fastbptt
from fastbptt.estimators import RNNClassifier, RNNRegressor
from fastbptt.training import Generators

N, T, I = 48, 6, 2
SMALL = {"output": "all", "hidden_size": 8, "learning_rate": 0.02, "epochs": 3, "random_state": 0}
BOTH = pytest.mark.parametrize("kind", [RNNRegressor, RNNClassifier], ids=lambda k: k.__name__)


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def ragged(features=I):
    lengths = np.random.default_rng(1).integers(0, T + 1, N)
    return [a[:length] for a, length in zip(draw(N, T, features), lengths, strict=True)]


def targets(kind, X) -> Any:
    """The sum of all steps so far, or its sign in words."""
    sums = [(a if a.ndim == 1 else a.sum(axis=1)).cumsum() for a in X]
    y = [np.where(a > 0, "up", "down") for a in sums] if kind is RNNClassifier else sums
    return y if isinstance(X, list) else np.array(y)


def fitted(kind, X, **options):
    return kind(**{**SMALL, **options}).fit(X, targets(kind, X))


FORMS = pytest.mark.parametrize(
    "X", [draw(N, T), draw(N, T, I), ragged()], ids=["2-D", "3-D", "list"]
)


@BOTH
@FORMS
def test_learns(kind, X):
    estimator, y = fitted(kind, X, epochs=80), targets(kind, X)
    assert estimator.score(X, y) > 0.9
    got = estimator.predict(X)
    assert type(got) is type(y)
    assert [a.shape for a in got] == [a.shape for a in y]
    metric = accuracy_score if kind is RNNClassifier else r2_score
    flat = metric(np.concatenate([*y]), np.concatenate([*got]))
    assert estimator.score(X, y) == pytest.approx(flat, rel=1e-12)
    assert estimator.model_.output == "all"


def test_a_regressor_in_the_units_of_y():
    """The training and what it forecasts are those of the model by itself."""
    X, y = ragged(), [5 * np.c_[a.cumsum(axis=0), a] + 3 for a in ragged()]
    estimator = RNNRegressor(**SMALL).fit(X, y)
    steps = np.concatenate(y)
    np.testing.assert_allclose(estimator.y_mean_, steps.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(estimator.y_scale_, steps.std(axis=0), rtol=1e-12)
    for got, outputs in zip(estimator.predict(X), estimator.model_.predict(X), strict=True):
        np.testing.assert_array_equal(got, outputs * steps.std(axis=0) + steps.mean(axis=0))
    scaled = [(a - steps.mean(axis=0)) / steps.std(axis=0) for a in y]
    model = estimator.set_params(learning_rate=1e-30).fit(X, y).model_
    expected = model.evaluate(X, scaled)
    assert estimator.history_.loss[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("outputs", [(), (1,), (3,)], ids=str)
def test_predictions_have_the_shape_of_y(outputs):
    for X in (draw(N, T), draw(N, T, I)):
        got = RNNRegressor(**SMALL).fit(X, draw(N, T, *outputs)).predict(X[:5])
        assert got.shape == (5, T, *outputs)
        assert got.dtype == np.float64
    y = [draw(len(a), *outputs) for a in ragged()]
    got = RNNRegressor(**SMALL).fit(ragged(), y).predict(ragged()[:5])
    assert [a.shape for a in got] == [a.shape for a in y[:5]]


@BOTH
def test_arrays_and_lists_give_the_same_bits(kind):
    X = draw(N, T, I)
    y = targets(kind, X)
    objects = np.empty(N, object)
    objects[:] = [*y]
    expected = kind(**SMALL).fit(X, y)
    for other in ([*X], X):
        for its_y in ([*y], y.tolist(), objects):
            got = kind(**SMALL).fit(other, its_y)
            np.testing.assert_array_equal(got.model_.vector, expected.model_.vector)
            np.testing.assert_array_equal(got.predict(other), expected.predict(X))


@FORMS
def test_what_a_classifier_says_of_each_step(X):
    estimator = fitted(RNNClassifier, X)
    logits = estimator.model_.predict(X)
    outputs = estimator.predict_proba(X), estimator.decision_function(X), estimator.predict(X)
    for z, p, d, label in zip(logits, *outputs, strict=True):
        e = np.exp(z.astype(float))
        np.testing.assert_allclose(p, e / e.sum(axis=1, keepdims=True), rtol=1e-12)
        np.testing.assert_array_equal(d, z[:, 1].astype(float) - z[:, 0])
        np.testing.assert_array_equal(label, np.where(d > 0, "up", "down"))


@BOTH
def test_partial_fit_goes_on(kind):
    X = ragged()
    y = targets(kind, X)
    expected, got = kind(**SMALL).fit(X, y), kind(**SMALL)
    classes = {"classes": ["up", "down"]} if kind is RNNClassifier else {}
    for call in range(3):
        got.partial_fit(X, y, **({} if call else classes))
    np.testing.assert_array_equal(got.model_.vector, expected.model_.vector)
    again = pickle.loads(pickle.dumps(got))
    np.testing.assert_array_equal(again.predict(X)[3], expected.predict(X)[3])


@BOTH
def test_held_out(kind):
    X = ragged()
    estimator = fitted(kind, X, validation_fraction=0.25, patience=2, epochs=6)
    assert len(estimator.history_.validation_loss) == len(estimator.history_.loss)


@BOTH
def test_in_searches(kind):
    for X in (draw(N, T, I), ragged()):
        y = targets(kind, X)
        cv = [(np.arange(24), np.arange(24, 48))]  # labels in lists are nothing to stratify by
        assert cross_val_score(kind(**SMALL), X, y, cv=cv).shape == (1,)
        search = GridSearchCV(kind(**SMALL), {"hidden_size": [4, 8]}, cv=cv).fit(X, y)
        assert len(search.predict(X)) == N


@BOTH
@pytest.mark.parametrize(
    ("X", "y", "message"),
    [
        (draw(N, T), np.arange(N) % 2, "y has one value for each sequence, expected one for each"),
        (draw(N, T), draw(N - 1, T) > 0, "inconsistent numbers of samples"),
        (draw(N, T), draw(N, T + 1) > 0, r"y\[0\] has shape \(7,\), expected \(6,\): a row for ea"),
        (draw(N, T), [*draw(N - 1, T), draw(T, 1)], r"y\[47\] has shape \(6, 1\), expected \(6,\)"),
        (draw(N, T), draw(N, T, 2, 2), r"y\[0\] has shape \(6, 2, 2\), expected \(6, 2\)"),
        (draw(N, T), 3.0, "inconsistent numbers of samples"),
        (ragged(), draw(N, T) > 0, r"y\[.\] has shape \(6,\), expected \(.,\): a row for each of "),
    ],
    ids=["of sequences", "fewer", "longer", "other axes", "4-D", "number", "ragged"],
)
def test_other_targets(kind, X, y, message):
    with pytest.raises(ValueError, match=message):
        kind(**SMALL).fit(X, y)


@BOTH
def test_steps_without_the_parameter(kind):
    for X in (draw(N, T, I), ragged()):
        y = targets(kind, X)
        if not isinstance(y, list):
            y = y[..., np.newaxis]
        with pytest.raises(ValueError, match=r"expected a target for each seq.*output='all'"):
            kind(**{**SMALL, "output": "last"}).fit(X, y)
    with pytest.raises(ValueError, match="output is 'steps', expected one of 'last', 'all'"):
        fitted(kind, draw(N, T), output="steps")


def test_a_network_for_steps_is_fits_own():
    """The bits of `fastbptt.fit` with the same generators."""
    X = draw(N, T, I)
    y = X.sum(axis=2).cumsum(axis=1)
    got = RNNRegressor(**SMALL).fit(X, y)
    rng = np.random.default_rng(np.random.RandomState(0).randint(2**31 - 1))
    generators = Generators(*rng.spawn(2))
    model = fastbptt.RNN(I, 8, 1, output="all", seed=rng)
    fastbptt.fit(
        model, X, (y - y.mean()) / y.std(), optimizer=fastbptt.Adam(0.02), epochs=3, clip_norm=1.0,
        progress=False, seed=generators,
    )  # fmt: skip
    np.testing.assert_array_equal(got.model_.vector, model.vector)
