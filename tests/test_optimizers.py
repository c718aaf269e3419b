"""Optimizers against stored numbers and PyTorch's; their state, memory, and what they refuse."""

import copy
import doctest
import json
import math
import tracemalloc

import numpy as np
import pytest

from fastbptt import optimizers
from fastbptt.optimizers import SGD, Adam, RMSprop, clip_by_global_norm

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])

# Settings of each optimizer, and where three parameters that start at START are after 5 steps by
# the gradients of `table_gradient`.  Computed in Python's floats, element by element, from the
# formulas that PyTorch documents for SGD, RMSprop and AdamW; PyTorch 2.13 gives the same numbers
# to 4e-16.
START = [1.0, -2.0, 0.5]
TABLE = (
    (SGD, {"learning_rate": 0.1}, [0.85, -1.9, 0.53]),
    (SGD, {"learning_rate": 0.1, "momentum": 0.9}, [0.682969, -1.737118, 0.573983]),
    (
        SGD,
        {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
        [0.5646721, -1.6634062, 0.5965847],
    ),
    (
        RMSprop,
        {"learning_rate": 0.1, "rho": 0.9, "eps": 0.01},
        [-0.16752764132778616, -1.0438078239735165, 0.7406680234652105],
    ),
    (
        Adam,
        {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "eps": 0.01},
        [0.5362861151958499, -1.5238095238095233, 0.6298186513217204],
    ),
    (
        Adam,
        {"learning_rate": 0.1, "beta_1": 0.8, "beta_2": 0.9, "eps": 0.01, "weight_decay": 0.5},
        [0.3536358719577669, -1.116668422619047, 0.49758106723371576],
    ),
)
EACH = pytest.mark.parametrize(
    ("kind", "settings"),
    [row[:2] for row in TABLE],
    ids=["SGD", "momentum", "nesterov", "RMSprop", "Adam", "weight_decay"],
)


def table_gradient(t):
    return np.array([0.1 * t, -0.2, 0.3 * (-1) ** t])


def draw_parameters(dtype="float32"):
    rng = np.random.default_rng(0)
    shapes = {"layers.0.W_h": (7, 7), "layers.0.b": (7,), "scale": (), "none": (0, 3)}
    return {name: np.asarray(rng.standard_normal(s), dtype) for name, s in shapes.items()}


def draw_gradients(t, dtype="float32"):
    """The gradients of step t, some of them 0."""
    rng = np.random.default_rng(t)
    of = draw_parameters(dtype).items()
    gradients = {name: np.asarray(rng.standard_normal(p.shape), dtype) for name, p in of}
    gradients["layers.0.b"][:2] = 0
    return gradients


def run(optimizer, parameters, steps):
    for t in steps:
        optimizer.step(parameters, draw_gradients(t, parameters["scale"].dtype))


def copies(arrays):
    return {name: np.array(a) for name, a in arrays.items()}


def assert_same(got, expected):
    """Check that two mappings have the same names and bits."""
    assert got.keys() == expected.keys()
    for name, a in expected.items():
        assert got[name].dtype == a.dtype
        np.testing.assert_array_equal(got[name], a, err_msg=name)


# The numbers


@pytest.mark.parametrize(("kind", "settings", "expected"), TABLE)
@DTYPES
def test_stored_numbers(kind, settings, expected, dtype):
    optimizer, p = kind(**settings), np.array(START, dtype)
    for t in range(1, 6):
        optimizer.step({"p": p}, {"p": table_gradient(t).astype(dtype)})
    np.testing.assert_allclose(p, expected, rtol=1e-14 if dtype == "float64" else 1e-6)


def as_torch(torch, kind, settings, leaves):
    given = dict(settings)
    given["lr"] = given.pop("learning_rate")
    if kind is RMSprop:
        return torch.optim.RMSprop(leaves, alpha=given.pop("rho"), **given)
    if kind is Adam:
        betas = given.pop("beta_1"), given.pop("beta_2")
        return torch.optim.AdamW(leaves, betas=betas, **given)
    return torch.optim.SGD(leaves, **given)


@pytest.mark.parametrize("defaults", [True, False])
@EACH
@DTYPES
def test_agrees_with_torch(kind, settings, dtype, defaults):
    torch = pytest.importorskip("torch")
    if defaults:
        settings = {}
    optimizer, parameters = kind(**settings), draw_parameters(dtype)
    leaves = {name: torch.tensor(p, requires_grad=True) for name, p in parameters.items()}
    expected = as_torch(torch, kind, optimizer.settings(), list(leaves.values()))
    for t in range(50):
        if t == 25:
            optimizer.learning_rate /= 2
            expected.param_groups[0]["lr"] /= 2
        gradients = draw_gradients(t, dtype)
        for name, leaf in leaves.items():
            leaf.grad = torch.tensor(gradients[name])
        expected.step()
        optimizer.step(parameters, gradients)
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    for name, leaf in leaves.items():
        scale = max(1.0, np.abs(parameters[name]).max(initial=0))
        np.testing.assert_allclose(
            parameters[name], leaf.detach().numpy(), rtol=tolerance, atol=tolerance * scale
        )


@DTYPES
def test_first_step_of_adam_is_lr_whatever_the_scale(dtype):
    p = np.zeros(4, dtype)
    Adam(learning_rate=0.25, eps=1e-30).step({"p": p}, {"p": np.array([1e-10, -3, 1e10, 0], dtype)})
    np.testing.assert_allclose(p, [-0.25, 0.25, -0.25, 0], rtol=1e-6)


def test_decay_is_decoupled_from_the_gradient():
    p = np.array([8.0, -4.0])
    Adam(learning_rate=0.5, weight_decay=0.25).step({"p": p}, {"p": np.zeros(2)})
    np.testing.assert_array_equal(p, [7, -3.5])


@EACH
def test_no_learning_rate_no_change(kind, settings):
    parameters = draw_parameters()
    before = copies(parameters)
    run(kind(**{**settings, "learning_rate": 0}), parameters, range(3))
    assert_same(parameters, before)


# Arrays


@EACH
@DTYPES
def test_changes_parameters_in_place_and_nothing_else(kind, settings, dtype):
    parameters, gradients = draw_parameters(dtype), draw_gradients(0, dtype)
    arrays, before = dict(parameters), copies(gradients)
    for d in gradients.values():
        d.flags.writeable = False
    kind(**settings).step(parameters, gradients)
    assert all(parameters[name] is a for name, a in arrays.items())
    assert_same(gradients, before)
    for name, p in draw_parameters(dtype).items():
        changed = before[name] != 0 if settings.get("weight_decay") is None else p == p
        np.testing.assert_array_equal(parameters[name] != p, changed)


@EACH
@DTYPES
@pytest.mark.parametrize("lay", [np.asfortranarray, lambda a: a.repeat(2, -1)[:, ::2]])
def test_memory_layout_changes_no_bit(kind, settings, dtype, lay):
    for changed in ("parameters", "gradients"):
        p, d = draw_parameters(dtype)["layers.0.W_h"], draw_gradients(0, dtype)["layers.0.W_h"]
        expected = p.copy()
        one, other = kind(**settings), kind(**settings)
        laid_p, laid_d = (lay(p), d) if changed == "parameters" else (p.copy(), lay(d))
        for _ in range(3):
            one.step({"W": laid_p}, {"W": laid_d})
            other.step({"W": expected}, {"W": d})
        np.testing.assert_array_equal(laid_p, expected)


@EACH
def test_views_of_one_vector(kind, settings):
    vector, parameters = np.zeros(60, np.float32), draw_parameters()
    views = {"layers.0.W_h": vector[:49].reshape(7, 7), "layers.0.b": vector[49:56]}
    expected = {name: parameters[name] for name in views}
    for name, view in views.items():
        view[...] = expected[name]
    one, other = kind(**settings), kind(**settings)
    for t in range(3):
        gradients = {name: draw_gradients(t)[name] for name in views}
        one.step(views, gradients)
        other.step(expected, gradients)
    assert_same(views, expected)
    assert not vector[56:].any()


@EACH
def test_a_parameter_is_written_last_and_at_once(kind, settings, monkeypatch):
    """Ctrl-C before the write of the second array finds the first after its step."""
    parameters, expected = draw_parameters(), draw_parameters()
    kind(**settings).step(expected, draw_gradients(0))
    subtract, writes = np.subtract, []

    def interrupted(*args, **kwargs):
        if writes:
            raise KeyboardInterrupt
        writes.append(kwargs["out"])
        return subtract(*args, **kwargs)

    monkeypatch.setattr(np, "subtract", interrupted)
    with pytest.raises(KeyboardInterrupt):
        kind(**settings).step(parameters, draw_gradients(0))
    first = next(iter(parameters))
    assert writes[0] is parameters[first]
    assert_same(parameters, {**draw_parameters(), first: expected[first]})


@EACH
@DTYPES
def test_a_step_allocates_nothing(kind, settings, dtype):
    parameters = {"W": np.ones((512, 512), dtype), "b": np.ones(512, dtype)}
    gradients = {name: np.full_like(p, 0.5) for name, p in parameters.items()}
    optimizer = kind(**settings)
    optimizer.step(parameters, gradients)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for _ in range(5):
            optimizer.step(parameters, gradients)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - before < 4096


@EACH
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30], ids=str)
def test_no_floating_point_error_escapes(kind, settings, bad):
    p, d = np.ones(2, np.float32), np.array([bad, 1], np.float32)
    expected = np.ones(1, np.float32)
    one, other = kind(**settings), kind(**settings)
    with np.errstate(all="raise"):
        for _ in range(2):
            one.step({"p": p}, {"p": d})
    for _ in range(2):
        other.step({"p": expected}, {"p": d[1:]})
    assert p[1] == expected[0]


