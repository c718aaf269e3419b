"""Weights from Keras and back, held to what Keras itself predicts."""

import os

import numpy as np
import pytest

import fastbptt
from fastbptt import RNN

os.environ.setdefault("KERAS_BACKEND", "jax")
pytest.importorskip(os.environ["KERAS_BACKEND"])
keras = pytest.importorskip("keras")
layers = keras.layers
# Keras' own
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

T, N, I, H, O = 6, 4, 3, 5, 2


def sequential(*parts, **options):
    """A network of Keras with every weight drawn, biases too."""
    network = keras.Sequential([keras.Input((None, I)), *parts], **options)
    rng = np.random.default_rng(0)
    network.set_weights([0.5 * rng.standard_normal(w.shape) for w in network.get_weights()])
    return network


def inputs():
    return np.random.default_rng(1).standard_normal((N, T, I)).astype("float32")


def assert_same_predictions(model, network):
    expected = np.asarray(network(inputs()))
    np.testing.assert_allclose(model.predict(inputs()), expected, rtol=1e-5, atol=1e-6)


def simple(**options):
    return layers.SimpleRNN(H, **options)


NETWORKS = {
    "last": lambda: [simple(), layers.Dense(O)],
    "all": lambda: [simple(activation="relu", return_sequences=True), layers.Dense(O)],
    "no biases": lambda: [
        simple(activation=None, use_bias=False),
        layers.Dense(O, use_bias=False),
    ],
    "two layers": lambda: [
        simple(return_sequences=True),
        layers.Dropout(0.5),
        simple(),
        layers.Dense(O),
    ],
    "both": lambda: [layers.Bidirectional(simple()), layers.Dense(O)],
    "all of both": lambda: [
        layers.Bidirectional(simple(return_sequences=True)),
        layers.Bidirectional(simple(return_sequences=True, use_bias=False)),
        layers.TimeDistributed(layers.Dense(O)),
    ],
    "bare both": lambda: [layers.Bidirectional(simple(return_sequences=True))],
    "bare": lambda: [simple()],
}


@pytest.mark.parametrize("parts", NETWORKS.values(), ids=NETWORKS)
def test_layers(parts):
    network = sequential(*parts())
    assert_same_predictions(RNN.from_keras(network), network)
    assert_same_predictions(RNN.from_keras(network.layers), network)


def test_a_single_layer():
    network = sequential(simple())
    assert_same_predictions(RNN.from_keras(network.layers[0]), network)


def test_arrays():
    """Those of a whole network; its shapes say what is what, in one direction."""
    network = sequential(simple(return_sequences=True), simple(activation="relu"), layers.Dense(O))
    with pytest.raises(ValueError, match="the activation is relu, tanh, expected one of"):
        RNN.from_keras(network)
    network = sequential(simple(return_sequences=True), simple(), layers.Dense(O))
    assert_same_predictions(RNN.from_keras(network.get_weights()), network)
    network = sequential(
        layers.Bidirectional(simple(return_sequences=True, activation="relu", use_bias=False)),
        layers.Dense(O, activation="softmax"),
    )
    model = RNN.from_keras(
        network.get_weights(), activation="relu", bidirectional=True, output="all"
    )
    y = model.predict(inputs())
    y = np.exp(y) / np.exp(y).sum(axis=2, keepdims=True)
    np.testing.assert_allclose(y, network(inputs()), rtol=1e-5, atol=1e-6)


def test_masks_are_lengths():
    """As long as they are at the end; there Keras repeats, and we give zeros."""
    lengths = np.array([6, 1, 3, 2])
    x = inputs()
    x[np.arange(T) >= lengths[:, None]] = -7
    for wrap in lambda layer: layer, layers.Bidirectional:
        network = sequential(layers.Masking(-7), wrap(simple()), layers.Dense(O))
        got = RNN.from_keras(network).predict(x, lengths)
        np.testing.assert_allclose(got, network(x), rtol=1e-5, atol=1e-6)
        network = sequential(layers.Masking(-7), wrap(simple(return_sequences=True)))
        got, expected = RNN.from_keras(network).predict(x, lengths), np.array(network(x))
        expected[np.arange(T) >= lengths[:, None]] = 0
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both"])
def test_there_and_back(dtype, bidirectional):
    options = {"num_layers": 2, "bidirectional": bidirectional, "output": "all"}
    model = RNN(I, H, O, dtype=dtype, seed=0, **options)
    model.network.vector[:3] = -0.0, 1e-40, np.nan
    again = RNN.from_keras(model.to_keras(), bidirectional=bidirectional, output="all")
    assert again.config() == model.config()
    assert again.network.vector.tobytes() == model.network.vector.tobytes()
    assert not np.shares_memory(again.network.vector, model.network.vector)


