"""Losses of one's own: what they are given, what may come back, and what errors say of them."""

import functools

import numpy as np
import pytest
from trainings import EQUAL, LENGTHS, OUTPUT, RAGGED, H, O, bits, build, draw, fit

from fastbptt import RNN, losses
from fastbptt._criterion import Criterion


def flat(found):
    value, grads = found
    return value, np.concatenate([a.ravel() for a in grads.values()])


def own_mse(y, target):
    r = y - target
    return np.mean(r**2), 2 * r / r.size


def own_masked_mse(y, target, mask):
    r = np.where(mask[..., None], y - target, 0)
    count = mask.sum() * y.shape[-1]
    return (r**2).sum() / count, 2 * r / count


def own_weighted_mse(y, target, weight):
    w = weight if weight.ndim == y.ndim else np.broadcast_to(weight[..., None], y.shape)
    r = y - target
    return (w * r**2).sum() / w.sum(), 2 * w * r / w.sum()


def own_whole_mse(y, target, *, weight, mask):
    w = weight if weight.ndim == y.ndim else np.broadcast_to(weight[..., None], y.shape)
    w = np.where(mask[..., None], w, 0)
    r = np.where(w > 0, y - target, 0)
    return (w * r**2).sum() / w.sum(), 2 * w * r / w.sum()


OWN = (own_mse, own_masked_mse, own_weighted_mse, own_whole_mse)


@OUTPUT
@LENGTHS
@pytest.mark.parametrize("loss", OWN)
def test_padding_counts_for_nothing(loss, counts, output):
    model = build(output=output)
    data = draw(model, counts)
    expected = model.loss_and_grads(*data)
    got, got_gradient = flat(model.loss_and_grads(*data, loss=loss))
    assert got == pytest.approx(expected[0], rel=1e-13)
    np.testing.assert_allclose(got_gradient, flat(expected)[1], rtol=0, atol=1e-14)
    assert model.evaluate(*data, loss=loss) == pytest.approx(expected[0], rel=1e-13)


def test_rows_come_sequence_after_sequence():
    model, seen = build(output="all"), []
    x, y = draw(model, RAGGED)

    def loss(y, target):
        seen.append((y, target))
        return own_mse(y, target)

    model.loss_and_grads(x, y, loss=loss)
    (rows, target), *_ = seen
    np.testing.assert_array_equal(target, np.concatenate(y))
    np.testing.assert_allclose(rows, np.concatenate(model.predict(x)), rtol=1e-12)


@pytest.mark.parametrize("names", [("mask",), ("mask", "weight")])
@OUTPUT
def test_whole_arrays_are_batch_major(output, names):
    model, seen = build(output=output), []
    x, y = draw(model, RAGGED)
    weight = np.arange(1.0, 1 + len(x))

    def with_mask(y, target, mask):
        seen.append((y, target, mask))
        return own_masked_mse(y, target, mask)

    def with_both(y, target, mask, weight):
        seen.append((y, target, mask, weight))
        return own_whole_mse(y, target, mask=mask, weight=weight)

    if "weight" in names:
        model.loss_and_grads(x, y, loss=with_both, sample_weight=weight)
    else:
        model.loss_and_grads(x, y, loss=with_mask)
    N, T = len(x), max(RAGGED)
    leading = (N, T) if output == "all" else (N,)
    (outputs, target, mask, *its), *_ = seen
    assert outputs.shape == target.shape == (*leading, O)
    assert mask.shape == leading
    assert mask.dtype == bool
    expected = np.concatenate(y) if output == "all" else y
    np.testing.assert_array_equal(target[mask], expected)
    if output == "all":
        np.testing.assert_array_equal(mask.sum(axis=1), RAGGED)
    for a in its:
        of_rows = np.repeat(weight, RAGGED) if output == "all" else weight
        np.testing.assert_array_equal(a[mask], of_rows)


@OUTPUT
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_integer_classes(output, dtype):
    """As they are, without an attribute that says so."""
    model = build(dtype, output=output)
    x, y = draw(model, RAGGED)
    classes = y.argmax(axis=1) if output == "last" else [a.argmax(axis=1) for a in y]
    seen = []

    def loss(y, target):
        seen.append((target.dtype, target.shape))
        return losses.cross_entropy(y, target)

    expected, expected_gradient = flat(model.loss_and_grads(x, classes, loss="cross_entropy"))
    got, got_gradient = flat(model.loss_and_grads(x, classes, loss=loss))
    rows = len(x) if output == "last" else sum(RAGGED)
    assert seen == [(np.int64, (rows,))]
    assert got == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(got_gradient, expected_gradient, rtol=0, atol=1e-6)