# Hyperparameters


@EACH
def test_settings(kind, settings):
    optimizer = kind(**settings)
    got = optimizer.settings()
    assert settings.items() <= got.items()
    assert got == kind(**got).settings()
    assert got == {name: getattr(optimizer, name) for name in got}
    optimizer.learning_rate = np.float32(0.5)
    assert json.loads(json.dumps(optimizer.settings())) == {**got, "learning_rate": 0.5}


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (SGD, {"learning_rate": 0.01, "momentum": 0.0, "nesterov": False}),
        (RMSprop, {"learning_rate": 0.001, "rho": 0.99, "eps": 1e-8}),
        (
            Adam,
            {
                "learning_rate": 0.001,
                "beta_1": 0.9,
                "beta_2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,
            },
        ),
    ],
)
def test_defaults(kind, expected):
    assert kind().settings() == expected
    assert list(kind().settings()) == list(expected)  # the constructor's order


@EACH
def test_hyperparameters_of_numpy_change_no_bit(kind, settings):
    """A NumPy float64 would make the products float64."""
    got, expected = draw_parameters(), draw_parameters()
    one, other = kind(**settings), kind(**settings)
    for name, value in settings.items():
        if name != "nesterov":
            setattr(one, name, np.float64(value))
    run(one, got, range(3))
    run(other, expected, range(3))
    assert_same(got, expected)


