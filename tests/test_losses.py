"""Losses against hand-worked numbers, central differences and PyTorch, and what they refuse."""

import doctest
import functools
import math
import warnings

import numpy as np
import pytest
from measure import central_differences

from fastbptt import losses
from fastbptt.losses import LOSSES, bce, cross_entropy, huber, mae, mse, ssr

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])
SHAPES = pytest.mark.parametrize("shape", [(3,), (5, 3), (4, 3, 2), (4, 3, 1)], ids=str)


def draw(name, shape, dtype="float64"):
    """A loss, predictions and targets."""
    rng = np.random.default_rng(0)
    y = (2 * rng.standard_normal(shape)).astype(dtype)
    if name == "classes":
        return cross_entropy, y, np.asarray(rng.integers(0, shape[-1], shape[:-1]))
    if name == "probabilities":
        return cross_entropy, y, rng.dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype)
    target = rng.random(shape) if name == "bce" else rng.standard_normal(shape)
    return LOSSES[name], y, target.astype(dtype)


KINDS = ("mse", "ssr", "mae", "huber", "bce", "classes", "probabilities")
EACH = pytest.mark.parametrize("name", KINDS)


def draw_mask(shape):
    """Some rows count and some do not; a single row counts."""
    mask = np.arange(math.prod(shape[:-1])).reshape(shape[:-1]) % 3 != 1
    return np.asarray(mask)


def assert_same(got, expected):
    """Check that two results have the same bits."""
    assert got[0] == expected[0]
    np.testing.assert_array_equal(got[1], expected[1])


# The numbers


def test_names():
    functions = mse, ssr, mae, huber, bce, cross_entropy
    assert {f.__name__: f for f in functions} == LOSSES


THIRD = np.log([[1.0, 2.0, 5.0]])  # p = 1/8, 2/8, 5/8


@pytest.mark.parametrize(
    ("loss", "y", "target", "value", "dy"),
    [
        (mse, [[1, 2], [3, 4]], [[0, 2], [5, 1]], 14 / 4, [[0.5, 0], [-1, 1.5]]),
        (ssr, [[1, 2], [3, 4]], [[0, 2], [5, 1]], 14, [[2, 0], [-4, 6]]),
        (mae, [[1, 2], [3, 4]], [[0, 2], [5, 1]], 6 / 4, [[0.25, 0], [-0.25, 0.25]]),
        (huber, [[1, 2], [3, 4]], [[0.5, 2], [5, 1]], 4.125 / 4, [[0.125, 0], [-0.25, 0.25]]),
        (
            functools.partial(huber, delta=2.5),
            [[1, 2], [3, 4]],
            [[0.5, 2], [5, 1]],
            (0.125 + 2 + 2.5 * 1.75) / 4,
            [[0.125, 0], [-0.5, 0.625]],
        ),
        (bce, [[math.log(3), 0]], [[1, 0]], math.log(8 / 3) / 2, [[-0.125, 0.25]]),
        (bce, [[-math.log(3), 0]], [[1, 0.5]], math.log(8) / 2, [[-0.375, 0]]),
        (cross_entropy, THIRD, [[0, 1, 0.0]], math.log(4), [[1 / 8, -3 / 4, 5 / 8]]),
        (cross_entropy, THIRD, [[0.5, 0.5, 0]], math.log(32) / 2, [[-3 / 8, -1 / 4, 5 / 8]]),
    ],
)
def test_hand_worked(loss, y, target, value, dy):
    got, got_dy = loss(np.array(y, float), np.array(target, float))
    assert got == pytest.approx(value, rel=1e-14)
    np.testing.assert_allclose(got_dy, dy, rtol=1e-14, atol=1e-16)


def test_hand_worked_classes():
    y = np.concatenate([THIRD, THIRD + 7])
    value, dy = cross_entropy(y, np.array([1, 2]))
    assert value == pytest.approx((math.log(4) + math.log(8 / 5)) / 2, rel=1e-14)
    np.testing.assert_allclose(dy, [[1 / 16, -6 / 16, 5 / 16], [1 / 16, 2 / 16, -3 / 16]])


def test_hand_worked_mask():
    y, target = np.array([[1.0, 2], [3, 4]]), np.array([[0, 2], [5, 1]])
    mask = np.array([False, True])
    for loss, value, dy in ((mse, 6.5, [-2, 3]), (ssr, 13, [-4, 6])):
        got = loss(y, target, mask)
        assert_same(got, (value, [[0, 0], dy]))


