"""Weights of sequences, steps and classes; what a classifier decides by; routing of weights."""

import numpy as np
import pytest

pytest.importorskip("sklearn")
import sklearn
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline

from fastbptt.estimators import RNNClassifier, RNNRegressor, SequenceScaler

N, T, I = 30, 5, 2
SMALL = {"hidden_size": 6, "epochs": 5, "learning_rate": 0.02, "random_state": 0, "batch_size": 999,
         "dtype": "float64"}  # fmt: skip
KINDS = [RNNRegressor, RNNClassifier]
BOTH = pytest.mark.parametrize("kind", KINDS, ids=lambda k: k.__name__)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def ragged():
    lengths = np.random.default_rng(1).integers(1, T + 1, N)
    return [a[:length] for a, length in zip(draw(N, T, I), lengths, strict=True)]


def labels(kind, n=N):
    return np.arange(n) % 3 if kind is RNNClassifier else draw(n, seed=3)


def counts():
    return np.random.default_rng(2).integers(0, 4, N)


def said(estimator, X):
    return (getattr(estimator, "predict_proba", None) or estimator.predict)(X)


# Sequences


@BOTH
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("X", [draw(N, T), draw(N, T, I), ragged()], ids=["2-D", "3-D", "list"])
def test_a_weight_is_a_number_of_sequences(kind, method, X):
    """In one minibatch; the mean and the scale of y, too."""
    index = np.repeat(np.arange(N), counts())
    repeated = [X[n] for n in index] if isinstance(X, list) else X[index]
    y = labels(kind)
    classes = {"classes": [0, 1, 2]} if (kind, method) == (RNNClassifier, "partial_fit") else {}
    expected = getattr(kind(**SMALL), method)(repeated, y[index], **classes)
    got = getattr(kind(**SMALL), method)(X, y, sample_weight=counts(), **classes)
    np.testing.assert_allclose(said(got, X), said(expected, X), rtol=1e-9)
    np.testing.assert_allclose(got.history_.loss, expected.history_.loss, rtol=1e-9)
    without = getattr(kind(**SMALL), method)(X, y, **classes)
    assert np.abs(said(without, X) - said(got, X)).max() > 1e-4


def test_targets_of_weight_zero_do_not_shift_the_scale():
    y, weight = labels(RNNRegressor), np.ones(N)
    y[3], weight[3] = 1e100, 0
    got = RNNRegressor(**SMALL).fit(draw(N, T), y, weight)
    kept = np.delete(y, 3)
    assert got.y_mean_ == pytest.approx(kept.mean(), rel=1e-12)
    assert got.y_scale_ == pytest.approx(kept.std(), rel=1e-12)


def test_a_class_of_weight_zero_is_known():
    y = labels(RNNClassifier)
    got = RNNClassifier(**SMALL).fit(draw(N, T), y, y != 1)
    assert got.classes_.tolist() == [0, 1, 2]
    assert got.predict_proba(draw(N, T)).shape == (N, 3)


@BOTH
def test_weights_are_held_out_with_their_sequences(kind):
    X, y = draw(N, T), labels(kind)
    got = kind(**SMALL, validation_fraction=0.5).fit(X, y, sample_weight=1 + counts())
    again = kind(**SMALL, validation_fraction=0.5).fit(X, y, sample_weight=10 * (1 + counts()))
    np.testing.assert_allclose(got.history_.validation_loss, again.history_.validation_loss)
    other = kind(**SMALL, validation_fraction=0.5).fit(X, y)
    assert abs(got.history_.validation_loss[0] - other.history_.validation_loss[0]) > 1e-4


@BOTH
@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.ones(N - 1), r"sample_weight has shape \(29,\), expected \(30,\)"),
        (np.ones((N, 1)), r"sample_weight has shape \(30, 1\), expected \(30,\)"),
        (-np.ones(N), "sample_weight has values from -1.0 to -1.0, expected at least zero"),
        (np.zeros(N), "sample_weight has values from 0.0 to 0.0, expected at least zero and some"),
        (np.full(N, np.nan), "sample_weight contains NaN"),
    ],
    ids=["fewer", "2-D", "negative", "zero", "NaN"],
)
def test_other_weights(kind, weight, message):
    with pytest.raises(ValueError, match=message):
        kind(**SMALL).fit(draw(N, T), labels(kind), sample_weight=weight)