@pytest.mark.parametrize(
    ("kind", "given", "error", "words"),
    [
        *(
            (k, {"learning_rate": -0.1}, ValueError, "learning_rate is -0.1, expected at least 0")
            for k in (SGD, Adam)
        ),
        (
            RMSprop,
            {"learning_rate": math.inf},
            ValueError,
            "learning_rate is inf, expected at least 0 and below inf",
        ),
        (SGD, {"learning_rate": math.nan}, ValueError, "learning_rate is nan, expected"),
        (SGD, {"learning_rate": "0.1"}, TypeError, "learning_rate is '0.1', expected a number"),
        (SGD, {"learning_rate": None}, TypeError, "learning_rate is None, expected a number"),
        (SGD, {"learning_rate": True}, TypeError, "learning_rate is True, expected a number"),
        (SGD, {"learning_rate": np.ones(1)}, TypeError, "expected a number"),
        (SGD, {"momentum": 1}, ValueError, "momentum is 1.0, expected at least 0 and below 1"),
        (SGD, {"momentum": -0.5}, ValueError, "momentum is -0.5, expected at least 0"),
        (SGD, {"nesterov": True}, ValueError, "momentum is 0.0, expected above 0 with nesterov"),
        (SGD, {"nesterov": 1}, TypeError, "nesterov is 1, expected True or False"),
        (RMSprop, {"rho": 1}, ValueError, "rho is 1.0, expected at least 0 and below 1"),
        (RMSprop, {"eps": 0}, ValueError, "eps is 0.0, expected above 0"),
        (Adam, {"beta_1": 1}, ValueError, "beta_1 is 1.0, expected at least 0 and below 1"),
        (Adam, {"beta_2": -1}, ValueError, "beta_2 is -1.0, expected at least 0 and below 1"),
        (Adam, {"eps": 0}, ValueError, "eps is 0.0, expected above 0"),
        (Adam, {"weight_decay": -1}, ValueError, "weight_decay is -1.0, expected at least 0"),
    ],
)
def test_hyperparameters_turned_away(kind, given, error, words):
    with pytest.raises(error) as caught:
        kind(**given)
    assert words in str(caught.value)


