"""Arguments by the names that other libraries give them."""

import inspect

import numpy as np
import pytest

import fastbptt
from fastbptt import RNN, SGD, Adam, Constraints, RMSprop, _names, estimators, fit, optimizers

MODEL = RNN(1, 2, 1, seed=0)
DATA = np.zeros((3, 4)), np.zeros(3)


def refused(words, call, *args, **given):
    with pytest.raises(TypeError) as caught:
        call(*args, **given)
    assert str(caught.value) == words


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("nonlinearity", "activation"),
        ("input_dim", "input_size"),
        ("units", "hidden_size"),
        ("hidden_units", "hidden_size"),
        ("n_layers", "num_layers"),
        ("return_sequences", 'output="all"'),
        ("random_state", "seed"),
        ("bidirectionnal", "bidirectional"),  # misspelt
    ],
)
def test_of_a_model(theirs, ours):
    words = f"RNN() got an unexpected argument {theirs!r}, expected {ours}"
    refused(words, RNN, 1, 2, 1, **{theirs: 1})


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("learning_rate", "optimizer=fastbptt.Adam(learning_rate=...)"),
        ("lr", "optimizer=fastbptt.Adam(learning_rate=...)"),
        ("weight_decay", "optimizer=fastbptt.Adam(weight_decay=...)"),
        ("momentum", "optimizer=fastbptt.SGD(momentum=...)"),
        ("validation_data", "validation"),
        ("validation_fraction", "validation_split"),
        ("num_epochs", "epochs"),
        ("n_epochs", "epochs"),
        ("max_iter", "epochs"),
        ("epoch", "epochs"),
        ("criterion", "loss"),
        ("solver", "optimizer"),
        ("clipnorm", "clip_norm"),
        ("verbose", "progress"),
        ("callbacks", "callback"),
        ("early_stopping", "patience"),
        ("random_state", "seed"),
        ("weights", "sample_weight"),
        ("class_weights", "class_weight"),
        ("alpha", "l2"),
        ("kernel_regularizer", "l2"),
        ("trainable", "frozen"),
    ],
)
def test_of_training(theirs, ours):
    before = MODEL.network.vector.copy()
    words = f"fit() got an unexpected argument {theirs!r}, expected {ours}"
    refused(words, fit, MODEL, *DATA, **{theirs: 1})
    np.testing.assert_array_equal(MODEL.network.vector, before)


@pytest.mark.parametrize(
    ("kind", "theirs", "ours"),
    [
        *((kind, "lr", "learning_rate") for kind in (SGD, RMSprop, Adam)),
        (RMSprop, "alpha", "rho"),
        (RMSprop, "decay", "rho"),
        (Adam, "beta1", "beta_1"),
        (Adam, "betas", "beta_1 and beta_2"),
        (Adam, "epsilon", "eps"),
    ],
)
def test_of_optimizers(kind, theirs, ours):
    words = f"{kind.__name__}() got an unexpected argument {theirs!r}, expected {ours}"
    refused(words, kind, **{theirs: 0.5})


def test_the_learning_rate_as_an_attribute():
    """Set under another name, it would not change anything."""
    optimizer = Adam()
    assert not hasattr(optimizer, "lr")
    with pytest.raises(AttributeError, match="no lr, expected learning_rate"):
        optimizer.lr = 0.5  # type: ignore
    assert optimizer.learning_rate == 0.001


@pytest.mark.parametrize("kind", ["RNNRegressor", "RNNClassifier"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("lr", "learning_rate"),
        ("hidden_layer_sizes", "hidden_size"),
        ("seed", "random_state"),
        ("validation_split", "validation_fraction"),
        ("progress", "verbose"),
        ("max_iter", "epochs"),
    ],
)
def test_of_estimators(kind, theirs, ours):
    words = f"{kind}() got an unexpected argument {theirs!r}, expected {ours}"
    refused(words, getattr(estimators, kind), **{theirs: 1})


def test_what_there_is_no_argument_for():
    words = "RNN() got an unexpected argument 'batch_first': x is (N, T, I), sequences first"
    refused(words, RNN, 1, 2, 1, batch_first=True)
    words = "fit() got an unexpected argument 'shuffle': the order of sequences is drawn anew "
    refused(words + "in each epoch", fit, MODEL, *DATA, shuffle=True)


def test_what_nobody_knows():
    """The first of several, and what there is."""
    words = "SGD() got an unexpected argument 'zzz', expected some of learning_rate, momentum, "
    refused(words + "nesterov", SGD, zzz=1, yyy=2)


@pytest.mark.parametrize("call", [RNN.__init__, fit, SGD.__init__, Adam.__init__])
def test_the_signature_stays(call):
    inner = inspect.unwrap(call)
    assert inner is not call
    assert inspect.signature(call) == inspect.signature(inner)
    assert call.__doc__ == inner.__doc__
    assert not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(call).parameters.values())


def test_other_errors_are_pythons():
    with pytest.raises(TypeError, match=r"missing 1 required positional argument: 'output_size'"):
        RNN(1, 2)  # type: ignore
    with pytest.raises(TypeError, match=r"multiple values for argument 'model'"):
        fit(MODEL, *DATA, model=MODEL)  # type: ignore


def test_every_name_of_ours_is_one():
    """What an error advises can be done."""
    taken = set()
    for call in (
        RNN, Constraints, fit, *optimizers.OPTIMIZERS.values(), estimators.RNNRegressor,
    ):  # fmt: skip
        taken |= set(inspect.signature(call).parameters)
    for ours, others in _names.OTHERS.items():
        assert ours.partition("=")[0].split()[0] in taken, ours
        assert ours not in others.split()
    for advice in _names.OTHERS:
        if advice.startswith("optimizer="):
            argument = advice.partition("(")[2].partition("=")[0]
            code = advice.partition("=")[2].replace("...", "0.5")
            assert getattr(eval(code, {"fastbptt": fastbptt}), argument) == 0.5
