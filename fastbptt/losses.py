"""Losses: each takes predictions and targets, and returns its value and its gradient.

Elements are computed in the predictions' dtype, their sums in float64.  NaN and infinities in the
predictions reach the value without a warning.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, SupportsFloat

import numpy as np

from fastbptt import _checks

Loss = Callable[[np.ndarray, np.ndarray, np.ndarray | None], tuple[SupportsFloat, np.ndarray]]
"""A loss function: ``loss(y, target, mask) -> (value, dy)``, as :func:`mse` describes them.

Two attributes, if it has them, say how it is used: ``reduction`` is "sum" if its value is a sum
over rows, not a mean, and ``takes_classes`` is true if targets may be integer classes.
"""

LossName = Literal["mse", "ssr", "bce", "cross_entropy"]

REDUCTIONS = "mean", "sum"
_BOOL = np.dtype(bool)


def mse(
    y: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Mean squared error: the mean of ``(y - target)**2`` over the elements that count.

    Parameters
    ----------
    y : ndarray, (..., O)
        Predictions, float32 or float64, with any strides; O is at least 1.
    target : ndarray, (..., O)
        Of any real dtype.
    mask : ndarray of bool, (...), optional
        The rows that count, all by default; what the others hold changes no bit.

    Returns
    -------
    value : float
        0.0 if no row counts.
    dy : ndarray, (..., O)
        Gradient of the value with respect to ``y``, of its dtype, C-contiguous; 0 in rows that do
        not count.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.losses import mse
    >>> mse(np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]]))
    (2.5, array([[ 1., -2.]]))
    """
    count = _check(y, target, mask) * y.shape[-1]
    with np.errstate(all="ignore"):
        total, dy = _residuals(y, target, mask)
        dy *= 2 / count
    return total / count, dy