@EACH
@SHAPES
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_agree_with_central_differences(name, shape, masked):
    loss, y, target = draw(name, shape)
    mask = draw_mask(shape) if masked else None
    _, got = loss(y, target, mask)
    expected = central_differences(lambda: loss(y, target, mask)[0], y)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)


def test_gradient_where_probabilities_add_up_to_1_but_for_rounding():
    y, target = np.array([[0.3, -0.2]]), np.array([[0.6, 0.405]])
    _, dy = cross_entropy(y, target)
    above, below = (cross_entropy(y + np.array([d, 0]), target)[0] for d in (1e-6, -1e-6))
    assert dy[0, 0] == pytest.approx((above - below) / 2e-6, abs=1e-8)


@EACH
@DTYPES
@pytest.mark.parametrize("shape", [(32, 10), (7, 5, 3)], ids=str)
def test_agrees_with_torch(name, dtype, shape):
    torch = pytest.importorskip("torch")
    loss, y, target = draw(name, shape, dtype)
    functional = torch.nn.functional
    of_torch = {
        "mse": functional.mse_loss,
        "ssr": lambda y, target: functional.mse_loss(y, target, reduction="sum"),
        "mae": functional.l1_loss,
        "huber": functional.huber_loss,
        "bce": functional.binary_cross_entropy_with_logits,
    }.get(name, functional.cross_entropy)
    leaf = torch.tensor(y, requires_grad=True)
    rows, its_target = leaf, torch.tensor(target)
    if name in ("classes", "probabilities"):  # PyTorch wants one axis of rows
        rows = leaf.reshape(-1, shape[-1])
        its_target = its_target.reshape(-1, *target.shape[len(shape) - 1 :])
    expected = of_torch(rows, its_target)
    expected.backward()
    value, dy = loss(y, target)
    eps = float(np.finfo(dtype).eps)
    assert value == pytest.approx(expected.item(), rel=10 * eps)
    tolerance = 10 * eps * np.abs(dy).max()
    np.testing.assert_allclose(dy, leaf.grad.numpy(), rtol=0, atol=tolerance)


def test_probabilities_may_be_coarse():
    p = np.random.default_rng(0).dirichlet(np.ones(5000), 2).astype(np.float16)
    value, _ = cross_entropy(np.zeros((2, 5000)), p)
    assert value == pytest.approx(math.log(5000), rel=1e-3)


def test_one_hot_is_as_classes():
    _, y, classes = draw("classes", (5, 3))
    y[0, (classes[0] + 1) % 3] = -np.inf  # p = 0 where the target is 0
    value, dy = cross_entropy(y, np.eye(3)[classes])
    expected, expected_dy = cross_entropy(y, classes)
    assert value == pytest.approx(expected, rel=1e-14)
    np.testing.assert_allclose(dy, expected_dy, rtol=0, atol=1e-15)


# Weights


def draw_weight(shape, of_elements=False):
    """Some are 0, and some small integers."""
    return np.random.default_rng(1).integers(0, 4, shape if of_elements else shape[:-1])


@EACH
@DTYPES
def test_weights_of_1_change_no_bit(name, dtype):
    loss, y, target = draw(name, (4, 3, 2), dtype)
    for mask in (None, draw_mask(y.shape)):
        expected = loss(y, target, mask)
        for of in (np.uint8, bool, np.float64, np.float16):
            assert_same(loss(y, target, mask, np.ones(y.shape[:-1], of)), expected)
        if not name.endswith("s"):
            assert_same(loss(y, target, mask, np.ones(y.shape)), expected)


@EACH
@pytest.mark.parametrize("masked", [False, True])
def test_integer_weights_are_as_rows_that_occur_so_often(name, masked):
    loss, y, target = draw(name, (7, 3))
    weight, mask = draw_weight(y.shape), draw_mask(y.shape) if masked else None
    counts = weight if mask is None else weight * mask
    value, dy = loss(y, target, mask, weight)
    expected, rows_dy = loss(np.repeat(y, counts, axis=0), np.repeat(target, counts, axis=0))
    assert value == pytest.approx(expected, rel=1e-14)
    expected_dy = np.zeros_like(y)
    np.add.at(expected_dy, np.repeat(np.arange(len(y)), counts), rows_dy)
    np.testing.assert_allclose(dy, expected_dy, rtol=1e-13, atol=1e-15)


