"""Data sets with weights: what each sequence, step, element or class counts in a loss.

A row is what a loss is the mean over: a sequence for output "last", a step for "all".
"""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from fastbptt import _checks
from fastbptt._criterion import Criterion
from fastbptt._sequences import Sequences, check_same_lengths, check_steps, real

Rows = np.ndarray | Sequences  # as targets are: (N, ...) for output "last", steps for "all"


class Minibatch(NamedTuple):
    """What a step is taken on, time-major.

    Attributes
    ----------
    x : ndarray, (T, B, I)
    y : ndarray
        Targets, as the loss takes them.
    lengths : ndarray of int64, (B,), or None
    weight : ndarray or None
        What each row or element of y counts.
    begins : ndarray of bool, (B,), or None
        Which sequences begin here although states are given; none by default.
    """

    x: np.ndarray
    y: np.ndarray
    lengths: np.ndarray | None = None
    weight: np.ndarray | None = None
    begins: np.ndarray | None = None


class Extent(NamedTuple):
    """How much of a minibatch counts.

    Attributes
    ----------
    steps : int
        Without padding.
    rows : int
        Those of the loss.
    weight : float
        Their number, or the sum of their weights: what a mean loss is divided by.
    """

    steps: int
    rows: int
    weight: float


class Data(NamedTuple):
    """A data set, checked and converted.

    Attributes
    ----------
    x : Sequences
    y : ndarray or Sequences
        Targets: (N, ...), or (...) of each step.
    weight : ndarray, Sequences or None
        What each row of the loss counts, or each element; None if all count alike.
    """

    x: Sequences
    y: Rows
    weight: Rows | None

    def minibatch(self, index: np.ndarray, first: int = 0, steps: int | None = None) -> Minibatch:
        """Some of the sequences, to compute with; or for output "all" a window of their steps."""
        x, lengths = self.x.inputs(index, first, steps), self.x.lengths_of(index)
        if steps is not None and lengths is not None:
            lengths = np.clip(lengths - first, 0, len(x))
        weight = None if self.weight is None else _window(self.weight, index, first, steps)
        return Minibatch(x, _window(self.y, index, first, steps), lengths, weight)

    def extent(self, index: np.ndarray, first: int = 0, steps: int | None = None) -> Extent:
        """How much counts of what :meth:`minibatch` would return."""
        T, lengths = self.x.longest(index), self.x.lengths_of(index)
        T = T if steps is None else min(max(T - first, 0), steps)
        if steps is not None and lengths is not None:
            lengths = np.clip(lengths - first, 0, T)
        of_steps = T * len(index) if lengths is None else int(lengths.sum())
        if isinstance(self.y, Sequences):
            rows = of_steps
        else:
            rows, lengths = len(index), None
        if self.weight is None:
            return Extent(of_steps, rows, rows)
        weight = _window(self.weight, index, first, steps)
        return Extent(of_steps, rows, total_weight(rows, lengths, weight))

    def together(self) -> Minibatch:
        """All sequences as one minibatch."""
        return self.minibatch(np.arange(len(self.x)))

    def part(self, index: slice) -> Data:
        """Some of the sequences."""
        weight = None if self.weight is None else _part(self.weight, index)
        return Data(self.x.part(index), _part(self.y, index), weight)

    def weighs_nothing(self) -> bool:
        """Whether there are rows, all of weight 0."""
        if self.weight is None:
            return False
        rows = _rows(self.weight)
        return rows.size > 0 and not rows.any()


def _window(a: Rows, index: np.ndarray, first: int, steps: int | None) -> np.ndarray:
    if isinstance(a, Sequences):
        return a.window(index, first, steps)
    return a.take(index, axis=0)


def _part(a: Rows, index: slice) -> Rows:
    return a.part(index) if isinstance(a, Sequences) else a[index]


def read_weights(
    sample_weight: Any, x: Sequences, y: Rows, size: int, loss: Criterion
) -> Rows | None:
    """The weights of a data set's rows, or of their elements; None if all count alike.

    Parameters
    ----------
    sample_weight
        As for :func:`fastbptt.fit`.
    x, y
        Inputs and targets, as :mod:`fastbptt._sequences` made them.
    size : int
        O.
    loss : Criterion
        The class that it ignores has weight 0.
    """
    dtype, form, found = _dtype(x), y.steps if isinstance(y, Sequences) else y, None
    if sample_weight is not None:
        _check_loss("sample_weight", loss)
        elements = form.ndim == 2 and not loss.of_rows
        found = _of_samples(sample_weight, x, isinstance(y, Sequences), size, elements)
        with np.errstate(over="ignore"):
            found = found.astype(dtype)
        _check_values("sample_weight", found)
        _check_some(found, "sample_weight is 0 wherever it counts, expected a value above 0")
    if loss.ignored is not None and form.dtype.kind == "i" and _contains(y, loss.ignored):
        kept = _rows(y) != loss.ignored
        found = kept.astype(dtype) if found is None else found * kept
        _check_some(found, f"y has weight for none but the ignored class {loss.ignored}")
    return None if found is None else _like(y, found)


def times_class_weight(class_weight: Any, data: Data, size: int, loss: Criterion) -> Data:
    """A data set whose rows' weights are multiplied by those of their classes.

    Parameters
    ----------
    class_weight
        As for :func:`fastbptt.fit`.
    data : Data
    size : int
        O.
    loss : Criterion
    """
    _check_loss("class_weight", loss)
    rows = _rows(data.y)
    if rows.shape[1:] == (1,) and np.isin(rows, (0, 1)).all():
        rows = rows[:, 0].astype(np.int64)
    if rows.dtype.kind != "i":
        raise ValueError("class_weight is given, expected y of integer classes, or of 0 and 1")
    found = np.ones(len(rows), _dtype(data.x))
    if data.weight is not None:
        found = _rows(data.weight)
    found = found * _of_classes(class_weight, max(size, 2), np.where(found > 0, rows, 0), found)
    data = data._replace(weight=_like(data.y, found))
    if data.weighs_nothing():
        raise ValueError("class_weight is 0 for each class that counts, expected one above 0")
    return data


