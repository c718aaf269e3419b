"""Diagnostics against numbers worked by hand, explicit products, and gradients known elsewhere."""

import doctest
import re

import numpy as np
import pytest

import fastbptt
from fastbptt import RNN, Leak, Params, diagnostics, reference
from fastbptt.diagnostics import (
    gradient_check,
    gradient_flow,
    layer_gradient_flow,
    spectral_radius,
)

T, B, I, H = 9, 4, 3, 5
ACTIVATIONS = pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
LEAK = pytest.mark.parametrize("of", [None, "rate", "potential"])
LENGTHS = pytest.mark.parametrize("lengths", [None, [9, 0, 4, 1]], ids=["full", "ragged"])


def draw_case(activation="tanh", lengths=None, dtype="float64"):
    """Arguments of `layer_gradient_flow`, with the states that `forward` computes, by name."""
    rng = np.random.default_rng(0)
    shapes = (I, H), (H, H), (H,)
    params = Params(*(rng.normal(scale=0.6, size=s).astype(dtype) for s in shapes))
    x, dh = (rng.normal(size=(T, B, n)).astype(dtype) for n in (I, H))
    options = {"lengths": lengths, "activation": activation}
    h = fastbptt.forward(params, x, backend="numpy", **options)
    return {"params": params, "x": x, "h": h, "dh": dh, **options}


def scalar_case(W_h, steps, batch=1):
    """One identity unit: every step back multiplies the gradient by `W_h`."""
    params = Params(np.ones((1, 1)), np.full((1, 1), W_h), np.zeros(1))
    x, h = np.zeros((steps, batch, 1)), np.zeros((steps + 1, batch, 1))
    return {"params": params, "x": x, "h": h, "dh": np.ones((batch, 1)), "activation": "identity"}


# The gradient


@ACTIVATIONS
@LENGTHS
@pytest.mark.parametrize("last_only", [False, True], ids=["every step", "last step"])
def test_gradient_is_that_of_the_steps_that_follow(activation, lengths, last_only):
    """dL/dh_t is the loss's own gradient at h_t and dh0 of a backward over steps t + 1 … T."""
    case = draw_case(activation, lengths)
    params, x, h, dh = (case[name] for name in ("params", "x", "h", "dh"))
    case["dh"] = dh[-1] if last_only else dh
    got = layer_gradient_flow(**case).log10_gradient
    assert got.shape == (T + 1,)
    ends = np.full(B, T) if lengths is None else np.array(lengths)
    for t in range(T + 1):
        gradient = fastbptt.backward(
            params, x[t:], h[t:], dh[-1] if last_only else dh[t:],
            lengths=np.maximum(ends - t, 0), activation=activation, backend="numpy",
        ).h0  # fmt: skip
        if t > 0 and not last_only:
            gradient[t <= ends] += dh[t - 1, t <= ends]
        np.testing.assert_allclose(got[t], np.log10(np.linalg.norm(gradient)), rtol=0, atol=1e-12)


def test_gradient_agrees_with_central_differences():
    """A loss of the states from h_4 on, as a function of h_4."""
    case = draw_case()
    params, x, h, dh = (case[name] for name in ("params", "x", "h", "dh"))

    def loss(h4):
        later = fastbptt.forward(params, x[4:], h4, backend="numpy")
        return np.sum(later * dh[3:])

    expected = np.empty((B, H))
    for index in np.ndindex(B, H):
        step = np.zeros((B, H))
        step[index] = 1e-6
        expected[index] = (loss(h[4] + step) - loss(h[4] - step)) / 2e-6
    got = 10 ** layer_gradient_flow(**case).log10_gradient[4]
    np.testing.assert_allclose(got, np.linalg.norm(expected), rtol=1e-8)


@pytest.mark.parametrize("W_h", [0.1, 10.0])
def test_a_later_gradient_is_added_at_its_scale(W_h):
    """By hand: 1 at t = 800 alone, then 1 at t = 100 too, 700 steps further back."""
    case = scalar_case(W_h, 800)
    case["dh"] = np.zeros((800, 1, 1))
    case["dh"][[99, 799]] = 1
    got = layer_gradient_flow(**case).log10_gradient
    power = np.log10(W_h)
    expected = power * np.arange(800, -1.0, -1)
    if W_h < 1:  # the old gradient, 1e-700, is negligible beside the new 1
        expected[:101] = power * np.arange(100, -1, -1)
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-13)


