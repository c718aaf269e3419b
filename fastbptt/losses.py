"""Losses: each takes predictions and targets, and returns its value and its gradient.

Elements are computed in the predictions' dtype, their sums in float64.  NaN and infinities in the
predictions reach the value without a warning.  Weighted means are divided by the sum of the
weights, as in scikit-learn and PyTorch's weighted cross-entropy; what has weight 0 does not count.

:func:`huber` and :func:`cross_entropy` have a setting each; ``functools.partial(huber, delta=2.0)``
is a loss with another one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, SupportsFloat

import numpy as np

from fastbptt import _checks

__all__ = ["bce", "cross_entropy", "huber", "mae", "mse", "ssr"]

Loss = Callable[..., tuple[SupportsFloat, np.ndarray]]
"""A loss function: ``loss(y, target) -> (value, dy)``, as :func:`fastbptt.fit` describes it.

Its value is a mean over rows, or their sum if it has an attribute ``reduction`` that is "sum".
"""

LossName = Literal["mse", "ssr", "mae", "huber", "bce", "cross_entropy"]

REDUCTIONS = "mean", "sum"
IGNORED = -100  # the class that PyTorch's cross-entropy ignores by default
_BOOL = np.dtype(bool)


def mse(
    y: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    r"""Mean squared error, over the elements that count.

    With target :math:`\hat y` and weights w, which are 1 if none are given,

    .. math:: L = \frac{\sum_i w_i (y_i - \hat y_i)^2}{\sum_i w_i}

    Parameters
    ----------
    y : ndarray, (..., O)
        Predictions, float32 or float64, with any strides; O is at least 1.
    target : ndarray, (..., O)
        Of any real dtype.
    mask : ndarray of bool, (...), optional
        The rows that count, all by default; what the others hold changes no bit.
    weight : ndarray, (...) or (..., O), optional
        What each row, or each element, counts in the mean: at least 0, of any real dtype.  What has
        weight 0 does not count.

    Returns
    -------
    value : float
        0.0 if nothing counts.
    dy : ndarray, (..., O)
        Gradient of the value with respect to ``y``, of its dtype, C-contiguous; 0 where nothing
        counts.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    ssr : The sum in place of the mean.
    mae, huber : Heed outliers less.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.losses import mse
    >>> mse(np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]]))
    (2.5, array([[ 1., -2.]]))
    """
    count, mask, weight = _check(y, target, mask, weight)
    count *= y.shape[-1]
    with np.errstate(all="ignore"):
        total, dy = _squares(y, target, mask, weight)
        dy *= 2 / count
    return total / count, dy


def ssr(
    y: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    r"""Sum of squared residuals, over the elements that count.

    With target :math:`\hat y` and weights w, which are 1 if none are given,

    .. math:: L = \sum_i w_i (y_i - \hat y_i)^2

    Parameters
    ----------
    y, target, mask, weight
        As for :func:`mse`.

    Returns
    -------
    value, dy
        As for :func:`mse`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    mse : The mean in place of the sum.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.losses import ssr
    >>> ssr(np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]]))
    (5.0, array([[ 2., -4.]]))
    """
    _, mask, weight = _check(y, target, mask, weight)
    with np.errstate(all="ignore"):
        total, dy = _squares(y, target, mask, weight)
        dy *= 2
    return total, dy


def mae(
    y: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    r"""Mean absolute error, over the elements that count.

    With target :math:`\hat y` and weights w, which are 1 if none are given,

    .. math:: L = \frac{\sum_i w_i |y_i - \hat y_i|}{\sum_i w_i}

    Where y is target, the gradient is 0.

    Parameters
    ----------
    y, target, mask, weight
        As for :func:`mse`.

    Returns
    -------
    value, dy
        As for :func:`mse`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    huber : Smooth where y is near the target.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.losses import mae
    >>> mae(np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]]))
    (1.5, array([[ 0.5, -0.5]]))
    """
    count, mask, weight = _check(y, target, mask, weight)
    with np.errstate(all="ignore"):
        residuals = _residuals(y, target, mask)
        dy = np.sign(residuals)
        loss = np.abs(residuals, out=residuals)
        return _mean(loss, dy, mask, weight, count * y.shape[-1]), dy


def huber(
    y: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    *,
    delta: float = 1.0,
) -> tuple[float, np.ndarray]:
    r"""Huber's loss: squared where it is small, absolute where it is large (Huber 1964).

    The mean over the elements that count, weighted as that of :func:`mse`, of

    .. math::
        \ell(r) = \begin{cases}
        r^2 / 2 & r \le \delta \\
        \delta (r - \delta / 2) & r > \delta
        \end{cases}
        \qquad r = |y - \hat y|

    Parameters
    ----------
    y, target, mask, weight
        As for :func:`mse`.
    delta : float, default 1.0
        Above 0.

    Returns
    -------
    value, dy
        As for :func:`mse`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    mse, mae : What it is near the target, and far from it.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.losses import huber
    >>> huber(np.array([[1.0, 2.0]]), np.array([[0.5, 4.0]]))
    (0.8125, array([[ 0.25, -0.5 ]]))
    """
    delta = _checks.number("delta", delta, zero=False)
    count, mask, weight = _check(y, target, mask, weight)
    with np.errstate(all="ignore"):
        residuals = _residuals(y, target, mask)
        dy = np.clip(residuals, -delta, delta)
        residuals -= dy / 2
        residuals *= dy
        return _mean(residuals, dy, mask, weight, count * y.shape[-1]), dy


def _residuals(y: np.ndarray, target: np.ndarray, mask: np.ndarray | None) -> np.ndarray:
    """The residuals, 0 where nothing counts."""
    residuals = np.empty(y.shape, y.dtype)
    np.subtract(y, target, out=residuals, casting="same_kind")
    if mask is not None:
        residuals[~mask] = 0
    return residuals


def _squares(
    y: np.ndarray, target: np.ndarray, mask: np.ndarray | None, weight: np.ndarray | None
) -> tuple[float, np.ndarray]:
    """The weighted sum of squared residuals, and the residuals times their weights."""
    residuals = _residuals(y, target, mask)
    squares = np.square(residuals, dtype=np.float64)
    if weight is not None:
        squares *= weight
        residuals *= weight
    return float(np.add.reduce(squares, axis=None)), residuals


def bce(
    y: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray | None = None,
    weight: np.ndarray | None = None,
) -> tuple[float, np.ndarray]:
    r"""Binary cross-entropy of logits.

    The mean over the elements that count, weighted as that of :func:`mse`, of

    .. math::
        -\hat y \log p - (1 - \hat y) \log(1 - p) \qquad p = \frac{1}{1 + e^{-y}}

    Parameters
    ----------
    y : ndarray, (..., O)
        Logits, float32 or float64, with any strides; O is at least 1.
    target : ndarray, (..., O)
        Probabilities of a 1, from 0 to 1, of any real dtype.
    mask, weight
        As for :func:`mse`.

    Returns
    -------
    value, dy
        As for :func:`mse`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    cross_entropy : For classes of which one is right.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.losses import bce
    >>> value, dy = bce(np.zeros((1, 2)), np.array([[True, False]]))
    >>> round(value, 4), dy
    (0.6931, array([[-0.25,  0.25]]))
    """
    count, mask, weight = _check(y, target, mask, weight)
    _check_range(target, mask, 1, "probabilities")
    with np.errstate(all="ignore"):
        # With u = 1 - target where y is positive, u = -target where it is negative, the loss is
        # y u + log(1 + exp(-|y|)): nothing overflows and nothing cancels.
        dy = np.empty(y.shape, y.dtype)
        u = np.subtract(~np.signbit(y), target, out=dy, dtype=y.dtype, casting="same_kind")
        e = np.exp(-np.abs(y))
        loss = np.log1p(e)
        loss += y * u
        e /= 1 + e
        dy -= np.copysign(e, y)
        return _mean(loss, dy, mask, weight, count * y.shape[-1]), dy


def cross_entropy(
    y: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray | None = None,
    weight: np.ndarray | None = None,
    *,
    ignored: int | None = IGNORED,
) -> tuple[float, np.ndarray]:
    r"""Cross-entropy of logits.

    The mean over the rows that count, weighted as that of :func:`mse`, of :math:`-\log p_k` where
    the target is a class k, or, for probabilities :math:`\hat y`, of

    .. math::
        -\sum_k \hat y_k \log p_k \qquad p_k = \frac{e^{y_k}}{\sum_j e^{y_j}}

    Parameters
    ----------
    y : ndarray, (..., O)
        Logits, float32 or float64, with any strides; O is at least 1.
    target : ndarray, (...) or (..., O)
        Classes, integers from 0 to O - 1, of shape (...); or each class's probability, one-hot
        or not, as floating-point numbers of shape (..., O) whose rows add up to 1 (within 0.01).
    mask
        As for :func:`mse`.
    weight : ndarray, (...), optional
        What each row counts, as for :func:`mse`.
    ignored : int or None, default -100
        The class that does not count: a row with it is as one outside the mask.

    Returns
    -------
    value, dy
        As for :func:`mse`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    bce : For outputs that are true or false each.
    fastbptt.fit : Weights classes, by `class_weight`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.losses import cross_entropy
    >>> value, dy = cross_entropy(np.zeros((1, 2)), np.array([1]))
    >>> round(value, 4), dy
    (0.6931, array([[ 0.5, -0.5]]))
    """
    classes = isinstance(target, np.ndarray) and target.dtype.kind in "iu"
    if ignored is not None and classes:
        mask = _without(ignored, target, mask)
    count, mask, weight = _check(y, target, mask, weight, of_rows=True, classes=classes)
    O = y.shape[-1]
    if classes:
        _check_range(target, mask, O - 1, "classes of y (..., O)")
    else:
        _check_range(target, mask, 1, "probabilities")
        _check_sums(target, mask)
    with np.errstate(all="ignore"):
        rows = y.reshape(-1, O)
        starts = np.arange(0, y.size, O)  # of the rows, in a flat array
        top = rows.take(starts + rows.argmax(axis=1))
        z = rows - top[:, np.newaxis]
        dy = np.empty(y.shape, y.dtype)
        d = np.exp(z, out=dy.reshape(-1, O))
        total = np.add.reduce(d, axis=1, dtype=np.float64)
        d /= total[:, np.newaxis]  # p
        loss = np.log(total)  # log(p) = z - log(total)
        if classes:
            known = target if mask is None else np.where(mask, target, 0)
            at = starts + known.reshape(-1).astype(np.intp)
            loss -= z.take(at)
            dy.reshape(-1)[at] -= 1
        else:
            shares = target.reshape(-1, O)
            sums = np.add.reduce(shares, axis=1, dtype=np.float64)  # about 1
            z *= shares
            z[shares == 0] = 0  # the limit, for a logit of -inf
            loss *= sums
            loss -= np.add.reduce(z, axis=1, dtype=np.float64)
            d *= sums[:, np.newaxis]
            d -= shares
        if weight is not None:
            weight = weight.reshape(-1, 1)
            loss *= weight[:, 0]
            d *= weight
        return _mean(loss, d, None if mask is None else mask.reshape(-1), None, count), dy


def _without(ignored: int, target: np.ndarray, mask: np.ndarray | None) -> np.ndarray | None:
    """The mask without the rows of a class."""
    left_out = target == _checks.integer("ignored", ignored, -(2**63))
    if not left_out.any() or (isinstance(mask, np.ndarray) and mask.shape != target.shape):
        return mask  # the second is an error that comes
    return ~left_out if mask is None else mask & ~left_out


ssr.reduction = "sum"  # pyright: ignore[reportFunctionMemberAccess]
cross_entropy.takes_classes = True  # pyright: ignore[reportFunctionMemberAccess]
LOSSES: dict[str, Callable[..., tuple[float, np.ndarray]]] = {
    "mse": mse,
    "ssr": ssr,
    "mae": mae,
    "huber": huber,
    "bce": bce,
    "cross_entropy": cross_entropy,
}


def reduction(loss: Callable[..., Any]) -> str:
    """Whether a loss's value is the "mean" over its rows or the "sum"."""
    return _checks.one_of("loss.reduction", attribute(loss, "reduction", "mean"), REDUCTIONS)


