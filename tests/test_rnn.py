"""The front door: what it takes, what it refuses and in which words, what it returns."""

import ast
import doctest
import inspect
import pathlib
import re
import subprocess
import sys
import typing

import numpy as np
import pytest

import fastbptt
from fastbptt import Gradients, Params, kernels, losses, reference, rnn, testing

T, B, I, H, O = 4, 3, 2, 5, 6
BACKENDS = pytest.mark.parametrize("backend", list(rnn.BACKENDS))
PACKAGE = pathlib.Path(fastbptt.__file__).parent


def draw(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def arguments(function):
    """Valid arguments of one of the four functions; `out` is full of sevens."""
    if function is fastbptt.readout:
        return {"W_y": draw(H, O), "b_y": draw(O), "h": draw(T, B, H)}
    if function is fastbptt.readout_backward:
        return {"W_y": draw(H, O), "h": draw(T, B, H), "dy": draw(T, B, O)}
    params = Params(draw(I, H), draw(H, H), draw(H))
    if function is fastbptt.forward:
        given = {"h0": draw(B, H), "out": np.full((T + 1, B, H), 7, np.float32)}
    else:
        out = Params(*(np.full_like(a, 7) for a in params)), draw(T, B, I), draw(B, H)
        out[1][...] = out[2][...] = 7
        given = {"h": draw(T + 1, B, H), "dh": draw(T, B, H), "out": out}
    return {"params": params, "x": draw(T, B, I), "lengths": [4, 0, 2], **given}


def flat(out):
    """Arrays in `out`, however nested."""
    if isinstance(out, np.ndarray):
        return [out]
    return [a for part in out for a in flat(part)] if isinstance(out, tuple | list) else []


def changed(given, name, change):
    """Change one argument, or one part of it if `name` is that of a weight or a gradient."""
    if name in Params._fields:
        params = given["params"]
        return {**given, "params": params._replace(**{name: change(getattr(params, name))})}
    if name in ("dW_x", "dW_h", "db", "dx", "dh0"):
        dparams, dx, dh0 = given["out"]
        if name in ("dx", "dh0"):
            out = (dparams, change(dx), dh0) if name == "dx" else (dparams, dx, change(dh0))
        else:
            out = dparams._replace(**{name[1:]: change(getattr(dparams, name[1:]))}), dx, dh0
        return {**given, "out": out}
    return {**given, name: change(given[name])}


def assert_turned_away(function, given, error, *words):
    """Check the error, that its message has these words, and that nothing has been written."""
    outputs = flat(given.get("out"))
    before = [a.copy() for a in outputs]
    with pytest.raises(error) as caught:
        function(**given)
    for word in words:
        assert word in str(caught.value)
    for a, copy in zip(outputs, before, strict=True):
        np.testing.assert_array_equal(a, copy)


# What does not fit

# Each input, and its shape as messages spell it
SHAPES = {
    "W_x": "(2, 5): (I, H)",
    "W_h": "(5, 5): (H, H)",
    "b": "(5,): (H,)",
    "x": "(T, B, I)",
    "h0": "(3, 5): (B, H)",
    "h": "(5, 3, 5): (T + 1, B, H)",
    "dh": "(4, 3, 5): (T, B, H)",
}
TAKEN_BY = {
    fastbptt.forward: ("W_x", "W_h", "b", "x", "h0"),
    fastbptt.backward: ("W_x", "W_h", "b", "x", "h", "dh"),
    fastbptt.readout: ("W_y", "b_y", "h"),
    fastbptt.readout_backward: ("W_y", "h", "dy"),
}
LAYER, READOUT = list(TAKEN_BY)[:2], list(TAKEN_BY)[2:]


def functions(which):
    return pytest.mark.parametrize("function", which, ids=lambda f: f.__name__)


def inputs(which):
    return pytest.mark.parametrize(
        ("function", "name"),
        [(function, name) for function in which for name in TAKEN_BY[function]],
        ids=lambda value: value if isinstance(value, str) else value.__name__,
    )


class Quantity(np.ndarray):
    """Stands for all subclasses whose numbers may mean something else: a mask, units."""


def as_subclass(a):
    return a.view(Quantity)


@inputs(TAKEN_BY)
@pytest.mark.parametrize(
    ("change", "found"),
    [
        (np.ndarray.tolist, "list"),
        (lambda a: None, "NoneType"),
        (lambda a: a.flat[0], "float32"),
        (np.ma.masked_array, "MaskedArray"),
        (as_subclass, "Quantity"),
    ],
    ids=["list", "None", "scalar", "masked", "subclass"],
)
def test_type(function, name, change, found):
    if name == "h0" and found == "NoneType":
        return  # means zero
    given = changed(arguments(function), name, change)
    assert_turned_away(function, given, TypeError, f"{name} is a {found}", "numpy.ndarray")


@inputs(TAKEN_BY)
@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", ">f4", "complex64", "bool", "O"])
def test_dtype(function, name, dtype):
    given = changed(arguments(function), name, lambda a: a.astype(dtype))
    # The first of these sets the dtype; the second is checked next.
    first, second = ("x", "W_x") if function in LAYER else ("h", "W_y")
    if name == first and dtype == "float64":
        words = f"{second} has dtype float32", f"float64 as {first} has"
    elif name == first:
        words = f"{first} has dtype {np.dtype(dtype)}", "float32 or float64"
    else:
        words = f"{name} has dtype {np.dtype(dtype)}", f"expected float32 as {first} has"
    assert_turned_away(function, given, TypeError, *words)


@inputs(LAYER)
@pytest.mark.parametrize("axis", [None, 0, -1], ids=["rank", "first axis", "last axis"])
def test_shape(function, name, axis):
    """One axis too many, or one element too few along the first or the last axis."""

    def change(a):
        return a[None] if axis is None else np.delete(a, -1, axis)

    given = changed(arguments(function), name, change)
    shape = change(draw(*arguments_shape(function, name))).shape
    found = f"{name} has shape {shape}"
    if name == "x" and axis is not None:
        # x sets T, B and I; arguments that disagree are named
        words = ("W_x" if axis else "h",)
    elif name == "W_x" and axis == -1:
        words = "W_h has shape (5, 5)", "(4, 4): (H, H)"  # W_x sets H
    elif name in ("x", "W_x") and axis is None:
        words = found, "expected " + SHAPES[name].split(": ")[-1]
    else:
        words = found, "expected " + SHAPES[name]
    assert_turned_away(function, given, ValueError, *words)


def arguments_shape(function, name):
    given = arguments(function)
    return (getattr(given["params"], name) if name in Params._fields else given[name]).shape


@functions(LAYER)
def test_no_inputs_or_no_hidden_units(function):
    given = arguments(function)
    narrow = changed({**given, "x": given["x"][:, :, :0]}, "W_x", lambda a: a[:0])
    assert_turned_away(function, narrow, ValueError, "(4, 3, 0)", "(0, 5)", "at least 1")
    narrow = changed(given, "W_x", lambda a: a[:, :0])
    assert_turned_away(function, narrow, ValueError, "(2, 0)", "at least 1")


@functions(LAYER)
@pytest.mark.parametrize(
    "params", [None, 3, (), (1, 2), (1, 2, 3, 4)], ids=["None", "int", "0", "2", "4"]
)
def test_params(function, params):
    given = {**arguments(function), "params": params}
    assert_turned_away(
        function, given, TypeError, f"params is a {type(params).__name__}", "Params(W_x, W_h, b)"
    )


@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("W_y", (5,), "W_y (5,), h (4, 3, 5): expected (H, O) and (..., H)"),
        ("W_y", (1, 5, 6), "W_y (1, 5, 6), h (4, 3, 5): expected (H, O) and (..., H)"),
        ("h", (), "W_y (5, 6), h (): expected (H, O) and (..., H)"),
        ("W_y", (4, 6), "W_y has shape (4, 6), expected (5, 6): (H, O), H as in h (..., H)"),
        ("h", (4, 3, 7), "W_y has shape (5, 6), expected (7, 6): (H, O), H as in h (..., H)"),
        ("h", (4, 3, 0), "h (4, 3, 0) and W_y (5, 6): expected H and O of at least 1"),
        ("W_y", (5, 0), "h (4, 3, 5) and W_y (5, 0): expected H and O of at least 1"),
        ("b_y", (5,), "b_y has shape (5,), expected (6,): (O,), O as in W_y (H, O)"),
        ("b_y", (1, 6), "b_y has shape (1, 6), expected (6,): (O,), O as in W_y (H, O)"),
        ("dy", (4, 3, 5), "dy has shape (4, 3, 5), expected (4, 3, 6): (..., O), as h (..., H)"),
        ("dy", (3, 6), "dy has shape (3, 6), expected (4, 3, 6): (..., O), as h (..., H)"),
        ("dy", (12, 6), "dy has shape (12, 6), expected (4, 3, 6): (..., O), as h (..., H)"),
    ],
)
def test_shape_of_a_readout(name, shape, words):
    for function in [f for f in READOUT if name in TAKEN_BY[f]]:
        given = {**arguments(function), name: draw(*shape)}
        assert_turned_away(function, given, ValueError, words)