def test_a_gradient_beyond_the_unit_that_ended_a_large_one():
    """1e400 meets a unit whose slope is 0; what the loss adds before that still counts."""
    case = {**scalar_case(1e4, 110), "activation": "relu", "dh": np.zeros((110, 1, 1))}
    case["dh"][[7, 109]] = 1
    case["h"][...] = 1
    case["h"][10] = 0
    got = layer_gradient_flow(**case).log10_gradient
    expected = [*range(32, -4, -4), -np.inf, *range(400, -4, -4)]
    np.testing.assert_allclose(got, expected, rtol=1e-13, atol=1e-13)


# The Jacobian


def test_half_of_it_is_left_after_every_step():
    flow = layer_gradient_flow(**scalar_case(0.5, 20, batch=3))
    k = np.arange(20, -1, -1)  # steps back
    np.testing.assert_allclose(10**flow.log10_jacobian, 0.5 ** k[:, None] * np.ones(3), rtol=1e-14)
    np.testing.assert_allclose(10**flow.log10_gradient, 0.5**k * np.sqrt(3), rtol=1e-14)


@ACTIVATIONS
@LENGTHS
def test_jacobian_is_the_product_over_the_steps_that_follow(activation, lengths):
    """The other way around: W_h diag(f') for column vectors, multiplied from the left."""
    case = draw_case(activation, lengths)
    h, W_h = case["h"], case["params"].W_h
    slope = {"tanh": 1 - h**2, "relu": np.where(h > 0, 1.0, 0.0), "identity": np.ones_like(h)}
    got = layer_gradient_flow(**case).log10_jacobian
    assert got.shape == (T + 1, B)
    for b, length in enumerate([T] * B if lengths is None else lengths):
        for t in range(T + 1):
            product = np.eye(H)
            for k in range(t + 1, length + 1):
                product = np.diag(slope[activation][k, b]) @ W_h.T @ product
            expected = np.linalg.svd(product)[1].max()
            np.testing.assert_allclose(10 ** got[t, b], expected, rtol=1e-11)


def test_jacobian_agrees_with_central_differences():
    case = draw_case()
    params, x, h = (case[name] for name in ("params", "x", "h"))
    columns = []
    for step in 1e-6 * np.eye(H):
        after, before = (
            fastbptt.forward(params, x[2:], h[2] + s, backend="numpy")[-1] for s in (step, -step)
        )
        columns.append((after - before) / 2e-6)
    expected = [np.linalg.norm(np.stack(columns)[:, b], 2) for b in range(B)]
    got = 10 ** layer_gradient_flow(**case).log10_jacobian[2]
    np.testing.assert_allclose(got, expected, rtol=1e-6)


def test_jacobian_past_the_end_is_the_identity():
    got = layer_gradient_flow(**draw_case(lengths=[9, 0, 4, 1])).log10_jacobian
    for b, length in enumerate([9, 0, 4, 1]):
        np.testing.assert_array_equal(got[length:, b], 0)
        assert (got[:length, b] != 0).all()


@pytest.mark.parametrize("W_h", [1e-4, 1e4])
def test_norms_beyond_the_range_of_a_float(W_h):
    """Down to 1e-400 and up to 1e400, for which float64 has only 0 and infinity."""
    flow = layer_gradient_flow(**scalar_case(W_h, 100))
    expected = np.log10(W_h) * np.arange(100, -1, -1)
    np.testing.assert_allclose(flow.log10_jacobian[:, 0], expected, rtol=1e-13)
    np.testing.assert_allclose(flow.log10_gradient, expected, rtol=1e-13)


