"""Leaky units and noise through the front door: judged by hand, by differences and by torch.

That the kernels agree with the reference is for `test_equality.py` to say.
"""

import copy
import doctest
import pickle
from typing import Any

import numpy as np
import pytest
from measure import central_differences

import fastbptt
from fastbptt import Leak, Params, _leak, reference
from fastbptt.kernels import _drivers

T, B, I, H = 4, 3, 2, 5
NAMES = "W_x", "W_h", "b", "x", "h0", "dv"
FORMS = pytest.mark.parametrize("of", ["rate", "potential"])
BACKENDS = pytest.mark.parametrize("backend", ["numba", "numpy"])
ACTIVATIONS = pytest.mark.parametrize("activation", reference.ACTIVATIONS)
LENGTHS = pytest.mark.parametrize("lengths", [None, np.array([4, 0, 2])], ids=["full", "ragged"])


def draw(seed=0, shape=(T, B, I, H), dtype="float64"):
    """params, x, h0, noise."""
    T, B, _, H = shape
    rng = np.random.default_rng(seed)
    shapes = (I, H), (H, H), (H,), (T, B, I), (B, H), (T, B, H)
    W_x, W_h, b, *rest = (rng.standard_normal(s).astype(dtype) for s in shapes)
    return Params(W_x, W_h / np.sqrt(H).astype(dtype), b), *rest


# By hand


@BACKENDS
@pytest.mark.parametrize("alpha", [0.5, [0.5]])
def test_two_steps_of_rates_by_hand(alpha, backend):
    """W_x = 1, W_h = 2, b = 0 and relu: h = 4, then 4/2 + (1 + 8)/2 = 6.5, then 6.5/2 + 0."""
    params = Params(np.ones((1, 1)), np.full((1, 1), 2.0), np.zeros(1))
    x = np.array([1.0, -20]).reshape(2, 1, 1)
    options = {"leak": Leak(alpha), "activation": "relu", "backend": backend}
    h = fastbptt.forward(params, x, np.full((1, 1), 4.0), **options)
    np.testing.assert_array_equal(h.ravel(), [4, 6.5, 3.25])
    # loss h_2: g_2 = 1, dz_2 = 0 (cut off), g_1 = 1/2, dz_1 = 1/4, dh_0 = 1/4 + 2/4
    got: Any = fastbptt.backward(params, x, h, np.ones((1, 1)), **options)
    dparams, dx, dh0 = got
    np.testing.assert_array_equal(dx.ravel(), [0.25, 0])
    np.testing.assert_array_equal(dh0, [[0.75]])
    np.testing.assert_array_equal(
        np.ravel([dparams.W_x, dparams.W_h, [dparams.b]]), [0.25, 1, 0.25]
    )


@BACKENDS
def test_two_steps_of_potentials_by_hand(backend):
    """v = -2, h = 0; v = -1 + (4 + 0)/2 = 1, h = 1; v = 1/2 + (2 + 2)/2 = 2.5."""
    params = Params(np.ones((1, 1)), np.full((1, 1), 2.0), np.zeros(1))
    x, v = np.array([3.0, 1]).reshape(2, 1, 1), np.empty((3, 1, 1))
    noise = np.array([1.0, 1]).reshape(2, 1, 1)
    options = {"leak": Leak(0.5, "potential"), "activation": "relu", "backend": backend}
    h = fastbptt.forward(params, x, np.full((1, 1), -2.0), noise=noise, v=v, **options)
    np.testing.assert_array_equal(h.ravel(), [0, 1, 2.5])
    np.testing.assert_array_equal(v.ravel(), [-2, 1, 2.5])
    # loss h_2 + 4 v_2: dv_2 = 1 + 4, dz_2 = 5/2, dv_1 = 5 + 5/2, dz_1 = 15/4, dv_0 = 0 + 15/4
    got: Any = fastbptt.backward(params, x, h, np.ones((1, 1)), dv=np.full((1, 1), 4.0), **options)
    np.testing.assert_array_equal(got.x.ravel(), [3.75, 2.5])
    np.testing.assert_array_equal(got.h0, [[3.75]])
    np.testing.assert_array_equal(np.ravel([got.params.W_x, got.params.W_h]), [13.75, 2.5])


