"""The model against hand-worked numbers, plain loops, differences and PyTorch; data in any form."""

import copy
import doctest
import functools
import inspect
import pickle
import re
from typing import Any

import numpy as np
import pytest
from measure import central_differences, peak

import fastbptt
from fastbptt import _network, losses, model
from fastbptt.model import RNN, TOGETHER

I, H, O = 2, 3, 2
RAGGED, EQUAL = (4, 1, 6, 0, 6), (5, 5, 5)
LAYERS = pytest.mark.parametrize("num_layers", [1, 2, 3])
OUTPUT = pytest.mark.parametrize("output", model.OUTPUTS)
DIRECTIONS = pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both"])
LENGTHS = pytest.mark.parametrize("counts", [RAGGED, EQUAL], ids=["ragged", "equal"])
ACTIVATIONS = {"tanh": np.tanh, "relu": lambda z: np.maximum(z, 0), "identity": lambda z: z}


def build(dtype="float64", input_size=I, output_size=O, **options):
    made = RNN(input_size, H, output_size, dtype=dtype, seed=0, **options)
    for name, a in made.parameters().items():
        if a.ndim == 1:  # biases begin at zero
            a[...] = np.random.default_rng(len(name)).uniform(-0.5, 0.5, a.shape)
    return made


def draw(made, counts) -> Any:
    """Sequences of so many steps and real targets for them."""
    rng = np.random.default_rng(0)
    x = [rng.standard_normal((n, made.input_size)).astype(made.dtype) for n in counts]
    shapes = [(n, made.output_size) for n in counts]
    if made.output == "last":
        return x, rng.standard_normal((len(counts), made.output_size)).astype(made.dtype)
    return x, [rng.standard_normal(shape).astype(made.dtype) for shape in shapes]


def padded(arrays, more=0, value=np.nan):
    """(N, T, ...) with so many steps more than the longest."""
    T = max(map(len, arrays)) + more
    full = np.full((len(arrays), T, *arrays[0].shape[1:]), value, arrays[0].dtype)
    for row, a in zip(full, arrays, strict=True):
        row[: len(a)] = a
    return full


def flat(value):
    """Arrays and numbers in what a method returned."""
    if isinstance(value, dict):
        value = list(value.values())
    return [a for part in value for a in flat(part)] if isinstance(value, list | tuple) else [value]