def test_dh_of_the_last_state_for_another_batch():
    given = changed(arguments(fastbptt.backward), "dh", lambda a: a[-1, :2])
    words = "dh has shape (2, 5)", "(4, 3, 5): (T, B, H), or (3, 5): (B, H) for the last state"
    assert_turned_away(fastbptt.backward, given, ValueError, *words)


@functions(LAYER)
@pytest.mark.parametrize(
    ("lengths", "error", "words"),
    [
        ([4, 0], ValueError, ("lengths has shape (2,)", "expected (3,): one for each")),
        (4, ValueError, ("lengths has shape ()", "expected (3,): one for each")),
        ([[4], [0], [2]], ValueError, ("lengths has shape (3, 1)", "expected (3,): one for each")),
        ([4.0, 0.0, 2.0], TypeError, ("lengths has dtype float64", "expected integers")),
        ([True, False, True], TypeError, ("lengths has dtype bool", "expected integers")),
        (["4", "0", "2"], TypeError, ("lengths has dtype <U1", "expected integers")),
        ([4, 2**70, 2], TypeError, ("lengths has dtype object", "expected integers")),
        ([4, -1, 2], ValueError, ("lengths[1] is -1", "expected 0 to 4")),
        ([4, 0, 5], ValueError, ("lengths[2] is 5", "expected 0 to 4")),
        (np.array([4, 2**64 - 1, 0], np.uint64), ValueError, (f"lengths[1] is {2**64 - 1}",)),
        ([[4], [0, 2], [1]], ValueError, ("lengths is ragged", "(3,): one for each sequence")),
        (np.ma.masked_equal([4, 0, 2], 2), TypeError, ("lengths is a MaskedArray", "a mask")),
    ],
)  # fmt: skip
def test_lengths(function, lengths, error, words):
    given = {**arguments(function), "lengths": lengths}
    assert_turned_away(function, given, error, *words)