def test_directions_that_grow_and_shrink():
    """diag(10, 0.1): the norm is that of the larger one."""
    params = Params(np.ones((1, 2)), np.diag([10.0, 0.1]), np.zeros(2))
    x, h, dh = np.zeros((500, 1, 1)), np.zeros((501, 1, 2)), np.array([[0.0, 1.0]])
    flow = layer_gradient_flow(params, x, h, dh, activation="identity")
    steps = np.arange(500, -1, -1)
    np.testing.assert_allclose(flow.log10_jacobian[:, 0], steps, rtol=1e-13)
    np.testing.assert_allclose(flow.log10_gradient, -steps, rtol=1e-13)


def test_nothing_gets_past_units_that_are_off():
    case = draw_case("relu")
    case["h"][5, 1] = 0  # sequence 1, all units, at t = 5
    case["dh"][:5] = 0
    flow = layer_gradient_flow(**case)
    np.testing.assert_array_equal(flow.log10_jacobian[:5, 1], -np.inf)
    assert np.isfinite(flow.log10_jacobian[5:]).all()
    assert np.isfinite(flow.log10_gradient).all()
    case["h"][5] = 0
    flow = layer_gradient_flow(**case)
    np.testing.assert_array_equal(flow.log10_gradient[:5], -np.inf)
    assert np.isfinite(flow.log10_gradient[5:]).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_stay_in_their_sequence(bad):
    case = draw_case()
    expected = layer_gradient_flow(**case)
    case["h"][4, 2] = bad
    with np.errstate(invalid="ignore"):
        got = layer_gradient_flow(**case)
    np.testing.assert_array_equal(got.log10_jacobian[:4, 2], np.nan)
    np.testing.assert_array_equal(got.log10_jacobian[4:, 2], expected.log10_jacobian[4:, 2])
    others = [0, 1, 3]
    np.testing.assert_array_equal(got.log10_jacobian[:, others], expected.log10_jacobian[:, others])
    assert not np.isfinite(got.log10_gradient[:4]).any()
    np.testing.assert_array_equal(got.log10_gradient[4:], expected.log10_gradient[4:])


# The rest of `layer_gradient_flow`


def test_float32_is_computed_in_float64():
    case = draw_case(dtype="float32")
    got = layer_gradient_flow(**case)
    wide = {name: case[name].astype("float64") for name in ("x", "h", "dh")}
    params = Params(*(w.astype("float64") for w in case["params"]))
    expected = layer_gradient_flow(**{**case, **wide, "params": params})
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == np.float64
        np.testing.assert_array_equal(a, b)


def test_padding_counts_for_nothing():
    case = draw_case(lengths=[9, 0, 4, 1])
    expected = layer_gradient_flow(**case)
    for b, length in enumerate(case["lengths"]):
        case["x"][length:, b] = case["dh"][length:, b] = np.nan
    for got, a in zip(layer_gradient_flow(**case), expected, strict=True):
        np.testing.assert_array_equal(got, a)


@pytest.mark.parametrize(("steps", "batch"), [(0, 2), (3, 0)], ids=["T=0", "B=0"])
@pytest.mark.parametrize("last_only", [False, True])
def test_no_steps_or_no_sequences(steps, batch, last_only):
    case = scalar_case(0.5, steps, batch)
    if not last_only:
        case["dh"] = np.ones((steps, batch, 1))
    flow = layer_gradient_flow(**case)
    np.testing.assert_array_equal(flow.log10_jacobian, np.zeros((steps + 1, batch)))
    expected = np.log10(np.sqrt(2)) if last_only and batch else -np.inf
    np.testing.assert_allclose(flow.log10_gradient, np.full(steps + 1, expected), rtol=1e-14)