# State


@EACH
@DTYPES
def test_goes_on_from_its_state_to_the_bit(kind, settings, dtype):
    expected = draw_parameters(dtype)
    run(kind(**settings), expected, range(10))

    for pause in (0, 1, 5):
        first, got = kind(**settings), draw_parameters(dtype)
        run(first, got, range(pause))
        state = first.state()
        used = kind(**settings)
        run(used, draw_parameters(dtype), range(20, 23))
        for second in (kind(**settings), used):
            second.set_state(state)
            assert_same(second.state(), state)
            continued = copies(got)
            run(second, continued, range(pause, 10))
            assert_same(continued, expected)


@EACH
def test_state_is_a_copy_and_is_copied(kind, settings):
    optimizer, parameters = kind(**settings), draw_parameters()
    run(optimizer, parameters, range(2))
    state = optimizer.state()
    before = copies(state)
    other = kind(**settings)
    other.set_state(state)
    run(optimizer, parameters, range(2, 4))
    run(other, parameters, range(2, 4))
    assert_same(state, before)


def test_names_in_the_state():
    for kind, kinds in ((SGD, "m"), (RMSprop, "v"), (Adam, "mv")):
        optimizer = kind()
        assert list(optimizer.state()) == ["steps"]
        run(optimizer, draw_parameters(), range(3))
        state = optimizer.state()
        expected = {"steps", *(f"{k}.{name}" for k in kinds for name in draw_parameters())}
        assert state.keys() == expected
        assert state["steps"].dtype == np.int64
        assert state["steps"].shape == ()
        assert state["steps"] == 3


def test_state_holds_the_running_means():
    optimizer = Adam(beta_1=0.75, beta_2=0.5)
    for d in (4.0, 8.0):
        optimizer.step({"p": np.zeros(1)}, {"p": np.array([d])})
    state = optimizer.state()
    assert state["m.p"] == 0.75 * 0.25 * 4 + 0.25 * 8
    assert state["v.p"] == 0.5 * 0.5 * 16 + 0.5 * 64


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda s: [*s], TypeError, "state is a list, expected a mapping"),
        (lambda s: {**s, "x.p": s["m.p"]}, ValueError, "['steps', 'm.p', 'v.p', 'x.p'], expected"),
        (lambda s: {**s, "p": s["m.p"]}, ValueError, "expected ['steps', 'm.p', 'v.p']"),
        (lambda s: {**s, "m.q": s["m.p"]}, ValueError, "has the names"),
        (lambda s: {k: s[k] for k in ("steps", "m.p")}, ValueError, "['steps', 'm.p'], expected"),
        (lambda s: {k: s[k] for k in ("m.p", "v.p")}, ValueError, "['m.p', 'v.p'], expected"),
        (lambda s: {**s, "steps": np.array(-1)}, ValueError, "state['steps'] is -1, expected an"),
        (lambda s: {**s, "steps": np.array(1.5)}, ValueError, "state['steps'] is 1.5, expected an"),
        (lambda s: {**s, "steps": np.array([1])}, ValueError, "state['steps'] is [1], expected an"),
        (lambda s: {**s, "m.p": [0.0]}, TypeError, "state['m.p'] is a list, expected"),
        (lambda s: {**s, "v.p": s["v.p"].astype(int)}, TypeError, "state['v.p'] has dtype int64"),
    ],
)
@pytest.mark.parametrize("used", [False, True])
def test_state_turned_away(change, error, words, used):
    first, second, p = Adam(), Adam(), np.ones(3)
    first.step({"p": p}, {"p": p.copy()})
    if used:
        second.step({"p": p}, {"p": 2 * p})
    before = second.state()
    with pytest.raises(error) as caught:
        second.set_state(change(first.state()))
    assert words in str(caught.value)
    assert_same(second.state(), before)


