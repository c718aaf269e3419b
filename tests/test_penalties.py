"""Penalties against finite differences of their definition; weights that stay as they are."""

import numpy as np
import pytest
from measure import central_differences
from trainings import (
    EQUAL,
    LENGTHS,
    OPTIMIZER,
    OUTPUT,
    RAGGED,
    I,
    O,
    bits,
    build,
    draw,
    fit,
    interrupting,
)

from fastbptt import RNN, SGD, Adam, training
from fastbptt._penalties import coefficients, frozen_names

KINDS = pytest.mark.parametrize(
    ("kind", "options"),
    [
        ({}, {}),
        ({"num_layers": 3}, {"memory": "checkpointed"}),
        ({"num_layers": 2, "bidirectional": True}, {}),
        ({"num_layers": 2, "backend": "numpy", "activation": "relu"}, {}),
    ],
    ids=["one", "checkpointed", "both", "relu"],
)


def gradient(model, data, **options):
    """That of all sequences as one minibatch, and the loss of the epoch."""
    found = []

    class Kept(SGD):
        def step(self, parameters, gradients):
            found.append({name: a.copy() for name, a in gradients.items()})

    run = training.Run(model, *data, optimizer=Kept(), batch_size=100, seed=7, **options)
    run.epoch()
    return found[0], run.history.loss[0]


def mean_square(model, x):
    """The mean of h**2 over all steps and units, in plain NumPy."""
    f = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0)}[model.activation]
    p, seen = model.parameters(), []
    prefixes = ("", "reverse.") if model.bidirectional else ("",)
    for below in x:
        for l in range(model.num_layers):
            states = []
            for prefix in prefixes:
                W_x, W_h, b = (p[f"layers.{l}.{prefix}{name}"] for name in ("W_x", "W_h", "b"))
                h, its = np.zeros(len(b)), []
                for step in below[::-1] if prefix else below:
                    h = f(step @ W_x + h @ W_h + b)
                    its.append(h)
                states.append(np.array(its[::-1] if prefix else its))
            below = np.concatenate(states, axis=1)
            seen.append(below.ravel())
    return np.mean(np.concatenate(seen) ** 2)


@KINDS
@OUTPUT
@LENGTHS
def test_activity_agrees_with_central_differences(counts, output, kind, options):
    model = build(output=output, **kind)
    for name, a in model.parameters().items():  # of biases 0, relu may stand at its kink
        a += 0.1 * name.endswith("b")
    data = draw(model, counts)
    without, loss = gradient(model, data, **options)
    got, got_loss = gradient(model, data, activity_l2=0.7, **options)
    assert got_loss == loss, "what is reported is of the data alone"
    vector, step = model.network.vector, 3e-6  # relu's large states leave more rounding errors
    expected = central_differences(lambda: 0.7 * mean_square(model, data[0]), vector, step)
    difference = got["weights"] - without["weights"]
    np.testing.assert_allclose(difference, expected, rtol=0, atol=1e-9)


def test_activity_with_weights_of_the_loss():
    """Steps on which nothing is judged have rates, too."""
    model = build(output="all")
    data, weight = draw(model, RAGGED), [np.arange(n) == n - 1 for n in RAGGED]
    without, _ = gradient(model, data, sample_weight=weight)
    got, _ = gradient(model, data, sample_weight=weight, activity_l2=0.7)
    expected = central_differences(lambda: 0.7 * mean_square(model, data[0]), model.network.vector)
    np.testing.assert_allclose(got["weights"] - without["weights"], expected, rtol=0, atol=1e-9)


def test_activity_of_no_step():
    model = build()
    data = [np.zeros((0, I))] * 2, np.ones((2, O))
    got, _ = gradient(model, data, activity_l2=0.7)
    np.testing.assert_array_equal(got["weights"], gradient(model, data)[0]["weights"])


@pytest.mark.parametrize("output", ["last", "all"])
def test_activity_falls(output):
    data = draw(build(output=output), EQUAL)
    found = []
    for strength in (0.0, 3.0):
        model = build(output=output, num_layers=2)
        fit(model, data, epochs=40, optimizer=Adam(0.01), activity_l2=strength, truncate=3)
        found.append(mean_square(model, data[0]))
    assert found[1] < found[0] / 2