def test_integers_are_numbers_where_there_is_one_output():
    x = np.random.default_rng(0).integers(0, 2, (6, 4))
    model, seen = RNN(1, H, 1, seed=0), []

    def loss(y, target):
        seen.append((target.dtype, target.shape))
        return own_mse(y, target)

    model.loss_and_grads(x, x.sum(axis=1), loss=loss)
    assert seen == [(np.float32, (6, 1))]


@OUTPUT
def test_weights_are_those_of_the_rows(output):
    model = build(output=output)
    x, y = draw(model, RAGGED)
    weight = [np.arange(n) % 3 for n in RAGGED] if output == "all" else np.arange(len(x)) % 3
    expected, expected_gradient = flat(model.loss_and_grads(x, y, sample_weight=weight))
    for loss in (own_weighted_mse, own_whole_mse):
        got, got_gradient = flat(model.loss_and_grads(x, y, loss=loss, sample_weight=weight))
        assert got == pytest.approx(expected, rel=1e-13)
        np.testing.assert_allclose(got_gradient, expected_gradient, rtol=0, atol=1e-14)


def test_rows_of_weight_0_are_not_given():
    model = build()
    x, y = draw(model, EQUAL)
    y[3] = np.nan
    weight = np.arange(len(x)) != 3
    got = model.evaluate(x, y, loss=own_weighted_mse, sample_weight=weight)
    assert got == pytest.approx(model.evaluate(x, y, sample_weight=weight), rel=1e-13)


def test_where_no_row_counts_it_is_not_called():
    criterion = Criterion(lambda y, target: pytest.fail("called"))
    value, dy = criterion.compute(np.ones((3, 2, O)), np.ones((3, 2, O)), np.zeros((3, 2), bool))
    assert value == 0.0
    np.testing.assert_array_equal(dy, np.zeros((3, 2, O)))


@pytest.mark.parametrize("argument", ["sample_weight", "class_weight"])
@pytest.mark.parametrize("loss", [own_mse, own_masked_mse])
def test_weights_need_a_parameter(loss, argument):
    model = build()
    x, y = draw(model, EQUAL)
    before = bits(model)
    with pytest.raises(
        ValueError, match=f"{argument} is given, expected a loss with weights: {loss.__name__} has"
    ):
        fit(model, (x, y), loss=loss, **{argument: np.ones(len(x))})
    assert bits(model) == before


def decorated(function):
    @functools.wraps(function)
    def inner(*args, **kwargs):
        return function(*args, **kwargs)

    return inner


def positional(function):
    @functools.wraps(function)
    def inner(*args):
        return function(*args)

    return inner


class Called:
    def __call__(self, y, target, mask):
        return own_masked_mse(y, target, mask)


@pytest.mark.parametrize(
    "loss",
    [
        decorated(own_masked_mse),
        decorated(decorated(own_whole_mse)),
        decorated(losses.mse),
        positional(losses.mse),
        functools.partial(own_masked_mse),
        functools.partial(decorated(losses.mse)),
        Called(),
        lambda y, t: own_mse(y, t),
        lambda *args: own_mse(*args),
        lambda y, t, **more: own_mse(y, t, **more),
    ],
    ids=lambda loss: getattr(loss, "__qualname__", type(loss).__name__),
)
def test_ways_to_write_one(loss):
    model = build(output="all")
    data = draw(model, RAGGED)
    expected = model.loss_and_grads(*data)[0]
    assert model.loss_and_grads(*data, loss=loss)[0] == pytest.approx(expected, rel=1e-13)


def needs_more(y, target, sigma):
    return own_mse(y, target)


def by_position(y, target, mask, /):
    return own_mse(y, target)


@pytest.mark.parametrize("loss", [needs_more, by_position, lambda: 0, lambda y: 0])
def test_parameters_that_cannot_be_given(loss):
    model = build()
    with pytest.raises(TypeError, match=rf"loss {loss.__name__}\(.*\) cannot be called as \(y, t"):
        model.evaluate(*draw(model, EQUAL), loss=loss)


