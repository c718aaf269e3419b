"""The estimators: scikit-learn's own checks, the forms of X and y, and further training."""

import doctest
import importlib
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest

import fastbptt
from fastbptt import MissingExtraError

pytest.importorskip("sklearn")
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fastbptt.estimators import RNNClassifier, RNNRegressor, _estimator
from fastbptt.optimizers import Adam

# Not as the others: pyright takes from its declaration that it returns a dict or a list.
clone = importlib.import_module("sklearn.base").clone
N, T, I = 48, 6, 2
SMALL = {"hidden_size": 8, "learning_rate": 0.02, "epochs": 3, "random_state": 0}
BOTH = pytest.mark.parametrize("kind", [RNNRegressor, RNNClassifier], ids=lambda k: k.__name__)


CHECKED = {"hidden_size": 8, "learning_rate": 0.02, "epochs": 20}
WEIGHTED = "check_sample_weight_equivalence_on_dense_data"


def not_exactly(estimator):
    """To 1e-7, a weight of 2 is two of weight 1 in float64; all are in one minibatch there."""
    return {WEIGHTED: "rounding"} if estimator.dtype == "float32" else {}


@parametrize_with_checks(
    [
        RNNRegressor(**CHECKED),
        RNNClassifier(**CHECKED),
        RNNRegressor(**CHECKED, dtype="float64"),
        RNNClassifier(**CHECKED, dtype="float64"),
    ],
    expected_failed_checks=not_exactly,
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def ragged(features=I):
    """Sequences of 1 to T steps."""
    lengths = np.random.default_rng(1).integers(1, T + 1, N)
    return [a[:length] for a, length in zip(draw(N, T, features), lengths, strict=True)]


def targets(kind, X):
    """What can be learned from sequences: the sum of all steps, or its sign in words."""
    sums = np.array([np.sum(a) for a in X])
    return np.where(sums > 0, "up", "down") if kind is RNNClassifier else sums


def fitted(kind, X, **options):
    return kind(**{**SMALL, **options}).fit(X, targets(kind, X))


def outputs(estimator, X):
    """Everything that it says of X."""
    classifies = isinstance(estimator, RNNClassifier)
    return estimator.predict_proba(X) if classifies else estimator.predict(X)


def weights(estimator):
    return estimator.model_.network.vector


# What it learns


@BOTH
@pytest.mark.parametrize("X", [draw(N, T), draw(N, T, I), ragged()], ids=["2-D", "3-D", "list"])
def test_learns(kind, X):
    estimator = fitted(kind, X, epochs=80)
    assert estimator.score(X, targets(kind, X)) > 0.95


def test_classes():
    """Any labels, in order; the most probable one is predicted."""
    X = draw(N, T)
    for labels in (["b", "a", "c"], [7, -1, 3], [True, False]):
        y = np.array(labels)[np.arange(N) % len(labels)]
        estimator = RNNClassifier(**SMALL).fit(X, y)
        assert estimator.classes_.tolist() == sorted(labels)
        p = estimator.predict_proba(X)
        assert p.shape == (N, len(labels))
        assert p.dtype == np.float64
        np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-14)
        got = estimator.predict(X)
        assert got.dtype == y.dtype
        assert got.tolist() == [sorted(labels)[k] for k in p.argmax(axis=1)]


def test_probabilities_are_of_the_loss():
    """Their mean logarithm is the cross-entropy that training minimizes."""
    X = draw(N, T)
    estimator = fitted(RNNClassifier, X)
    y = targets(RNNClassifier, X)
    p = estimator.predict_proba(X)[np.arange(N), (y == "up").astype(int)]
    loss = estimator.model_.evaluate(X, (y == "up").astype(int), loss="cross_entropy")
    np.testing.assert_allclose(-np.log(p).mean(), loss, rtol=1e-6)


def test_probabilities_do_not_overflow():
    X = draw(N, T)
    estimator = fitted(RNNClassifier, X)
    estimator.model_.parameters()["b_y"][:] = 1e30, -1e30
    assert estimator.predict_proba(X).tolist() == [[1, 0]] * N