@pytest.mark.parametrize(
    ("given", "of"),
    [
        (0.3, {"layers.0.W_x": 0.3, "layers.0.W_h": 0.3, "layers.1.W_x": 0.3, "layers.1.W_h": 0.3,
               "W_y": 0.3}),
        ({"W_h": 0.2, "b_y": 0.1}, {"layers.0.W_h": 0.2, "layers.1.W_h": 0.2, "b_y": 0.1}),
        ({"layers.1": 0.2, "layers.0.b": 2},
         {"layers.1.W_x": 0.2, "layers.1.W_h": 0.2, "layers.1.b": 0.2, "layers.0.b": 2}),
        (0, {}),
        ({}, {}),
        ({"W_y": 0.0}, {}),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    ("name", "penalty"), [("l1", lambda w: np.abs(w).sum()), ("l2", lambda w: (w**2).sum())]
)
def test_weights_agree_with_central_differences(name, penalty, given, of):
    model = build(num_layers=2)
    data = draw(model, RAGGED)
    without, loss = gradient(model, data)
    got, got_loss = gradient(model, data, **{name: given})
    assert got_loss == loss, "what is reported is of the data alone"
    named = model.parameters()
    expected = central_differences(
        lambda: sum(value * penalty(named[n]) for n, value in of.items()) + 0.0,
        model.network.vector,
    )
    difference = got["weights"] - without["weights"]
    expected = np.where(model.network.vector == 0, 0, expected)  # of abs(w), there, it is 0
    np.testing.assert_allclose(difference, expected, rtol=0, atol=1e-9)


def test_penalties_come_before_clipping():
    model = build()
    data = draw(model, EQUAL)
    free, _ = gradient(model, data, l1=0.1, l2=0.3)
    clipped, _ = gradient(model, data, l1=0.1, l2=0.3, clip_norm=0.1)
    norm = np.linalg.norm(free["weights"])
    assert norm > 0.1
    np.testing.assert_allclose(clipped["weights"], free["weights"] * 0.1 / norm, rtol=1e-12)


def test_both_penalties_of_one_step_by_hand():
    model = RNN(1, 1, 1, dtype="float64", activation="identity", seed=0)
    for name, value in {"layers.0.W_x": 2.0, "layers.0.W_h": -0.5, "W_y": 3.0}.items():
        model.parameters()[name][...] = value
    # h = 2, y = 6, loss (6 - 5)² : dy = 2, dW_y = 2 h, dh = 2 W_y + 2 * 0.5 h, dW_x = dh x
    got, loss = gradient(model, ([[1.0]], [5.0]), l1=0.1, l2={"W_h": 10}, activity_l2=0.5)
    named = model.network.named(got["weights"])
    assert loss == 1
    for name, value in {
        "layers.0.W_x": 8 + 0.1, "layers.0.W_h": 2 * 10 * -0.5 - 0.1, "layers.0.b": 8,
        "W_y": 4 + 0.1, "b_y": 2,
    }.items():  # fmt: skip
        assert named[name].item() == pytest.approx(value, rel=1e-14), name


@OUTPUT
def test_penalties_go_on_from_a_file(output, tmp_path):
    options = {"l1": 0.01, "l2": {"W_h": 0.1}, "activity_l2": 0.2, "batch_size": 4}
    at_once, in_parts, other = (build(output=output, num_layers=2) for _ in range(3))
    data, path = draw(at_once, RAGGED), tmp_path / "run"
    fit(at_once, data, epochs=4, **options)
    fit(in_parts, data, epochs=2, checkpoint=path, **options)
    fit(other, data, epochs=4, checkpoint=path, **options)
    assert bits(other) == bits(at_once)
    for name, value in (("l1", 0.02), ("l2", 0), ("activity_l2", 0)):
        with pytest.raises(ValueError, match=f"is of a training with {name} = .*, expected"):
            fit(other, data, epochs=5, checkpoint=path, **{**options, name: value})


# Frozen weights


@OPTIMIZER
@pytest.mark.parametrize(
    ("given", "names"),
    [
        ("W_h", ["layers.0.W_h", "layers.1.W_h"]),
        (["layers.0", "b_y"], ["layers.0.W_x", "layers.0.W_h", "layers.0.b", "b_y"]),
        (("W_y", "W_y"), ["W_y"]),
        ({"b": None}.keys(), ["layers.0.b", "layers.1.b"]),
        ((), []),
    ],
    ids=str,
)
def test_frozen_weights_keep_their_bits(given, names, optimizer):
    """Whatever else moves the others: momentum, decay of weights, penalties."""
    model = build("float32", num_layers=2)
    before = {name: a.copy() for name, a in model.parameters().items()}
    options = {"l1": 0.01, "l2": 0.1, "activity_l2": 0.1, "clip_norm": 0.5, "patience": 3}
    for _ in range(2):
        fit(model, draw(model, RAGGED), frozen=given, optimizer=optimizer(), epochs=3, **options)
    for name, a in model.parameters().items():
        same = a.tobytes() == before[name].tobytes()
        assert same == (name in names), name


def test_the_others_take_the_steps_that_they_take_alone():
    model = build()
    data = draw(model, EQUAL)
    whole, _ = gradient(model, data)
    got, _ = gradient(model, data, frozen="W_h", clip_norm=0.1)
    expected = {n: a for n, a in model.network.named(whole["weights"]).items() if "W_h" not in n}
    norm = np.sqrt(sum((a**2).sum() for a in expected.values()))
    assert list(got) == list(expected)
    for name, a in got.items():  # the norm is that of the trained
        np.testing.assert_allclose(a, expected[name] * 0.1 / norm, rtol=1e-12)


@pytest.mark.parametrize("options", [{"truncate": 2}, {"memory": "checkpointed"}], ids=str)
def test_frozen_goes_on_from_a_file(options, tmp_path):
    at_once, in_parts, other = (build(output="all", num_layers=2) for _ in range(3))
    data, path = draw(at_once, RAGGED), tmp_path / "run"
    options = {"frozen": ("W_h", "b_y"), "batch_size": 4, "patience": 9, **options}
    fit(at_once, data, epochs=4, **options)
    fit(in_parts, data, epochs=2, checkpoint=path, **options)
    fit(other, data, epochs=4, checkpoint=path, **options)
    assert bits(other) == bits(at_once)
    with pytest.raises(ValueError, match="is of a training with frozen = "):
        fit(other, data, epochs=4, checkpoint=path, **{**options, "frozen": "W_h"})


def test_frozen_after_an_interrupt(ctrl_c):
    model = build()
    before = {name: a.copy() for name, a in model.parameters().items()}
    history = fit(model, draw(model, EQUAL), loss=interrupting(7), frozen="W_x", batch_size=4)
    assert history.stopped == "interrupted"
    assert model.parameters()["layers.0.W_x"].tobytes() == before["layers.0.W_x"].tobytes()
    assert (model.parameters()["layers.0.W_h"] != before["layers.0.W_h"]).any()


def test_an_optimizer_of_other_weights():
    model, optimizer = build(), Adam()
    data = draw(model, EQUAL)
    fit(model, data, optimizer=optimizer, epochs=1)
    with pytest.raises(ValueError, match="as in the steps before"):
        fit(model, data, optimizer=optimizer, frozen="W_h", epochs=1)


# Names

NAMES = [*build(num_layers=2, bidirectional=True).parameters()]


def test_beginnings_and_ends_of_names():
    assert frozen_names("layers.1.reverse.W_h", NAMES) == ["layers.1.reverse.W_h"]
    assert frozen_names("reverse.W_h", NAMES) == ["layers.0.reverse.W_h", "layers.1.reverse.W_h"]
    assert frozen_names("layers", NAMES) == [n for n in NAMES if n[:1] == "l"]
    assert frozen_names("layers.1.reverse", NAMES) == [n for n in NAMES if "1.r" in n]
    assert len(frozen_names(["layers.1", "b"], NAMES)) == 6 + 2
    assert coefficients("l1", {"b": 2}, NAMES).keys() == {n for n in NAMES if n.endswith(".b")}


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"frozen": "W_z"}, ValueError, "frozen has 'W_z', expected a name of weights, or its beg"),
        ({"frozen": "layers.1"}, ValueError, "frozen has 'layers.1', expected a name of weights"),
        ({"frozen": "_h"}, ValueError, "frozen has '_h', expected"),
        ({"frozen": ""}, ValueError, "frozen has '', expected"),
        ({"frozen": [1]}, ValueError, "frozen has 1, expected a name of weights"),
        ({"frozen": 3}, TypeError, "frozen is 3, expected names of weights"),
        ({"frozen": ["layers", "W_y", "b_y"]}, ValueError, "frozen has all weights, expected some"),
        ({"l1": -0.1}, ValueError, "l1 is -0.1, expected at least 0"),
        ({"l2": np.nan}, ValueError, "l2 is nan, expected at least 0"),
        ({"l2": "0.1"}, TypeError, "l2 is '0.1', expected a number"),
        (
            {"l2": {"W": 0.1}},
            ValueError,
            "l2 has 'W', expected a name of weights, or its beginning",
        ),
        ({"l2": {"W_h": -1}}, ValueError, "l2['W_h'] is -1.0, expected at least 0"),
        (
            {"l1": {"W_h": 1, "layers.0": 2}},
            ValueError,
            "l1 names layers.0.W_h twice, with 'layers",
        ),
        ({"activity_l2": -1}, ValueError, "activity_l2 is -1.0, expected at least 0"),
        ({"activity_l2": None}, TypeError, "activity_l2 is None, expected a number"),
    ],
)
def test_turned_away(given, error, words):
    model = build()
    before = bits(model)
    with pytest.raises(error) as caught:
        fit(model, draw(model, EQUAL), **given)
    assert str(caught.value).startswith(words)
    assert bits(model) == before