def returning(change):
    def my_loss(y, target):
        value, dy = own_mse(y, target)
        return change(value, dy)

    return my_loss


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda v, dy: v, TypeError, "loss my_loss returned a float32, expected (value, dy)"),
        (lambda v, dy: (v, dy, 1), TypeError, "loss my_loss returned a tuple, expected (value"),
        (lambda v, dy: (dy, dy), TypeError, "value of loss my_loss is array("),
        (lambda v, dy: ("1", dy), TypeError, "value of loss my_loss is '1', expected a number"),
        (lambda v, dy: (None, dy), TypeError, "value of loss my_loss is None, expected a number"),
        (lambda v, dy: (1j, dy), TypeError, "value of loss my_loss is 1j, expected a number"),
        (lambda v, dy: (v, dy[:1]), ValueError, "dy of loss my_loss has shape (1, 3), expected ("),
        (lambda v, dy: (v, dy.T), ValueError, "dy of loss my_loss has shape (3, "),
        (lambda v, dy: (v, dy.astype("f8")), TypeError, "dy of loss my_loss has dtype float64, ex"),
        (lambda v, dy: (v, dy.tolist()), TypeError, "dy of loss my_loss is a list, expected a nu"),
        (lambda v, dy: (v, None), TypeError, "dy of loss my_loss is a NoneType, expected a num"),
    ],
)  # fmt: skip
@OUTPUT
def test_what_may_not_come_back(output, change, error, words):
    model = build("float32", output=output)
    before = bits(model)
    with pytest.raises(error) as caught:
        fit(model, draw(model, RAGGED), loss=returning(change))
    assert words in str(caught.value)
    assert bits(model) == before


@pytest.mark.parametrize("number", [int, np.float32, np.float64, np.asarray, np.bool_])
def test_values_may_be_any_number(number):
    value, _ = Criterion(lambda y, t: (number(1), y)).compute(np.ones((2, 1)), np.ones((2, 1)))
    assert type(value) is float
    assert value == 1


def test_nan_is_said_by_the_training():
    model = build()
    with pytest.raises(FloatingPointError, match="loss is nan in epoch"):
        fit(model, draw(model, EQUAL), loss=lambda y, target: (np.nan, y))


def test_an_ignored_class_is_an_integer():
    with pytest.raises(TypeError, match="ignored is 'a', expected an integer"):
        Criterion(functools.partial(losses.cross_entropy, ignored="a"))
    assert Criterion(functools.partial(losses.cross_entropy, ignored=None)).ignored is None


def test_names():
    assert Criterion("mse").name == "mse"
    assert Criterion(functools.partial(losses.mse)).name == "mse"
    assert Criterion(functools.partial(losses.huber, delta=2.0)).name == "huber(delta=2.0)"
    assert Criterion(functools.partial(own_mse)).name == "own_mse"
    assert Criterion(Called()).name == "Called"


@OUTPUT
@pytest.mark.parametrize("options", [{"truncate": 3}, {"memory": "checkpointed"}], ids=str)
def test_trains_as_the_same_loss_of_ours(options, output):
    found = []
    for loss in ("mse", own_mse, own_whole_mse):
        model = build(output=output, num_layers=2)
        data = draw(model, RAGGED)
        history = fit(model, data, validation=data, loss=loss, epochs=2, batch_size=4, **options)
        found.append(np.array([*history.loss, *history.validation_loss]))
        found.append(model.network.vector.copy())
    for got, expected in zip(found[2:], found[:2] * 2, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-12)


# Compiled losses


DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def both(loss, *given):
    """What a loss returns compiled, and in NumPy."""
    return [Criterion(loss, backend).compute(*given) for backend in ("numba", "numpy")]


@DTYPES
@pytest.mark.parametrize("shape", [(1, 1), (7, 1), (5, 27), (16, 8, 1), (4, 100, 3)], ids=str)
def test_a_compiled_mse_has_the_bits_of_numpy(shape, dtype):
    rng = np.random.default_rng(0)
    y, target = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    (value, dy), (expected, expected_dy) = both("mse", y, target)
    assert type(value) is float
    assert (value, dy.dtype, dy.tobytes()) == (expected, y.dtype, expected_dy.tobytes())
    assert dy.shape == shape