def test_one_class():
    X = draw(N, T)
    estimator = RNNClassifier(**SMALL).fit(X, ["a"] * N)
    assert estimator.predict(X).tolist() == ["a"] * N
    assert estimator.predict_proba(X).tolist() == [[1]] * N


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 3)], ids=str)
def test_predictions_have_the_shape_of_y(shape):
    X = draw(N, T)
    got = RNNRegressor(**SMALL).fit(X, draw(*shape)).predict(X[:5])
    assert got.shape == (5, *shape[1:])
    assert got.dtype == np.float64


def test_units_of_y():
    """A target in another unit is predicted in that unit, and training is the same."""
    X, y = draw(N, T), draw(N, 2)
    expected = RNNRegressor(**SMALL).fit(X, y).predict(X)
    factor, offset = np.array([1e6, 1e-6]), np.array([-3e6, 5e-6])
    estimator = RNNRegressor(**SMALL).fit(X, y * factor + offset)
    np.testing.assert_allclose(estimator.y_mean_, y.mean(axis=0) * factor + offset, rtol=1e-9)
    np.testing.assert_allclose(estimator.y_scale_, y.std(axis=0) * factor, rtol=1e-9)
    np.testing.assert_allclose((estimator.predict(X) - offset) / factor, expected, atol=1e-4)


@pytest.mark.parametrize("exponent", [460, -460])
def test_extreme_units_of_y(exponent):
    """1e138 and its inverse: a power of two changes no bit but the exponents."""
    X, y = draw(N, T), draw(N, 2) + 3
    expected = RNNRegressor(**SMALL).fit(X, y)
    got = RNNRegressor(**SMALL).fit(X, np.ldexp(y, exponent))
    np.testing.assert_array_equal(got.predict(X), np.ldexp(expected.predict(X), exponent))
    np.testing.assert_allclose(
        got.score(X, np.ldexp(y, exponent)), expected.score(X, y), rtol=1e-12
    )


def test_loss_is_the_mean_square_in_units_of_the_scale():
    X, y = draw(N, T), 5 * draw(N, 2) + 3
    estimator = RNNRegressor(**{**SMALL, "learning_rate": 1e-30}).fit(X, y)
    expected = np.mean((estimator.predict(X) - y) ** 2 / y.var(axis=0))
    np.testing.assert_allclose(estimator.history_.loss, [expected] * 3, rtol=1e-5)


def test_constant_y():
    X = draw(N, T)
    estimator = RNNRegressor(**SMALL, clip_norm=None).set_params(epochs=60).fit(X, np.full(N, 7.0))
    assert estimator.y_scale_ == 1
    np.testing.assert_allclose(estimator.predict(X), 7, atol=0.2)


@pytest.mark.parametrize("value", [0.1, 1e23, -1e139, 1e-300])
def test_constant_y_whose_computed_mean_is_another(value):
    """And their computed deviation is not 0, or enormous."""
    estimator = RNNRegressor(**SMALL).fit(draw(N, T), np.full((N, 1), value))
    assert estimator.y_mean_ == value
    assert estimator.y_scale_ == 1
    assert np.isfinite(estimator.history_.loss).all()


# The forms of X


@BOTH
def test_arrays_lists_and_nested_lists_give_the_same_bits(kind):
    for X, alike in (
        (draw(N, T), [draw(N, T).tolist(), np.asfortranarray(draw(N, T))]),
        (draw(N, T, I), [[*draw(N, T, I)], (*draw(N, T, I),), draw(N, T, I).tolist()]),
        (draw(N, T, 1), [[*draw(N, T, 1)], [*draw(N, T, 1)[..., 0]]]),
        (ragged(1), [[a[:, 0] for a in ragged(1)]]),
    ):
        y = targets(kind, X)
        expected = kind(**SMALL).fit(X, y)
        for other in alike:
            got = kind(**SMALL).fit(other, y)
            np.testing.assert_array_equal(weights(got), weights(expected))
            np.testing.assert_array_equal(outputs(got, other), outputs(expected, X))
            assert got.n_features_in_ == expected.n_features_in_


