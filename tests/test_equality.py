"""The kernels do what the reference does, and the conformance kit notices if they do not."""

import inspect
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import as_strided

import fastbptt
from fastbptt import kernels, reference, testing
from fastbptt.testing import Case, check_backend, check_batch_invariance, check_case

SHAPES = testing.awkward_shapes()
SOME_SHAPES = testing.awkward_shapes(passes=1)[::2]


def each(test):
    for name, values in (("activation", testing.ACTIVATIONS), ("dtype", testing.DTYPES)):
        test = pytest.mark.parametrize(name, values)(test)
    return test


def some(shapes, activation):
    """Shapes for an activation, so that every dtype meets each with one of the first three.

    With one of the others too: of these the kit itself leaves out two in three.
    """
    number = testing.ACTIVATIONS.index(activation)
    return shapes[number::3] if number < 3 else shapes


@each
def test_kernels_conform(dtype, activation):
    shapes = some(SHAPES, activation)
    check_backend(kernels, dtypes=[dtype], activations=[activation], shapes=shapes)


@pytest.mark.slow
@each
def test_kernels_conform_in_every_shape(dtype, activation):
    check_backend(kernels, dtypes=[dtype], activations=[activation])


@each
def test_a_sequence_does_not_depend_on_its_batch(dtype, activation):
    shapes = some(SHAPES, activation)
    check_batch_invariance(kernels, dtypes=[dtype], activations=[activation], shapes=shapes)


@each
def test_the_reference_conforms(dtype, activation):
    shapes = some(SOME_SHAPES, activation)
    check_backend(reference, dtypes=[dtype], activations=[activation], shapes=shapes)


class FrontDoor:
    """The public functions as a backend."""

    @staticmethod
    def forward(params, x, h, lengths, activation, leak=None, noise=None, v=None):
        options = {"lengths": lengths, "activation": activation, "noise": noise}
        leak = leak and fastbptt.Leak(*leak)
        if v is None:
            h[...] = fastbptt.forward(params, x, h[0], leak=leak, **options)
        else:
            v0 = (v if v.ndim == 2 else v[0]).copy()
            h[...] = fastbptt.forward(params, x, v0, leak=leak, v=v, **options)

    @staticmethod
    def backward(params, x, h, dh, dparams, dx, dh0, lengths, activation, leak=None, dv=None):
        leak = leak and fastbptt.Leak(*leak)
        options = {"lengths": lengths, "activation": activation, "need_dx": dx is not None}
        got = fastbptt.backward(params, x, h, dh, leak=leak, dv=dv, **options)
        for out, a in zip((*dparams, dh0), (*got.params, got.h0), strict=True):
            out[...] = a
        if dx is not None:
            dx[...] = got.x

    @staticmethod
    def readout(W_y, b_y, h, y):
        y[...] = fastbptt.readout(W_y, b_y, h)

    @staticmethod
    def readout_backward(W_y, h, dy, dW_y, db_y, dh):
        got = fastbptt.readout_backward(W_y, h, dy, need_dh=dh is not None)
        for out, a in zip((dW_y, db_y, dh), got, strict=True):
            if out is not None:
                out[...] = a


OPTIONS = {
    "dtype": st.sampled_from(testing.DTYPES),
    "activation": st.sampled_from(testing.ACTIVATIONS),
    "lengths": st.sampled_from(testing.LENGTHS),
    "last_only": st.booleans(),
    "need_dx": st.booleans(),
    "layouts": st.tuples(*(st.sampled_from(testing.LAYOUTS[name]) for name in testing.INPUTS)),
    "leak": st.sampled_from(testing.LEAKS),
    "alpha": st.sampled_from(testing.ALPHAS),
    "noise": st.booleans(),
    "every_v": st.booleans(),
}


def shapes(T, B, I, H):
    """Up to these."""
    return st.tuples(st.integers(0, T), st.integers(0, B), st.integers(1, I), st.integers(1, H))


@given(shape=shapes(6, 20, 20, 40), **OPTIONS)
@settings(max_examples=100)
def test_drawn_cases_through_the_front_door(**options):
    check_case(FrontDoor, Case(**options))


@pytest.mark.slow
@given(shape=shapes(9, 40, 70, 140), **OPTIONS)
@settings(max_examples=300)
def test_drawn_cases_of_larger_shapes_through_the_front_door(**options):
    check_case(FrontDoor, Case(**options))