@DTYPES
@pytest.mark.parametrize("scale", [1e-3, 3.0, 200.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (64, 10), (5, 3, 33)], ids=str)
def test_a_compiled_cross_entropy_is_that_of_float64(shape, scale, dtype):
    rng = np.random.default_rng(0)
    y, target = (
        (rng.standard_normal(shape) * scale).astype(dtype),
        rng.integers(0, shape[-1], shape[:-1]),
    )
    [(value, dy), _] = both("cross_entropy", y, target)
    exact, exact_dy = losses.cross_entropy(y.astype(np.longdouble).astype(float), target)
    eps = np.finfo(dtype).eps
    assert type(value) is float
    assert dy.dtype == y.dtype
    assert dy.shape == shape
    assert abs(value - exact) <= 4 * eps * max(exact, scale)
    # A logit's difference to the largest one is rounded before exp.
    assert np.abs(dy - exact_dy).max() <= (4 + 8 * scale) * eps / target.size


@DTYPES
def test_a_compiled_cross_entropy_with_weights(dtype):
    rng = np.random.default_rng(0)
    y, target = rng.standard_normal((20, 5)).astype(dtype), rng.integers(0, 5, 20)
    weight = rng.random(20).astype(dtype)
    weight[::3] = 0
    (value, dy), (expected, expected_dy) = both("cross_entropy", y, target, None, weight)
    np.testing.assert_allclose(value, expected, rtol=8 * np.finfo(dtype).eps)
    np.testing.assert_allclose(dy, expected_dy, atol=np.finfo(dtype).eps)
    # What has weight 0 changes no bit, whatever it is.
    kept = weight > 0
    y[~kept], target[~kept] = np.nan, -5
    compiled = Criterion("cross_entropy", "numba").compute
    for few in ({}, {"weight": weight}):
        ones = np.where(kept, few.get("weight", np.ones(20, dtype)), 0).astype(dtype)
        value, dy = compiled(y, target, weight=ones)
        its = {name: a[kept] for name, a in few.items()}
        alone, its_dy = compiled(y[kept], target[kept], **its)
        assert dy[kept].tobytes() == its_dy.tobytes()
        assert not dy[~kept].any()
        assert value == pytest.approx(alone, rel=1e-15)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=str)
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_compiled_losses_pass_what_is_not_finite(loss, poison):
    y = np.array([[0.5, poison, 1.0], [1.0, 2.0, 3.0]])
    for target in (np.ones((2, 3)),) if loss == "mse" else (np.array([0, 2]), np.array([1, 2])):
        with np.errstate(all="ignore"):
            (value, dy), (expected, expected_dy) = both(loss, y, target)
        np.testing.assert_allclose(value, expected, rtol=1e-14)
        np.testing.assert_allclose(dy, expected_dy, rtol=1e-13, atol=1e-16)


def test_compiled_losses_leave_all_else_to_numpy():
    y = np.random.default_rng(0).standard_normal((4, 3))
    classes = np.array([0, 2, 1, 1])
    given = [
        ("cross_entropy", y, classes.astype(np.int8)),
        ("cross_entropy", y, np.eye(3)[classes]),
        ("cross_entropy", y, classes, np.array([True, False, True, True])),
        ("cross_entropy", y, classes, None, np.array([1, 2, 0, 1])),
        ("cross_entropy", y, np.repeat(classes, 2)[::2]),
        ("mse", y, np.arange(12).reshape(4, 3)),
        ("mse", y, y[:, ::-1]),
        ("mse", y, -y, np.array([True, False, True, True])),
        ("mse", y, -y, None, np.array([1.0, 2.0, 0.0, 0.5])),
        ("mse", y[:0], y[:0]),
        ("bce", y, y > 0),
        (functools.partial(losses.huber, delta=0.1), y, -y),
    ]
    for loss, *arguments in given:
        (value, dy), (expected, expected_dy) = both(loss, *arguments)
        assert value == expected
        assert dy.tobytes() == expected_dy.tobytes()
    for wrong in (3, -1):
        with pytest.raises(ValueError, match="expected 0 to 2: classes of y"):
            Criterion("cross_entropy", "numba").compute(y, np.array([0, wrong, 1, 1]))