def ssr(
    y: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Sum of squared residuals: the sum of ``(y - target)**2`` over the elements that count.

    Parameters, return values and errors are those of :func:`mse`.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.losses import ssr
    >>> ssr(np.array([[1.0, 2.0]]), np.array([[0.0, 4.0]]))
    (5.0, array([[ 2., -4.]]))
    """
    _check(y, target, mask)
    with np.errstate(all="ignore"):
        total, dy = _residuals(y, target, mask)
        dy *= 2
    return total, dy


def _residuals(
    y: np.ndarray, target: np.ndarray, mask: np.ndarray | None
) -> tuple[float, np.ndarray]:
    """The sum of squared residuals, and the residuals, 0 in rows that do not count."""
    residuals = np.empty(y.shape, y.dtype)
    np.subtract(y, target, out=residuals, casting="same_kind")
    if mask is not None:
        residuals[~mask] = 0
    return float(np.add.reduce(np.square(residuals, dtype=np.float64), axis=None)), residuals


def bce(
    y: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Binary cross-entropy of logits.

    The mean over the elements that count of ``-target * log(p) - (1 - target) * log(1 - p)``, where
    ``p = 1 / (1 + exp(-y))``.

    Parameters
    ----------
    y : ndarray, (..., O)
        Logits, float32 or float64, with any strides; O is at least 1.
    target : ndarray, (..., O)
        Probabilities of a 1, from 0 to 1, of any real dtype.
    mask
        As for :func:`mse`.

    Returns
    -------
    value, dy
        As for :func:`mse`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.losses import bce
    >>> value, dy = bce(np.zeros((1, 2)), np.array([[True, False]]))
    >>> round(value, 4), dy
    (0.6931, array([[-0.25,  0.25]]))
    """
    count = _check(y, target, mask) * y.shape[-1]
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
        return _mean(loss, dy, mask, count), dy


def cross_entropy(
    y: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Cross-entropy of logits.

    The mean over the rows that count of ``-log(p[target])``, or of ``-sum(target * log(p))``, where
    ``p = exp(y) / sum(exp(y))``.

    Parameters
    ----------
    y : ndarray, (..., O)
        Logits, float32 or float64, with any strides; O is at least 1.
    target : ndarray, (...) or (..., O)
        Classes, integers from 0 to O - 1, of shape (...); or each class's probability, one-hot
        or not, as floating-point numbers of shape (..., O) whose rows add up to 1 (within 0.01).
    mask
        As for :func:`mse`.

    Returns
    -------
    value, dy
        As for :func:`mse`.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Examples
    --------
    >>> import numpy as np
    >>> from fastbptt.losses import cross_entropy
    >>> value, dy = cross_entropy(np.zeros((1, 2)), np.array([1]))
    >>> round(value, 4), dy
    (0.6931, array([[ 0.5, -0.5]]))
    """
    classes = isinstance(target, np.ndarray) and target.dtype.kind in "iu"
    count, O = _check(y, target, mask, of_rows=classes), y.shape[-1]
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
            weight = np.add.reduce(shares, axis=1, dtype=np.float64)  # about 1
            z *= shares
            z[shares == 0] = 0  # the limit, for a logit of -inf
            loss *= weight
            loss -= np.add.reduce(z, axis=1, dtype=np.float64)
            d *= weight[:, np.newaxis]
            d -= shares
        return _mean(loss, d, None if mask is None else mask.reshape(-1), count), dy


ssr.reduction = "sum"  # pyright: ignore[reportFunctionMemberAccess]
cross_entropy.takes_classes = True  # pyright: ignore[reportFunctionMemberAccess]
LOSSES: dict[str, Callable[..., tuple[float, np.ndarray]]] = {
    "mse": mse,
    "ssr": ssr,
    "bce": bce,
    "cross_entropy": cross_entropy,
}


def reduction(loss: Callable[..., Any]) -> str:
    """Whether a loss's value is the "mean" over its rows or the "sum"."""
    return _checks.one_of("loss.reduction", attribute(loss, "reduction", "mean"), REDUCTIONS)


def takes_classes(loss: Callable[..., Any]) -> bool:
    """Whether a loss takes integer classes as targets, without the axis O."""
    return bool(attribute(loss, "takes_classes", False))


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


def _mean(loss: np.ndarray, dy: np.ndarray, mask: np.ndarray | None, count: int) -> float:
    """The mean of `loss` over what counts; turns `dy` into the gradient of the mean."""
    if mask is not None:
        left_out = ~mask
        loss[left_out] = dy[left_out] = 0
    dy /= count
    return float(np.add.reduce(loss, axis=None, dtype=np.float64)) / count


# The checks


def _check(
    y: np.ndarray, target: np.ndarray, mask: np.ndarray | None, of_rows: bool = False
) -> int:
    """Check types, dtypes and shapes; return how many rows count, or 1 if none does."""
    _checks.array_type("y", y)
    if y.dtype not in _checks.FLOATS:
        raise TypeError(f"y has dtype {y.dtype}, expected float32 or float64 in native byte order")
    if y.ndim < 1 or y.shape[-1] < 1:
        raise ValueError(f"y has shape {y.shape}, expected (..., O), O at least 1")
    _checks.array_type("target", target)
    if target.dtype.kind not in "fiub":
        raise TypeError(f"target has dtype {target.dtype}, expected real numbers")
    rows = y.shape[:-1]
    if target.shape != (rows if of_rows else y.shape):
        expected = f"{rows}: (...) of y (..., O), for classes" if of_rows else f"{y.shape} as y has"
        raise ValueError(f"target has shape {target.shape}, expected {expected}")
    if mask is None:
        return math.prod(rows) or 1
    _checks.array_type("mask", mask)
    if mask.dtype != _BOOL:
        raise TypeError(f"mask has dtype {mask.dtype}, expected bool")
    if mask.shape != rows:
        raise ValueError(f"mask has shape {mask.shape}, expected {rows}: (...) of y (..., O)")
    return int(np.count_nonzero(mask)) or 1


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