@functions(LAYER)
@pytest.mark.parametrize("activation", ["elu", "Tanh", None, np.tanh, ["tanh"], np.array(["tanh"])])
def test_activation(function, activation):
    given = {**arguments(function), "activation": activation}
    words = f"activation is {activation!r}", "'tanh', 'relu', 'identity'"
    assert_turned_away(function, given, ValueError, *words)


@functions(TAKEN_BY)
@pytest.mark.parametrize("backend", ["torch", "reference", None, kernels, ["numba"]])
def test_backend(function, backend):
    given = {**arguments(function), "backend": backend}
    words = f"backend is {backend!r}", "'numba', 'numpy'"
    assert_turned_away(function, given, ValueError, *words)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def misaligned(a):
    return np.frombuffer(bytearray(a.nbytes + 1), np.uint8)[1:].view(a.dtype).reshape(a.shape)


OUTPUTS = pytest.mark.parametrize(
    ("function", "name", "called"),
    [
        (fastbptt.forward, "out", "out"),
        (fastbptt.backward, "dW_x", "out's gradient of W_x"),
        (fastbptt.backward, "dW_h", "out's gradient of W_h"),
        (fastbptt.backward, "db", "out's gradient of b"),
        (fastbptt.backward, "dx", "out's gradient of x"),
        (fastbptt.backward, "dh0", "out's gradient of h0"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)


@OUTPUTS
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda a: a[:-1], ValueError, ("has shape", "expected (")),
        (lambda a: a[None], ValueError, ("has shape (1, ", "expected (")),
        (lambda a: a.astype(np.float64), TypeError, ("has dtype float64", "expected float32")),
        (lambda a: a.astype(">f4"), TypeError, ("has dtype >f4", "expected float32")),
        (np.ndarray.tolist, TypeError, ("is a list", "numpy.ndarray")),
        (as_subclass, TypeError, ("is a Quantity", "numpy.ndarray")),
        (lambda a: a.repeat(2, -1)[..., ::2], ValueError, ("has strides", "C-contiguous")),
        (lambda a: a[::-1], ValueError, ("has strides", "C-contiguous")),
        (misaligned, ValueError, ("has strides", "aligned")),
        (read_only, ValueError, ("is read-only", "writeable")),
    ],
    ids=["short", "rank", "float64", "endian", "list", "subclass", "gaps", "reversed", "misaligned",
         "read-only"],
)  # fmt: skip
def test_out(function, name, called, change, error, words):
    given = changed(arguments(function), name, change)
    assert_turned_away(function, given, error, f"{called} {words[0]}", *words[1:])