@BACKENDS
@ACTIVATIONS
def test_no_steps_give_the_states_of_the_potentials(activation, backend):
    params, x, h0, _ = draw()
    dh, dv = np.random.default_rng(1).standard_normal((2, B, H))
    options = {"leak": Leak(0.5, "potential"), "activation": activation, "backend": backend}
    h = fastbptt.forward(params, x[:0], h0, **options)
    f = [np.tanh, lambda z: np.maximum(z, 0), lambda z: z, lambda z: 1 / (1 + np.exp(-z)),
         lambda z: np.log(1 + np.exp(z)), lambda z: np.maximum(np.tanh(z), 0)]  # fmt: skip
    of = f[reference.ACTIVATIONS.index(activation)]
    np.testing.assert_allclose(h[0], of(h0), rtol=1e-13)
    slope = (of(h0 + 1e-6) - of(h0 - 1e-6)) / 2e-6
    got = fastbptt.backward(params, x[:0], h, dh, dv=dv, **options)
    np.testing.assert_allclose(got.h0, slope * dh + dv, rtol=1e-7, atol=1e-8)


# By differences, and by torch


@FORMS
@ACTIVATIONS
@LENGTHS
def test_gradients_agree_with_central_differences(activation, lengths, of):
    params, x, h0, noise = draw(3)
    alpha = np.random.default_rng(2).uniform(0.1, 1, H)
    dh, dv = (np.random.default_rng(4).standard_normal(s) for s in ((T, B, H), (B, H)))
    counts = np.arange(T)[:, None] < (np.full(B, T) if lengths is None else lengths)
    potential = of == "potential"
    options = {
        "lengths": lengths, "activation": activation, "leak": Leak(alpha, of), "backend": "numpy"
    }  # fmt: skip
    v = np.empty((B, H)) if potential else None

    def forward():
        return fastbptt.forward(params, x, h0, noise=noise, v=v, **options)

    def loss():
        found = (dh * forward()[1:])[counts].sum()
        return found if v is None else found + (dv * v).sum()

    got: Any = fastbptt.backward(params, x, forward(), dh, dv=dv if potential else None, **options)
    for gradient, a in zip((*got.params, got.x, got.h0), (*params, x, h0), strict=True):
        expected = central_differences(loss, a)
        np.testing.assert_allclose(gradient, expected, rtol=1e-6, atol=1e-7)


@FORMS
@ACTIVATIONS
@LENGTHS
@BACKENDS
def test_a_loop_in_torch_gives_the_same(activation, of, lengths, backend):
    torch = pytest.importorskip("torch")
    T, B, _, H = shape = 30, 3, 3, 20
    params, x, h0, noise = draw(5, shape)
    alpha = np.random.default_rng(2).uniform(0.05, 1, H)
    lengths = None if lengths is None else np.array([30, 0, 11])
    dh = np.random.default_rng(4).standard_normal((T, B, H))
    f = {
        "tanh": torch.tanh, "relu": torch.relu, "identity": lambda z: z, "sigmoid": torch.sigmoid,
        "softplus": torch.nn.functional.softplus, "rectified_tanh": lambda z: torch.relu(z.tanh()),
    }[activation]  # fmt: skip

    W_x, W_h, b, x_, h0_ = leaves = [torch.tensor(a, requires_grad=True) for a in (*params, x, h0)]
    counts = torch.tensor(np.full(B, T) if lengths is None else lengths)[:, None]
    a, noise_ = torch.tensor(alpha), torch.tensor(noise)
    state, states = h0_, []
    for t in range(T):
        shown = f(state) if of == "potential" else state
        z = x_[t] @ W_x + shown @ W_h + b + noise_[t]
        new = (1 - a) * state + a * (z if of == "potential" else f(z))
        state = torch.where(counts > t, new, state)
        states.append(f(state) if of == "potential" else state)
    expected = torch.stack(states)
    live = (torch.arange(T)[:, None] < counts.T)[:, :, None]
    (expected * torch.tensor(dh) * live).sum().backward()

    options = {
        "lengths": lengths, "activation": activation, "leak": Leak(alpha, of), "backend": backend
    }  # fmt: skip
    h = fastbptt.forward(params, x, h0, noise=noise, **options)
    np.testing.assert_allclose(h[1:], expected.detach(), rtol=1e-11, atol=1e-12)
    got: Any = fastbptt.backward(params, x, h, dh, **options)
    for gradient, leaf in zip((*got.params, got.x, got.h0), leaves, strict=True):
        scale = float(leaf.grad.abs().max())
        np.testing.assert_allclose(gradient, leaf.grad, rtol=0, atol=1e-11 * scale)


# What the forms promise