@EACH
@pytest.mark.parametrize("of_elements", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_weighted_gradients_agree_with_central_differences(name, masked, of_elements):
    loss, y, target = draw(name, (4, 3, 2))
    if of_elements and name in ("classes", "probabilities"):
        with pytest.raises(ValueError, match=r"weight has shape \(4, 3, 2\), expected \(4, 3\)"):
            loss(y, target, None, np.ones(y.shape))
        return
    weight = draw_weight(y.shape, of_elements) * 0.37
    mask = draw_mask(y.shape) if masked else None
    _, got = loss(y, target, mask, weight)
    expected = central_differences(lambda: loss(y, target, mask, weight)[0], y)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-8)


@EACH
@pytest.mark.parametrize("of_elements", [False, True])
def test_what_has_weight_0_changes_no_bit(name, of_elements):
    loss, y, target = draw(name, (4, 3, 2))
    of_elements = of_elements and name not in ("classes", "probabilities")
    weight = draw_weight(y.shape, of_elements) / 3
    value, dy = expected = loss(y, target, None, weight)
    assert value > 0
    assert (dy[weight == 0] == 0).all()
    y[weight == 0] = np.nan
    target[weight == 0] = -7 if name == "classes" else np.nan
    assert_same(loss(y, target, None, weight), expected)
    mask = weight > 0
    if not of_elements:
        weight[weight == 0] = np.nan  # outside the mask it does not matter either
        assert_same(loss(y, target, mask, weight), expected)


@EACH
def test_no_weight_at_all(name):
    loss, y, target = draw(name, (4, 3))
    value, dy = loss(y, target, None, np.zeros(4))
    assert value == 0.0
    np.testing.assert_array_equal(dy, np.zeros((4, 3)))


def test_weighted_means_are_those_of_scikit_learn_and_torch():
    metrics, torch = pytest.importorskip("sklearn.metrics"), pytest.importorskip("torch")
    weight = np.random.default_rng(2).random(20)
    for name, metric in (("mse", "mean_squared_error"), ("mae", "mean_absolute_error")):
        loss, y, target = draw(name, (20, 3))
        expected = getattr(metrics, metric)(target, y, sample_weight=weight)
        assert loss(y, target, None, weight)[0] == pytest.approx(expected, rel=1e-13)
    loss, y, target = draw("classes", (20, 3))
    of_class = np.array([0.5, 2, 7])
    expected = torch.nn.functional.cross_entropy(
        *map(torch.tensor, (y, target)), weight=torch.tensor(of_class)
    )
    value, _ = loss(y, target, None, of_class[target])
    assert value == pytest.approx(expected.item(), rel=1e-13)


@pytest.mark.parametrize("ignored", [-100, -1, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_ignored_class(ignored, masked):
    torch = pytest.importorskip("torch")
    _, y, target = draw("classes", (20, 4))
    target[target == 2] = ignored
    mask = draw_mask(y.shape) if masked else np.ones(20, bool)
    loss = functools.partial(cross_entropy, ignored=ignored)
    leaf = torch.tensor(y, requires_grad=True)
    rows, its = leaf[torch.tensor(mask)], torch.tensor(target[mask])
    expected = torch.nn.functional.cross_entropy(rows, its, ignore_index=ignored)
    expected.backward()
    value, dy = loss(y, target, mask if masked else None)
    assert value == pytest.approx(expected.item(), rel=1e-14)
    np.testing.assert_allclose(dy, leaf.grad.numpy(), rtol=0, atol=1e-15)
    assert_same(loss(y, target, None, mask * 1.0), (value, dy))
    assert loss(y, np.full(20, ignored))[0] == 0
    if ignored < 0:
        with pytest.raises(ValueError, match=f"values from {ignored} to 3, expected 0 to 3"):
            cross_entropy(y, target, ignored=None)


@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        ([1.0] * 4, TypeError, "weight is a list, expected a numpy.ndarray"),
        (np.ones(4, complex), TypeError, "weight has dtype complex128, expected real numbers"),
        (np.ones(3), ValueError, "weight has shape (3,), expected (4,)"),
        (np.ones((4, 1)), ValueError, "weight has shape (4, 1), expected (4,)"),
        (np.array([1, -0.5, 1, 1]), ValueError, "weight has values from -0.5 to 1.0, expected at"),
        (np.array([1, np.nan, 1, 1]), ValueError, "weight has values from nan to nan"),
        (np.array([1, np.inf, 1, 1]), ValueError, "weight has values from 1.0 to inf"),
    ],
)
@EACH
def test_weights_turned_away(name, weight, error, words):
    loss, y, target = draw(name, (4, 3))
    with pytest.raises(error) as caught:
        loss(y, target, None, weight)
    assert words in str(caught.value)