def assert_same(got, expected):
    """Check that two results have the same bits."""
    for a, b in zip(flat(got), flat(expected), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


def assert_close(got, expected, tolerance=1e-12):
    for a, b in zip(flat(got), flat(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


# What is computed


def scalar(**options):
    """A network of ones: a state is the sum of what has been read."""
    made = RNN(1, 1, 1, activation="identity", **options)
    made.network.vector[...] = 1
    for name, a in made.parameters().items():
        if name.split(".")[-1] in ("b", "b_y"):
            a[...] = 0
    return made


NUMBERS = [[1, 2, 3], [4], [5, 7]]


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_scalar_identity_network_sums(backend):
    got = scalar(backend=backend).predict(NUMBERS)
    np.testing.assert_array_equal(got, np.array([[6], [4], [12]], np.float32), strict=True)
    got = scalar(output="all", backend=backend).predict(NUMBERS)
    for a, expected in zip(got, ([1, 3, 6], [4], [5, 12]), strict=True):
        np.testing.assert_array_equal(a[:, 0], expected)
    got = scalar(num_layers=2, output="all", backend=backend).predict(NUMBERS)
    for a, expected in zip(got, ([1, 4, 10], [4], [5, 17]), strict=True):
        np.testing.assert_array_equal(a[:, 0], expected)


def test_scalar_identity_network_in_both_directions():
    for output, expected in (("last", [[66], [44], [132]]), ("all", [61, 53, 36])):
        made = scalar(bidirectional=True, output=output)
        made.parameters()["W_y"][...] = [[1], [10]]  # sums from the start, and from the end
        got = made.predict(NUMBERS)
        np.testing.assert_array_equal(got if output == "last" else got[0][:, 0], expected)


def test_hand_worked_loss_and_gradients():
    # y = 3, 5 and 9 - 2 = 7 for the targets 1, 5 and 8: residuals 2, 0, -1
    value, grads = scalar().loss_and_grads([[1, 2], [5], [9, -2]], [1, 5, 8], loss="ssr")
    assert value == 5
    # d loss / dy = 4, 0, -2; y = ((h0 w_h + x1 w_x + b) w_h + x2 w_x + b) w_y + b_y
    expected = {"W_x": 4 * 3 - 2 * 7, "W_h": 4 * 1 - 2 * 9, "b": 4 * 2 - 2 * 2}
    for name, number in expected.items():
        assert grads[f"layers.0.{name}"].item() == number
    assert (grads["W_y"].item(), grads["b_y"].item()) == (4 * 3 - 2 * 7, 4 - 2)


def plain_states(made, x, h0=None):
    """Each layer's states for one sequence (T, I), step by step, and the last layer's last."""
    weights, layers, finals = made.parameters(), [], []
    for l in range(made.num_layers):
        sides, finals = [], []
        for d, prefix in enumerate(["", "reverse."][: 1 + made.bidirectional]):
            W_x, W_h, b = (weights[f"layers.{l}.{prefix}{name}"] for name in ("W_x", "W_h", "b"))
            h, states = np.zeros(H) if h0 is None else h0[l], []
            for x_t in x[::-1] if d else x:
                h = ACTIVATIONS[made.activation](x_t @ W_x + h @ W_h + b)
                states.append(h)
            sides.append(np.reshape(states[::-1] if d else states, (-1, H)))
            finals.append(h)
        x = np.concatenate(sides, axis=1)
        layers.append(x)
    return layers, np.concatenate(finals)


def plain_outputs(made, x):
    """Outputs for one sequence (T, I)."""
    layers, final = plain_states(made, x)
    weights, top = made.parameters(), layers[-1] if made.output == "all" else final
    return top @ weights["W_y"] + weights["b_y"]


@LAYERS
@DIRECTIONS
@OUTPUT
@LENGTHS
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_predicts_what_plain_loops_do(num_layers, bidirectional, output, counts, backend):
    for activation in ACTIVATIONS:
        made = build(num_layers=num_layers, bidirectional=bidirectional, output=output,
                     activation=activation, backend=backend)  # fmt: skip
        x, y = draw(made, counts)
        got = made.predict(x)
        expected = [plain_outputs(made, a) for a in x]
        assert_close([*got], expected)
        residuals = np.concatenate([a.ravel() for a in expected]) - np.concatenate(
            [a.ravel() for a in y]
        )
        assert made.evaluate(x, y) == pytest.approx((residuals**2).mean(), rel=1e-12)


@LAYERS
@DIRECTIONS
@OUTPUT
@LENGTHS
def test_states_of_every_layer_are_those_of_plain_loops(num_layers, bidirectional, output, counts):
    made = build(num_layers=num_layers, bidirectional=bidirectional, output=output, dropout=0.5
                 if num_layers > 1 else 0.0)  # fmt: skip
    x, _ = draw(made, counts)
    expected = [
        [*of_layer] for of_layer in zip(*(plain_states(made, a)[0] for a in x), strict=True)
    ]
    assert_close(made.states(x), expected)
    full = padded(x, more=2)
    assert_same(made.states(full, counts), [padded(h, 2, 0.0) for h in made.states(x)])
    if not bidirectional:
        state = np.random.default_rng(3).standard_normal((num_layers, len(x), H))
        got = made.states(x, state=state)
        for n, a in enumerate(x):
            assert_close([h[n] for h in got], plain_states(made, a, state[:, n])[0])


def test_states_go_with_what_is_predicted():
    """To the bit, for more sequences than are run together."""
    made = build("float32", num_layers=2, bidirectional=True, output="all")
    x, _ = draw(made, np.random.default_rng(0).integers(0, 8, TOGETHER + 40))
    W_y, b_y = (made.parameters()[name] for name in ("W_y", "b_y"))
    top = made.states(x)[-1]
    assert_same([fastbptt.readout(W_y, b_y, h) for h in top], made.predict(x))


@DIRECTIONS
@LENGTHS
def test_potentials_of_every_layer_are_those_of_plain_loops(bidirectional, counts):
    """Of what the layer below shows; the rates are f of them, and a stream goes on from them."""
    alpha = np.array([0.1, 0.5, 1])
    made = build(num_layers=2, bidirectional=bidirectional,
                 leak=fastbptt.Leak(alpha, "potential"))  # fmt: skip
    x, _ = draw(made, counts)
    weights, expected = made.parameters(), [[], []]
    for below in x:
        for l in range(2):
            sides = []
            for way in ("", "reverse.")[: 1 + bidirectional]:
                W_x, W_h, b = (weights[f"layers.{l}.{way}{name}"] for name in ("W_x", "W_h", "b"))
                v, seen = np.zeros(H), []
                for a in below[::-1] if way else below:
                    v = (1 - alpha) * v + alpha * (a @ W_x + np.tanh(v) @ W_h + b)
                    seen.append(v)
                sides.append(np.reshape(seen[::-1] if way else seen, (-1, H)))
            v = np.concatenate(sides, axis=1)
            expected[l].append(v)
            below = np.tanh(v)
    got = made.states(x, of="potential")
    assert_close(got, expected)
    assert_close(made.states(x), [[*map(np.tanh, v)] for v in expected])
    full = padded(x, more=2)
    assert_same(made.states(full, counts, of="potential"), [padded(v, 2, 0.0) for v in got])
    if not bidirectional:
        _, state = made.predict(x, return_state=True)
        ends = [[v[-1] if len(v) else np.zeros(H) for v in of_layer] for of_layer in got]
        assert_same(state, np.array(ends))
        noise = fastbptt.Noise(0.1, seed=0)
        noisy = made.states(x, of="potential", noise=noise)
        assert_close(made.states(x, noise=noise), [[*map(np.tanh, v)] for v in noisy])
        assert not np.array_equal(noisy[0][0], got[0][0])


@pytest.mark.parametrize("leak", [None, fastbptt.Leak(0.5)])
def test_potentials_of_a_model_that_has_none(leak):
    words = f"of is 'potential' and the model's leak {leak}, expected one of potentials"
    with pytest.raises(ValueError, match=re.escape(words)):
        build(leak=leak).states(np.zeros((1, 2, I)), of="potential")
    with pytest.raises(ValueError, match="of is 'v', expected one of 'rate', 'potential'"):
        build(leak=leak).states(np.zeros((1, 2, I)), of="v")


def test_states_of_what_does_not_fit():
    made = build(bidirectional=True)
    with pytest.raises(
        ValueError, match=r"x has shape \(3, 4, 5\), expected \(N, T, I\) with I = 2"
    ):
        made.states(np.zeros((3, 4, 5)))
    with pytest.raises(ValueError, match="lengths has shape"):
        made.states(np.zeros((3, 4, I)), [1, 2])
    with pytest.raises(ValueError, match="the model is bidirectional"):
        made.states(np.zeros((3, 4, I)), state=np.zeros((1, 3, H)))


def assert_agrees_with_differences(made, *data, **options):
    """Check every gradient against central differences; return the loss."""

    def loss_and_grads():
        given = dict(options)
        if "rng" in given:
            given["rng"] = np.random.default_rng(given["rng"])
        return made.loss_and_grads(*data, **given)

    value, grads = loss_and_grads()
    weights = made.parameters()
    assert {name: a.shape for name, a in grads.items()} == {n: a.shape for n, a in weights.items()}
    for name, a in weights.items():
        expected = central_differences(lambda: loss_and_grads()[0], a)
        scale = max(1, abs(value), np.abs(expected).max())
        np.testing.assert_allclose(grads[name], expected, rtol=0, atol=1e-8 * scale, err_msg=name)
        assert np.abs(expected).max() > 1e-4, f"{name}: nothing to see"
    return value


@LAYERS
@DIRECTIONS
@OUTPUT
@LENGTHS
def test_gradients_agree_with_central_differences(num_layers, bidirectional, output, counts):
    made = build(num_layers=num_layers, bidirectional=bidirectional, output=output)
    assert_agrees_with_differences(made, *draw(made, counts))


def draw_targets(kind, output, counts):
    """Targets for O = 2, and the loss's name."""
    rng = np.random.default_rng(1)
    rows = [(n,) for n in counts] if output == "all" else [(len(counts),)]
    if kind == "classes":
        y = [rng.integers(0, O, shape) for shape in rows]
    elif kind == "probabilities":
        y = [rng.dirichlet(np.ones(O), shape) for shape in rows]
    else:
        y = [rng.random((*shape, O)) for shape in rows]
    name = "cross_entropy" if kind in ("classes", "probabilities") else kind
    return (y if output == "all" else y[0]), name


@pytest.mark.parametrize("kind", ["mse", "ssr", "bce", "classes", "probabilities"])
@OUTPUT
def test_each_loss_agrees_with_central_differences(kind, output):
    made = build(output=output)
    x, _ = draw(made, RAGGED)
    y, name = draw_targets(kind, output, RAGGED)
    value = assert_agrees_with_differences(made, x, y, loss=name)
    assert value == pytest.approx(made.evaluate(x, y, loss=name), rel=1e-12)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
@OUTPUT
def test_each_activation_agrees_with_central_differences(activation, output):
    made = build(num_layers=2, output=output, activation=activation)
    assert_agrees_with_differences(made, *draw(made, RAGGED))


@DIRECTIONS
@OUTPUT
@pytest.mark.parametrize("num_layers", [2, 3])
def test_dropout_agrees_with_central_differences(num_layers, bidirectional, output):
    made = build(num_layers=num_layers, bidirectional=bidirectional, output=output, dropout=0.3)
    data = draw(made, RAGGED)
    value = assert_agrees_with_differences(made, *data, rng=7)
    assert value != made.loss_and_grads(*data)[0], "nothing was left out"


@LAYERS
@OUTPUT
def test_a_given_state_agrees_with_central_differences(num_layers, output):
    made = build(num_layers=num_layers, output=output)
    state = np.random.default_rng(3).standard_normal((num_layers, len(RAGGED), H))
    data = draw(made, RAGGED)
    value = assert_agrees_with_differences(made, *data, state=state)
    assert value != made.loss_and_grads(*data)[0], "the state was not used"


def torch_rnn(torch, made):
    """The same layers in PyTorch, and its tensors by our names."""
    rnn = torch.nn.RNN(
        I, H, made.num_layers, bidirectional=made.bidirectional, nonlinearity=made.activation,
        dtype=torch.float64,
    )  # fmt: skip
    names = {"W_x": "weight_ih", "W_h": "weight_hh", "b": "bias_ih"}
    tensors = {}
    for l in range(made.num_layers):
        for prefix, suffix in (("", ""), ("reverse.", "_reverse"))[: 1 + made.bidirectional]:
            for name, theirs in names.items():
                tensors[f"layers.{l}.{prefix}{name}"] = getattr(rnn, f"{theirs}_l{l}{suffix}")
            torch.nn.init.zeros_(getattr(rnn, f"bias_hh_l{l}{suffix}"))
    tensors["W_y"] = torch.zeros(O, (1 + made.bidirectional) * H, dtype=torch.float64)
    tensors["b_y"] = torch.zeros(O, dtype=torch.float64)
    with torch.no_grad():
        for name, a in made.parameters().items():
            tensors[name].copy_(torch.tensor(a.T))
            tensors[name].requires_grad_()
    return rnn, tensors


@LAYERS
@DIRECTIONS
@OUTPUT
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_agrees_with_torch(num_layers, bidirectional, output, activation, torch_on_one_thread):
    torch = torch_on_one_thread
    made = build(num_layers=num_layers, bidirectional=bidirectional, output=output,
                 activation=activation)  # fmt: skip
    x, y = draw(made, (4, 1, 6, 6))  # PyTorch knows no sequence without steps
    rnn, tensors = torch_rnn(torch, made)
    states, last = rnn(torch.nn.utils.rnn.pack_sequence(list(map(torch.tensor, x)), False))
    if output == "all":
        states, counts = torch.nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
        top = torch.cat([s[:n] for s, n in zip(states, counts, strict=True)])
        target = torch.tensor(np.concatenate(y))
    else:
        top = torch.cat(list(last[-1 - bidirectional :]), dim=1)
        target = torch.tensor(y)
    predicted = torch.nn.functional.linear(top, tensors["W_y"], tensors["b_y"])
    loss = torch.nn.functional.mse_loss(predicted, target)
    loss.backward()

    value, grads = made.loss_and_grads(x, y)
    got = made.predict(x)
    assert_close(np.concatenate(got) if output == "all" else got, predicted.detach().numpy())
    assert_close(value, loss.item())
    for name, a in grads.items():
        np.testing.assert_allclose(a, tensors[name].grad.numpy().T, 0, 1e-12, err_msg=name)


def test_a_loss_of_ones_own():
    made, seen = build(output="all"), []

    def tripled(y, target, mask):
        seen.append((y.shape, target.shape, mask.sum(axis=1).tolist()))
        value, dy = losses.ssr(y, target, mask)
        return 3 * value, 3 * dy

    data = draw(made, RAGGED)
    expected = made.loss_and_grads(*data, loss="ssr")
    value, grads = made.loss_and_grads(*data, loss=tripled)
    assert_close((value, grads), (3 * expected[0], [3 * a for a in expected[1].values()]))
    assert seen == [((5, 6, O), (5, 6, O), [*RAGGED])]
    assert_same(made.loss_and_grads(*data, loss=losses.ssr), expected)


def wrapped(loss, **attributes):
    """Functions that call a loss, in the ways there are, with attributes of their own."""

    @functools.wraps(loss)
    def wraps(*args):
        return loss(*args)

    class Called:
        def __call__(self, *args):
            return loss(*args)

    partial, by_hand = functools.partial(loss), Called()
    vars(by_hand).update(vars(loss))
    found = [wraps, partial, functools.partial(wraps), by_hand]
    found.append(functools.update_wrapper(Called(), partial))
    for function in found:
        vars(function).update(attributes)
    return found


@OUTPUT
@pytest.mark.parametrize("kind", ["mse", "ssr", "classes"])
def test_a_wrapped_loss_is_taken_as_the_loss_itself(kind, output):
    # With the backend "numba" the loss itself is compiled, and a function that calls it is not.
    made = build(output=output, backend="numpy")
    counts = [2, 3] * TOGETHER  # not all computed together
    x, _ = draw(made, counts)
    y, name = draw_targets(kind, output, counts)
    expected, (value, grads) = (
        made.evaluate(x, y, loss=name), made.loss_and_grads(x, y, loss=name)
    )  # fmt: skip
    for loss in wrapped(losses.LOSSES[name]):
        # A function is given (B, T, O): the terms are the same, their sum is in another order.
        assert made.evaluate(x, y, loss=loss) == pytest.approx(expected, rel=1e-15)
        got, its_grads = made.loss_and_grads(x, y, loss=loss)
        assert got == pytest.approx(value, rel=1e-15)
        assert_same(its_grads, grads)


def test_an_attribute_of_its_own_comes_first():
    made = build()
    x, y = draw(made, [2] * (TOGETHER + 40))
    squares = np.square(made.predict(x) - y)
    pieces = squares[:TOGETHER], squares[TOGETHER:]
    for loss in wrapped(losses.mse, reduction="sum"):
        assert_close(made.evaluate(x, y, loss=loss), sum(a.mean() for a in pieces))
    for loss in wrapped(losses.ssr, reduction="mean"):
        expected = sum(a.sum() * len(a) for a in pieces) / len(x)
        assert_close(made.evaluate(x, y, loss=loss) / expected, 1)
    for loss in wrapped(losses.cross_entropy, takes_classes=False):
        with pytest.raises(ValueError, match=r"expected \(N, O\) with N = 296, .* and O = 2$"):
            made.evaluate(x, np.zeros(len(x), int), loss=loss)
    for loss in wrapped(losses.mse, reduction="none"):
        with pytest.raises(ValueError, match=r"loss\.reduction is 'none', expected one of 'mean',"):
            made.loss_and_grads(x, y, loss=loss)


@LAYERS
@DIRECTIONS
@OUTPUT
@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_backends_agree(num_layers, bidirectional, output, dropout):
    if dropout and num_layers == 1:
        return
    results = []
    for backend in ("numba", "numpy"):
        made = build(num_layers=num_layers, bidirectional=bidirectional, output=output,
                     dropout=dropout, backend=backend)  # fmt: skip
        data = draw(made, RAGGED)
        rng = np.random.default_rng(0)
        results.append((made.predict(data[0]), made.loss_and_grads(*data, rng=rng)))
    assert_close(*results)


# Data in any form


def everything(made, x, y, lengths=None):
    """All that a model says of some data, outputs of steps that count only."""
    y_hat = made.predict(x, lengths)
    if made.output == "all" and lengths is not None:
        rest = np.arange(y_hat.shape[1]) >= np.asarray(lengths)[:, None]
        assert not y_hat[rest].any(), "outputs past a sequence's length: expected 0"
        y_hat = [a[:n] for a, n in zip(y_hat, lengths, strict=True)]
    return y_hat, made.evaluate(x, y, lengths), made.loss_and_grads(x, y, lengths)


@LAYERS
@DIRECTIONS
@OUTPUT
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_lists_and_padded_arrays_give_the_same_bits(num_layers, bidirectional, output, backend):
    made = build("float32", num_layers=num_layers, bidirectional=bidirectional, output=output,
                 backend=backend)  # fmt: skip
    x, y = draw(made, RAGGED)
    expected = everything(made, x, y)
    for more in (0, 3):
        y_too = padded(y, more) if output == "all" else y
        assert_same(everything(made, padded(x, more), y_too, RAGGED), expected)
    assert_same(everything(made, tuple(x), y), expected)
    if output == "all":  # one as a list, the other as an array
        assert_same(everything(made, x, padded(y, 2)), expected)
        assert_same(everything(made, padded(x, 1), y, RAGGED), expected)


@OUTPUT
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_one_feature_needs_no_axis_of_its_own(output, dtype):
    made = build(dtype, input_size=1, output_size=1, output=output)
    x, y = draw(made, EQUAL)
    x, y = padded(x), np.array(y)
    expected = everything(made, x, y)
    assert_same(everything(made, x[..., 0], y[..., 0]), expected)
    assert_same(everything(made, x[..., 0], y), expected)
    assert_same(
        made.predict(x[..., 0].tolist()), [*expected[0]] if output == "all" else expected[0]
    )

    x, y = draw(made, RAGGED)
    without: Any = [a[:, 0] for a in y] if output == "all" else y[:, 0]
    expected = everything(made, x, y)
    assert_same(everything(made, [a[:, 0] for a in x], without), expected)
    numbers = [a.tolist() for a in without] if output == "all" else without.tolist()
    assert_same(everything(made, [a[:, 0].tolist() for a in x], numbers), expected)


@OUTPUT
def test_numbers_are_converted(output):
    made = build("float32", output=output)
    rng = np.random.default_rng(0)
    x = rng.integers(-5, 5, (4, 6, I))
    y = rng.integers(-5, 5, (4, 6, O) if output == "all" else (4, O))
    expected = everything(made, x.astype("float32"), y.astype("float32"))
    assert {a.dtype for a in expected[2][1].values()} == {np.dtype("float32")}
    for dtype in ("int8", "int64", "float64", ">f4", "float16"):
        assert_same(everything(made, x.astype(dtype), y.astype(dtype)), expected)
    as_list = [*expected[0]] if output == "all" else expected[0]
    for convert in (list, np.ndarray.tolist):
        assert_same(everything(made, convert(x), convert(y)), (as_list, *expected[1:]))
    bits = x > 0
    assert_same(made.predict(bits), made.predict(bits.astype("float32")))


@OUTPUT
def test_arrays_may_have_any_strides(output):
    made = build("float32", output=output)
    x, y = draw(made, EQUAL)
    x, y = padded(x), np.array(y)
    expected = everything(made, x, y, [5, 0, 3])
    for view in (
        np.asfortranarray,
        lambda a: a[::-1].copy()[::-1],
        lambda a: a.repeat(2, 1)[:, ::2],
    ):
        assert_same(everything(made, view(x), view(y), [5, 0, 3]), expected)


def test_integer_lists_and_arrays_convert_alike():
    """2**60 + 2**36 + 1 lies just above the middle of two float32 numbers, but no float64."""
    made = scalar()
    number = 2**60 + 2**36 + 1
    expected = np.full((1, 1), np.float32(2**60 + 2**37))
    assert_same(made.predict(np.array([[number]])), expected)
    assert_same(made.predict([[number]]), expected)


@OUTPUT
@DIRECTIONS
def test_inputs_are_left_as_they_are(output, bidirectional):
    made = build(output=output, bidirectional=bidirectional, num_layers=2, dropout=0.5)
    x, y = draw(made, EQUAL)
    x, y, lengths = padded(x), np.array(y), np.array([5, 0, 3])
    state = None if bidirectional else np.ones((2, 3, H))
    given = [x, y, lengths, *([] if bidirectional else [state])]
    before = copy.deepcopy(given), made.network.vector.copy()
    for a in given:
        a.flags.writeable = False
    modes = (False,) if bidirectional else (False, True)
    for checkpointed in modes:
        rng = np.random.default_rng(0)
        made.loss_and_grads(x, y, lengths, state=state, rng=rng, checkpointed=checkpointed)
    made.predict(x, lengths, state=state)
    made.evaluate(x, y, lengths)
    assert_same((given, made.network.vector), before)


# Piece by piece


@LAYERS
@OUTPUT
@pytest.mark.parametrize("counts", [None, (11, 0, 4, 7)], ids=["full", "ragged"])
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_predictions_in_pieces_have_the_same_bits(num_layers, output, counts, backend):
    made = build("float32", num_layers=num_layers, output=output, backend=backend)
    x = padded(draw(made, (11,) * 4)[0])
    if counts is not None:
        x[np.arange(11) >= np.array(counts)[:, None]] = np.nan
    expected, last = made.predict(x, counts, return_state=True)
    assert last.shape == (num_layers, 4, H)
    state, ys = None, []
    for start, stop in ((0, 4), (4, 4), (4, 5), (5, 11)):
        clipped = None if counts is None else np.clip(np.array(counts) - start, 0, stop - start)
        y, state = made.predict(x[:, start:stop], clipped, state=state, return_state=True)
        ys.append(y)
    assert_same(state, last)
    assert_same(np.concatenate(ys, axis=1) if output == "all" else ys[-1], expected)
    assert_same(made.predict(x[:, :0], state=last, return_state=True)[1], last)


@LAYERS
@DIRECTIONS
@OUTPUT
def test_many_sequences_have_the_bits_of_each_by_itself(num_layers, bidirectional, output):
    made = build("float32", num_layers=num_layers, bidirectional=bidirectional, output=output)
    counts = np.random.default_rng(0).integers(0, 8, TOGETHER + 40)
    x, y = draw(made, counts)
    expected = [made.predict([a])[0] for a in x]
    assert_same([*made.predict(x)], expected)
    if not bidirectional:
        _, states = made.predict(x, return_state=True)
        rows = [made.predict([a], return_state=True)[1] for a in x]
        assert_same(states, np.concatenate(rows, axis=1))
        again = made.predict(x, state=states)
        rows = [made.predict([x[n]], state=states[:, [n]])[0] for n in range(len(x))]
        assert_same([*again], rows)
    # The mean over all rows, not of the means over those computed together
    given = np.concatenate(y) if output == "all" else y
    rows = np.concatenate(expected) if output == "all" else np.array(expected)
    residuals = rows.astype(float) - given
    assert made.evaluate(x, y) == pytest.approx((residuals**2).mean(), rel=1e-5)
    assert made.evaluate(x, y, loss="ssr") == pytest.approx((residuals**2).sum(), rel=1e-5)


@LAYERS
@DIRECTIONS
@OUTPUT
@pytest.mark.parametrize("counts", [RAGGED, EQUAL, (9, 0, 10)])
def test_windows_of_predictions_have_the_same_bits(
    num_layers, bidirectional, output, counts, monkeypatch
):
    made = build("float32", num_layers=num_layers, bidirectional=bidirectional, output=output)
    x, _ = draw(made, counts)
    expected = made.predict(x, return_state=not bidirectional)
    for steps in (0, 1, 2, 3, max(counts)):
        monkeypatch.setattr(_network, "KEPT_STATES", steps * len(x) * H * num_layers)
        assert_same(made.predict(x, return_state=not bidirectional), expected)


# Few states in memory


@LAYERS
@OUTPUT
@pytest.mark.parametrize("counts", [(1, 0, 1), (2, 2), (17, 0, 9, 16, 5, 4), (16,) * 3, (0, 0)])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_checkpointed_gradients(num_layers, output, counts, dropout, dtype):
    made = build(dtype, num_layers=num_layers, output=output,
                 dropout=dropout if num_layers > 1 else 0.0)  # fmt: skip
    data = draw(made, counts)
    state = np.random.default_rng(1).standard_normal((num_layers, len(counts), H))
    for options in ({}, {"state": state}):
        results, generators = [], []
        for checkpointed in (False, True):
            generators.append(np.random.default_rng(5))
            results.append(made.loss_and_grads(
                *data, rng=generators[-1], checkpointed=checkpointed, **options
            ))  # fmt: skip
        (value, grads), (got, got_grads) = results
        assert got == value
        assert list(got_grads) == list(grads)
        assert_close(got_grads, grads, 1e-12 if dtype == "float64" else 1e-5)
        assert generators[0].random() == generators[1].random(), "other numbers were drawn"


@OUTPUT
def test_checkpointed_gradients_for_classes(output):
    made = build(output=output)
    x, _ = draw(made, RAGGED)
    y, name = draw_targets("classes", output, RAGGED)
    value, grads = made.loss_and_grads(x, y, loss=name)
    got, got_grads = made.loss_and_grads(x, y, loss=name, checkpointed=True)
    assert got == value
    assert_close(got_grads, grads)


@OUTPUT
def test_memory(output, monkeypatch):
    T, N, width, num_layers = 20_000, 2, 32, 2
    made = RNN(1, width, 1, num_layers=num_layers, output=output, seed=0)
    x = np.ones((N, T, 1), np.float32)
    y = np.ones((N, T, 1) if output == "all" else (N, 1), np.float32)
    states = T * N * width * num_layers * 4
    assert peak(lambda: made.loss_and_grads(x, y)) > states
    assert peak(lambda: made.loss_and_grads(x, y, checkpointed=True)) < states / 4
    assert peak(lambda: made.predict(x)) > states
    monkeypatch.setattr(_network, "KEPT_STATES", 100 * N * width * num_layers)
    assert peak(lambda: made.predict(x)) < states / 4


# Nothing to read


@LAYERS
@DIRECTIONS
@OUTPUT
@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0)], ids=str)
def test_no_sequences_or_no_steps(num_layers, bidirectional, output, shape):
    made = build(num_layers=num_layers, bidirectional=bidirectional, output=output)
    x = np.zeros((*shape, I))
    y = np.zeros((*shape, O) if output == "all" else (shape[0], O))
    expected = np.zeros_like(y)
    if output == "last":
        expected += made.parameters()["b_y"]  # read out of the initial state
    value = np.square(expected).mean() if expected.size else 0.0
    for given, lengths in ((x, None), (x, [0] * shape[0]), (list(x), None)):
        got = made.predict(given, lengths)
        assert_same([*got], [*expected])
        assert made.evaluate(given, y, lengths) == pytest.approx(value, rel=1e-12)
        got, grads = made.loss_and_grads(given, y, lengths)
        assert got == pytest.approx(value, rel=1e-12)
        assert {name for name, a in grads.items() if a.any()} == ({"b_y"} if value else set())
        if not bidirectional:
            assert_same(made.loss_and_grads(given, y, lengths, checkpointed=True), (got, grads))