@pytest.mark.parametrize(
    ("function", "name", "source", "called"),
    [
        (fastbptt.forward, "out", "x", "out"),
        (fastbptt.forward, "out", "h0", "out"),
        (fastbptt.forward, "out", "W_h", "out"),
        (fastbptt.backward, "dW_x", "W_x", "out's gradient of W_x"),
        (fastbptt.backward, "dW_h", "h", "out's gradient of W_h"),
        (fastbptt.backward, "db", "b", "out's gradient of b"),
        (fastbptt.backward, "dx", "x", "out's gradient of x"),
        (fastbptt.backward, "dh0", "dh", "out's gradient of h0"),
    ],
)
def test_out_that_overlaps_an_input(function, name, source, called):
    memory = np.full(200, 7, np.float32)
    given = changed(arguments(function), source, lambda a: memory[: a.size].reshape(a.shape))
    given = changed(given, name, lambda a: memory[3 : 3 + a.size].reshape(a.shape))
    assert_turned_away(function, given, ValueError, called, "shares memory", "memory of its own")


@pytest.mark.parametrize("source", ["h0", "W_h"])
def test_out_that_is_an_input_in_part(source):
    # Every second element, so that only an exact test for overlap lets the other half pass.
    memory = np.full((2, T + 1, B, H), 7, np.float32)
    given = arguments(fastbptt.forward)
    shape = (B, H) if source == "h0" else (H, H)
    inside = memory[0].ravel()[::2][: np.prod(shape)].reshape(shape)
    given = changed(changed(given, source, lambda a: inside), "out", lambda a: memory[0])
    assert_turned_away(fastbptt.forward, given, ValueError, "out", "shares memory")
    fastbptt.forward(**{**given, "out": memory[1]})


def test_outputs_that_overlap_each_other():
    given = arguments(fastbptt.backward)
    given = changed(given, "db", lambda a: given["out"][0].W_h[0])
    words = "out's gradient of b", "shares memory"
    assert_turned_away(fastbptt.backward, given, ValueError, *words)


def test_out_for_a_dx_that_is_not_wanted():
    given = {**arguments(fastbptt.backward), "need_dx": False}
    assert_turned_away(fastbptt.backward, given, ValueError, "dx", "None with need_dx=False")


def test_out_without_a_dx_that_is_wanted():
    given = changed(arguments(fastbptt.backward), "dx", lambda a: None)
    assert_turned_away(fastbptt.backward, given, TypeError, "gradient of x is a NoneType")


@pytest.mark.parametrize("out", [3, (1, 2), ((1, 2), None, None), np.zeros(3)])
def test_out_of_another_structure(out):
    given = {**arguments(fastbptt.backward), "out": out}
    words = f"out is a {type(out).__name__}", "(Params(dW_x, dW_h, db), dx, dh0)"
    assert_turned_away(fastbptt.backward, given, TypeError, *words)


def readout_out():
    """Memory for a readout's gradients, full of sevens."""
    return [np.full(shape, 7, np.float32) for shape in ((H, O), (O,), (T, B, H))]