@pytest.mark.parametrize("delta", [0, -1.0, np.nan, np.inf])
def test_delta_turned_away(delta):
    with pytest.raises(ValueError, match=r"delta is .*, expected above 0"):
        huber(np.zeros((1, 1)), np.zeros((1, 1)), delta=delta)


# Precision and range


@DTYPES
@pytest.mark.parametrize("big", [1000, 1e30])
def test_large_logits(dtype, big):
    big = float(np.asarray(big, dtype))
    y = np.array([[big, -big], [-big, big]], dtype)
    value, dy = bce(y, np.array([[1, 0], [1, 1]]))
    assert value == big / 4  # one of the four is wrong, by `big`
    np.testing.assert_array_equal(dy, [[0, 0], [-0.25, 0]])
    value, dy = bce(y, np.full((2, 2), 0.25))
    assert value == pytest.approx(big / 2, rel=1e-6)
    np.testing.assert_array_equal(dy, np.array([[3, -1], [-1, 3]]) / 16)
    for target in (np.array([0, 0]), np.array([[1.0, 0], [1, 0]])):
        value, dy = cross_entropy(y, target)
        assert value == big  # 0 and 2 big
        np.testing.assert_array_equal(dy, [[0, 0], [-0.5, 0.5]])


def test_small_losses_keep_their_digits():
    y = np.array([[20.0, 0.0]], np.float32)  # 1 + exp(-20) is 1 in float32
    exact = math.log1p(math.exp(-20))
    for target in (np.array([0]), np.array([[1.0, 0.0]])):
        assert cross_entropy(y, target)[0] == pytest.approx(exact, rel=1e-5, abs=0)
    value, dy = bce(y[:, :1], np.ones((1, 1)))
    assert value == pytest.approx(exact, rel=1e-6, abs=0)
    assert dy.item() == pytest.approx(-exact, rel=1e-6, abs=0)


def test_sums_are_taken_in_float64():
    # 2**24 + 1 is no float32
    assert ssr(np.array([[4096, 1]], np.float32), np.zeros((1, 2)))[0] == 2**24 + 1
    assert mse(np.array([[4096, 1]], np.float32), np.zeros((1, 2)))[0] == (2**24 + 1) / 2
    assert ssr(np.full((1, 2), 1e30, np.float32), np.zeros((1, 2)))[0] == pytest.approx(2e60)
    expected = 2**24 + math.log(2)
    value, _ = bce(np.array([[-(2**24), 0]], np.float32), np.array([[1, 0.5]]))
    assert 2 * value == pytest.approx(expected, rel=1e-14)
    y = np.array([[-(2**24), 0], [0, 0]], np.float32)
    assert 2 * cross_entropy(y, np.array([0, 1]))[0] == pytest.approx(expected, rel=1e-14)


# What counts


@EACH
@DTYPES
@SHAPES
def test_rows_that_do_not_count(name, dtype, shape):
    loss, y, target = draw(name, shape, dtype)
    mask = draw_mask(shape)
    value, dy = loss(y, target, mask)
    np.testing.assert_array_equal(dy[~mask], 0)
    expected, expected_dy = loss(y[mask], target[mask])
    assert value == pytest.approx(expected, rel=1e-12)
    np.testing.assert_array_equal(dy[mask], expected_dy)

    junk = [-7, 10**6] if name == "classes" else [np.nan, np.inf]
    for in_y, in_target in zip([np.nan, -np.inf], junk, strict=True):
        y[~mask], target[~mask] = in_y, in_target
        assert_same(loss(y, target, mask), (value, dy))


@EACH
@DTYPES
def test_all_rows_count_without_a_mask(name, dtype):
    loss, y, target = draw(name, (4, 3, 2), dtype)
    assert_same(loss(y, target, np.ones((4, 3), bool)), loss(y, target))


@EACH
def test_no_row_counts(name):
    loss, y, target = draw(name, (4, 3, 2))
    y[0, 0] = np.nan
    value, dy = loss(y, target, np.zeros((4, 3), bool))
    assert value == 0.0
    np.testing.assert_array_equal(dy, np.zeros((4, 3, 2)))
    for shape in ((0, 2), (4, 0, 2)):
        loss, y, target = draw(name, shape)
        for mask in (None, np.ones(shape[:-1], bool)):
            value, dy = loss(y, target, mask)
            assert value == 0.0
            assert dy.shape == shape