def test_a_sequence_without_steps_as_a_list():
    assert_same(scalar().predict([[], [1, 2], []]), np.array([[0], [3], [0]], np.float32))
    got = scalar(output="all").predict([[], [1, 2]])
    assert [a.tolist() for a in got] == [[], [[1], [3]]]


@DIRECTIONS
def test_sequences_without_steps_change_no_gradient_of_the_others(bidirectional):
    made = build(bidirectional=bidirectional, output="all", num_layers=2)
    x, y = draw(made, EQUAL)
    none = [np.zeros((0, I))]
    expected = made.loss_and_grads(x, y)
    assert_close(made.loss_and_grads([*none, *x, *none], [*none, *y, *none]), expected)


# Models


def test_weights_are_drawn_as_init_params_does():
    made = RNN(3, 5, 2, num_layers=2, bidirectional=True, seed=1)
    weights = made.parameters()
    first = fastbptt.init_params(3, 5, seed=1)
    for name, a in first._asdict().items():
        np.testing.assert_array_equal(weights[f"layers.0.{name}"], a)
    assert {name: a.shape for name, a in weights.items()} == {
        **{f"layers.0.{d}{name}": a.shape for d in ("", "reverse.")
           for name, a in first._asdict().items()},
        **{f"layers.1.{d}W_x": (10, 5) for d in ("", "reverse.")},
        **{f"layers.1.{d}W_h": (5, 5) for d in ("", "reverse.")},
        **{f"layers.1.{d}b": (5,) for d in ("", "reverse.")},
        "W_y": (10, 2),
        "b_y": (2,),
    }  # fmt: skip
    recurrent = [a for name, a in weights.items() if name.endswith("W_h")]
    for a in recurrent:
        np.testing.assert_allclose(a @ a.T, np.eye(5), rtol=0, atol=1e-6)
    assert len({a.tobytes() for a in recurrent}) == 4
    W_y = RNN(1, 300, 100, seed=0).parameters()["W_y"]
    limit = np.sqrt(6 / 400)
    assert 0.99 * limit < np.abs(W_y).max() <= limit
    assert abs(W_y.mean()) < 0.02 * limit  # about six standard deviations
    assert not any(a.any() for name, a in weights.items() if a.ndim == 1)


