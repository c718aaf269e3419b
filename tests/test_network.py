"""What a model computes on time-major arrays, where data sets and methods are in the way."""

import numpy as np
import pytest
from measure import central_differences

from fastbptt import _network, losses
from fastbptt.model import RNN

T, B, I, H, O = 6, 3, 2, 4, 2
RAGGED = np.array([6, 0, 4])
LAYERS = pytest.mark.parametrize("num_layers", [1, 2, 3])
OUTPUT = pytest.mark.parametrize("output", ["last", "all"])
LENGTHS = pytest.mark.parametrize("lengths", [None, RAGGED], ids=["full", "ragged"])
# How a network goes through time: in both directions only with all states.
WAYS = pytest.mark.parametrize(
    ("bidirectional", "checkpointed"),
    [(False, False), (False, True), (True, False)],
    ids=["forwards", "checkpointed", "both"],
)


def build(**options):
    return RNN(I, H, O, dtype="float64", seed=0, **options).network


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def draw_target(net):
    return draw(T, B, O) if net.output == "all" else draw(B, O)


def test_names_are_views_of_one_vector():
    net = build(num_layers=2, bidirectional=True)
    vector = np.arange(net.vector.size)
    views = net.named(vector)
    np.testing.assert_array_equal(np.concatenate([a.ravel() for a in views.values()]), vector)
    assert all(np.shares_memory(a, vector) for a in views.values())
    before = net.outputs(draw(T, B, I))[0]
    net.vector *= 2
    assert (net.outputs(draw(T, B, I))[0] != before).any()


@LAYERS
@OUTPUT
@LENGTHS
@WAYS
def test_gradient_agrees_with_central_differences(
    bidirectional, checkpointed, lengths, output, num_layers
):
    net = build(num_layers=num_layers, output=output, bidirectional=bidirectional)
    x, target, state = draw(T, B, I), draw_target(net), draw(len(net.stack.layers), B, H)
    given = x, target, lengths, losses.mse
    value, got, last = net.loss_and_gradient(*given, state=state, checkpointed=checkpointed)
    expected = central_differences(
        lambda: net.loss_and_gradient(*given, state=state)[0], net.vector
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    y, after = net.outputs(x, lengths, state)
    mask = None if lengths is None or output == "last" else np.arange(T)[:, None] < lengths
    assert losses.mse(y, target, mask)[0] == value
    np.testing.assert_array_equal(last, after)


@OUTPUT
@WAYS
def test_gradient_in_memory_given(bidirectional, checkpointed, output):
    """Whatever is in it before."""
    net = build(num_layers=2, output=output, bidirectional=bidirectional)
    given = draw(T, B, I), draw_target(net), RAGGED, losses.mse
    _, expected, _ = net.loss_and_gradient(*given, checkpointed=checkpointed)
    out = net.new_gradient()
    out.vector[...] = np.nan
    _, got, _ = net.loss_and_gradient(*given, checkpointed=checkpointed, out=out)
    assert got is out.vector
    np.testing.assert_array_equal(got, expected)


@OUTPUT
@WAYS
def test_writes_to_nothing_that_it_is_given(bidirectional, checkpointed, output):
    net = build(num_layers=2, output=output, bidirectional=bidirectional)
    x, target = draw(T, B, I), draw_target(net)

    def loss(y, target, mask):
        value, dy = losses.mse(y, target, mask)
        dy.flags.writeable = False
        return value, dy

    for a in (x, target, net.vector):
        a.flags.writeable = False
    net.loss_and_gradient(x, target, RAGGED, loss, checkpointed=checkpointed)


@OUTPUT
@LENGTHS
def test_outputs_keep_no_more_states_than_they_may(lengths, output, monkeypatch):
    net = build(num_layers=2, output=output)
    x = draw(T, B, I)
    expected, last = net.outputs(x, lengths)
    seen, forward = [], net.stack.forward

    def watched(window, *args, **kwargs):
        seen.append(len(window))
        return forward(window, *args, **kwargs)

    monkeypatch.setattr(net.stack, "forward", watched)
    monkeypatch.setattr(_network, "KEPT_STATES", 4 * B * H * 2 + 1)
    got, states = net.outputs(x, lengths)
    assert seen == [4, 2]
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(states, last)