def total_weight(rows: int, lengths: np.ndarray | None, weight: np.ndarray | None) -> float:
    """The sum of a minibatch's weights, which its mean loss was divided by.

    Parameters
    ----------
    rows : int
        How many there are, which is the sum if `weight` is None; B, or T B with padding.
    lengths : ndarray, (B,), optional
        Those of rows (T, B), if not all count.
    weight : ndarray, optional
    """
    if weight is None:
        return rows if lengths is None else int(lengths.sum())
    if lengths is not None:
        weight = weight[np.arange(len(weight))[:, np.newaxis] < lengths]
    return float(np.add.reduce(weight, axis=None, dtype=np.float64))


def _of_samples(given: Any, x: Sequences, of_steps: bool, size: int, elements: bool) -> np.ndarray:
    """Weights of rows, (R,), or of their elements, (R, O)."""
    name, N, of_row = "sample_weight", len(x), {(), (size,)} if elements else {()}
    wanted = "(N,)"
    if of_steps:
        wanted += ", (N, T) or (N, T, O)" if elements else " or (N, T)"
    elif elements:
        wanted += " or (N, O)"
    wanted += f" with N = {N}" + (f" and O = {size}" if elements else "")
    if of_steps and isinstance(given, (list, tuple)) and any(hasattr(a, "__len__") for a in given):
        each = [real(f"{name}[{i}]", a) for i, a in enumerate(given)]
        check_same_lengths(name, [len(a) if a.ndim else 0 for a in each], x)
        shapes = {a.shape[1:] for a in each}
        if len(shapes) > 1 or not shapes <= of_row:
            has = ", ".join(map(str, sorted({a.shape for a in each})[:3]))
            wanted = "(T_i,) or (T_i, O)" if elements else "(T_i,)"
            raise ValueError(f"{name} has arrays of shapes {has} ..., expected {wanted}")
        found = np.concatenate(each)
    else:
        found = real(name, given)
        leading = 2 if of_steps and found.ndim > 1 else 1
        if found.ndim == 0 or len(found) != N or found.shape[leading:] not in of_row:
            raise ValueError(f"{name} has shape {found.shape}, expected {wanted}")
        if leading == 1:
            found = np.repeat(found, x.lengths, axis=0) if of_steps else found
        else:
            check_steps(name, found.shape, x)
            found = found[np.arange(found.shape[1]) < x.lengths[:, np.newaxis]]
    return found[:, 0] if found.shape[1:] == (1,) else found


def _of_classes(given: Any, count: int, classes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The weight of each row's class."""
    name, low, high = "class_weight", classes.min(initial=0), classes.max(initial=0)
    if low < 0 or high >= count:
        raise ValueError(f"y has classes from {low} to {high}, expected 0 to {count - 1}: O - 1")
    if isinstance(given, str):
        _checks.one_of(name, given, ("balanced",))
        sums = np.bincount(classes, weight, count)
        some = sums > 0
        sums[some] = sums.sum() / (np.count_nonzero(some) * sums[some])
        return sums.astype(weight.dtype)[classes]
    if isinstance(given, Mapping):
        found = np.ones(count)
        for key, value in given.items():
            try:
                at = operator.index(key)
            except TypeError:
                at = -1
            if not 0 <= at < count:
                raise ValueError(f"{name} has the key {key!r}, expected classes 0 to {count - 1}")
            found[at] = _checks.number(f"{name}[{key!r}]", value)
    else:
        found = real(name, given)
        if found.shape != (count,):
            raise ValueError(
                f"{name} has shape {found.shape}, expected ({count},): one for each class"
            )
    with np.errstate(over="ignore"):
        found = found.astype(weight.dtype)
    _check_values(name, found)
    return found[classes]


def _dtype(x: Sequences) -> np.dtype:
    """What weights are kept in: the inputs' dtype, but not that of tokens."""
    return x.steps.dtype if x.steps.dtype.kind == "f" else np.dtype(np.float64)


def _contains(y: Rows, value: int) -> bool:
    return y.contains(value) if isinstance(y, Sequences) else bool((y == value).any())


def _rows(a: Rows) -> np.ndarray:
    return a.counted() if isinstance(a, Sequences) else a


def _like(y: Rows, weight: np.ndarray) -> Rows:
    """Weights of the rows that count, for minibatches of the same sequences as y's."""
    if not isinstance(y, Sequences):
        return weight
    return Sequences(weight, np.cumsum(y.lengths) - y.lengths, y.lengths)


def _check_loss(name: str, loss: Criterion) -> None:
    if not loss.takes_weights:
        raise ValueError(
            f"{name} is given, expected a loss with weights: {loss.name} has no parameter 'weight'"
        )


def _check_values(name: str, found: np.ndarray) -> None:
    if not found.size:
        return
    low, high = found.min(), found.max()
    if not (low >= 0 and high < np.inf):
        raise ValueError(
            f"{name} has values from {low} to {high}, expected at least 0 and finite in "
            f"{found.dtype}"
        )


def _check_some(found: np.ndarray, message: str) -> None:
    if found.size and not found.any():
        raise ValueError(message)