def test_arguments_are_left_alone():
    case = draw_case()
    arrays = [*case["params"], case["x"], case["h"], case["dh"]]
    copies = [a.copy() for a in arrays]
    for dh in (case["dh"], case["dh"][-1]):
        layer_gradient_flow(**{**case, "dh": dh})
    for a, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(a, copy)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"x": np.zeros((T, B))}, ValueError, "x has shape (9, 4), expected (T, B, I)"),
        ({"h": np.zeros((T, B, H))}, ValueError, "h has shape (9, 4, 5), expected (10, 4, 5)"),
        ({"dh": np.zeros((T, B, 1))}, ValueError, "dh has shape (9, 4, 1), expected (9, 4, 5)"),
        (
            {"dh": np.zeros((B, 1))},
            ValueError,
            "dh has shape (4, 1), expected (9, 4, 5): (T, B, H), or (4, 5)",
        ),
        ({"dh": np.zeros((B, H), "f")}, TypeError, "dh has dtype float32, expected float64"),
        ({"dh": 1.0}, TypeError, "dh is a float, expected a numpy.ndarray"),
        ({"lengths": [1]}, ValueError, "lengths has shape (1,), expected (4,)"),
        ({"lengths": [1, 2, 3, 10]}, ValueError, "lengths[3] is 10, expected 0 to 9"),
        ({"activation": "elu"}, ValueError, "activation is 'elu', expected one of"),
        ({"leak": 0.5}, TypeError, "leak is 0.5, expected a fastbptt.Leak"),
        ({"params": None}, TypeError, "params is a NoneType, expected Params(W_x, W_h, b)"),
    ],
)
def test_flow_of_what_does_not_fit(change, error, words):
    with pytest.raises(error, match=re.escape(words)):
        layer_gradient_flow(**{**draw_case(), **change})


# With a leak


def leaky_case(of, activation="tanh", lengths=None):
    """As :func:`draw_case`, with the potentials, (T + 1, B, H), too."""
    case = draw_case(activation, lengths)
    case["leak"] = Leak(np.random.default_rng(3).uniform(0.05, 1, H), of)
    v = np.empty((T + 1, B, H)) if of == "potential" else None
    options = {name: case[name] for name in ("lengths", "activation", "leak")}
    h0 = np.random.default_rng(4).standard_normal((B, H))
    case["h"] = fastbptt.forward(case["params"], case["x"], h0, v=v, backend="numpy", **options)
    return case, case["h"] if v is None else v


@pytest.mark.parametrize("of", ["rate", "potential"])
@pytest.mark.parametrize("activation", reference.ACTIVATIONS)
@LENGTHS
def test_leaky_gradient_is_that_of_the_steps_that_follow(activation, lengths, of):
    """That of a backward pass over them, and through f of the loss's own at this step."""
    case, _ = leaky_case(of, activation, lengths)
    params, x, h, dh = (case[name] for name in ("params", "x", "h", "dh"))
    options = {"activation": activation, "leak": case["leak"], "backend": "numpy"}
    got = layer_gradient_flow(**case).log10_gradient
    ends = np.full(B, T) if lengths is None else np.array(lengths)
    for t in range(T + 1):
        left = np.maximum(ends - t, 0)
        gradient = fastbptt.backward(params, x[t:], h[t:], dh[t:], lengths=left, **options).h0
        if t > 0:
            own = np.where((t <= ends)[:, None], dh[t - 1], 0)
            if of == "potential":  # f alone: a layer without steps
                own = fastbptt.backward(params, x[:0], h[t : t + 1], own, **options).h0
            gradient += own
        np.testing.assert_allclose(got[t], np.log10(np.linalg.norm(gradient)), rtol=0, atol=1e-11)


@pytest.mark.parametrize("of", ["rate", "potential"])
def test_leaky_jacobian_agrees_with_central_differences(of):
    case, states = leaky_case(of)
    params, x = case["params"], case["x"]

    def last(state):
        v = np.empty((B, H)) if of == "potential" else None
        h = fastbptt.forward(params, x[2:], state, leak=case["leak"], v=v, backend="numpy")
        return h[-1] if v is None else v

    columns = [
        (last(states[2] + s) - last(states[2] - s)) / 2e-6 for s in 1e-6 * np.eye(H)
    ]  # each (B, H), d last / d one unit of state 2
    expected = np.linalg.norm(np.stack(columns, axis=-1), 2, axis=(1, 2))
    got = 10 ** layer_gradient_flow(**case).log10_jacobian[2]
    np.testing.assert_allclose(got, expected, rtol=1e-7)