def test_weights_repeat_by_seed():
    def drawn(seed):
        return RNN(3, 5, 2, num_layers=2, seed=seed).network.vector

    np.testing.assert_array_equal(drawn(1), drawn(1))
    np.testing.assert_array_equal(drawn(np.random.default_rng(1)), drawn(1))
    assert (drawn(1) != drawn(2)).any()
    assert (drawn(None) != drawn(None)).any()


CONFIGS = pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 3, "dropout": 0.25, "activation": "relu", "dtype": "float64"},
        {
            "num_layers": 2,
            "bidirectional": True,
            "output": "all",
            "backend": "numpy",
            "output_dropout": 0.5,
            "train_initial_state": True,
            "spectral_radius": 1.5,
        },
        {"leak": fastbptt.Leak(0.2), "activation": "softplus"},
        {"leak": fastbptt.Leak([0.1, 0.2, 1], "potential"), "num_layers": 2, "output": "all"},
    ],
    ids=["default", "stacked", "both", "rates", "potentials"],
)


@CONFIGS
@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, copy.copy, *(lambda m, p=p: pickle.loads(pickle.dumps(m, p)) for p in (2, 5))],
    ids=["deepcopy", "copy", "pickle 2", "pickle 5"],
)
def test_copies_are_models_of_their_own(options, duplicate):
    made = build(options.get("dtype", "float32"), **{k: v for k, v in options.items()
                                                     if k != "dtype"})  # fmt: skip
    x, _ = draw(made, RAGGED)
    expected = made.predict(x)
    other = duplicate(made)
    assert other.config() == made.config()
    assert_same(other.parameters(), made.parameters())
    assert_same(other.predict(x), expected)
    for name, a in other.parameters().items():
        assert np.shares_memory(a, other.network.vector), name
        before = other.predict(x)
        a[...] += 0.25
        assert any((p != q).any() for p, q in zip(other.predict(x), before, strict=True)), name
    assert_same(made.predict(x), expected)


