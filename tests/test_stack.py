"""A stack of layers: gradients at all of its ends against differences and PyTorch; dropout."""

from typing import Any

import numpy as np
import pytest
from measure import central_differences

import fastbptt
from fastbptt import Leak, _stack
from fastbptt._stack import Stack, as_layers, layer_shapes

T, B, I, H = 6, 4, 2, 3
RAGGED = np.array([6, 0, 4, 1])
LAYERS = pytest.mark.parametrize("num_layers", [1, 2, 3])
DIRECTIONS = pytest.mark.parametrize("directions", [1, 2], ids=["forwards", "both"])
LENGTHS = pytest.mark.parametrize("lengths", [None, RAGGED], ids=["full", "ragged"])
BACKEND = pytest.mark.parametrize("backend", ["numba", "numpy"])


def build(num_layers=1, directions=1, input_size=I, **options):
    rng = np.random.default_rng(1)
    shapes = dict(layer_shapes(input_size, H, num_layers, directions == 2))
    arrays = [rng.uniform(-0.7, 0.7, shape) for shape in shapes.values()]
    return Stack(as_layers(arrays), directions=directions, **options)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def draw_ends(stack, T=T) -> Any:
    """Inputs, initial states, and gradients of the outputs and of the last states."""
    n = len(stack.layers)
    return (
        draw(T, B, I), draw(n, B, H, seed=1), draw(T, B, stack.directions * H, seed=2),
        draw(n, B, H, seed=3),
    )  # fmt: skip


def arrays_of(gradients):
    """Those of the weights, the inputs and the initial states."""
    return [*(a for params in gradients.layers for a in params), gradients.x, *gradients.h0]


def test_back_to_front():
    a = np.arange(12).reshape(4, 3)
    np.testing.assert_array_equal(_stack.reverse(a, None), a[::-1])
    got = _stack.reverse(a, np.array([4, 0, 2]))
    np.testing.assert_array_equal(got, [[9, 1, 5], [6, 4, 2], [3, 7, 8], [0, 10, 11]])
    np.testing.assert_array_equal(_stack.reverse(got, np.array([4, 0, 2])), a)
    assert _stack.reverse(a[:0], np.zeros(3, int)).shape == (0, 3)


@LAYERS
@DIRECTIONS
@LENGTHS
@pytest.mark.parametrize("at", ["outputs", "last", "both"])
@pytest.mark.parametrize("dropout", [0, 0.4])
def test_gradients_agree_with_central_differences(dropout, at, lengths, directions, num_layers):
    """loss = sum(doutputs outputs) + sum(dlast last) over what counts."""
    stack = build(num_layers, directions, dropout=dropout)
    x, h0, doutputs, dlast = draw_ends(stack)
    counts = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < lengths

    def forward():
        return stack.forward(x, h0, lengths=lengths, rng=np.random.default_rng(5))

    def loss():
        passed = forward()
        found = 0.0
        if at != "last":
            found += (doutputs * stack.outputs(passed))[counts].sum()
        if at != "outputs":
            found += (dlast * np.array(passed.last)).sum()
        return found

    got = stack.backward(
        forward(), None if at == "last" else doutputs, None if at == "outputs" else dlast
    )
    weights = [a for params in stack.layers for a in params]
    for a, gradient in zip([*weights, x, *h0], arrays_of(got), strict=True):
        expected = central_differences(loss, a)
        np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)
    assert got.x is not None
    assert not got.x[~counts].any()


@DIRECTIONS
@LENGTHS
@BACKEND
@pytest.mark.parametrize("leak", [Leak(0.3), Leak(0.3, "potential")], ids=str)
@pytest.mark.parametrize("at", ["outputs", "last", "both"])
def test_gradients_of_leaky_layers_agree_with_central_differences(
    at, leak, backend, lengths, directions
):
    """The loss has gradients at what is seen last, and at what a next pass goes on from."""
    stack = build(2, directions, leak=leak, activation="sigmoid", backend=backend)
    x, h0, doutputs, dlast = draw_ends(stack)
    dstate = draw(*dlast.shape, seed=4)
    counts = np.ones((T, B), bool) if lengths is None else np.arange(T)[:, None] < lengths

    def loss():
        passed = stack.forward(x, h0, lengths=lengths)
        found = (dstate * np.array(passed.last)).sum()
        if at != "last":
            found += (doutputs * stack.outputs(passed))[counts].sum()
        if at != "outputs":
            found += (dlast * np.array([h[-1] for h in passed.h])).sum()
        return found

    passed = stack.forward(x, h0, lengths=lengths)
    np.testing.assert_array_equal(stack.seen(passed.last), [h[-1] for h in passed.h])
    got = stack.backward(
        passed, None if at == "last" else doutputs, None if at == "outputs" else dlast,
        dstate=dstate,
    )  # fmt: skip
    weights = [a for params in stack.layers for a in params]
    for a, gradient in zip([*weights, x, *h0], arrays_of(got), strict=True):
        np.testing.assert_allclose(gradient, central_differences(loss, a), rtol=0, atol=1e-8)