def test_a_unit_that_leaks_alone_forgets_by_hand():
    """W_h = 0: of rates and of potentials 1 - alpha is left at each step, of identity."""
    case = scalar_case(0.0, 40)
    for of in ("rate", "potential"):
        flow = layer_gradient_flow(**case, leak=Leak(0.1, of))
        expected = 0.9 ** np.arange(40, -1, -1)
        np.testing.assert_allclose(10 ** flow.log10_jacobian[:, 0], expected, rtol=1e-13)
        np.testing.assert_allclose(10**flow.log10_gradient, expected, rtol=1e-13)


# Of a model


def build(dtype="float64", **options):
    made = RNN(2, 3, 2, dtype=dtype, seed=0, **options)
    made.vector[...] = np.random.default_rng(1).uniform(-0.8, 0.8, made.vector.size)
    return made


def plain_loss(made, x, y, layer, reverse, t, shift):
    """Mean squared error, if `shift` (N, H) is added to one layer's states after t steps.

    With a leak of potentials, to these.
    """
    weights, ys = made.parameters(), []
    of, alpha = (made.leak.of, made.leak.alpha) if made.leak else (None, 1)
    top_last = made.output == "last" and layer == made.num_layers - 1
    for n, a in enumerate(x):
        at = min(t, len(a)) if top_last else t  # only the last states stay, to be read out
        for l in range(made.num_layers):
            sides, finals = [], []
            for d, way in enumerate(("", "reverse.")[: 1 + made.bidirectional]):
                W_x, W_h, b = (weights[f"layers.{l}.{way}{name}"] for name in ("W_x", "W_h", "b"))
                s, states = np.zeros(3), []
                for k in range(len(a) + 1):
                    if k > 0:
                        z = (a[::-1] if d else a)[k - 1] @ W_x + states[-1] @ W_h + b
                        s = (1 - alpha) * s + alpha * (z if of == "potential" else np.tanh(z))
                    if (l, d) == (layer, reverse) and k == at:
                        s = s + shift[n]
                    states.append(np.tanh(s) if of == "potential" else s)
                sides.append(np.reshape(states[:0:-1] if d else states[1:], (-1, 3)))
                finals.append(states[-1])
            a = np.concatenate(sides, axis=1)
        ys.append(a if made.output == "all" else np.concatenate(finals))
    residuals = [h @ weights["W_y"] + weights["b_y"] - of_n for h, of_n in zip(ys, y, strict=True)]
    return np.square(np.concatenate([r.ravel() for r in residuals])).mean()