@each
def test_weights_of_zero_strides(dtype, activation):
    """The kit leaves them out; they are read like any others, so the bits are the same."""
    rng = np.random.default_rng(0)
    x, column = (rng.standard_normal(shape).astype(dtype) / 9 for shape in ((5, 3, 17), (17, 1)))
    for W in (np.broadcast_to(a, (17, 17)) for a in (column, column.T, column[:1])):
        views = fastbptt.Params(W, W, W[0])
        copies = fastbptt.Params(*(a.copy() for a in views))
        h = fastbptt.forward(copies, x, activation=activation)
        np.testing.assert_array_equal(fastbptt.forward(views, x, activation=activation), h)
        got, expected = (
            fastbptt.backward(params, x, h, h[1:], activation=activation)
            for params in (views, copies)
        )
        for a, b in zip((*got.params, *got[1:]), (*expected.params, *expected[1:]), strict=True):
            np.testing.assert_array_equal(a, b)


# A kit that cannot fail is a defect.  Here are faults, and what the kit says of each.

FAULTS = []
FUNCTIONS = "forward", "backward", "readout", "readout_backward"
WHOLE = {name: getattr(reference, name) for name in FUNCTIONS}


def needed(function):
    """How many arguments a function must be given."""
    found = inspect.signature(function).parameters.values()
    return sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in found)


def fault(finding):
    """Register a faulty function of a backend; the number of its arguments tells which one.

    One that takes no more than it must is given no leak and no noise.
    """
    names = {needed(f): name for name, f in WHOLE.items()}

    def register(function):
        name = names[needed(function)]
        FAULTS.append(pytest.param({name: function}, finding, id=function.__name__))
        return function

    return register


def backend(**functions):
    return SimpleNamespace(**{**WHOLE, **functions})


def beside(a, direction):
    """The element of memory after an array's last one (1), or before its first (-1), as (1,)."""
    edge = a[(slice(-1, None) if direction > 0 else slice(0, 1),) * a.ndim]
    return as_strided(edge, (2,), (direction * a.itemsize,))[1:]


@fault("h: error")
def error_of_1e_5_in_h(params, x, h, lengths, activation):
    reference.forward(params, x, h, lengths, activation)
    h[1:] *= 1 + 1e-5