@BACKENDS
@ACTIVATIONS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("alpha", [1, np.ones(33)], ids=["one", "each"])
def test_a_leak_of_rates_with_alpha_1_gives_the_plain_layers_bits(
    alpha, activation, dtype, backend
):
    params, x, h0, _ = draw(0, (9, 17, 5, 33), dtype)
    options = {"activation": activation, "backend": backend}
    plain = fastbptt.forward(params, x, h0, **options)
    leaky = fastbptt.forward(params, x, h0, leak=Leak(alpha), **options)
    np.testing.assert_array_equal(leaky, plain)
    expected = fastbptt.backward(params, x, plain, plain[1:], **options)
    got = fastbptt.backward(params, x, leaky, plain[1:], leak=Leak(alpha), **options)
    for a, e in zip((*got.params, *got[1:]), (*expected.params, *expected[1:]), strict=True):
        np.testing.assert_array_equal(a, e)


@FORMS
@BACKENDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_stream_in_pieces(of, backend, dtype):
    """Pieces give the states of the whole to the bit, and its gradients within rounding."""
    params, x, h0, noise = draw(0, (12, 9, 3, 18), dtype)
    leak = Leak(np.random.default_rng(0).uniform(0.1, 1, 18), of)
    potential = of == "potential"
    options = {"leak": leak, "activation": "softplus", "backend": backend}
    h = fastbptt.forward(params, x, h0, noise=noise, **options)
    v, begun, pieces = np.empty_like(h0), h0, []
    for part in (slice(0, 5), slice(5, 6), slice(6, 12)):
        found = fastbptt.forward(
            params, x[part], begun, noise=noise[part], v=v if potential else None, **options
        )
        np.testing.assert_array_equal(found[1:], h[1:][part])
        pieces.append((part, found))
        begun = v.copy() if potential else found[-1]

    dh = np.random.default_rng(1).standard_normal((12, 9, 18)).astype(dtype)
    whole = fastbptt.backward(params, x, h, dh, **options)
    total, later = np.zeros_like(params.W_h), np.zeros_like(h0)
    for part, states in reversed(pieces):
        own = dh[part].copy()
        if not potential:
            own[-1] += later
        dparams, _, later = fastbptt.backward(
            params, x[part], states, own, dv=later if potential else None, **options
        )
        total += dparams.W_h
    rtol = 1e-4 if dtype == "float32" else 1e-12
    np.testing.assert_allclose(later, whole.h0, rtol=0, atol=rtol * abs(whole.h0).max())
    scale = abs(whole.params.W_h).max()
    np.testing.assert_allclose(total, whole.params.W_h, rtol=0, atol=rtol * scale)


