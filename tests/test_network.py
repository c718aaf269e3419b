"""What a model computes on time-major arrays, where data sets and methods are in the way."""

import numpy as np
import pytest
from measure import central_differences

from fastbptt import _network
from fastbptt.model import RNN

T, B, I, H, O = 6, 3, 2, 4, 2
RAGGED = np.array([6, 0, 4])
LAYERS = pytest.mark.parametrize("num_layers", [1, 2, 3])
OUTPUT = pytest.mark.parametrize("output", ["last", "all"])


def build(**options):
    return RNN(I, H, O, dtype="float64", seed=0, **options).network


def draw(*shape):
    return np.random.default_rng(0).standard_normal(shape)


def test_back_to_front():
    a = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(_network.reverse(a, None), a[::-1])
    got = _network.reverse(a, np.array([4, 0, 2]))
    np.testing.assert_array_equal(got, [[9, 1, 5], [6, 4, 2], [3, 7, 8], [0, 10, 11]])
    np.testing.assert_array_equal(_network.reverse(got, np.array([4, 0, 2])), a)
    assert _network.reverse(a[:0], np.zeros(3, int)).shape == (0, 3)


def test_names_are_views_of_one_vector():
    net = build(num_layers=2, bidirectional=True)
    vector = np.arange(net.vector.size)
    views = net.named(vector)
    np.testing.assert_array_equal(np.concatenate([a.ravel() for a in views.values()]), vector)
    assert all(np.shares_memory(a, vector) for a in views.values())
    before = net.forward(draw(T, B, I)).y
    net.vector *= 2
    assert (net.forward(draw(T, B, I)).y != before).any()


def passing_on(num_layers, dropout, **options):
    """Layers and a readout that hand on what they read: y is x but for dropout."""
    net = RNN(
        H, H, H, num_layers=num_layers, activation="identity", output="all", dropout=dropout,
        dtype="float64", **options,
    ).network  # fmt: skip
    for name, a in net.named(net.vector).items():
        a[...] = np.eye(H) if name.endswith(("W_x", "W_y")) else 0
    return net


@pytest.mark.parametrize("dropout", [0.2, 0.5, 0.9])
def test_dropout_leaves_out_a_share_and_scales_the_rest(dropout):
    net = passing_on(2, dropout)
    x = 1 + np.abs(draw(50, 60, H))
    np.testing.assert_allclose(net.forward(x).y, x, rtol=1e-14)
    ratio = net.forward(x, rng=np.random.default_rng(1)).y / x
    kept = ratio != 0
    np.testing.assert_allclose(ratio[kept], 1 / (1 - dropout), rtol=1e-14)
    for axes in ((0, 1), (0, 2), (1, 2)):  # of 200 numbers at least: 4.5 standard deviations
        shares = kept.mean(axis=axes)
        count = kept.size / shares.size
        np.testing.assert_allclose(shares, 1 - dropout, atol=4.5 * np.sqrt(0.25 / count))
    assert (kept[1:] != kept[:-1]).any(axis=(1, 2)).all(), "each step is drawn anew"


def test_dropout_between_each_two_layers():
    x = np.ones((50, 60, H))
    drawn = passing_on(3, 0.5).forward(x, rng=np.random.default_rng(1)).dropout
    assert drawn[0] is None
    assert abs((drawn[1] * drawn[2] != 0).mean() - 0.25) < 0.02, "drawn for each by itself"


@LAYERS
@OUTPUT
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["full", "ragged"])
def test_gradients_of_the_states_before_and_after(num_layers, output, lengths):
    """loss = sum(dy y) + sum(dstate state), where a sequence goes on after the last step."""
    net = build(num_layers=num_layers, output=output)
    x, state = draw(T, B, I), draw(num_layers, B, H)
    goes_on = np.ones(B) if lengths is None else lengths == T
    dstate = draw(num_layers, B, H) * goes_on[:, None]
    passed = net.forward(x, lengths, state)
    dy = draw(*passed.y.shape)
    counts = np.ones(passed.y.shape[:-1], bool)
    if lengths is not None and output == "all":
        counts = np.arange(T)[:, None] < lengths

    def loss():
        passed = net.forward(x, lengths, state)
        return (dy * passed.y)[counts].sum() + (dstate * np.array(passed.state)).sum()

    gradient, dstate0 = net.backward(passed, dy * counts[..., None], list(dstate.copy()))
    for a, got in ((net.vector, gradient), (state, np.array(dstate0))):
        expected = central_differences(loss, a)
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


@OUTPUT
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both"])
def test_backward_writes_to_nothing_that_it_is_given(output, bidirectional):
    net = build(num_layers=2, output=output, bidirectional=bidirectional)
    passed = net.forward(draw(T, B, I), RAGGED)
    dy = draw(*passed.y.shape)
    dstate = None if bidirectional else list(draw(2, B, H))
    for a in (dy, passed.top, *(dstate or []), *(h for layer in passed.h for h in layer)):
        a.flags.writeable = False
    net.backward(passed, dy, dstate)


@LAYERS
@OUTPUT
def test_states_over_those_of_an_earlier_pass(num_layers, output):
    net = build(num_layers=num_layers, output=output)
    x = draw(T, B, I)
    earlier = net.forward(2 * x)
    for steps in (T, 2, 0):
        expected = net.forward(x[:steps])
        got = net.forward(x[:steps], over=earlier)
        np.testing.assert_array_equal(got.y, expected.y)
        for (a,), (b,), (memory,) in zip(got.h, expected.h, earlier.h, strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.shares_memory(a, memory)
        assert not any(np.shares_memory(s, h[0]) for s in got.state for h in got.h)


@OUTPUT
@pytest.mark.parametrize("lengths", [None, RAGGED], ids=["full", "ragged"])
def test_outputs_keep_no_more_states_than_they_may(output, lengths, monkeypatch):
    net = build(num_layers=2, output=output)
    x = draw(T, B, I)
    expected, last = net.outputs(x, lengths)
    seen, forward = [], net.forward

    def watched(window, *args, **kwargs):
        seen.append(len(window))
        return forward(window, *args, **kwargs)

    monkeypatch.setattr(net, "forward", watched)
    monkeypatch.setattr(_network, "KEPT_STATES", 4 * B * H * 2 + 1)
    got, states = net.outputs(x, lengths)
    assert seen == [4, 2]
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(states, last)