@BOTH
def test_two_axes_are_series_of_one_feature(kind):
    table, array = fitted(kind, draw(N, T)), fitted(kind, draw(N, T)[..., np.newaxis])
    np.testing.assert_array_equal(weights(table), weights(array))
    assert table.n_features_in_ == T
    assert array.n_features_in_ == 1
    assert table.model_.input_size == array.model_.input_size == 1


@BOTH
def test_sequences_by_themselves_are_predicted_alike(kind):
    X = ragged()
    estimator = fitted(kind, X)
    expected = outputs(estimator, X)
    for n in (0, 7, N - 1):
        np.testing.assert_array_equal(outputs(estimator, X[n : n + 1]), expected[n : n + 1])
        np.testing.assert_array_equal(outputs(estimator, X[n][np.newaxis]), expected[n : n + 1])
    order = np.random.default_rng(2).permutation(N)
    got = outputs(estimator, [X[n] for n in order])
    np.testing.assert_array_equal(got, expected[order])


@BOTH
def test_later_sequences_may_have_other_lengths(kind):
    estimator = fitted(kind, draw(N, T, I))
    assert len(outputs(estimator, draw(3, 2 * T, I))) == 3
    assert len(outputs(estimator, [draw(1, I), draw(20, I)])) == 2


# What does not fit


@BOTH
@pytest.mark.parametrize(
    ("X", "other", "features"),
    [
        (draw(N, T), draw(3, T + 1), (T + 1, T)),
        (draw(N, T), draw(3, T, 1), (1, T)),
        (draw(N, T, I), draw(3, T, I + 1), (I + 1, I)),
        (draw(N, T, I), [draw(T)], (1, I)),
        (ragged(), [draw(2, 5)], (5, I)),
        (ragged(), draw(3, T), (T, I)),
    ],
    ids=["2-D", "2-D, then 3-D", "3-D", "3-D, then series", "list", "list, then 2-D"],
)
def test_other_features(kind, X, other, features):
    estimator = fitted(kind, X)
    message = f"X has {features[0]} features, but {kind.__name__} is expecting {features[1]} "
    for method in [
        estimator.predict,
        *([estimator.predict_proba] if kind is RNNClassifier else []),
    ]:
        with pytest.raises(ValueError, match=message):
            method(other)
    with pytest.raises(ValueError, match=message):
        estimator.partial_fit(other, targets(kind, other))


@BOTH
def test_steps_are_not_features(kind):
    with pytest.raises(ValueError, match=f"I = {I}"):
        fitted(kind, draw(N, T, I)).predict(draw(3, I))


@BOTH
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("X", [draw(N, T), draw(N, T, I), ragged()], ids=["2-D", "3-D", "list"])
def test_not_finite(kind, X, bad):
    estimator, y = fitted(kind, X), targets(kind, X)
    X = [a.copy() for a in X] if isinstance(X, list) else X.copy()
    X[3][-1] = bad
    for call in (lambda: kind(**SMALL).fit(X, y), lambda: estimator.predict(X)):
        with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)"):
            call()


@BOTH
@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (draw(N), ValueError, "Expected 2D array, got 1D array"),
        ([*draw(N)], ValueError, "Expected 2D array, got 1D array"),
        (draw(N, T, I, 1), ValueError, "Found array with dim 4"),
        (draw(0, T, I), ValueError, "Found array with 0 sample"),
        (draw(N, T, 0), ValueError, "Found array with 0 feature"),
        ([draw(4, 2), draw(4, 3)], ValueError, r"X\[1\] has shape \(4, 3\), expected \(T, 2\)"),
        ([draw(4, 2), draw(4)], ValueError, r"X\[1\] has shape \(4,\), expected \(T, 2\)"),
        ([draw(4) * 1j], TypeError, r"X\[0\] has dtype complex128"),
        (draw(N - 1, T, I), ValueError, "inconsistent numbers of samples"),
        (ragged()[1:], ValueError, "inconsistent numbers of samples"),
    ],
    ids=str,
)
def test_other_X(kind, X, error, message):
    with pytest.raises(error, match=message):
        kind(**SMALL).fit(X, np.arange(N) % 3)


