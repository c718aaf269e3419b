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


@LAYERS
@OUTPUT
@LENGTHS
@WAYS
def test_gradient_with_dropout_before_the_readout(
    bidirectional, checkpointed, lengths, output, num_layers
):
    """And with dropout between layers, weights of the loss, and a penalty of h²."""
    net = build(
        num_layers=num_layers, output=output, bidirectional=bidirectional, output_dropout=0.4,
        dropout=0.3 * (num_layers == 2),
    )  # fmt: skip
    x, target, state = draw(T, B, I), draw_target(net), draw(len(net.stack.layers), B, H)
    weight = np.arange(1, 1 + np.prod(target.shape)).reshape(target.shape) % 4 / 3

    def loss_and_gradient(checkpointed=False):
        return net.loss_and_gradient(
            x, target, lengths, losses.mse, weight=weight, state=state,
            rng=np.random.default_rng(3), checkpointed=checkpointed,
        )  # fmt: skip

    value, got, last = loss_and_gradient(checkpointed)
    assert value == loss_and_gradient()[0], "the same is left out in windows"
    expected = central_differences(lambda: loss_and_gradient()[0], net.vector)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8 * np.abs(expected).max())
    kept = net.loss_and_gradient(x, target, lengths, losses.mse, weight=weight, state=state)
    assert value != kept[0], "nothing was left out"
    if num_layers != 2:
        np.testing.assert_array_equal(last, kept[2], "states are as they are")


@OUTPUT
def test_dropout_before_the_readout(output):
    """So many states are 0, the others are larger, in both directions; the mean is as it was."""
    net = RNN(1, 64, 1, dtype="float64", seed=0, output=output, output_dropout=0.25,
              bidirectional=True).network  # fmt: skip
    net.named(net.vector)["W_y"][...] = 1
    seen = []

    def loss(y, target, mask):
        seen.append(y)
        return losses.mse(y, target, mask)

    x, rng = draw(40, 50, 1), np.random.default_rng(3)
    target = np.zeros((40, 50, 1) if output == "all" else (50, 1))
    for _ in range(2):
        net.loss_and_gradient(x, target, None, loss, rng=rng)
    assert (seen[0] != seen[1]).all(), "it is drawn anew"
    kept = net.outputs(x)[0]
    assert np.corrcoef(seen[0].ravel(), kept.ravel())[0, 1] > 0.5
    # y = sum(h m) with m = 0 or 4/3: the mean is that of sum(h), the variance sum(h²) / 3.
    passed = net.stack.forward(x)
    top = net.stack.outputs(passed)
    top = top if output == "all" else np.concatenate([h[-1] for h in passed.h], axis=1)
    variance = np.mean((seen[0] - kept) ** 2) / np.mean((top**2).sum(axis=-1) / 3)
    assert variance == pytest.approx(1, abs=0.1 if output == "all" else 0.5)


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