@EACH
@DTYPES
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=str)
def test_not_finite_predictions_come_through(name, dtype, poison):
    loss, y, target = draw(name, (4, 3), dtype)
    clean = loss(y, target)[1]
    y[2, 1] = poison
    if name == "classes":
        target[2] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, dy = loss(y, target)
    assert not math.isfinite(value)
    if math.isnan(poison):
        assert math.isnan(value)
        assert np.isnan(dy[2, 1])
    others = [0, 1, 3]
    np.testing.assert_array_equal(dy[others], clean[others])


def test_no_floating_point_error_escapes():
    with np.errstate(all="raise"):
        mse(np.full((1, 2), 1e30, np.float32), np.full((1, 2), -1e300))
        ssr(np.full((1, 2), 1e300), np.full((1, 2), -1e-300))
        bce(np.array([[1e38, -1e-40]], np.float32), np.zeros((1, 2)))
        cross_entropy(np.array([[3e38, -3e38]], np.float32), np.array([1]))


# Types and memory


@EACH
@DTYPES
@pytest.mark.parametrize("masked", [False, True])
def test_returned_types(name, dtype, masked):
    loss, y, target = draw(name, (4, 3, 2), dtype)
    mask = draw_mask(y.shape) if masked else None
    before = y.copy(), target.copy()
    for a in (y, target):
        a.flags.writeable = False
    value, dy = loss(y.transpose(1, 0, 2), target.swapaxes(0, 1), None if mask is None else mask.T)
    assert type(value) is float
    assert type(dy) is np.ndarray
    assert dy.dtype == dtype
    assert dy.shape == (3, 4, 2)
    assert dy.flags.c_contiguous
    assert dy.flags.owndata
    np.testing.assert_array_equal(y, before[0])
    np.testing.assert_array_equal(target, before[1])


def gaps(a):
    return np.repeat(a, 2, axis=-1)[..., ::2]


def reverse(a):
    return np.ascontiguousarray(a[::-1])[::-1]


def misaligned(a):
    return np.frombuffer(b"0" + a.tobytes(), np.uint8)[1:].view(a.dtype).reshape(a.shape)


@EACH
@DTYPES
@pytest.mark.parametrize("lay", [np.asfortranarray, gaps, reverse, misaligned])
def test_memory_layout_changes_no_number(name, dtype, lay):
    loss, y, target = draw(name, (4, 3, 2), dtype)
    for mask in (None, draw_mask(y.shape)):
        value, dy = loss(lay(y), lay(target), mask if mask is None else lay(mask))
        expected, expected_dy = loss(y, target, mask)
        assert value == pytest.approx(expected, rel=1e-14)  # sums may go in another order
        np.testing.assert_allclose(dy, expected_dy, rtol=np.finfo(dtype).eps)


@EACH
def test_repeated_rows(name):
    loss, y, target = draw(name, (1, 3))
    rows = np.broadcast_to(y, (4, 3)), np.broadcast_to(target, (4, *target.shape[1:]))
    value, dy = loss(*rows)
    expected, expected_dy = loss(*(np.array(a) for a in rows))
    assert value == pytest.approx(expected, rel=1e-14)
    np.testing.assert_array_equal(dy, expected_dy)


@DTYPES
@pytest.mark.parametrize(
    "of_target", ["bool", "int8", "uint64", "float16", "float32", "float64", ">f8", "longdouble"]
)
def test_targets_of_any_real_dtype(dtype, of_target):
    _, y, _ = draw("mse", (4, 3), dtype)
    target = np.array([[0, 1, 1], [1, 0, 0], [1, 1, 1], [0, 0, 1]])
    for loss in (mse, ssr, bce):
        assert_same(loss(y, target.astype(of_target)), loss(y, target.astype(dtype)))
    one_hot = np.eye(3)[[0, 2, 1, 1]]
    if np.dtype(of_target).kind == "f":
        assert_same(cross_entropy(y, one_hot.astype(of_target)), cross_entropy(y, one_hot))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64", ">i4"])
@pytest.mark.parametrize("mask", [None, np.array([True, False, True])], ids=["all", "masked"])
def test_classes_of_any_integer(dtype, mask):
    _, y, _ = draw("classes", (3, 120))
    classes = np.array([0, 100, 119])
    assert_same(cross_entropy(y, classes.astype(dtype), mask), cross_entropy(y, classes, mask))