@DIRECTIONS
def test_gradients_at_some_of_the_last_states(directions):
    """None stands for zeros."""
    stack = build(2, directions)
    x, h0, doutputs, dlast = draw_ends(stack)
    passed = stack.forward(x, h0, lengths=RAGGED)
    some = [a if i % 2 else None for i, a in enumerate(dlast)]
    zeros = [a if i % 2 else np.zeros_like(a) for i, a in enumerate(dlast)]
    for outputs in (None, doutputs):
        got, expected = (stack.backward(passed, outputs, ends) for ends in (some, zeros))
        for a, b in zip(arrays_of(got), arrays_of(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-14)
    nothing = stack.backward(passed)
    assert not any(a.any() for a in arrays_of(nothing))


@pytest.mark.parametrize("steps", [0, 1])
@DIRECTIONS
@BACKEND
def test_few_steps(backend, directions, steps):
    stack = build(2, directions, backend=backend)
    x, h0, doutputs, dlast = draw_ends(stack, steps)
    passed = stack.forward(x, h0)
    assert stack.outputs(passed).shape == doutputs.shape
    got = stack.backward(passed, doutputs, dlast)
    assert got.x is not None
    assert got.x.shape == x.shape
    if steps == 0:  # the last states are the first
        np.testing.assert_array_equal(passed.last, h0)
        np.testing.assert_array_equal(got.h0, dlast)
        assert not any(a.any() for params in got.layers for a in params)


@LAYERS
@DIRECTIONS
@BACKEND
@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("lengths", [None, [6, 2, 4, 1]], ids=["full", "ragged"])
def test_agrees_with_torch(lengths, activation, backend, directions, num_layers):
    torch = pytest.importorskip("torch")
    stack = build(num_layers, directions, activation=activation, backend=backend)
    x, h0, doutputs, dlast = draw_ends(stack)
    theirs = torch.nn.RNN(
        I, H, num_layers, nonlinearity=activation, bidirectional=directions == 2, dtype=torch.double
    )
    weights = theirs.all_weights  # in our order: W_x and W_h, transposed, and two biases each
    with torch.no_grad():
        for params, (W_ih, W_hh, b_ih, b_hh) in zip(stack.layers, weights, strict=True):
            W_ih[...], W_hh[...] = torch.tensor(params.W_x.T), torch.tensor(params.W_h.T)
            b_ih[...], b_hh[...] = torch.tensor(params.b), 0
    inputs, initial = (torch.tensor(a, requires_grad=True) for a in (x, h0))
    given, counts = inputs, np.ones((T, B), bool)
    if lengths is not None:
        given = torch.nn.utils.rnn.pack_padded_sequence(inputs, lengths, enforce_sorted=False)
        counts = np.arange(T)[:, None] < lengths
    outputs, last = theirs(given, initial)
    if lengths is not None:
        outputs, _ = torch.nn.utils.rnn.pad_packed_sequence(outputs, total_length=T)
    loss = (torch.tensor(doutputs) * outputs).sum() + (torch.tensor(dlast) * last).sum()
    loss.backward()

    its_lengths = None if lengths is None else np.array(lengths)
    passed = stack.forward(x, h0, lengths=its_lengths)
    got: Any = stack.backward(passed, doutputs, dlast)
    close: Any = {"rtol": 0, "atol": 1e-12}
    outputs = outputs.detach().numpy()
    np.testing.assert_allclose(stack.outputs(passed)[counts], outputs[counts], **close)
    np.testing.assert_allclose(passed.last, last.detach(), **close)
    np.testing.assert_allclose(got.x, inputs.grad, **close)
    np.testing.assert_allclose(got.h0, initial.grad, **close)
    for params, (W_ih, W_hh, b_ih, _) in zip(got.layers, weights, strict=True):
        np.testing.assert_allclose(params.W_x, W_ih.grad.T, **close)
        np.testing.assert_allclose(params.W_h, W_hh.grad.T, **close)
        np.testing.assert_allclose(params.b, b_ih.grad, **close)


@DIRECTIONS
@LENGTHS
@BACKEND
def test_one_layer_is_the_call_for_one(backend, lengths, directions):
    """Each direction gives the bits of fastbptt.forward and backward."""
    stack = build(1, directions, backend=backend)
    x, h0, doutputs, _ = draw_ends(stack)
    passed = stack.forward(x, h0, lengths=lengths)
    got = stack.backward(passed, doutputs)
    dx: Any = 0
    for d, params in enumerate(stack.layers):
        its_x, dh = x, doutputs[..., d * H : (d + 1) * H]
        if d == 1:
            its_x, dh = (_stack.reverse(a, lengths) for a in (its_x, dh))
        h = fastbptt.forward(params, its_x, h0[d], lengths=lengths, backend=backend)
        expected: Any = fastbptt.backward(params, its_x, h, dh, lengths=lengths, backend=backend)
        np.testing.assert_array_equal(passed.h[d], h)
        for a, b in zip(got.layers[d], expected.params, strict=True):
            np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(got.h0[d], expected.h0)
        dx = dx + (expected.x if d == 0 else _stack.reverse(expected.x, lengths))
    np.testing.assert_array_equal(got.x, dx)


@DIRECTIONS
@LENGTHS
@BACKEND
def test_arrays_with_any_strides(backend, lengths, directions):
    """Batch-major ones, seen time-major; and back to front."""
    stack = build(2, directions, backend=backend)
    x, h0, doutputs, dlast = draw_ends(stack)
    found = []
    for seen in (
        lambda a: a,
        lambda a: np.ascontiguousarray(a.swapaxes(0, 1)).swapaxes(0, 1),
        lambda a: np.asfortranarray(a),
        lambda a: np.ascontiguousarray(a[::-1])[::-1],
    ):
        passed = stack.forward(seen(x), seen(h0), lengths=lengths)
        got = stack.backward(passed, seen(doutputs), seen(dlast))
        found.append([stack.outputs(passed), *passed.last, *arrays_of(got)])
    for others in found[1:]:
        for a, b in zip(others, found[0], strict=True):
            np.testing.assert_array_equal(a, b)


# Memory


@LAYERS
@DIRECTIONS
@BACKEND
def test_gradients_in_memory_given(backend, directions, num_layers):
    """Views of one vector, say; all but them is as without."""
    stack = build(num_layers, directions, backend=backend)
    x, h0, doutputs, dlast = draw_ends(stack)
    passed = stack.forward(x, h0, lengths=RAGGED)
    expected = stack.backward(passed, doutputs, dlast)
    sizes = [a.size for params in stack.layers for a in params]
    vector, ends = np.full(sum(sizes) + 2, np.nan), np.cumsum([1, *sizes])
    shapes = [a.shape for params in stack.layers for a in params]
    out = as_layers(
        vector[start : start + size].reshape(shape)
        for start, size, shape in zip(ends[:-1], sizes, shapes, strict=True)
    )
    got = stack.backward(passed, doutputs, dlast, need_dx=False, out=out)
    assert got.x is None
    weights = np.concatenate([a.ravel() for params in expected.layers for a in params])
    np.testing.assert_array_equal(vector, [np.nan, *weights, np.nan])
    for a, b in zip(got.layers, out, strict=True):
        assert all(one is other for one, other in zip(a, b, strict=True))
    np.testing.assert_array_equal(got.h0, expected.h0)


@DIRECTIONS
@LENGTHS
@BACKEND
def test_writes_to_nothing_that_it_is_given(backend, lengths, directions):
    stack = build(2, directions, dropout=0.3, backend=backend)
    x, h0, doutputs, dlast = draw_ends(stack)
    for a in (x, h0, doutputs, dlast, *(a for params in stack.layers for a in params)):
        a.flags.writeable = False
    passed = stack.forward(x, h0, lengths=lengths, rng=np.random.default_rng(0))
    for a in (*passed.h, *passed.x):
        a.flags.writeable = False
    for outputs in (None, doutputs):
        for ends in (None, dlast):
            stack.backward(passed, outputs, ends)


@LAYERS
@DIRECTIONS
def test_states_over_those_of_an_earlier_pass(directions, num_layers):
    stack = build(num_layers, directions)
    x = draw(T, B, I)
    earlier = stack.forward(2 * x)
    for steps in (T, 2, 0):
        expected = stack.forward(x[:steps])
        got = stack.forward(x[:steps], over=earlier.h)
        for a, b, memory in zip(got.h, expected.h, earlier.h, strict=True):
            np.testing.assert_array_equal(a, b)
            assert np.shares_memory(a, memory)
        assert not any(np.shares_memory(a, h) for a in got.last for h in got.h)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"doutputs": np.zeros((T, B, H))}, ValueError, r"doutputs has shape .*\(6, 4, 6\)"),
        ({"doutputs": np.zeros((T, B, 2 * H), "f4")}, TypeError, "doutputs has dtype float32"),
        ({"dlast": [None, np.zeros((B, I))]}, ValueError, r"dlast\[1\] has shape \(4, 2\)"),
        ({"dlast": np.zeros((2, B, H), "f4")}, TypeError, r"dlast\[0\] has dtype float32"),
    ],
)
def test_gradients_that_do_not_fit(given, error, message):
    stack = build(1, 2)
    with pytest.raises(error, match=message):
        stack.backward(stack.forward(draw(T, B, I)), **given)