@LEAK
@pytest.mark.parametrize("output", ["last", "all"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forwards", "both"])
@pytest.mark.parametrize("counts", [(4, 4), (4, 2)], ids=["equal", "ragged"])
def test_flow_of_a_model_agrees_with_central_differences(output, bidirectional, counts, of):
    leak = None if of is None else Leak([0.3, 0.7, 1], of)
    made = build(num_layers=2, bidirectional=bidirectional, output=output, leak=leak)
    rng = np.random.default_rng(2)
    x = [rng.standard_normal((n, 2)) for n in counts]
    y = [rng.standard_normal((n, 2)) if output == "all" else rng.standard_normal(2) for n in counts]
    flows = gradient_flow(made, x, y)
    assert list(flows) == [
        f"layers.{l}{way}" for l in range(2) for way in ("", ".reverse")[: 1 + bidirectional]
    ]
    for (name, flow), (layer, d) in zip(
        flows.items(), [(l, d) for l in range(2) for d in range(1 + bidirectional)], strict=True
    ):
        for t in range(5):
            expected = np.empty((2, 3))
            for index in np.ndindex(2, 3):
                shift = np.zeros((2, 3))
                shift[index] = 1e-6
                ends = (plain_loss(made, x, y, layer, d, t, s) for s in (shift, -shift))
                expected[index] = np.subtract(*ends) / 2e-6
            got = 10 ** flow.log10_gradient[t]
            assert got == pytest.approx(np.linalg.norm(expected), rel=1e-6), (name, t)


@pytest.mark.parametrize("w", [1e-4, 1e4])
def test_flow_through_two_layers_beyond_the_range_of_a_float(w):
    """By hand: (T - t + 1) ways lead from the lower state t to the end, each with T - t steps."""
    made = RNN(1, 1, 1, num_layers=2, activation="identity", seed=0)
    for name, a in made.parameters().items():
        a[...] = 0 if name.endswith(("b", "b_y")) else w if name.endswith("W_h") else 1
    flows = gradient_flow(made, np.zeros((1, 100, 1)), [-0.5])  # dL/dy = 1
    back = np.arange(100, -1, -1)
    expected = back * np.log10(np.float64(np.float32(w)))
    np.testing.assert_allclose(flows["layers.1"].log10_gradient, expected, rtol=1e-12)
    ways = np.minimum(back + 1, 100)  # layer 1 has no input at t = 0
    expected = expected + np.log10(ways)
    np.testing.assert_allclose(flows["layers.0"].log10_gradient, expected, rtol=1e-12)


def test_flow_of_one_layer_is_that_of_its_arrays():
    made = build("float32", output="all")
    x, y = (np.random.default_rng(k).standard_normal((4, 6, 2)) for k in (0, 1))
    [flow] = gradient_flow(made, x, y, [6, 0, 3, 4], "ssr").values()
    W_x, W_h, b, W_y, _ = (a.astype(float) for a in made.parameters().values())
    x, y = x.transpose(1, 0, 2), y.transpose(1, 0, 2)
    h = fastbptt.forward(Params(W_x, W_h, b), x, lengths=[6, 0, 3, 4], backend="numpy")
    dh = 2 * (h[1:] @ W_y + made.parameters()["b_y"] - y) @ W_y.T
    expected = layer_gradient_flow(Params(W_x, W_h, b), x, h, dh, lengths=[6, 0, 3, 4])
    for got, a in zip(flow, expected, strict=True):
        np.testing.assert_allclose(got, a, rtol=0, atol=1e-10)


@pytest.mark.parametrize("output", ["last", "all"])
def test_flow_with_weights_is_that_of_the_weighted_loss(output):
    """Weights 3 and 0: the flow of the first sequence alone."""
    made = build(num_layers=2, bidirectional=True, output=output)
    x, y = (np.random.default_rng(k).standard_normal((2, 6, 2)) for k in (0, 1))
    y = y if output == "all" else y[:, -1]
    expected = gradient_flow(made, x[:1], y[:1])
    for name, flow in gradient_flow(made, x, y, sample_weight=[3, 0]).items():
        got = flow.log10_gradient
        np.testing.assert_allclose(got, expected[name].log10_gradient, rtol=0, atol=1e-12)


def test_flow_of_a_model_without_steps_or_sequences():
    made = build(num_layers=2, bidirectional=True, output="all")
    for shape in ((0, 3), (2, 0)):
        for flow in gradient_flow(made, np.zeros((*shape, 2)), np.zeros((*shape, 2))).values():
            np.testing.assert_array_equal(flow.log10_gradient, [-np.inf])


def test_flow_of_something_else():
    with pytest.raises(
        TypeError, match=r"model is a Params, expected an RNN .*layer_gradient_flow"
    ):
        gradient_flow(*(draw_case()[name] for name in ("params", "x", "h", "dh")))


# spectral_radius


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize(
    ("W_h", "expected"),
    [
        ([[-3]], 3),
        ([[0, 100], [0, 0]], 0),  # nilpotent, however large its norm
        ([[0, 4], [1, 0]], 2),  # ±2
        ([[3, -4], [4, 3]], 5),  # 3 ± 4i
        ([[2, 1, 7], [0, -6, 5], [0, 0, 1]], 6),
    ],
)
def test_spectral_radius(W_h, expected, dtype):
    got = spectral_radius(np.array(W_h, dtype))
    assert type(got) is float
    assert got == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize(
    ("W_h", "error", "words"),
    [
        ([[1.0]], TypeError, "W_h is a list, expected a numpy.ndarray"),
        (np.zeros(3), ValueError, "W_h has shape (3,), expected (H, H)"),
        (np.zeros((2, 3)), ValueError, "W_h has shape (2, 3), expected (H, H)"),
        (np.zeros((2, 2, 2)), ValueError, "W_h has shape (2, 2, 2), expected (H, H)"),
        (np.zeros((0, 0)), ValueError, "W_h has shape (0, 0), expected (H, H) with H at least 1"),
        (np.zeros((2, 2), complex), TypeError, "W_h has dtype complex128, expected real numbers"),
        (np.full((2, 2), np.nan), ValueError, "W_h holds NaN or infinity"),
    ],
)
def test_spectral_radius_of_what_does_not_fit(W_h, error, words):
    with pytest.raises(error, match=re.escape(words)):
        spectral_radius(W_h)


# gradient_check


class LeastSquares:
    """A loss with a gradient known by hand: sum((A w - y)^2) / 2, and nothing of v and c."""

    def __init__(self, dtype="float64"):
        rng = np.random.default_rng(0)
        self.A, self.y = rng.normal(size=(7, 30)).astype(dtype), rng.normal(size=7).astype(dtype)
        self.w = rng.normal(size=(5, 6)).astype(dtype)
        self.v, self.c = np.ones((4, 2), dtype), np.array(2, dtype)
        self.gradient = np.zeros_like(self.w)

    def parameters(self):
        return {"w": self.w, "v": self.v, "c": self.c}

    def loss_and_grads(self):
        """Computes the gradient into the same array at every call."""
        residual = self.A @ self.w.ravel() - self.y
        self.gradient[...] = (self.A.T @ residual).reshape(self.w.shape)
        gradients = {"w": self.gradient, "v": 0 * self.v, "c": np.zeros_like(self.c)}
        return np.sum(residual**2) / 2, gradients


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-8), ("float32", 1e-2)])
def test_a_right_gradient_passes(dtype, tolerance):
    model = LeastSquares(dtype)
    errors = gradient_check(
        lambda: model.loss_and_grads()[0], model.parameters(), model.loss_and_grads()[1]
    )
    assert list(errors) == ["w", "v", "c"]
    assert 0 < errors["w"] < tolerance
    assert errors["v"] == errors["c"] == 0