# Steps


def step_labels(kind, X):
    return [labels(kind, 7)[: len(a)] for a in X]


@BOTH
def test_weights_of_steps(kind):
    """Whole sequences by their steps; a step of weight 0 may have any target."""
    X, options = ragged(), {**SMALL, "output": "all"}
    y = step_labels(kind, X)
    of_sequences = 1.0 + counts()
    of_steps = [np.full(len(a), w) for a, w in zip(X, of_sequences, strict=True)]
    expected = kind(**options).fit(X, y, sample_weight=of_sequences)
    got = kind(**options).fit(X, y, sample_weight=of_steps)
    np.testing.assert_allclose(got.model_.vector, expected.model_.vector, rtol=1e-10, atol=1e-12)
    score = got.score(X, y, sample_weight=of_steps)
    assert score == pytest.approx(got.score(X, y, sample_weight=of_sequences), rel=1e-12)
    metric = accuracy_score if kind is RNNClassifier else r2_score
    flat = (np.concatenate(a) for a in (y, got.predict(X), of_steps))
    y_true, y_pred, weight = flat
    assert score == pytest.approx(metric(y_true, y_pred, sample_weight=weight), rel=1e-12)

    of_steps[2][0] = 0
    changed = [a.copy() for a in y]
    changed[2][0] = (changed[2][0] + 1) % 3
    got = kind(**options).fit(X, y, sample_weight=of_steps)
    other = kind(**options).fit(X, changed, sample_weight=of_steps)
    np.testing.assert_allclose(got.model_.vector, other.model_.vector, rtol=1e-12)


@BOTH
def test_weights_of_steps_as_an_array(kind):
    X, options = draw(N, T, I), {**SMALL, "output": "all"}
    y, weight = np.array(step_labels(kind, X)), np.random.default_rng(4).random((N, T))
    expected = kind(**options).fit([*X], [*y], sample_weight=[*weight])
    for given in (weight, weight.tolist(), [*weight]):
        got = kind(**options, validation_fraction=0.0).fit(X, y, sample_weight=given)
        np.testing.assert_array_equal(got.model_.vector, expected.model_.vector)
    kind(**options, validation_fraction=0.5).fit(X, y, sample_weight=weight)
    with pytest.raises(ValueError, match=r"sample_weight\[0\] has shape \(4,\), expected \(5,\)"):
        kind(**options).fit(X, y, sample_weight=weight[:, 1:])


# Classes


@pytest.mark.parametrize("output", ["last", "all"])
def test_class_weights_are_weights_of_rows(output):
    X, options = draw(N, T, I), {**SMALL, "output": output}
    y = np.array(["c", "a", "b"])[np.random.default_rng(5).choice(3, (N, T), p=[0.6, 0.3, 0.1])]
    y = y if output == "all" else y[:, 0]
    given = {"a": 3.0, "c": 0.5}
    sums = {k: y.size / (3 * np.sum(y == k)) for k in "abc"}  # scikit-learn's formula
    for class_weight, of_class in ((given, {"b": 1, **given}), ("balanced", sums)):
        weight = np.vectorize(of_class.get)(y).astype(float)
        expected = RNNClassifier(**options).fit(X, y, sample_weight=weight)
        got = RNNClassifier(**options, class_weight=class_weight).fit(X, y)
        np.testing.assert_allclose(said(got, X), said(expected, X), rtol=1e-9)


def test_other_class_weights():
    X, y = draw(N, T), labels(RNNClassifier)
    for class_weight, message in (
        ({3: 1.0}, r"class_weight has \[3\], expected labels from \[0, 1, 2\]"),
        ("other", "class_weight is 'other', expected one of 'balanced'"),
        ({0: -1.0}, "class_weight"),
    ):
        with pytest.raises(ValueError, match=message):
            RNNClassifier(**SMALL, class_weight=class_weight).fit(X, y)