# Dropout


def passing_on(num_layers, dropout):
    """Layers that hand on what they read: outputs are inputs but for dropout."""
    stack = build(num_layers, input_size=H, activation="identity", dropout=dropout)
    for params in stack.layers:
        params.W_x[...], params.W_h[...], params.b[...] = np.eye(H), 0, 0
    return stack


@pytest.mark.parametrize("dropout", [0.2, 0.5, 0.9])
def test_dropout_leaves_out_a_share_and_scales_the_rest(dropout):
    stack = passing_on(2, dropout)
    x = 1 + np.abs(draw(50, 60, H))
    np.testing.assert_allclose(stack.outputs(stack.forward(x)), x, rtol=1e-14)
    ratio = stack.outputs(stack.forward(x, rng=np.random.default_rng(1))) / x
    kept = ratio != 0
    np.testing.assert_allclose(ratio[kept], 1 / (1 - dropout), rtol=1e-14)
    for axes in ((0, 1), (0, 2), (1, 2)):  # of 150 numbers at least: 4.5 standard deviations
        shares = kept.mean(axis=axes)
        count = kept.size / shares.size
        np.testing.assert_allclose(shares, 1 - dropout, atol=4.5 * np.sqrt(0.25 / count))
    assert (kept[1:] != kept[:-1]).any(axis=(1, 2)).all(), "each step is drawn anew"