def attribute(loss: Any, name: str, default: Any) -> Any:
    """A loss's attribute, or that of the function it wraps or is a partial call of."""
    while not hasattr(loss, name):
        if isinstance(loss, functools.partial):
            loss = loss.func
        elif hasattr(loss, "__wrapped__"):
            loss = loss.__wrapped__
        else:
            return default
    return getattr(loss, name)


def _mean(
    loss: np.ndarray,
    dy: np.ndarray,
    mask: np.ndarray | None,
    weight: np.ndarray | None,
    count: float,
) -> float:
    """The mean of `loss` over what counts; turns `dy` into the gradient of the mean."""
    if mask is not None:
        left_out = ~mask
        loss[left_out] = dy[left_out] = 0
    if weight is not None:
        loss *= weight
        dy *= weight
    dy /= count
    return float(np.add.reduce(loss, axis=None, dtype=np.float64)) / count


# The checks


def _check(
    y: np.ndarray,
    target: np.ndarray,
    mask: np.ndarray | None,
    weight: np.ndarray | None,
    of_rows: bool = False,
    classes: bool = False,
) -> tuple[float, np.ndarray | None, np.ndarray | None]:
    """Check types, dtypes and shapes; return what losses compute with.

    These are how many rows count, or the sum of their weights, and 1 if that is 0; the mask, of
    elements if weights are; and the weights, 0 where nothing counts, such that they can be
    multiplied with y.  `of_rows`: weights are of rows alone; `classes`: targets have no axis O.
    """
    _checks.array_type("y", y)
    if y.dtype not in _checks.FLOATS:
        raise TypeError(f"y has dtype {y.dtype}, expected float32 or float64 in native byte order")
    if y.ndim < 1 or y.shape[-1] < 1:
        raise ValueError(f"y has shape {y.shape}, expected (..., O), O at least 1")
    _checks.array_type("target", target)
    if target.dtype.kind not in "fiub":
        raise TypeError(f"target has dtype {target.dtype}, expected real numbers")
    rows = y.shape[:-1]
    if target.shape != (rows if classes else y.shape):
        expected = f"{rows}: (...) of y (..., O), for classes" if classes else f"{y.shape} as y has"
        raise ValueError(f"target has shape {target.shape}, expected {expected}")
    if mask is not None:
        _checks.array_type("mask", mask)
        if mask.dtype != _BOOL:
            raise TypeError(f"mask has dtype {mask.dtype}, expected bool")
        if mask.shape != rows:
            raise ValueError(f"mask has shape {mask.shape}, expected {rows}: (...) of y (..., O)")
    if weight is not None:
        return _check_weight(y, mask, weight, of_rows)
    return (math.prod(rows) if mask is None else int(np.count_nonzero(mask))) or 1, mask, None