# What is decided by


@pytest.mark.parametrize("classes", [1, 2, 3])
def test_decisions(classes):
    X, y = draw(N, T), np.array(["b", "a", "c"])[np.arange(N) % classes]
    estimator = RNNClassifier(**{**SMALL, "dtype": "float32"}).fit(X, y)
    logits = estimator.model_.predict(X[..., None])
    got = estimator.decision_function(X)
    if classes == 2:
        np.testing.assert_array_equal(got, logits[:, 1].astype(float) - logits[:, 0])
        p = estimator.predict_proba(X)
        np.testing.assert_allclose(got, np.log(p[:, 1] / p[:, 0]), rtol=1e-9, atol=1e-12)
        decided = (got > 0).astype(int)
    else:
        np.testing.assert_array_equal(got, logits)
        decided = got.argmax(axis=1)
    assert estimator.predict(X).tolist() == estimator.classes_[decided].tolist()


def test_logarithms_of_probabilities():
    X, y = draw(N, T), labels(RNNClassifier)
    estimator = RNNClassifier(**SMALL).fit(X, y)
    log_p = estimator.predict_log_proba(X)
    np.testing.assert_allclose(np.exp(log_p), estimator.predict_proba(X), rtol=1e-13)
    estimator.model_.parameters()["b_y"][:] = 1e4, 0, -1e300
    assert estimator.predict_proba(X)[0].tolist() == [1, 0, 0]
    log_p = estimator.predict_log_proba(X)
    np.testing.assert_allclose(log_p, np.tile([0, -1e4, -1e300], (N, 1)), rtol=1e-3)


# Routing


@BOTH
def test_weights_are_routed(kind):
    """Weights that leave only the even sequences, through a pipeline and a search."""
    X, y, weight = ragged(), labels(kind), (np.arange(N) % 2 == 0).astype(float)
    cv = [(np.arange(20), np.arange(20, N))]
    with sklearn.config_context(enable_metadata_routing=True):
        estimator = kind(**SMALL).set_fit_request(sample_weight=True)
        estimator.set_score_request(sample_weight=True)
        found = cross_validate(
            estimator, X, y, cv=cv, params={"sample_weight": weight}, return_estimator=True
        )
        expected = kind(**SMALL).fit(X[:20:2], y[:20:2])
        got = found["estimator"][0]
        np.testing.assert_array_equal(got.model_.vector, expected.model_.vector)
        score = expected.score(X[20:], y[20:], sample_weight=weight[20:])
        assert found["test_score"][0] == score
        # In sums of half as many terms others are rounded.
        assert score == pytest.approx(expected.score(X[20::2], y[20::2]), rel=1e-14)
        search = GridSearchCV(estimator, {"hidden_size": [6]}, cv=cv)
        search.fit(X, y, sample_weight=weight)
        expected = kind(**SMALL).fit(X, y, sample_weight=weight)
        np.testing.assert_array_equal(said(search, X), said(expected, X))
        pipeline = make_pipeline(SequenceScaler(), estimator).fit(X, y, sample_weight=weight)
        scaled = SequenceScaler().fit_transform(X)
        expected = kind(**SMALL).fit(scaled, y, sample_weight=weight)
        np.testing.assert_array_equal(said(pipeline, X), said(expected, scaled))
        with pytest.raises(ValueError, match=r"sample_weight.* are passed .*are not expl"):
            cross_validate(kind(**SMALL), X, y, cv=cv, params={"sample_weight": weight})


def test_lengths_are_routed():
    X, lengths = draw(N, T, I), np.random.default_rng(1).integers(1, T + 1, N)
    with sklearn.config_context(enable_metadata_routing=True):
        scaler = SequenceScaler().set_fit_request(lengths=True).set_transform_request(lengths=True)
        pipeline = make_pipeline(scaler, RNNRegressor(**SMALL))
        pipeline.fit(X, labels(RNNRegressor), lengths=lengths)
    expected = SequenceScaler().fit(X, lengths=lengths)
    np.testing.assert_array_equal(scaler.mean_, expected.mean_)