@CONFIGS
def test_config_and_repr_rebuild_a_like_model(options):
    made = RNN(2, 3, 4, seed=0, **options)
    for other in (
        RNN(**made.config(), seed=0),
        eval(repr(made), {"RNN": RNN, "Leak": fastbptt.Leak}),
    ):
        assert other.config() == made.config()
        assert repr(other) == repr(made)
        assert other.network.vector.size == made.network.vector.size
    assert_same(RNN(**made.config(), seed=0).parameters(), made.parameters())
    assert {name: made.config()[name] for name in options} == options
    assert (made.input_size, made.hidden_size, made.output_size) == (2, 3, 4)
    parameters = set(inspect.signature(RNN).parameters)
    assert set(made.config()) == parameters - {"seed"}


def test_repr():
    assert repr(RNN(2, 3, 4)) == (
        "RNN(2, 3, 4, num_layers=1, bidirectional=False, activation='tanh', output='last', "
        "dropout=0.0, output_dropout=0.0, noise=0.0, dtype='float32', backend='numba')"
    )


@pytest.mark.parametrize("dtype", [np.float32, np.dtype("float64"), "float64", np.float64])
def test_dtypes_in_any_spelling(dtype):
    made = RNN(2, 3, 1, dtype=dtype)
    assert made.dtype == np.dtype(dtype).name
    assert {a.dtype for a in made.parameters().values()} == {np.dtype(dtype)}
    assert made.predict(np.zeros((1, 1, 2))).dtype == dtype