def test_steps_without_arrays_fit_no_parameters():
    optimizer, p = Adam(), np.ones(3)
    optimizer.set_state({"steps": np.array(5)})
    with pytest.raises(ValueError, match="as in the steps before"):
        optimizer.step({"p": p}, {"p": p.copy()})


def test_arrays_without_steps_are_kept():
    optimizer, p = SGD(learning_rate=1, momentum=0.5), np.ones(1)
    optimizer.set_state({"steps": np.array(0), "m.p": np.array([8.0])})
    optimizer.step({"p": p}, {"p": np.array([2.0])})
    assert p == 1 - (0.5 * 8 + 2)


def test_state_of_other_parameters_turned_away():
    optimizer, other, p = Adam(), Adam(), np.ones(3)
    optimizer.step({"p": p}, {"p": p.copy()})
    other.step({"q": p}, {"q": p.copy()})
    with pytest.raises(ValueError, match="has the names"):
        optimizer.set_state(other.state())


# What does not fit a step


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


@EACH
@pytest.mark.parametrize(
    ("argument", "change", "error", "words"),
    [
        ("both", np.ndarray.tolist, TypeError, "parameters['last'] is a list, expected a numpy."),
        ("both", np.float16, TypeError, "parameters['last'] has dtype float16, expected float32"),
        ("both", lambda a: a.astype(">f4"), TypeError, "parameters['last'] has dtype >f4"),
        ("parameters", read_only, ValueError, "parameters['last'] is read-only, expected"),
        ("gradients", np.ma.masked_array, TypeError, "gradients['last'] is a MaskedArray"),
        ("gradients", np.float64, TypeError, "gradients['last'] has dtype float64, expected float"),
        ("gradients", lambda a: a[:1], ValueError, "['last'] has shape (1,), expected (3,)"),
        ("both", lambda a: a[:1].copy(), ValueError, "['last'] has shape (1,) and dtype float32"),
        ("both", np.float64, ValueError, "['last'] has shape (3,) and dtype float64, expected (3"),
        ("gradients", lambda a: None, TypeError, "gradients['last'] is a NoneType"),
    ],
)
def test_step_turned_away(kind, settings, argument, change, error, words):
    optimizer = kind(**settings)
    given = {
        "parameters": {"first": np.ones(3, np.float32), "last": np.ones(3, np.float32)},
        "gradients": {"first": np.ones(3, np.float32), "last": np.ones(3, np.float32)},
    }
    optimizer.step(**given)
    before, state = copies(given["parameters"]), optimizer.state()
    changed = given | {
        name: {**arrays, "last": change(arrays["last"])}
        for name, arrays in given.items()
        if argument in (name, "both")
    }
    with pytest.raises(error) as caught:
        optimizer.step(**changed)
    assert words in str(caught.value)
    assert_same(given["parameters"], before)
    assert_same(optimizer.state(), state)


@EACH
def test_names_turned_away(kind, settings):
    a, b = np.ones(3), np.ones(3)
    optimizer = kind(**settings)
    for parameters, gradients, error, words in (
        ([a], {"a": b}, TypeError, "parameters is a list, expected a mapping"),
        ({"a": a}, (b,), TypeError, "gradients is a tuple, expected a mapping"),
        ({"a": a}, {}, ValueError, "gradients has the names [], expected ['a'] as parameters has"),
        ({"a": a}, {"a": b, "b": b}, ValueError, "gradients has the names ['a', 'b'], expected"),
    ):
        with pytest.raises(error) as caught:
            optimizer.step(parameters, gradients)
        assert words in str(caught.value)
    assert list(optimizer.state()) == ["steps"]
    assert optimizer.state()["steps"] == 0
    optimizer.step({"a": a}, {"a": b})
    with pytest.raises(ValueError, match="as in the steps before") as caught:
        optimizer.step({"a": a, "b": a}, {"a": b, "b": b})
    assert "parameters has the names ['a', 'b'], expected ['a']" in str(caught.value)


# Clipping


@DTYPES
def test_clip(dtype):
    gradients = {"W": np.array([[3, 0], [0, 4]], dtype), "b": np.array([12], dtype)}
    before, arrays = copies(gradients), dict(gradients)
    for bound in (13, 13.5, math.inf):
        norm = clip_by_global_norm(gradients, bound)
        assert type(norm) is float
        assert norm == 13
        assert_same(gradients, before)
    assert clip_by_global_norm(gradients, 6.5) == 13
    assert all(gradients[name] is a for name, a in arrays.items())
    assert_same(gradients, {name: a / 2 for name, a in before.items()})