@pytest.mark.parametrize("activation", ["tanh", "relu", "identity"])
@LENGTHS
def test_the_gradients_of_a_layer_pass(activation, lengths):
    case = draw_case(activation, lengths)
    params, x, h, dh = (case[name] for name in ("params", "x", "h", "dh"))
    options = {"lengths": lengths, "activation": activation, "backend": "numpy"}
    live = np.arange(T)[:, None] < ([T] * B if lengths is None else lengths)

    def loss():
        return np.sum((fastbptt.forward(params, x, h[0], **options)[1:] * dh)[live])

    dparams, dx, _ = fastbptt.backward(params, x, h, dh, **options)
    parameters = {**params._asdict(), "x": x}
    errors = gradient_check(loss, parameters, {**dparams._asdict(), "x": dx}, samples=50)
    assert max(errors.values()) < 1e-7


def test_a_planted_error_is_found_and_named():
    model = LeastSquares()
    gradients = {**model.loss_and_grads()[1]}
    gradients["w"] = gradients["w"].copy()
    gradients["w"][3, 4] += 0.1 * np.abs(gradients["w"]).max()
    scale = np.abs(gradients["w"]).max()
    gradients["v"] = gradients["v"] + 1e-3
    errors = gradient_check(
        lambda: model.loss_and_grads()[0], model.parameters(), gradients, samples=30
    )
    expected = np.abs(gradients["w"] - model.loss_and_grads()[1]["w"]).max() / scale
    assert errors["w"] == pytest.approx(expected, rel=1e-6)
    assert errors["v"] == pytest.approx(1, rel=1e-6)
    assert errors["c"] == 0


def test_rounding_of_the_loss_is_no_error():
    """A loss near 1e6 whose slope at w is 0, except for rounding."""
    w = np.full(20, 1e-3)
    rng = np.random.default_rng(0)

    def f():
        return 1e6 * (1 + np.finfo(float).eps * rng.integers(-1, 2))

    assert 0 < gradient_check(f, {"w": w}, {"w": np.zeros(20)})["w"] < 0.03