# What does not fit


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        *(
            ({name: size}, error, f"{name} is {size!r}, expected {words}")
            for name in ("input_size", "hidden_size", "output_size", "num_layers")
            for size, error, words in (
                (0, ValueError, "at least 1"),
                (-1, ValueError, "at least 1"),
                (2.0, TypeError, "an integer"),
                ("2", TypeError, "an integer"),
                (None, TypeError, "an integer"),
            )
        ),
        ({"activation": "elu"}, ValueError, "activation is 'elu', expected one of 'tanh'"),
        ({"activation": np.tanh}, ValueError, "activation is <ufunc 'tanh'>, expected one of"),
        ({"output": "first"}, ValueError, "output is 'first', expected one of 'last', 'all'"),
        ({"backend": "torch"}, ValueError, "backend is 'torch', expected one of 'numba', 'numpy'"),
        ({"dtype": "float16"}, TypeError, "dtype is 'float16', expected 'float32' or"),
        ({"dtype": np.int32}, TypeError, "numpy.int32'>, expected 'float32' or 'float64'"),
        ({"dtype": np.dtype(">f4")}, TypeError, "dtype('>f4'), expected 'float32' or"),
        ({"dtype": None}, TypeError, "dtype is None, expected 'float32' or 'float64'"),
        ({"dropout": 1.0, "num_layers": 2}, ValueError, "dropout is 1.0, expected at least 0 and"),
        ({"dropout": -0.1, "num_layers": 2}, ValueError, "dropout is -0.1, expected at least 0"),
        ({"dropout": np.nan, "num_layers": 2}, ValueError, "dropout is nan, expected at least 0"),
        ({"dropout": 0.5}, ValueError, "dropout is 0.5 with one layer, expected 0"),
        ({"dropout": "0.5"}, TypeError, "dropout is '0.5', expected a number"),
        ({"dropout": None}, TypeError, "dropout is None, expected a number"),
        ({"output_dropout": 1}, ValueError, "output_dropout is 1, expected at least 0 and less"),
        ({"output_dropout": "0"}, TypeError, "output_dropout is '0', expected a number"),
    ],
)
def test_options(options, error, words):
    given = {"input_size": 2, "hidden_size": 3, "output_size": 1, **options}
    with pytest.raises(error) as caught:
        RNN(**given)
    assert words in str(caught.value)