@DTYPES
@pytest.mark.parametrize("exponent", [-300, -170, -44, 0, 19, 38, 160, 300])
@pytest.mark.parametrize("bound", [1e-5, 1.0])
def test_clip_beyond_the_range_of_squares(dtype, exponent, bound):
    if dtype == "float32" and not -45 < exponent < 39:
        return
    d = np.array([1, -1, 0, 1, 1], dtype) * np.asarray(10.0**exponent, dtype) / 2
    gradients = {"a": d[:3].copy(), "b": d[3:].copy()}
    expected = 2 * float(d[0])
    norm = clip_by_global_norm(gradients, bound)
    assert norm == pytest.approx(expected, rel=1e-15, abs=0)
    a = d[:3] if expected <= bound else np.array([bound, -bound, 0], dtype) / 2
    np.testing.assert_allclose(gradients["a"], a, rtol=2 * float(np.finfo(dtype).eps))


def test_the_norm_is_summed_in_float64():
    d = np.array([4096, 1], np.float32)  # 2**24 + 1 is no float32
    assert clip_by_global_norm({"d": d}, 1e9) ** 2 == pytest.approx(2**24 + 1, rel=1e-14)


@DTYPES
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf], ids=str)
def test_clip_leaves_what_is_not_finite(dtype, bad):
    gradients = {"a": np.array([1, bad], dtype), "b": np.full(3, 5, dtype)}
    before = copies(gradients)
    assert str(clip_by_global_norm(gradients, 1.0)) == str(abs(bad))
    assert_same(gradients, before)


def test_clip_of_nothing():
    assert clip_by_global_norm({}, 1.0) == 0.0
    assert clip_by_global_norm({"a": np.zeros((0, 3)), "b": np.zeros(2)}, 1.0) == 0.0


@pytest.mark.parametrize("lay", [np.asfortranarray, lambda a: a.repeat(2, -1)[:, ::2]])
@DTYPES
def test_clip_of_any_memory_layout(dtype, lay):
    expected = np.arange(12, dtype=dtype).reshape(3, 4)
    got = lay(expected)
    for d in (got, expected):
        norm = clip_by_global_norm({"d": d}, 1.0)
        assert norm == pytest.approx(math.sqrt(506), rel=1e-15)
    np.testing.assert_allclose(got, expected, rtol=np.finfo(dtype).eps)


@pytest.mark.parametrize(
    ("gradients", "max_norm", "error", "words"),
    [
        ([np.ones(1)], 1.0, TypeError, "gradients is a list, expected a mapping"),
        ({"b": [1.0]}, 1.0, TypeError, "gradients['b'] is a list, expected a numpy.ndarray"),
        ({"b": np.ones(1, int)}, 1.0, TypeError, "gradients['b'] has dtype int64, expected"),
        ({"b": read_only(np.ones(1))}, 1.0, ValueError, "gradients['b'] is read-only, expected"),
        ({}, 0, ValueError, "max_norm is 0.0, expected above 0"),
        ({}, -1, ValueError, "max_norm is -1.0, expected above 0"),
        ({}, math.nan, ValueError, "max_norm is nan, expected above 0"),
        ({}, "1", TypeError, "max_norm is '1', expected a number"),
    ],
)
def test_clip_turns_away(gradients, max_norm, error, words):
    a = np.full(3, 7.0)
    if isinstance(gradients, dict):
        gradients = {"a": a, **gradients}
    with pytest.raises(error) as caught:
        clip_by_global_norm(gradients, max_norm)
    assert words in str(caught.value)
    np.testing.assert_array_equal(a, 7)


# In one compiled function


ADAMS = pytest.mark.parametrize("decay", [0.0, 0.5])