@pytest.mark.parametrize("y", [draw(N, 2, 2), draw(N) * 1j, ["a"] * N], ids=["3-D", "j", "str"])
def test_other_y(y):
    with pytest.raises(ValueError, match=r"y has 3 axes|Complex data|could not convert"):
        RNNRegressor(**SMALL).fit(draw(N, T), y)


@BOTH
@pytest.mark.parametrize("form", [np.asarray, list], ids=["3-D", "list"])
def test_X_beyond_float32(kind, form):
    X = draw(N, T, I)
    X[3, 1], X[5, 2] = 1e39, -1e39
    with pytest.raises(ValueError, match="Input X contains infinity or a value too large for dtyp"):
        kind(**SMALL).fit(form(X), np.arange(N) % 3)
    kind(**SMALL).set_params(dtype="float64").fit(form(X), np.arange(N) % 3)


@pytest.mark.parametrize(
    ("factors", "message"),
    [
        ((1e300,), "y has values of size .*e.300, expected at most 1e.140: take a larger unit"),
        ((1.0, 1e145), "y has values of size .*e.145, expected at most 1e.140: take a larger unit"),
        ((1e-300,), "y has values that differ by .*e-300 at most, expected 0 or at least 1e-140: "),
        ((1.0, 1e-145), "y has values that differ by .*e-145 at most, expected 0 or at least"),
        ((1e-320,), "y has values that differ by .*e-320 at most, expected 0 or at least"),
    ],
    ids=str,
)
def test_y_whose_squares_leave_float64(factors, message):
    y = draw(N, len(factors)) * factors
    with pytest.raises(ValueError, match=message):
        RNNRegressor(**SMALL).fit(draw(N, T), y)


def test_y_far_from_the_first():
    """Its squares would leave float32, and Adam would keep infinities."""
    X, y = draw(N, T), draw(N)
    estimator = RNNRegressor(**SMALL).partial_fit(X, y)
    before = everything(estimator)
    with pytest.raises(ValueError, match=r"y lies up to .*e\+20 times y_scale_ away from y_mean_"):
        estimator.partial_fit(X, 1e20 * y)
    assert everything(estimator) == before
    estimator.partial_fit(X, 1e14 * y)
    for a in estimator._optimizer.state().values():
        assert np.isfinite(a).all()


@BOTH
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 0),
        ("num_layers", 1.5),
        ("activation", "elu"),
        ("dropout", 1.0),
        ("output_dropout", -0.1),
        ("l2", -1.0),
        ("learning_rate", 0),
        ("learning_rate", "0.1"),
        ("epochs", -1),
        ("batch_size", 0),
        ("clip_norm", -1.0),
        ("validation_fraction", 1),
        ("validation_fraction", "0.1"),
        ("patience", 0),
        ("dtype", "float16"),
        ("backend", "cuda"),
    ],
)
def test_other_parameters(kind, name, value):
    estimator = kind(**{**SMALL, name: value})
    with pytest.raises((TypeError, ValueError), match=f"^{name} is {value!r}, expected"):
        estimator.fit(draw(N, T), np.arange(N) % 3)
    with pytest.raises(NotFittedError):
        estimator.predict(draw(N, T))


@BOTH
def test_failed_first_partial_fit(kind):
    estimator = kind(**{**SMALL, "learning_rate": 0})
    classes = {"classes": [0, 1]} if kind is RNNClassifier else {}
    with pytest.raises(ValueError, match="learning_rate"):
        estimator.partial_fit(draw(N, T), np.arange(N) % 2, **classes)
    with pytest.raises(NotFittedError):
        estimator.predict(draw(N, T))


# What fails changes nothing


def everything(estimator):
    """Everything it holds, with weights, optimizer and random generator, as bytes."""
    return pickle.dumps(vars(estimator))