@pytest.mark.parametrize(
    ("place", "change", "error", "words"),
    [
        (0, lambda a: a.T, ValueError, "out's gradient of W_y has shape (6, 5), expected (5, 6)"),
        (0, lambda a: np.asfortranarray(a), ValueError, "of W_y has strides"),
        (0, lambda a: a.astype("f8"), TypeError, "of W_y has dtype float64, expected float32"),
        (1, lambda a: None, TypeError, "out's gradient of b_y is a NoneType"),
        (1, lambda a: a[:5], ValueError, "out's gradient of b_y has shape (5,), expected (6,)"),
        (2, lambda a: None, TypeError, "out's gradient of h is a NoneType"),
        (2, lambda a: a[0], ValueError, "out's gradient of h has shape (3, 5), expected (4, 3, 5)"),
        (2, lambda a: a[:, ::-1], ValueError, "out's gradient of h has strides"),
    ],
)
def test_out_of_a_readout(place, change, error, words):
    out = readout_out()
    out[place] = change(out[place])
    given = {**arguments(fastbptt.readout_backward), "out": out}
    assert_turned_away(fastbptt.readout_backward, given, error, words)


@pytest.mark.parametrize("source", ["W_y", "h", "dy"])
def test_out_of_a_readout_that_overlaps(source):
    """An input, or another output; or it cannot be written to, or is not wanted."""
    function, given = fastbptt.readout_backward, {"out": readout_out()}
    given = {**arguments(function), **given}
    memory = np.full(200, 7, np.float32)
    inside = changed(given, source, lambda a: memory[: a.size].reshape(a.shape))
    inside["out"] = [*given["out"][:2], memory[7 : 7 + T * B * H].reshape(T, B, H)]
    assert_turned_away(function, inside, ValueError, "out's gradient of h", "shares memory")
    dW_y, _, dh = given["out"]
    each_other = {**given, "out": (dW_y, dW_y[0], dh)}
    assert_turned_away(function, each_other, ValueError, "out's gradient of b_y", "shares memory")
    not_wanted = {**given, "need_dh": False}
    assert_turned_away(function, not_wanted, ValueError, "dh", "None with need_dh=False")
    dh.flags.writeable = False
    assert_turned_away(function, given, ValueError, "out's gradient of h is read-only")


@pytest.mark.parametrize("out", [3, (1, 2), np.zeros(2)])
def test_out_of_a_readout_of_another_structure(out):
    given = {**arguments(fastbptt.readout_backward), "out": out}
    words = f"out is a {type(out).__name__}", "expected (dW_y, db_y, dh)"
    assert_turned_away(fastbptt.readout_backward, given, TypeError, *words)


# What fits


@BACKENDS
@pytest.mark.parametrize("need_dh", [True, False])
def test_gradients_of_a_readout_in_memory_given(need_dh, backend):
    given = {**arguments(fastbptt.readout_backward), "backend": backend, "need_dh": need_dh}
    expected = fastbptt.readout_backward(**given)
    out = readout_out() if need_dh else [*readout_out()[:2], None]
    got = fastbptt.readout_backward(**given, out=out)
    for a, b, memory in zip(got, expected, out, strict=True):
        assert a is memory
        if b is not None:
            np.testing.assert_array_equal(a, b)


@BACKENDS
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_returned_types(backend, dtype):
    params = Params(*(a.astype(dtype) for a in arguments(fastbptt.forward)["params"]))
    x = draw(T, B, I, dtype=dtype)
    h = fastbptt.forward(params, x, backend=backend)
    gradients = fastbptt.backward(params, x, h, h[1:], backend=backend)
    assert isinstance(gradients, Gradients)
    assert isinstance(gradients.params, Params)
    assert [a.shape for a in flat((h, gradients))] == [
        (T + 1, B, H),
        *(a.shape for a in params),
        (T, B, I),
        (B, H),
    ]
    assert {a.dtype for a in flat((h, gradients))} == {np.dtype(dtype)}
    assert {type(a) for a in flat((h, gradients))} == {np.ndarray}


@BACKENDS
def test_the_state_begins_at_zero_or_at_h0(backend):
    params, x, h0 = (arguments(fastbptt.forward)[name] for name in ("params", "x", "h0"))
    got = fastbptt.forward(params, x, backend=backend)
    expected = fastbptt.forward(params, x, np.zeros((B, H), np.float32), backend=backend)
    np.testing.assert_array_equal(got, expected)
    assert not got[0].any()
    np.testing.assert_array_equal(fastbptt.forward(params, x, h0, backend=backend)[0], h0)