@pytest.mark.parametrize("activation", ["relu", "rectified_tanh"])
@pytest.mark.parametrize("forward", ["numba", "numpy"])
@pytest.mark.parametrize("backward", ["numba", "numpy"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_units_of_rates_below_threshold_pass_nothing_on(activation, forward, backward, dtype):
    """Exactly, though f(z) is found from rounded states: each unit is driven far up or down."""
    T, B, H = 50, 8, 40
    rng = np.random.default_rng(0)
    params = Params(np.eye(H, dtype=dtype), np.zeros((H, H), dtype), np.zeros(H, dtype))
    x = (rng.choice([-1, 1], (T, B, H)) * rng.uniform(0.01, 1, (T, B, H))).astype(dtype)
    leak = Leak(rng.uniform(0.01, 1, H))
    options = {"leak": leak, "activation": activation}
    h0 = rng.uniform(0, 1, (B, H)).astype(dtype)
    h = fastbptt.forward(params, x, h0, backend=forward, **options)
    dx = fastbptt.backward(params, x, h, np.ones((T, B, H), dtype), backend=backward, **options).x
    np.testing.assert_array_equal(dx != 0, x > 0)


def test_units_at_the_bounds_pass_nothing_on():
    """tanh and sigmoid that are 1: what is recovered of them is not beyond."""
    params = Params(np.eye(4, dtype="f"), np.zeros((4, 4), "f"), np.zeros(4, "f"))
    x = np.full((200, 3, 4), 60, "f")
    for activation in ("tanh", "sigmoid", "rectified_tanh"):
        for backend in ("numba", "numpy"):
            options = {"leak": Leak(0.03), "activation": activation, "backend": backend}
            h = fastbptt.forward(params, x, **options)
            ones = np.ones_like(h[1:])
            got: Any = fastbptt.backward(params, x, h, ones, **options)
            plain: Any = fastbptt.backward(
                params, x, h, ones, leak=Leak(0.03), activation="identity", backend=backend
            )
            slope = got.x / plain.x
            assert slope.min() >= 0
            assert slope.max() < 1e-5


@FORMS
@pytest.mark.parametrize("some", [False, True], ids=["", "lengths"])
def test_threads_change_no_bit(of, some):
    from test_threads import SHAPES, using

    for shape in SHAPES:
        T, B, _, H = shape
        params, x, h0, noise = draw(0, shape, "float32")
        params = Params(params.W_x, 0.5 * params.W_h, params.b)
        lengths = np.random.default_rng(0).integers(0, T + 1, B) if some else None
        leak = Leak(np.random.default_rng(0).uniform(0.05, 1, H), of)
        options = {"leak": leak, "lengths": lengths, "activation": "sigmoid"}
        found = []
        for threads in (1, 2):
            with using(threads):
                v = np.empty((B, H), "f")
                for _ in range(3):  # the second of some calls runs alone
                    h = fastbptt.forward(
                        params, x, h0, noise=noise, v=v if of == "potential" else None, **options
                    )
                    got = fastbptt.backward(params, x, h, noise, **options)
                found.append([h, *got.params, *got[1:], *([v] if of == "potential" else [])])
        for other in found[1:]:
            for a, b in zip(found[0], other, strict=True):
                np.testing.assert_array_equal(a, b)


@FORMS
def test_nothing_beyond_the_workspace_is_written(of, monkeypatch):
    seen = []

    def workspace(total):
        seen.append((np.full(total + 256, 0xA5, np.uint8), total))
        return seen[-1][0][65 : 65 + total]

    monkeypatch.setattr(_drivers, "_take_workspace", workspace)
    for shape in [(5, 3, 2, 5), (20, 33, 3, 40), (7, 1, 17, 65)]:
        params, x, h0, noise = draw(0, shape, "float32")
        h = fastbptt.forward(params, x, h0, noise=noise, leak=Leak(0.2, of))
        fastbptt.backward(params, x, h, noise, leak=Leak(0.2, of))
    assert len(seen) == 6
    for whole, total in seen:
        assert (whole[:65] == 0xA5).all()
        assert (whole[65 + total :] == 0xA5).all()


@pytest.mark.parametrize(("alpha", "bound"), [(0.1, 2e-6), (0.01, 4e-6), (0.001, 8e-6)])
@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "softplus"])
def test_digits_lost_in_recovering_rates(activation, alpha, bound):
    """float32 gradients against those of a float64 run from the same numbers, see `Leak`."""
    T, B, _, H = shape = 200, 8, 4, 64
    params, x, h0, _ = draw(0, shape, "float32")
    h0[...] = 0
    dh = np.random.default_rng(1).standard_normal((T, B, H)).astype("f")
    options = {"leak": Leak(alpha), "activation": activation}
    h = fastbptt.forward(params, x, h0, **options)
    got = fastbptt.backward(params, x, h, dh, **options).params.W_h
    params, x, h0, dh = (
        Params(*(a.astype("d") for a in params)),
        *(a.astype("d") for a in (x, h0, dh)),
    )
    exact = fastbptt.backward(
        params, x, fastbptt.forward(params, x, h0, **options), dh, **options
    ).params.W_h
    error = np.sqrt(np.mean((got - exact) ** 2) / np.mean(exact**2))
    assert error < bound


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((0,), ValueError, "alpha is 0.0, expected above 0 and at most 1"),
        ((1.5,), ValueError, "alpha is 1.5"),
        ((np.nan,), ValueError, "alpha is nan"),
        (([0.5, -1],), ValueError, "alpha is -1.0"),
        (("a",), TypeError, "alpha is 'a', expected a number or an array"),
        ((None,), TypeError, "alpha is None"),
        ((True,), TypeError, "alpha is True"),
        (([[0.5]],), ValueError, r"alpha has shape \(1, 1\)"),
        (([],), ValueError, r"alpha has shape \(0,\)"),
        (([0.5, [1]],), TypeError, "alpha is"),
        ((0.5, "voltage"), ValueError, "of is 'voltage', expected one of 'rate', 'potential'"),
    ],
)
def test_a_leak_that_is_none(arguments, error, words):
    with pytest.raises(error, match=words):
        Leak(*arguments)


@pytest.mark.parametrize(
    ("dt", "tau", "words"),
    [(0, 1, "dt is 0"), (2, 1, "tau is 1"), (1, [2, np.nan], "tau"), (1, np.inf, "tau is inf")],
)
def test_time_constants_that_are_none(dt, tau, words):
    with pytest.raises(ValueError, match=words):
        Leak.from_tau(dt, tau)