def _check_weight(
    y: np.ndarray, mask: np.ndarray | None, weight: np.ndarray, of_rows: bool
) -> tuple[float, np.ndarray, np.ndarray]:
    """The last part of :func:`_check`, with weights."""
    _checks.array_type("weight", weight)
    if weight.dtype.kind not in "fiub":
        raise TypeError(f"weight has dtype {weight.dtype}, expected real numbers")
    rows = y.shape[:-1]
    if weight.shape != rows and (of_rows or weight.shape != y.shape):
        expected = f"{rows}: (...) of y (..., O)" if of_rows else f"{rows} or {y.shape}, as y has"
        raise ValueError(f"weight has shape {weight.shape}, expected {expected}")
    counted = weight if mask is None else weight[mask]
    if counted.size and not (counted.min() >= 0 and counted.max() < math.inf):
        raise ValueError(
            f"weight has values from {counted.min()} to {counted.max()}, expected at least 0 and "
            "finite"
        )
    of_elements, some = weight.shape == y.shape, weight != 0
    if mask is not None:
        some &= mask[..., np.newaxis] if of_elements else mask
    kept = np.where(some, weight, 0).astype(y.dtype)
    total = float(np.add.reduce(kept, axis=None, dtype=np.float64))
    if of_elements:
        return total / y.shape[-1] or 1.0, some, kept
    return total or 1.0, some, kept[..., np.newaxis]


def _check_range(target: np.ndarray, mask: np.ndarray | None, highest: int, meaning: str) -> None:
    """Check that targets of rows that count lie between 0 and `highest`."""
    found = target if mask is None else target[mask]
    if found.size == 0:
        return
    low, high = found.min(), found.max()
    if not (low >= 0 and high <= highest):  # NaN is refused too
        raise ValueError(
            f"target has values from {low} to {high}, expected 0 to {highest}: {meaning}"
        )


def _check_sums(target: np.ndarray, mask: np.ndarray | None) -> None:
    """Check that the probabilities of rows that count add up to 1, but for coarse rounding."""
    sums = np.add.reduce(target if mask is None else target[mask], axis=-1)
    if sums.size == 0:
        return
    low, high = sums.min(), sums.max()
    if low < 0.99 or high > 1.01:
        raise ValueError(f"target has rows with sums from {low} to {high}, expected 1")