@BACKENDS
@pytest.mark.parametrize("lengths", [None, [4, 0, 2]], ids=["full", "ragged"])
def test_without_dx_the_rest_is_the_same(backend, lengths):
    given = {**arguments(fastbptt.backward), "lengths": lengths, "backend": backend, "out": None}
    full, rest = fastbptt.backward(**given), fastbptt.backward(**given, need_dx=False)
    assert rest.x is None
    for got, expected in zip(flat(rest), flat((full.params, full.h0)), strict=True):
        np.testing.assert_array_equal(got, expected)


@BACKENDS
def test_out_is_filled_and_returned(backend):
    given = {**arguments(fastbptt.forward), "backend": backend}
    assert fastbptt.forward(**given) is given["out"]
    np.testing.assert_array_equal(given["out"], fastbptt.forward(**{**given, "out": None}))

    given = {**arguments(fastbptt.backward), "backend": backend}
    gradients = fastbptt.backward(**given)
    assert all(a is b for a, b in zip(flat(gradients), flat(given["out"]), strict=True))
    expected = fastbptt.backward(**{**given, "out": None})
    for got, a in zip(flat(gradients), flat(expected), strict=True):
        np.testing.assert_array_equal(got, a)

    dparams, _, dh0 = given["out"]
    gradients = fastbptt.backward(**{**given, "out": (tuple(dparams), None, dh0), "need_dx": False})
    assert gradients.x is None
    assert gradients.h0 is dh0
    assert isinstance(gradients.params, Params)


@BACKENDS
@pytest.mark.parametrize("dtype", ["int8", "int32", "uint64"])
def test_lengths_of_any_integer(backend, dtype):
    given = {**arguments(fastbptt.forward), "backend": backend, "out": None}
    lengths = np.array([4, 9, 0, 9, 2, 9], dtype)[::2]
    np.testing.assert_array_equal(
        fastbptt.forward(**{**given, "lengths": lengths}), fastbptt.forward(**given)
    )


@BACKENDS
def test_takes_what_numpy_maps_from_a_file(backend, tmp_path):
    given = {**arguments(fastbptt.forward), "backend": backend, "out": None}
    x = np.memmap(tmp_path / "x", np.float32, "w+", shape=(T, B, I))
    x[...] = given["x"]
    got = fastbptt.forward(**{**given, "x": x})
    np.testing.assert_array_equal(got, fastbptt.forward(**given))
    W_y, b_y = draw(I, O), draw(O)
    y = fastbptt.readout(W_y, b_y, x, backend=backend)
    assert type(y) is np.ndarray
    np.testing.assert_array_equal(y, fastbptt.readout(W_y, b_y, given["x"], backend=backend))


@BACKENDS
@pytest.mark.parametrize("shape", [(0, B), (T, 0), (0, 0)], ids=["T=0", "B=0", "both 0"])
def test_no_steps_or_no_sequences(backend, shape):
    params, x = arguments(fastbptt.forward)["params"], np.zeros((*shape, I), np.float32)
    for lengths in (None, np.zeros(shape[1], int), [0] * shape[1]):
        h = fastbptt.forward(params, x, lengths=lengths, backend=backend)
        dh = draw(shape[1], H)
        gradients = fastbptt.backward(params, x, h, dh, lengths=lengths, backend=backend)
        np.testing.assert_array_equal(h, np.zeros((shape[0] + 1, shape[1], H)))
        assert not any(a.any() for a in gradients.params)
        np.testing.assert_array_equal(gradients.h0, dh)


@BACKENDS
def test_tanh_of_infinity(backend):
    params = Params(*(np.ones(s, np.float32) for s in ((1, H), (H, H), (H,))))
    x = np.array([np.inf, -np.inf], np.float32).reshape(1, 2, 1)
    h = fastbptt.forward(params, x, backend=backend)
    np.testing.assert_array_equal(h[1], [[1] * H, [-1] * H])


# Leading shapes of states: none, of no rows, and of several axes
LEADING = pytest.mark.parametrize("leading", [(), (B,), (T, B), (2, T, B), (0,), (T, 0)], ids=str)