def test_dropout_of_outputs_is_of_them_alone():
    plain, dropping = passing_on(2, 0.2), passing_on(2, 0.2)
    dropping.output_dropout = 0.6
    x = np.ones((50, 60, H))
    passed = dropping.forward(x, rng=np.random.default_rng(1))
    _, between, of_outputs = passed.masks
    assert between is not None
    assert of_outputs is not None
    assert abs((between > 0).mean() - 0.8) < 0.01
    assert abs((of_outputs > 0).mean() - 0.4) < 0.01
    np.testing.assert_array_equal(dropping.outputs(passed), passed.h[1][1:] * of_outputs)
    for stack in (plain, dropping):
        assert len(stack.forward(x).masks) == 2, "nothing is left out without a generator"
    doutputs = draw(50, 60, H)
    got = dropping.backward(passed, doutputs).x
    assert got is not None
    np.testing.assert_allclose(got, doutputs * of_outputs * between, rtol=1e-13)


def test_dropout_between_each_two_layers():
    x = np.ones((50, 60, H))
    none, first, second = passing_on(3, 0.5).forward(x, rng=np.random.default_rng(1)).masks
    assert none is None
    assert first is not None
    assert second is not None
    assert abs((first * second != 0).mean() - 0.25) < 0.02, "drawn for each by itself"