def test_draws_so_many_entries_of_each_array():
    w = np.arange(12.0).reshape(3, 4).T  # not contiguous
    seen = []

    def f():
        seen.append(np.flatnonzero(w != np.arange(12.0).reshape(3, 4).T).item())
        return 0.0

    def drawn(**options):
        seen.clear()
        gradient_check(f, {"w": w}, {"w": np.zeros_like(w)}, **options)
        assert seen[::2] == seen[1::2]  # above and below
        return seen[::2]

    assert len(set(drawn(samples=5))) == len(drawn(samples=5)) == 5
    assert drawn(samples=5) == drawn(samples=5, seed=0) != drawn(samples=5, seed=1)
    assert sorted(drawn()) == list(range(12))


def test_step():
    """f = w^3 at 10: the central difference is 3 w^2 + delta^2, delta = 10 step."""
    w = np.array([10.0])
    for step in (0.1, 0.01):
        error = gradient_check(lambda: w[0] ** 3, {"w": w}, {"w": 3 * w**2}, step=step)["w"]
        delta = 10 * step
        assert error == pytest.approx(delta**2 / (300 + delta**2), rel=1e-6)


def test_parameters_have_their_bits_back():
    w = np.random.default_rng(0).normal(size=100) * 10.0 ** np.arange(-50, 50)
    w[:4] = 0.0, -0.0, 5e-324, 1e308
    before = w.tobytes()
    gradient_check(lambda: float(np.sum(w[5:50])), {"w": w}, {"w": np.ones(100)}, samples=100)
    assert w.tobytes() == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("calls", [1, 2, 3])
def test_parameters_have_their_bits_back_where_f_raises(error, calls):
    w = np.array([0.1, 0.2, 0.3], np.float32)
    before, left = w.tobytes(), [calls]

    def f():
        assert w.tobytes() != before
        left[0] -= 1
        if not left[0]:
            raise error
        return 0.0

    with pytest.raises(error):
        gradient_check(f, {"w": w}, {"w": np.zeros_like(w)})
    assert w.tobytes() == before


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_loss_or_a_gradient_that_is_not_finite(bad):
    w = np.ones(3)
    assert np.isnan(gradient_check(lambda: bad, {"w": w}, {"w": w.copy()})["w"])
    gradient = np.array([1, bad, 1])
    assert np.isnan(gradient_check(lambda: np.sum(w), {"w": w}, {"w": gradient})["w"])


def read_only(a):
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"gradients": {"u": np.ones(3)}}, ValueError, "gradients has 'u', expected names"),
        ({"gradients": {"w": np.ones(2)}}, ValueError,
         "gradients['w'] has shape (2,), expected (3,)"),
        ({"gradients": {"w": [1, 1, 1]}}, TypeError, "gradients['w'] is a list"),
        ({"gradients": {"w": np.ones(3, int)}}, TypeError, "gradients['w'] has dtype int64"),
        ({"parameters": {"w": 3.0}}, TypeError, "parameters['w'] is a float"),
        ({"parameters": {"w": np.ones(3, int)}}, TypeError, "parameters['w'] has dtype int64"),
        ({"parameters": {"w": read_only(np.ones(3))}}, ValueError, "parameters['w'] is read-only"),
        ({"samples": 0}, ValueError, "samples is 0, expected at least 1"),
        ({"samples": 2.0}, TypeError, "samples is 2.0, expected an integer"),
        ({"step": 0}, ValueError, "step is 0, expected at least float64's epsilon, 2.2e-16"),
        ({"step": -1e-3}, ValueError, "step is -0.001, expected at least"),
        ({"step": np.nan}, ValueError, "step is nan, expected at least"),
        ({"step": np.inf}, ValueError, "step is inf, expected at least"),
    ],
)  # fmt: skip
def test_check_of_what_does_not_fit(change, error, words):
    def f():
        raise AssertionError("f has been called")

    given = {"parameters": {"w": np.ones(3)}, "gradients": {"w": np.ones(3)}}
    with pytest.raises(error, match=re.escape(words)):
        gradient_check(f, **{**given, **change})


def test_docstring_examples():
    got = doctest.testmod(diagnostics)
    assert got.attempted
    assert not got.failed