def other_data(kind):
    """Data with other features, another scale and other classes."""
    X = draw(N, T, I)
    return X, ["a", "b", "c"] * (N // 3) if kind is RNNClassifier else 1e6 * X.sum(axis=(1, 2))


class Failing(Adam):
    """An optimizer that raises in the middle of some step."""

    error: BaseException
    left: int

    def step(self, parameters, gradients):
        Failing.left -= 1
        super().step(parameters, gradients)
        if Failing.left == 0:
            parameters["weights"][::2] = 1e6
            raise Failing.error


@pytest.fixture
def failing(monkeypatch):
    """Let the estimators' optimizer raise an error at its step number `at`."""

    def arrange(error, at):
        monkeypatch.setattr(Failing, "error", error, raising=False)
        monkeypatch.setattr(Failing, "left", at, raising=False)

    monkeypatch.setattr(_estimator, "Adam", Failing)
    arrange(None, 0)
    return arrange


BAD_PARAMETERS = [
    ("hidden_size", 0),
    ("learning_rate", 0),
    ("epochs", -1),
    ("batch_size", 0),
    ("clip_norm", -1.0),
    ("validation_fraction", 1),
    ("patience", 0),
    ("dtype", "float16"),
]


@BOTH
@pytest.mark.parametrize(("name", "value"), BAD_PARAMETERS)
def test_a_refit_with_a_bad_parameter(kind, name, value):
    X = draw(N, T)
    estimator = fitted(kind, X)
    expected = outputs(estimator, X)
    estimator.feature_names_in_ = np.array(["a"] * T)  # would go: there are none in other data
    estimator.set_params(**{name: value})
    before = everything(estimator)
    with pytest.raises((TypeError, ValueError), match=f"^{name} is {value!r}, expected"):
        estimator.fit(*other_data(kind))
    assert everything(estimator) == before
    del estimator.feature_names_in_
    np.testing.assert_array_equal(outputs(estimator.set_params(dtype="float32"), X), expected)


@BOTH
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_bad_data(kind, method):
    X, (other, y) = draw(N, T), other_data(kind)
    estimator = fitted(kind, X)
    before = everything(estimator)
    for given in (
        (np.full_like(other, np.nan), y),
        (other, None),
        (other, y[1:]),
        (other, np.full(N, np.nan)),
        (other, np.zeros((N, 2, 2))),
        ([*other[1:], draw(T, I + 1)], y),
    ):
        with pytest.raises((TypeError, ValueError)):
            getattr(estimator, method)(*given)
        assert everything(estimator) == before


@BOTH
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_divergence(kind, method):
    """The loss is NaN in the second minibatch; what the first one changed is not kept."""
    X = 1e3 * draw(N, T)
    estimator = fitted(kind, X, activation="identity", clip_norm=None)
    estimator.set_params(learning_rate=1e30)
    before = everything(estimator)
    with pytest.raises(FloatingPointError, match="epoch 1, batch 2; the estimator is as it was"):
        getattr(estimator, method)(X, targets(kind, X))
    assert everything(estimator) == before


@BOTH
@pytest.mark.parametrize("error", [MemoryError(), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_error_in_the_middle_of_an_epoch(kind, method, error, failing):
    X = draw(N, T)
    estimator = fitted(kind, X)
    expected = pickle.loads(pickle.dumps(estimator)).partial_fit(X, targets(kind, X))
    before, given = everything(estimator), other_data(kind)
    failing(error, 2)
    with pytest.raises(type(error)):
        getattr(estimator, method)(*(given if method == "fit" else (X, targets(kind, X))))
    assert everything(estimator) == before
    estimator.partial_fit(X, targets(kind, X))  # as if nothing had been
    np.testing.assert_array_equal(weights(estimator), weights(expected))


@BOTH
def test_ctrl_c_before_the_first_epoch_is_done(kind, failing):
    X = draw(N, T)
    for method, given in (
        ("fit", {}),
        ("partial_fit", {"classes": ["up", "down"]} if kind is RNNClassifier else {}),
    ):
        estimator = kind(**SMALL)
        failing(KeyboardInterrupt(), 1)
        with pytest.raises(KeyboardInterrupt):
            getattr(estimator, method)(X, targets(kind, X), **given)
        assert vars(estimator) == vars(kind(**SMALL))


@BOTH
def test_ctrl_c_after_an_epoch_keeps_what_is_trained(kind, failing):
    X, y = other_data(kind)
    estimator = fitted(kind, draw(N, T))
    failing(KeyboardInterrupt(), 6)  # two steps an epoch
    estimator.set_params(epochs=50, patience=9).fit(X, y)
    assert estimator.history_.stopped == "interrupted"
    assert len(estimator.history_.loss) == 2
    expected = kind(**{**SMALL, "epochs": 2}).fit(X, y)  # the best of two epochs
    assert expected.history_.loss[1] < expected.history_.loss[0]
    np.testing.assert_array_equal(outputs(estimator, X), outputs(expected, X))


@BOTH
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_ctrl_c_at_any_line(kind, method):
    """Interrupted at each line of the estimators in turn, a call is done or changed nothing."""
    X = draw(N, T)
    given = other_data(kind) if method == "fit" else (X, targets(kind, X))
    original = fitted(kind, X, batch_size=N)
    expected = pickle.loads(pickle.dumps(original))
    getattr(expected, method)(*given)
    tracer, unchanged, folder = sys.gettrace(), [], os.path.dirname(_estimator.__file__)

    def trace(frame, event, arg):
        nonlocal lines
        if os.path.dirname(frame.f_code.co_filename) != folder:
            return None
        lines += event == "line"
        if event == "line" and lines == at:
            raise KeyboardInterrupt
        return trace

    for at in range(1, 1000):
        estimator, lines = pickle.loads(pickle.dumps(original)), 0
        before = everything(estimator)
        sys.settrace(trace)
        try:
            getattr(estimator, method)(*given)
        except KeyboardInterrupt:
            unchanged.append(everything(estimator) == before)
        finally:
            sys.settrace(tracer)
        if lines < at:
            break
        if not unchanged[-1]:
            np.testing.assert_array_equal(outputs(estimator, given[0]), outputs(expected, given[0]))
    assert unchanged.count(True) > 30
    assert unchanged.count(False) <= 2  # the lines that return
    assert unchanged == sorted(unchanged, reverse=True)


# What the parameters do


@BOTH
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_size", 7),
        ("num_layers", 1),
        ("bidirectional", True),
        ("activation", "relu"),
        ("dropout", 0.5),
        ("output_dropout", 0.5),
        ("l1", 0.01),
        ("l2", 0.01),
        ("learning_rate", 0.01),
        ("epochs", 2),
        ("batch_size", 16),
        ("clip_norm", None),
        ("validation_fraction", 0.25),
        ("patience", 1),
        ("dtype", "float64"),
        ("backend", "numpy"),
        ("random_state", 1),
    ],
)
def test_every_parameter_reaches_the_model_or_its_training(kind, name, value):
    X = draw(N, T, I)
    options = {"num_layers": 2, "clip_norm": 0.1, "epochs": 12, "learning_rate": 0.3}
    base, other = fitted(kind, X, **options), fitted(kind, X, **{**options, name: value})
    config = other.model_.config()
    assert config.get(name, value) == value
    if name != "backend":  # gives the same, but for rounding
        assert not np.array_equal(weights(base), weights(other))


@BOTH
def test_random_state(kind):
    X = draw(N, T)
    options = {"num_layers": 2, "dropout": 0.3, "validation_fraction": 0.2}
    expected = fitted(kind, X, **options)
    np.testing.assert_array_equal(weights(fitted(kind, X, **options)), weights(expected))
    given = np.random.RandomState(0)
    np.testing.assert_array_equal(
        weights(fitted(kind, X, **options, random_state=given)), weights(expected)
    )


@BOTH
def test_held_out(kind, monkeypatch):
    """A share of the sequences, equal in each class, is validated on and not trained on."""
    calls = []

    def recorded(model, x, y, **options):
        calls.append((x, y, options["validation"]))
        return fastbptt.fit(model, x, y, **options)

    monkeypatch.setattr(_estimator, "fit", recorded)
    X = [np.array([float(n), 1.0]) for n in range(N)]
    y = np.arange(N) % 4 == 0
    for seed in range(4, 8):
        estimator = kind(**{**SMALL, "random_state": seed}, validation_fraction=0.25).fit(X, y)
        assert len(estimator.history_.validation_loss) == len(estimator.history_.loss) == 3
    of_each_seed = set()
    for x_train, y_train, (x_held_out, y_held_out, lengths) in calls:
        assert lengths is None
        assert sorted(a[0, 0] for a in [*x_train, *x_held_out]) == [*range(N)]
        assert len(y_held_out) == N // 4
        for x_part, y_part in ((x_train, y_train), (x_held_out, y_held_out)):
            assert [a[0, 0] % 4 == 0 for a in x_part] == (y_part > 0).tolist()
        if kind is RNNClassifier:
            assert y_held_out.sum() == N // 16
        of_each_seed.add(frozenset(a[0, 0] for a in x_held_out))
    assert len(of_each_seed) == 4


@BOTH
@pytest.mark.parametrize("validation_fraction", [0.0, 0.25])
def test_patience(kind, validation_fraction):
    """Targets without a rule: the validation loss soon stops falling, and so does training."""
    X, y = draw(N, T), np.random.default_rng(5).integers(0, 2, N)
    options = {"epochs": 300, "learning_rate": 0.3, "validation_fraction": validation_fraction}
    history = kind(**{**SMALL, **options}, patience=4).fit(X, y).history_
    values = history.validation_loss or history.loss
    assert bool(history.validation_loss) == bool(validation_fraction)
    assert history.stopped == "early"
    assert history.best_epoch == len(values) - 4 == int(np.argmin(values)) + 1


@BOTH
def test_verbose(kind, capfd):
    pytest.importorskip("tqdm")
    fitted(kind, draw(N, T))
    assert capfd.readouterr() == ("", "")
    fitted(kind, draw(N, T), verbose=True)
    assert "loss=" in capfd.readouterr().err


# Going on


@BOTH
def test_partial_fit_goes_on(kind):
    """One epoch per call has the same bits as all at once: alone, and after fit."""
    X = draw(N, T)
    y = targets(kind, X)
    options = {**SMALL, "num_layers": 2, "dropout": 0.2}
    expected = kind(**options).set_params(epochs=4).fit(X, y)
    alone, after_fit = kind(**options), kind(**options).set_params(epochs=2).fit(X, y)
    classes = {"classes": ["up", "down"]} if kind is RNNClassifier else {}
    for call in range(4):
        assert alone.partial_fit(X, y, **({} if call else classes)) is alone
    for _ in range(2):
        after_fit.partial_fit(X, y)
    np.testing.assert_array_equal(weights(alone), weights(expected))
    np.testing.assert_array_equal(weights(after_fit), weights(expected))
    np.testing.assert_array_equal(outputs(alone, X), outputs(expected, X))


@BOTH
def test_fit_begins_anew(kind):
    X = draw(N, T)
    expected = fitted(kind, X)
    got = fitted(kind, draw(N, T, I)).partial_fit(draw(N, T, I), targets(kind, draw(N, T, I)))
    np.testing.assert_array_equal(weights(got.fit(X, targets(kind, X))), weights(expected))


@BOTH
def test_learning_rate_may_change_on_the_way(kind):
    X = draw(N, T)
    estimator = fitted(kind, X)
    before = weights(estimator).copy()
    estimator.set_params(learning_rate=1e-30).partial_fit(X, targets(kind, X))
    np.testing.assert_array_equal(weights(estimator), before)


def test_partial_fit_keeps_the_first_scale():
    X, y = draw(N, T), draw(N)
    estimator = RNNRegressor(**SMALL).partial_fit(X, y).partial_fit(X, 10 * y + 3)
    assert estimator.y_mean_ == y.mean()
    assert estimator.y_scale_ == y.std()


def test_partial_fit_takes_part_of_the_classes():
    X = draw(N, T)
    estimator = RNNClassifier(**SMALL).partial_fit(X, ["b"] * N, classes=["c", "b", "a"])
    estimator.partial_fit(X, ["a", "c"] * (N // 2), classes=["a", "b", "c"])
    assert estimator.classes_.tolist() == ["a", "b", "c"]
    assert estimator.predict_proba(X).shape == (N, 3)


def test_partial_fit_with_other_classes():
    X, y = draw(N, T), ["a", "b"] * (N // 2)
    estimator = RNNClassifier(**SMALL)
    with pytest.raises(ValueError, match="classes is None, expected all labels"):
        estimator.partial_fit(X, y)
    with pytest.raises(ValueError, match=r"y has \['b'\], expected labels of classes \['a' 'c'\]"):
        estimator.partial_fit(X, y, classes=["a", "c"])
    with pytest.raises(NotFittedError):
        estimator.predict(X)
    estimator.partial_fit(X, y, classes=["a", "b"])
    with pytest.raises(ValueError, match=r"classes has \['a' 'c'\], expected \['a' 'b'\]"):
        estimator.partial_fit(X, y, classes=["a", "c"])
    with pytest.raises(ValueError, match=r"y has \['c'\], expected labels of classes \['a' 'b'\]"):
        estimator.partial_fit(X, ["c", "b"] * (N // 2))


@BOTH
def test_pickle(kind):
    X = ragged()
    y = targets(kind, X)
    estimator = fitted(kind, X)
    got = pickle.loads(pickle.dumps(estimator))
    np.testing.assert_array_equal(outputs(got, X), outputs(estimator, X))
    estimator.partial_fit(X, y)
    got.partial_fit(X, y)  # the optimizer and the generator, too
    np.testing.assert_array_equal(weights(got), weights(estimator))


@BOTH
def test_clone(kind):
    estimator = fitted(kind, draw(N, T))
    got = clone(estimator)
    assert got.get_params() == estimator.get_params()
    with pytest.raises(NotFittedError):
        got.predict(draw(N, T))
    got.fit(draw(N, T), targets(kind, draw(N, T)))
    np.testing.assert_array_equal(weights(got), weights(estimator))


# In scikit-learn's tools


@BOTH
def test_pipeline(kind):
    X = 1000 * draw(N, T) + 500
    y = targets(kind, draw(N, T))
    pipeline = make_pipeline(StandardScaler(), kind(**SMALL).set_params(epochs=60)).fit(X, y)
    assert pipeline.score(X, y) > 0.9


@BOTH
@pytest.mark.parametrize("X", [draw(N, T, I), ragged()], ids=["3-D", "list"])
def test_cross_validation(kind, X):
    scores = cross_val_score(kind(**SMALL).set_params(epochs=60), X, targets(kind, X), cv=3)
    assert scores.shape == (3,)
    assert scores.mean() > 0.6


def test_grid_search_in_processes():
    X = ragged()
    y = targets(RNNClassifier, X)
    grid = {"learning_rate": [1e-9, 0.02], "hidden_size": [4]}
    search = GridSearchCV(RNNClassifier(**SMALL).set_params(epochs=60), grid, cv=2, n_jobs=2)
    search.fit(X, y)
    assert search.best_params_ == {"learning_rate": 0.02, "hidden_size": 4}
    expected = clone(search.best_estimator_).fit(X, y)  # fit here
    np.testing.assert_array_equal(weights(search.best_estimator_), weights(expected))


# The extra


def test_the_package_does_not_import_scikit_learn():
    code = "import sys, fastbptt; sys.exit('sklearn' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_scikit_learn(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "sklearn"]:
        monkeypatch.setitem(sys.modules, name, None)
    for name in [name for name in sys.modules if name.startswith("fastbptt.estimators")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(MissingExtraError, match="needs scikit-learn: pip install scikit-learn"):
        importlib.import_module("fastbptt.estimators")


@pytest.mark.parametrize("name", ["_classifier", "_forms", "_regressor"])
def test_docstring_examples(name):
    got = doctest.testmod(importlib.import_module(f"fastbptt.estimators.{name}"))
    assert got.attempted
    assert not got.failed