def calls(made):
    """The methods that take data, with arguments that fit."""
    x, y = draw(made, EQUAL)
    x, y = padded(x), np.array(y)
    given = {"x": x, "lengths": [5, 0, 3]}
    return {
        made.predict: given,
        made.evaluate: {**given, "y": y},
        made.loss_and_grads: {**given, "y": y},
    }


STATE = "expected (1, 3, 3): (num_layers, N, H)"


@OUTPUT
@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("x", None, TypeError, "x has dtype object, expected real numbers"),
        ("x", "x", TypeError, "x has dtype <U1, expected real numbers"),
        ("x", np.zeros((5, I)), ValueError, "x has shape (5, 2), expected (N, T, I) with I = 2"),
        ("x", np.zeros((3, 5, 4)), ValueError, "x has shape (3, 5, 4), expected (N, T, I) with"),
        ("x", np.zeros((3, 5, I), complex), TypeError, "x has dtype complex128, expected real"),
        ("x", [np.zeros((5, I))] * 3, ValueError, "lengths is given with a list x"),
        ("y", None, TypeError, "y has dtype object, expected real numbers"),
        ("y", np.zeros(3), ValueError, "y has shape (3,), expected (N, "),
        ("y", np.zeros((2, 5, O)), ValueError, "y has shape (2, 5, 2), expected (N, "),
        ("lengths", [5, 0], ValueError, "lengths has shape (2,), expected (3,): one for"),
        ("lengths", 5, ValueError, "lengths has shape (), expected (3,): one for"),
        ("lengths", [5, 6, 0], ValueError, "lengths[1] is 6, expected 0 to 5: T of x"),
        ("lengths", [5, -1, 0], ValueError, "lengths[1] is -1, expected 0 to 5: T of x"),
        ("lengths", [5.0, 0.0, 3.0], TypeError, "lengths has dtype float64, expected integers"),
        ("lengths", [True] * 3, TypeError, "lengths has dtype bool, expected integers"),
        ("lengths", [[5], [0, 3], []], ValueError, "lengths is ragged"),
        ("loss", "l1", ValueError, "loss is 'l1', expected one of 'mse', 'ssr', 'mae', 'huber'"),
        ("loss", None, ValueError, "loss is None, expected one of 'mse'"),
        ("state", np.zeros((3, H)), ValueError, f"state has shape (3, 3), {STATE}"),
        ("state", np.zeros((2, 3, H)), ValueError, f"state has shape (2, 3, 3), {STATE}"),
        ("state", [[1], [2, 3]], ValueError, "state is ragged"),
        ("state", "zero", TypeError, "state has dtype <U4, expected real numbers"),
        ("state", np.zeros((1, 3, H), complex), TypeError, "state has dtype complex128"),
        ("rng", 3, TypeError, "rng is 3, expected a numpy.random.Generator"),
    ],
)
def test_arguments(output, name, value, error, words):
    made = build(output=output)
    before = made.network.vector.copy()
    taken = [(f, given) for f, given in calls(made).items()
             if name in inspect.signature(f).parameters]  # fmt: skip
    assert taken
    for function, given in taken:
        function(**given)
        with pytest.raises(error) as caught:
            function(**{**given, name: value})
        assert words in str(caught.value)
    np.testing.assert_array_equal(made.network.vector, before)