def test_a_leak_is_not_for_keras():
    model = RNN(I, H, O, leak=fastbptt.Leak(0.5), seed=0)
    with pytest.raises(
        ValueError, match=r"the model has leak=Leak.*, which Keras' SimpleRNN cannot"
    ):
        model.to_keras()


def test_to_keras():
    model = RNN(I, H, O, num_layers=2, bidirectional=True, seed=0)
    network = sequential(
        layers.Bidirectional(simple(return_sequences=True)),
        layers.Bidirectional(simple()),
        layers.Dense(O),
    )
    network.set_weights(model.to_keras())
    assert_same_predictions(model, network)


@pytest.mark.parametrize(("parts", "message"), [
    (lambda: [layers.LSTM(H), layers.Dense(O)], "layers has a LSTM there, expected SimpleRNN"),
    (lambda: [simple(), layers.Dense(O), layers.Dense(O)], "layers has a Dense there"),
    (lambda: [layers.Dense(I), simple()], "layers has a Dense there"),
    (lambda: [layers.Dropout(0.5)], "layers has no SimpleRNN"),
    (lambda: [simple(go_backwards=True)], "has go_backwards=True, expected False"),
    (lambda: [layers.Bidirectional(simple(), merge_mode="sum")], "has merge_mode='sum'"),
    (lambda: [layers.Bidirectional(layers.GRU(H))], "layers has Bidirectional of GRU"),
    (
        lambda: [layers.Bidirectional(simple(return_sequences=True)), simple()],
        "layers has Bidirectional, SimpleRNN of SimpleRNN, expected .* all in one direction or",
    ),
    (lambda: [simple(activation="gelu")], "the activation is gelu, expected one of tanh"),
    (lambda: [simple(), layers.Dense(O, activation="softmax")], "has the activation 'softmax'"),
])  # fmt: skip
def test_what_there_is_no_model_for(parts, message):
    with pytest.raises(ValueError, match=message):
        RNN.from_keras(sequential(*parts()))


def test_layers_that_read_one_state():
    network = [simple(name="lower"), simple(name="upper")]
    for layer in network:
        layer.build((N, T, I))
    with pytest.raises(ValueError, match="lower below upper has return_sequences=False"):
        RNN.from_keras(network)


def test_wrong_arguments():
    arrays = RNN(I, H, O, seed=0).to_keras()
    for given, options, error, message in (
        (None, {}, TypeError, "layers is a NoneType, expected SimpleRNN layers"),
        (arrays[0], {}, TypeError, "layers is a ndarray, expected SimpleRNN layers"),
        ([], {}, ValueError, "layers is empty, expected"),
        (arrays[3:], {}, ValueError, r"the arrays have shapes \(5, 2\), \(2,\), expected"),
        (arrays + arrays[3:], {}, ValueError, "the arrays have shapes"),
        (arrays[::-1], {}, ValueError, r"a kernel has shape \(2,\), expected \(I, H\)"),
        (
            arrays,
            {"bidirectional": True},
            ValueError,
            "the weights of 1 layers, expected two for each",
        ),
        ([a.astype("f2") for a in arrays], {}, TypeError, r"dtype is dtype\('float16'\)"),
        (arrays, {"output": "first"}, ValueError, "output is 'first'"),
        (sequential(simple()), {"output": "all"}, ValueError, "output is 'all' beside layers"),
    ):
        with pytest.raises(error, match=message):
            RNN.from_keras(given, **options)