@fault("db: error")
def error_of_1e_5_in_db(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    dparams[2][...] *= 1 + 1e-5


@fault("h: error")
def half_precision_inside(params, x, h, lengths, activation):
    reference.forward(params, x.astype(np.float16).astype(x.dtype), h, lengths, activation)


@fault("h: error")
def no_bias(params, x, h, lengths, activation):
    reference.forward((*params[:2], np.zeros_like(params[2])), x, h, lengths, activation)


@fault("error")
def W_h_not_transposed(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    W_x, W_h, b = params
    reference.backward((W_x, W_h.T, b), x, h, dh, dparams, dx, dh0, lengths, activation)


@fault("dW_h: error")
def dW_h_transposed(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    dparams[1][...] = dparams[1].T.copy()


@fault("h: error nan")
def last_column_not_written(params, x, h, lengths, activation):
    before = h[1:, :, -1].copy()
    reference.forward(params, x, h, lengths, activation)
    h[1:, :, -1] = before


@fault("h: error nan")
def only_one_block_of_the_batch(params, x, h, lengths, activation):
    few = None if lengths is None else lengths[:64]
    reference.forward(params, x[:, :64], h[:, :64], few, activation)


@fault("error nan")
def adds_to_what_an_output_held(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    before = dparams[2].copy()
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    dparams[2][...] += before


@fault("dx: error nan")
def dx_not_cleared_past_a_length(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    if dx is not None and lengths is not None:
        dx[np.arange(len(x))[:, None] >= lengths] = np.nan


@fault("error")
def strides_not_heeded(params, x, h, lengths, activation):
    if x.size:
        x = as_strided(x, x.shape, np.empty(x.shape, x.dtype).strides)
    reference.forward(params, x, h, lengths, activation)


@fault("h: error nan")
def reads_past_the_end(params, x, h, lengths, activation):
    reference.forward(params, x, h, lengths, activation)
    if x.size:
        h[1:] += 0 * beside(x, 1)


@fault("dh0: error nan")
def reads_before_the_start(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    if dh.size:
        dh0 += 0 * beside(dh, -1)


@fault("h: memory outside of it was written to")
def writes_past_the_end(params, x, h, lengths, activation):
    reference.forward(params, x, h, lengths, activation)
    if h.size:
        beside(h, 1)[...] = 0


@fault("dW_x: memory outside of it was written to")
def writes_before_the_start(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    beside(dparams[0], -1)[...] = 0


@fault("x, an input, was written to")
def writes_to_an_input(params, x, h, lengths, activation):
    reference.forward(params, x, h, lengths, activation)
    if x.size and x.flags.writeable:
        x[0, 0, 0] = np.nextafter(x[0, 0, 0], 9)


@fault("dh, an input, was written to")
def writes_into_the_gaps_of_an_input(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    if dh.size and dh.flags.writeable:
        beside(dh, 1)[...] = 0


@fault("h[0], the initial state: ")
def writes_to_the_initial_state(params, x, h, lengths, activation):
    reference.forward(params, x, h, lengths, activation)
    h[0] = 0


@fault("error nan")
def forward_without_lengths(params, x, h, lengths, activation):
    reference.forward(params, x, h, None, activation)


@fault("nan")
def backward_without_lengths(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, None, activation)


@fault("h past a sequence's length: ")
def state_not_held_to_the_bit(params, x, h, lengths, activation):
    reference.forward(params, x, h, lengths, activation)
    past = [] if lengths is None else np.argwhere(np.arange(len(x))[:, None] >= lengths)
    if len(past) and h.size > 99:  # where one element counts for little in the mean error
        t, b = past[-1]
        h[t + 1, b, 0] = np.nextafter(h[t + 1, b, 0], 9)


@fault("with NaN, not 0, in the padding")
def padding_changes_a_bit(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    if lengths is not None and lengths.min(initial=len(x)) < len(x) and not np.isnan(x).any():
        dparams[2][...] *= 1 + 2e-7


@fault("with 3 more padded steps")
def more_padding_changes_a_bit(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    if lengths is not None and len(x) == lengths.max(initial=0) + 3:
        dparams[2][...] *= 1 + 2e-7


@fault("h with NaN in x[")
def a_nan_spreads_to_other_rows(params, x, h, lengths, activation):
    reference.forward(params, x, h, lengths, activation)
    if lengths is None:
        h[1:] += 0 * x.sum()


@fault("h with NaN in x[")
def a_nan_is_swallowed(params, x, h, lengths, activation):
    reference.forward(params, np.nan_to_num(x), h, lengths, activation)


@fault("dx with NaN in dh[")
def a_nan_spreads_in_dx(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    if dx is not None and lengths is None:
        dx += 0 * dh.sum()


@fault("dW_x with NaN in x[")
def a_nan_spreads_in_dW_x(params, x, h, dh, dparams, dx, dh0, lengths, activation):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation)
    if lengths is None:
        dparams[0][...] += 0 * x.sum()


# Faults of cells that leak or are noisy.


@fault("h: error")
def leak_forgotten(params, x, h, lengths, activation, leak=None, noise=None, v=None):
    if v is None:
        leak = None
    reference.forward(params, x, h, lengths, activation, leak, noise, v)


@fault("h: error")
def noise_forgotten(params, x, h, lengths, activation, leak=None, noise=None, v=None):
    reference.forward(params, x, h, lengths, activation, leak, None, v)


@fault("error")
def leak_of_the_other_form(params, x, h, lengths, activation, leak=None, noise=None, v=None):
    if leak is not None and v is not None:
        h[0], leak = v if v.ndim == 2 else v[0], (leak[0], "rate")
    reference.forward(params, x, h, lengths, activation, leak, noise, None)


@fault("v: error")
def last_potentials_not_written(params, x, h, lengths, activation, leak=None, noise=None, v=None):
    reference.forward(params, x, h, lengths, activation, leak, noise, None if v is None else v + 0)


@fault("v past a sequence's length: ")
def potentials_not_held(params, x, h, lengths, activation, leak=None, noise=None, v=None):
    reference.forward(params, x, h, lengths, activation, leak, noise, v)
    if v is not None and v.ndim == 3 and lengths is not None and v.size > 99:
        past = np.argwhere(np.arange(len(x))[:, None] >= lengths)
        if len(past):
            t, b = past[-1]
            v[t + 1, b, 0] = np.nextafter(v[t + 1, b, 0], 9)


@fault("h with NaN in noise[")
def a_nan_of_noise_spreads(params, x, h, lengths, activation, leak=None, noise=None, v=None):
    reference.forward(params, x, h, lengths, activation, leak, noise, v)
    if noise is not None and lengths is None:
        h[1:] += 0 * noise.sum()


@fault("dh0: error")
def leak_not_carried_back(
    params, x, h, dh, dparams, dx, dh0, lengths, activation, leak=None, dv=None
):  # fmt: skip
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation, leak, dv)
    if leak is not None:
        dh0 *= leak[0]


@fault("error")
def slope_at_the_rate(
    params, x, h, dh, dparams, dx, dh0, lengths, activation, leak=None, dv=None
):  # fmt: skip
    """Of rates, f' is taken at h_t rather than at f(z_t)."""
    if leak is not None and leak[1] == "rate":
        leak = np.ones_like(leak[0]), leak[1]
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation, leak, dv)


@fault("error")
def dv_forgotten(params, x, h, dh, dparams, dx, dh0, lengths, activation, leak=None, dv=None):
    reference.backward(params, x, h, dh, dparams, dx, dh0, lengths, activation, leak)


calls = 0


@fault("h on repeating the call")
def another_bit_every_time(params, x, h, lengths, activation):
    global calls
    calls += 1
    reference.forward(params, x, h, lengths, activation)
    if calls % 2:
        h[1:] = np.nextafter(h[1:], 9)


@fault("h with noise that is drawn")
def draws_the_noise_of_another_step(
    params, x, h, lengths, activation, leak=None, noise=None, v=None
):
    if isinstance(noise, fastbptt.Noise):
        noise = noise.at(step=1)
    reference.forward(params, x, h, lengths, activation, leak, noise, v)


@fault("readout: y: error")
def no_b_y(W_y, b_y, h, y):
    reference.readout(W_y, np.zeros_like(b_y), h, y)


@fault("readout: y: error nan")
def only_64_rows(W_y, b_y, h, y):
    reference.readout(W_y, b_y, h[:64], y[:64])


@fault("readout: y: error")
def strides_of_h_not_heeded(W_y, b_y, h, y):
    if h.size:
        h = as_strided(h, h.shape, np.empty(h.shape, h.dtype).strides)
    reference.readout(W_y, b_y, h, y)


@fault("readout: y with NaN in h[")
def a_nan_spreads_in_y(W_y, b_y, h, y):
    reference.readout(W_y, b_y, h, y)
    y += 0 * h.sum()


@fault("readout: y: memory outside of it was written to")
def writes_past_the_end_of_y(W_y, b_y, h, y):
    reference.readout(W_y, b_y, h, y)
    if y.size:
        beside(y, 1)[...] = 0


@fault("readout: y on repeating the call")
def another_bit_of_y_every_time(W_y, b_y, h, y):
    global calls
    calls += 1
    reference.readout(W_y, b_y, h, y)
    if calls % 2 and y.size > 99:  # where one element counts for little in the mean error
        y[0, 0] = np.nextafter(y[0, 0], 9)


@fault("readout: dh: error")
def W_y_not_transposed(W_y, h, dy, dW_y, db_y, dh):
    reference.readout_backward(W_y.reshape(W_y.shape[::-1]).T, h, dy, dW_y, db_y, dh)


@fault("readout: dW_y: error")
def dW_y_transposed(W_y, h, dy, dW_y, db_y, dh):
    reference.readout_backward(W_y, h, dy, dW_y, db_y, dh)
    dW_y[...] = dW_y.T.reshape(dW_y.shape)


@fault("readout: db_y: error nan")
def adds_to_what_db_y_held(W_y, h, dy, dW_y, db_y, dh):
    before = db_y.copy()
    reference.readout_backward(W_y, h, dy, dW_y, db_y, dh)
    db_y += before


@fault("readout: dW_y: error nan")
def nothing_written_without_rows(W_y, h, dy, dW_y, db_y, dh):
    if len(h):
        reference.readout_backward(W_y, h, dy, dW_y, db_y, dh)


@fault("readout: dh: error nan")
def dh_not_written(W_y, h, dy, dW_y, db_y, dh):
    reference.readout_backward(W_y, h, dy, dW_y, db_y, None)


@fault("readout: dW_y: error")
def dW_y_wrong_without_dh(W_y, h, dy, dW_y, db_y, dh):
    reference.readout_backward(W_y, h, dy, dW_y, db_y, dh)
    if dh is None:
        dW_y[...] = 0


@fault("readout: dh with NaN in dy[")
def a_nan_spreads_in_dh(W_y, h, dy, dW_y, db_y, dh):
    reference.readout_backward(W_y, h, dy, dW_y, db_y, dh)
    if dh is not None:
        dh += 0 * dy.sum()


@fault("readout: h, an input, was written to")
def writes_to_the_states_read(W_y, h, dy, dW_y, db_y, dh):
    reference.readout_backward(W_y, h, dy, dW_y, db_y, dh)
    if h.size and h.flags.writeable:
        h[0, 0] = np.nextafter(h[0, 0], 9)


@pytest.mark.parametrize(("functions", "finding"), FAULTS)
def test_the_kit_finds(functions, finding):
    cells = all(needed(f) < len(inspect.signature(f).parameters) for f in functions.values())
    # Larger shapes first: the faults show there, after fewer draws.
    shapes = [(t, 16 - t, 3, 7 * t) for t in range(2, 9)] if cells else SOME_SHAPES[::-1]
    with pytest.raises(AssertionError) as caught:
        check_backend(backend(**functions), dtypes=["float32"], shapes=shapes, cells=cells)
    message = str(caught.value)
    assert finding in message
    assert message.startswith("T=")  # the case


def test_the_kit_finds_single_precision_in_double():
    def forward(params, x, h, lengths, activation):
        rounded = [a.astype(np.float32).astype(np.float64) for a in params]
        reference.forward(rounded, x, h, lengths, activation)

    with pytest.raises(AssertionError, match=r"float64 tanh.* h: error"):
        check_backend(backend(forward=forward), dtypes=["float64"], cells=False)


def test_the_kit_names_the_case_of_an_exception():
    def forward(params, x, h, lengths, activation):
        raise MemoryError

    with pytest.raises(MemoryError) as caught:
        check_backend(backend(forward=forward))
    assert caught.value.__notes__[0].startswith("T=0 B=3 I=2 H=5 float32 tanh, lengths ")


def test_the_kit_finds_batch_mates_that_matter():
    def forward(params, x, h, lengths, activation):
        reference.forward(params, x, h, lengths, activation)
        if x.shape[1] > 1:
            h[1:] = np.nextafter(h[1:], 9)

    def readout(W_y, b_y, h, y):
        reference.readout(W_y, b_y, h, y)
        if len(h) > 1:
            y[...] = np.nextafter(y, 9)

    with pytest.raises(AssertionError, match=r"h of sequences .* alone"):
        check_batch_invariance(backend(forward=forward), dtypes=["float32"], cells=False)
    with pytest.raises(AssertionError, match=r"y of rows .* on their own"):
        check_batch_invariance(backend(readout=readout), dtypes=["float32"], shapes=[(1, 2, 3, 4)])


# The comparison


def spread(error):
    """One draw of a result whose exact values are 0 … 1, `error` off at one place."""
    exact = np.linspace(0, 1, 9)
    off = exact.astype(np.float32)
    off[3] += error
    return [off], [exact]


def test_accurate_is_twice_the_plain_error():
    plain, exact = spread(1e-3)
    testing.assert_accurate(spread(1.9e-3)[0], [plain], exact)
    with pytest.raises(AssertionError, match=r"result: error 0\.0007, bound 0\.000667,"):
        testing.assert_accurate(spread(2.1e-3)[0], [plain], exact)


def test_accurate_is_an_ulp_where_the_plain_error_is_zero():
    plain, exact = spread(0)
    ulp = 2.0**-23  # of the largest value, 1
    testing.assert_accurate(spread(0.75 * ulp)[0], [plain], exact)
    with pytest.raises(AssertionError):
        testing.assert_accurate(spread(1.25 * ulp)[0], [plain], exact)


def test_accurate_takes_zeros_exactly():
    zeros = [np.zeros(3, np.float32)], [[np.zeros(3, np.float32)]], [np.zeros(3)]
    testing.assert_accurate(*zeros)
    with pytest.raises(AssertionError, match="bound 0"):
        testing.assert_accurate([np.full(3, 1e-45, np.float32)], *zeros[1:])


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_accurate_takes_no_nan_or_infinity(value):
    plain, exact = spread(0)
    for draws in (spread(value)[0] + plain, plain + spread(value)[0]):
        with pytest.raises(AssertionError):
            testing.assert_accurate(draws, [plain * 2], exact * 2)


def test_accurate_looks_at_shape_and_dtype():
    plain, exact = spread(0)
    with pytest.raises(AssertionError, match="shape"):
        testing.assert_accurate([plain[0][None]], [plain], exact)
    with pytest.raises(AssertionError, match="dtype float64"):
        testing.assert_accurate(exact, [plain], exact)
    with pytest.raises(AssertionError, match="no wider"):
        testing.assert_accurate(plain, [plain], plain)