@BACKENDS
@LEADING
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_readout_of_any_leading_shape(backend, leading, dtype):
    W_y, b_y, h, dy = (draw(*shape) for shape in ((H, O), (O,), (*leading, H), (*leading, O)))
    given = [a.astype(dtype) for a in (W_y, b_y, h, dy)]
    y = fastbptt.readout(*given[:3], backend=backend)
    dW_y, db_y, dh = fastbptt.readout_backward(given[0], *given[2:], backend=backend)
    W_y, b_y, h, dy = (a.astype(np.float64) for a in given)
    for got, expected in (
        (y, h @ W_y + b_y),
        (dW_y, np.einsum("nh,no->ho", h.reshape(-1, H), dy.reshape(-1, O))),
        (db_y, dy.reshape(-1, O).sum(axis=0)),
        (dh, dy @ W_y.T),
    ):
        assert type(got) is np.ndarray
        assert got.dtype == dtype
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=0, atol=200 * np.finfo(dtype).eps)


@BACKENDS
def test_readout_without_dh_the_rest_is_the_same(backend):
    given = {**arguments(fastbptt.readout_backward), "backend": backend}
    dW_y, db_y, dh = fastbptt.readout_backward(**given, need_dh=False)
    expected = fastbptt.readout_backward(**given)
    assert dh is None
    np.testing.assert_array_equal(dW_y, expected[0])
    np.testing.assert_array_equal(db_y, expected[1])


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a.transpose(1, 0, 2),  # batch-major
        lambda a: a[1:, :-1],
        lambda a: a[::-1, ::2],
        lambda a: a.repeat(2, axis=-1)[..., ::2],
        lambda a: a[..., ::-1],
        lambda a: np.broadcast_to(a[:1, :1], a.shape),
        lambda a: np.broadcast_to(a[0, 0, 0], a.shape),
        lambda a: np.asfortranarray(a),
        read_only,
        misaligned,
    ],
    ids=["batch-major", "part", "steps", "gaps", "reversed", "one row", "one number", "F",
         "read-only", "misaligned"],
)  # fmt: skip
def test_readout_of_any_strides(view):
    W_y, b_y = draw(H, O), draw(O)
    h, dy = view(draw(T, B, H)), view(draw(T, B, O))
    got = [fastbptt.readout(W_y, b_y, h), *fastbptt.readout_backward(W_y, h, dy)]
    h, dy = h.copy(), dy.copy()
    expected = [fastbptt.readout(W_y, b_y, h), *fastbptt.readout_backward(W_y, h, dy)]
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_warmup():
    fastbptt.warmup()
    fastbptt.warmup("float64")
    with pytest.raises(TypeError, match="dtype is 'float16', expected 'float32' or 'float64'"):
        fastbptt.warmup("float16")


# init_params


@pytest.mark.parametrize("dtype", ["float32", np.float64])
def test_init_params(dtype):
    params = fastbptt.init_params(30, 20, dtype=dtype, seed=0)
    assert isinstance(params, Params)
    assert [a.shape for a in params] == [(30, 20), (20, 20), (20,)]
    assert {a.dtype for a in params} == {np.dtype(dtype)}
    limit = np.sqrt(6 / 50)
    assert 0.95 * limit < np.abs(params.W_x).max() <= limit
    assert abs(params.W_x.mean()) < 0.1 * limit  # four standard deviations
    tolerance = 10 * np.finfo(dtype).eps
    np.testing.assert_allclose(params.W_h @ params.W_h.T, np.eye(20), rtol=0, atol=tolerance)
    assert not params.b.any()


def test_init_params_of_one_unit():
    W_h = [fastbptt.init_params(1, 1, seed=seed).W_h.item() for seed in range(20)]
    assert set(W_h) == {-1.0, 1.0}


def test_init_params_repeats_by_seed():
    def init(seed):
        return np.concatenate([a.ravel() for a in fastbptt.init_params(3, 5, seed=seed)])

    np.testing.assert_array_equal(init(1), init(1))
    np.testing.assert_array_equal(init(np.random.default_rng(1)), init(1))
    assert (init(1) != init(2)).any()
    assert (init(None) != init(None)).any()


@pytest.mark.parametrize("name", ["input_size", "hidden_size"])
@pytest.mark.parametrize(
    ("size", "error", "words"),
    [
        (0, ValueError, "is 0, expected at least 1"),
        (-3, ValueError, "is -3, expected at least 1"),
        (2.0, TypeError, "is 2.0, expected an integer"),
        ("2", TypeError, "is '2', expected an integer"),
        (None, TypeError, "is None, expected an integer"),
    ],
)
def test_init_params_sizes(name, size, error, words):
    with pytest.raises(error, match=re.escape(f"{name} {words}")):
        fastbptt.init_params(**{"input_size": 2, "hidden_size": 3, name: size})