def test_both_directions_have_no_state_to_go_on_from():
    made = build(bidirectional=True)
    x, y = draw(made, EQUAL)
    state = np.zeros((1, 3, H))
    for call in (
        lambda: made.predict(x, state=state),
        lambda: made.predict(x, return_state=True),
        lambda: made.loss_and_grads(x, y, state=state),
        lambda: made.loss_and_grads(x, y, checkpointed=True),
    ):
        with pytest.raises(ValueError, match="one direction for state, return_state or checkpoi"):
            call()


# What is said of it


def test_docstring_examples():
    got = doctest.testmod(model)
    assert got.attempted
    assert not got.failed


@pytest.mark.parametrize(
    "function", [RNN, RNN.predict, RNN.evaluate, RNN.loss_and_grads], ids=lambda f: f.__name__
)
def test_docstrings_name_every_parameter(function):
    doc = inspect.getdoc(function) or ""
    parameters = doc.split("Parameters\n")[1].split("\n\n")[0]
    named = {n for line in parameters.splitlines() for n in line.split(" : ")[0].split(", ")}
    assert named >= set(inspect.signature(function).parameters) - {"self"}


def test_options_stay():
    """They are the network's; to set one would change what the model says, not what it does."""
    made = build()
    with pytest.raises(AttributeError, match="activation is 'tanh' and stays so"):
        made.activation = "relu"
    assert made.config() == build().config()


# Leaky units

LEAKS = pytest.mark.parametrize(
    "leak", [fastbptt.Leak(0.3), fastbptt.Leak(0.3, of="potential")], ids=str
)


@LEAKS
def test_a_leaky_network_by_a_plain_loop(leak):
    made = build(leak=leak, activation="softplus", output="all")
    x, _ = draw(made, [5, 3, 8])
    weights = made.parameters()
    W_x, W_h, b = (weights[f"layers.0.{name}"] for name in ("W_x", "W_h", "b"))
    for sequence, got in zip(x, made.predict(x), strict=True):
        state = np.zeros(H)
        for x_t, y_t in zip(sequence, got, strict=True):
            h = np.logaddexp(0, state) if leak.of == "potential" else state
            z = x_t @ W_x + h @ W_h + b
            new = z if leak.of == "potential" else np.logaddexp(0, z)
            state = 0.7 * state + 0.3 * new
            h = np.logaddexp(0, state) if leak.of == "potential" else state
            np.testing.assert_allclose(y_t, h @ weights["W_y"] + weights["b_y"], rtol=1e-12)


@LEAKS
@pytest.mark.parametrize("output", ["last", "all"])
@pytest.mark.parametrize("checkpointed", [False, True])
def test_gradients_of_a_leaky_network_agree_with_differences(checkpointed, output, leak):
    made = build(leak=leak, num_layers=2, activation="sigmoid", output=output)
    x, y = draw(made, [5, 3, 8])
    state = np.random.default_rng(1).standard_normal((2, 3, H))
    options = {"state": state, "checkpointed": checkpointed}
    _, grads = made.loss_and_grads(x, y, **options)
    for name, a in made.parameters().items():
        expected = central_differences(lambda: made.loss_and_grads(x, y, **options)[0], a)
        np.testing.assert_allclose(grads[name], expected, rtol=0, atol=1e-8)


@LEAKS
def test_a_leaky_network_predicts_piece_by_piece(leak):
    made = build(leak=leak, num_layers=2, output="all", dtype="float32")
    x = np.random.default_rng(0).standard_normal((4, 20, I))
    whole, last = made.predict(x, return_state=True)
    state, pieces = None, []
    for part in (slice(0, 7), slice(7, 8), slice(8, 20)):
        y, state = made.predict(x[:, part], state=state, return_state=True)
        pieces.append(y)
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), whole)
    np.testing.assert_array_equal(state, last)


@LEAKS
def test_a_leaky_network_learns_in_pieces(leak):
    """Truncated backpropagation carries on what a leak carries on: a sum of 20 steps."""
    made = RNN(1, 16, 1, leak=leak, output="all", seed=0)
    x = np.random.default_rng(0).standard_normal((64, 40, 1))
    y = np.cumsum(x, axis=1)[..., :] / 5
    before = made.evaluate(x, y)
    fastbptt.fit(made, x, y, epochs=12, truncate=10, seed=0)
    assert made.evaluate(x, y) < 0.3 * before


@pytest.mark.parametrize(
    ("leak", "error", "words"),
    [
        (0.2, TypeError, "leak is 0.2"),
        (fastbptt.Leak([0.1, 0.2]), ValueError, "leak's alpha has s"),
    ],
)
def test_bad_leaks(leak, error, words):
    with pytest.raises(error, match=words):
        RNN(2, 3, 4, leak=leak)