def advanced(backend, size, dtype, max_norm, scale=1.0, **settings):
    """Parameters, gradients and state after steps, as bytes, and what each step returned."""
    rng, adam = np.random.default_rng(0), Adam(0.1, **settings)
    # Not from the start of a cache line
    p, d = (np.empty(size + 1, dtype)[1:] for _ in range(2))
    p[...] = rng.standard_normal(size)
    found, arrays = [], []
    for _ in range(4):
        d[...] = rng.standard_normal(size) * scale
        found.append(adam.advance({"p": p}, {"p": d}, max_norm=max_norm, backend=backend))
        arrays += [a.copy() for a in (p, d, *adam.state().values())]
        adam.learning_rate *= 0.9
    return found, [a.tobytes() for a in arrays]


@ADAMS
@DTYPES
@pytest.mark.parametrize("size", [1, 7, 8, 9, 127, 129, 136, 1000, 4099])
def test_compiled_steps_have_the_bits_of_numpy(size, dtype, decay):
    for max_norm in (None, 0.3, math.inf, 1e6):
        given = size, dtype, max_norm
        expected = advanced("numpy", *given, weight_decay=decay)
        assert advanced("numba", *given, weight_decay=decay) == expected
        assert expected[0] == [True] * 4


@DTYPES
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-150, 1e30, 1e200, np.nan, np.inf], ids=str)
def test_compiled_steps_of_extreme_gradients(scale, dtype):
    with np.errstate(over="ignore", invalid="ignore"):
        given = 20, dtype, 0.5, scale
        expected = advanced("numpy", *given)
        assert advanced("numba", *given) == expected
    assert expected[0] == [scale < float(np.finfo(dtype).max)] * 4


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_a_step_says_whether_all_parameters_are_finite(backend):
    adam, p = Adam(), np.zeros(30)
    for _ in range(3):
        assert adam.advance({"p": p}, {"p": np.ones(30)}, backend=backend)
    p[17] = np.inf
    assert not adam.advance({"p": p}, {"p": np.ones(30)}, backend=backend)
    assert int(adam.state()["steps"]) == 4


def test_steps_of_other_optimizers_and_arrays_are_as_ever():
    class Mine(Adam):
        def step(self, parameters, gradients):
            parameters["p"][...] += 1

    for optimizer in (SGD(0.1), RMSprop(0.1), Mine(0.1), Adam(0.1)):
        for shape, names in (((4,), "p"), ((2, 3), "p"), ((4,), "pq")):
            if type(optimizer) is Mine and names == "pq":
                continue
            found = []
            for backend in ("numpy", "numba"):
                used = copy.deepcopy(optimizer)
                parameters = {name: np.ones(shape) for name in names}
                for _ in range(3):
                    gradients = {name: np.full(shape, 0.5) for name in names}
                    assert used.advance(parameters, gradients, max_norm=0.3, backend=backend)
                found.append([a.tobytes() for a in parameters.values()])
            assert found[0] == found[1]


@pytest.mark.parametrize("max_norm", [0, -1.0, math.nan, "1"])
def test_a_compiled_step_turns_away_what_clipping_does(max_norm):
    adam, p = Adam(), np.zeros(3)
    for _ in range(2):
        adam.advance({"p": p}, {"p": np.ones(3)}, max_norm=1.0, backend="numba")
    before = p.copy()
    with pytest.raises((TypeError, ValueError), match="max_norm is"):
        adam.advance({"p": p}, {"p": np.ones(3)}, max_norm=max_norm, backend="numba")
    assert (p == before).all()


@pytest.mark.parametrize(
    ("parameters", "gradients", "words"),
    [
        ({"q": np.zeros(3)}, {"q": np.ones(3)}, "parameters has the names"),
        ({"p": np.zeros(3)}, {"q": np.ones(3)}, "gradients has the names"),
        ({"p": np.zeros(4)}, {"p": np.ones(4)}, "has shape"),
        ({"p": np.zeros(3)}, {"p": np.ones(3, "f4")}, "has dtype float32"),
        ({"p": np.zeros(3)}, [np.ones(3)], "gradients is a list"),
    ],
)
def test_a_compiled_step_turns_away_what_others_do(parameters, gradients, words):
    adam = Adam()
    adam.advance({"p": np.zeros(3)}, {"p": np.ones(3)}, backend="numba")
    with pytest.raises((TypeError, ValueError), match=words):
        adam.advance(parameters, gradients, backend="numba")
    assert int(adam.state()["steps"]) == 1


def test_docstring_examples():
    got = doctest.testmod(optimizers)
    assert got.attempted
    assert not got.failed