@BACKENDS
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"leak": 0.5}, TypeError, "leak is 0.5, expected a fastbptt.Leak"),
        ({"leak": Leak([0.5] * (H - 1))}, ValueError, r"leak's alpha has shape \(4,\), expected"),
        ({"leak": Leak(1e-60)}, ValueError, "leak's alpha is 0.0 as float32, expected above 0"),
        ({"noise": np.zeros((T, B, H))}, TypeError, "noise has dtype float64, expected float32"),
        ({"noise": np.zeros((T, B, 1), "f")}, ValueError, r"noise has shape \(4, 3, 1\)"),
        ({"noise": 0.1}, TypeError, "noise is a float"),
        ({"v": np.empty((B, H), "f")}, ValueError, "v is given, expected None without a leak of p"),
        ({"v": np.empty((B, H), "f"), "leak": Leak(0.5)}, ValueError, "v is given"),
        ({"v": np.empty((B, 1), "f"), "leak": Leak(0.5, "potential")}, ValueError, "v has shape"),
        ({"v": np.empty((T, B, H), "f"), "leak": Leak(0.5, "potential")}, ValueError, "v has sha"),
        ({"v": np.empty((B, H)), "leak": Leak(0.5, "potential")}, TypeError, "v has dtype"),
        ({"v": 3, "leak": Leak(0.5, "potential")}, TypeError, "v is a int"),
    ],
)
def test_bad_input_of_forward(options, error, words, backend):
    params, x, _, _ = draw(dtype="float32")
    out = np.full((T + 1, B, H), 7, "f")
    with pytest.raises(error, match=words):
        fastbptt.forward(params, x, out=out, backend=backend, **options)
    assert (out == 7).all()


def test_v_shares_no_memory_with_others():
    params, x, h0, _ = draw(dtype="float32")
    out = np.empty((T + 1, B, H), "f")
    options = {"leak": Leak(0.5, "potential")}
    with pytest.raises(ValueError, match=r"v .* shares memory"):
        fastbptt.forward(params, x, out=out, v=out[1], **options)
    with pytest.raises(ValueError, match=r"v .* shares memory"):
        fastbptt.forward(params, x, h0, v=h0, **options)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"leak": "rate"}, TypeError, "leak is 'rate'"),
        ({"leak": Leak([0.5])}, ValueError, "leak's alpha has shape"),
        ({"dv": np.zeros((B, H), "f")}, ValueError, "dv is given, expected None without a leak"),
        ({"dv": np.zeros((B, H), "f"), "leak": Leak(0.5)}, ValueError, "dv is given"),
        ({"dv": np.zeros((B, 1), "f"), "leak": Leak(1, "potential")}, ValueError, "dv has shape"),
        ({"dv": np.zeros((B, H)), "leak": Leak(1, "potential")}, TypeError, "dv has dtype"),
    ],
)
def test_bad_input_of_backward(options, error, words):
    params, x, _, _ = draw(dtype="float32")
    h = fastbptt.forward(params, x)
    with pytest.raises(error, match=words):
        fastbptt.backward(params, x, h, h[1:], **options)


# The class


def test_a_leak_stays_as_it_is():
    given = np.array([0.5, 0.25])
    leak: Any = Leak(given, "potential")
    given[0] = 0.1
    np.testing.assert_array_equal(leak.alpha, [0.5, 0.25])
    with pytest.raises(AttributeError, match="stays as it is"):
        leak.alpha = 0.3
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(leak.alpha)[0] = 0.3
    for other in (copy.deepcopy(leak), pickle.loads(pickle.dumps(leak)), eval(repr(leak))):
        assert other == leak
        assert hash(other) == hash(leak)
        assert repr(other) == repr(leak)
    assert leak != Leak(given, "rate")
    assert Leak(0.5) != Leak(0.25)
    assert Leak(0.5) != 0.5


def test_docstring_examples():
    got = doctest.testmod(_leak)
    assert got.attempted
    assert not got.failed


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("sizes", [(7, 16, 3), (3, 5, 40), (64, 33, 1), (300, 100, 17)], ids=str)
def test_a_readout_by_the_functions_of_cells_has_the_same_bits(sizes, dtype, monkeypatch):
    from fastbptt.kernels import _drivers

    N, H, O = sizes
    rng = np.random.default_rng(0)
    W_y, b_y, h, dy = (
        rng.standard_normal(shape).astype(dtype) for shape in ((H, O), O, (N, H), (N, O))
    )
    found = []
    for cell in (True, False):  # of these alone there are compiled functions
        there = {(direction, np.dtype(dtype), cell) for direction in ("forward", "backward")}
        monkeypatch.setattr(_drivers, "_prepared_for", there)
        found.append([fastbptt.readout(W_y, b_y, h), *fastbptt.readout_backward(W_y, h, dy)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)