@pytest.mark.parametrize("dtype", ["float16", "int32", ">f4", "nonsense", None])
def test_init_params_dtype(dtype):
    with pytest.raises(TypeError, match=re.escape(f"dtype is {dtype!r}, expected 'float32'")):
        fastbptt.init_params(2, 3, dtype=dtype)


def test_init_params_takes_numpy_integers():
    assert fastbptt.init_params(np.int8(2), np.uint64(3)).W_x.shape == (2, 3)


# How the package hangs together


@functions(TAKEN_BY)
def test_backends_have_one_signature(function):
    got, expected = (inspect.signature(getattr(m, function.__name__)) for m in (kernels, reference))
    assert got == expected


@functions([*TAKEN_BY, fastbptt.init_params, fastbptt.warmup])
def test_docstrings_name_every_parameter(function):
    doc = inspect.getdoc(function) or ""
    parameters = doc.split("Parameters\n")[1].split("\n\n")[0]
    named = {n for line in parameters.splitlines() for n in line.split(" : ")[0].split(", ")}
    assert named >= set(inspect.signature(function).parameters)


def test_importing_the_package_does_not_import_numba():
    code = (
        "import sys, fastbptt, numpy as np;"
        "p = fastbptt.init_params(2, 3);"
        "fastbptt.forward(p, np.ones((1, 1, 2), 'f'), backend='numpy');"
        "print(*{'numba', 'llvmlite'} & set(sys.modules))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == []


# Each module imports from lower layers only; what is not named here is the top.
LAYERS = (
    {"_notice", "_names", "_draws"},
    {"_uninterrupted"},
    {"reference"},
    {"_checks", "_extras"},
    {"_leak", "_noise"},
    {"kernels", "rnn"},
    {"losses", "optimizers", "testing", "tasks", "_stack", "_penalties", "_shares", "jax"},
    {"_criterion", "_constraints", "checkpointed"},
    {"_sequences", "_network"},
    {"_weights", "_sources", "datasets"},
    {"model", "_repeated"},
    {"_storage", "_exchange", "_fixed_points"},
    {"training", "diagnostics", "onnx", "_keras"},
)
# RNN's methods import these when they are called.
BY_METHODS = {"torch", "_keras"}
TOP = len(LAYERS)


def layer(module):
    return next((n for n, names in enumerate(LAYERS) if module in names), TOP)


def imported_modules(path):
    """Names of the package's modules that a file imports; "fastbptt" for the package itself."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            first, *rest = name.split(".")
            if first == "fastbptt":
                known = rest and (
                    (PACKAGE / rest[0]).is_dir() or (PACKAGE / f"{rest[0]}.py").exists()
                )
                yield rest[0] if known else "fastbptt"


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_one_way(path):
    module = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    names = set(imported_modules(path))
    if module == "__init__":
        named = {"rnn", "checkpointed", "model", "optimizers", "_storage", "training", "_extras",
                 "_leak", "_noise", "_constraints"}  # fmt: skip
        assert names <= named | set(dir(fastbptt))  # the modules among these at first use
        return
    allowed = {name for name in names if layer(name) < layer(module)}
    if module == "testing":
        allowed &= {"reference", "_noise"}  # not what it judges
    if module == "kernels":
        allowed |= {"kernels"}
    if module == "model":
        allowed |= BY_METHODS
    if layer(module) == TOP:
        allowed = names
    assert names <= allowed


def test_the_front_door_imports_no_backend():
    assert set(imported_modules(PACKAGE / "rnn.py")) == {
        "_checks", "_draws", "_leak", "_noise", "_uninterrupted",
    }  # fmt: skip
    assert set(imported_modules(PACKAGE / "_checks.py")) == {"reference"}


@pytest.mark.parametrize("module", [rnn, testing], ids=lambda m: m.__name__)
def test_docstring_examples(module):
    got = doctest.testmod(module)
    assert got.attempted
    assert not got.failed


def test_types_name_every_word():
    assert typing.get_args(rnn.Activation) == reference.ACTIVATIONS
    assert typing.get_args(rnn.Backend) == tuple(rnn.BACKENDS)
    assert typing.get_args(losses.LossName) == tuple(losses.LOSSES)