# What does not fit


def fitting(name):
    _, y, target = draw(name, (4, 3))
    return {"y": y, "target": target, "mask": np.array([True, False, True, True])}


@EACH
@pytest.mark.parametrize(
    ("argument", "change", "error", "words"),
    [
        ("y", np.ndarray.tolist, TypeError, "y is a list, expected a numpy.ndarray"),
        ("y", np.ma.masked_array, TypeError, "y is a MaskedArray"),
        ("y", np.float16, TypeError, "y has dtype float16, expected float32 or float64"),
        ("y", lambda a: a.astype(int), TypeError, "y has dtype int64, expected float32"),
        ("y", lambda a: a.astype(">f8"), TypeError, "y has dtype >f8, expected float32"),
        ("y", lambda a: a[:, :0], ValueError, "y has shape (4, 0), expected (..., O)"),
        ("y", lambda a: a[0, 0, ...], ValueError, "y has shape (), expected (..., O)"),
        ("target", np.ndarray.tolist, TypeError, "target is a list, expected a numpy.ndarray"),
        ("target", lambda a: None, TypeError, "target is a NoneType"),
        ("target", np.complex64, TypeError, "target has dtype complex64, expected real"),
        ("target", lambda a: a.astype(object), TypeError, "target has dtype object"),
        ("target", lambda a: a[:3], ValueError, "target has shape (3, "),
        ("target", lambda a: a[None], ValueError, "target has shape (1, 4, "),
        ("mask", np.ndarray.tolist, TypeError, "mask is a list, expected a numpy.ndarray"),
        ("mask", np.int8, TypeError, "mask has dtype int8, expected bool"),
        ("mask", lambda a: a[:3], ValueError, "mask has shape (3,), expected (4,)"),
        ("mask", lambda a: a[:, None], ValueError, "mask has shape (4, 1), expected (4,)"),
    ],
)
def test_turned_away(name, argument, change, error, words):
    if name == "classes" and words.startswith("target has shape"):
        words = words.removesuffix(" ").removesuffix(",")
    loss, given = draw(name, (4, 3))[0], fitting(name)
    loss(**given)
    with pytest.raises(error) as caught:
        loss(**{**given, argument: change(given[argument])})
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("loss", "target", "words"),
    [
        (mse, np.zeros((4, 1)), "target has shape (4, 1), expected (4, 3) as y has"),
        (cross_entropy, np.zeros((4, 3), int), "target has shape (4, 3), expected (4,): (...)"),
        (cross_entropy, np.zeros(4), "target has shape (4,), expected (4, 3) as y has"),
        (cross_entropy, np.array([0, 1, 2, 3]), "values from 0 to 3, expected 0 to 2: classes"),
        (cross_entropy, np.array([0, -1, 2, 2]), "values from -1 to 2, expected 0 to 2: classes"),
        (
            cross_entropy,
            np.array([0, 2**64 - 1, 2, 2], np.uint64),
            f"values from 0 to {2**64 - 1}, expected 0 to 2",
        ),
        (cross_entropy, np.eye(4, 3), "rows with sums from 0.0 to 1.0, expected 1"),
        (cross_entropy, np.full((4, 3), 0.5), "rows with sums from 1.5 to 1.5, expected 1"),
        (cross_entropy, np.tile([2.0, -1, 0], (4, 1)), "values from -1.0 to 2.0, expected 0 to 1"),
        (cross_entropy, np.full((4, 3), np.nan), "values from nan to nan, expected 0 to 1"),
        (bce, np.full((4, 3), 1.5), "values from 1.5 to 1.5, expected 0 to 1: probabilities"),
        (bce, np.full((4, 3), -1), "values from -1 to -1, expected 0 to 1: probabilities"),
        (bce, np.full((4, 3), np.nan), "values from nan to nan, expected 0 to 1"),
    ],
)
def test_targets_turned_away(loss, target, words):
    _, y, _ = draw("mse", (4, 3))
    with pytest.raises(ValueError, match="target") as caught:
        loss(y, target)
    assert words in str(caught.value)
    if "shape" not in words:
        with pytest.raises(ValueError, match="target"):
            loss(y, target, np.array([False, True, False, True]))  # rows 1 and 3 do not fit
        with pytest.raises(ValueError, match="target"):
            loss(y, target, np.ones(4, bool))


def test_docstring_examples():
    got = doctest.testmod(losses)
    assert got.attempted
    assert not got.failed
