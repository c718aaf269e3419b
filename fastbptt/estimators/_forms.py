"""The forms that sequences come in: arrays, lists, and what is taken for neither."""

import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from fastbptt import _sequences
from fastbptt.estimators._sklearn import Data, validation

# Frames with such an index have a row for each time, not for each sequence.
TIME_INDEXES = "DatetimeIndex", "PeriodIndex", "TimedeltaIndex"


def to_column(X: Data) -> np.ndarray:
    """Sequences as one column of objects, for tools of scikit-learn that demand a table.

    :class:`sklearn.ensemble.BaggingRegressor` and others make a table of what they are given, which
    fails for three axes and for lists of unequal lengths.  They leave a column of objects as it is,
    and take rows of it; the estimators here read it as a list.

    Parameters
    ----------
    X : array_like, (n_samples, n_steps, ...), or list of array_like, (T_i, ...)

    Returns
    -------
    ndarray of object, (n_samples, 1)
        In each row an array: a sequence.

    See Also
    --------
    RNNRegressor : Names the forms that sequences come in.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import BaggingRegressor
    >>> from fastbptt.estimators import RNNRegressor, to_column
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.standard_normal((n, 2)) for n in rng.integers(2, 9, 40)]
    >>> y = [a.sum() for a in X]
    >>> bagging = BaggingRegressor(RNNRegressor(epochs=5), n_estimators=3, random_state=0)
    >>> bagging.fit(to_column(X), y).predict(to_column(X)).shape
    (40,)
    """
    sequences = as_list(X)
    column = np.empty((len(sequences), 1), object)
    for row, a in zip(column, sequences, strict=True):
        row[0] = _sequences.real("X", a)
    return column


def as_list(X: Any) -> list[Any]:
    """The sequences by themselves."""
    if isinstance(X, (list, tuple)):
        return [*X]
    found = np.atleast_1d(np.asarray(X))
    return [*(found.ravel() if is_list_of_arrays(X) else found)]


def is_list_of_arrays(X: Any) -> bool:
    """Whether X is a list, or one or a column of objects, of arrays.

    Nested lists are not, they stand for an array; nor is a list of NumPy scalars.
    """
    if isinstance(X, (list, tuple)):
        return any(getattr(a, "shape", ()) for a in X)
    if not hasattr(X, "__array__"):
        return False
    objects = np.asarray(X)
    column = objects.dtype == object and objects.shape in (objects.shape[:1], (len(objects), 1))
    return column and any(
        getattr(a, "shape", ()) or isinstance(a, (list, tuple)) for a in objects.ravel()
    )


@np.errstate(over="ignore", invalid="ignore")  # scikit-learn reports what is too large
def checked(estimator: Any, X: Any, reset: bool, dtype: Any, features: int | None = None) -> Any:
    """X as :class:`fastbptt.RNN` takes it: an array (N, T, I), or a list of (T_i, I).

    scikit-learn checks a table: X itself if it is (N, T), or one with a row for each step.

    Parameters
    ----------
    estimator : sklearn.base.BaseEstimator
        With ``reset``, what it has to know of X is set.
    dtype
        As for :func:`sklearn.utils.validation.check_array`.
    features : int, optional
        What I is expected to be.
    """
    options = {"reset": reset, "dtype": dtype}
    _refuse_labelled(X)
    if is_list_of_arrays(X):
        arrays = [_sequences.real(f"X[{i}]", a) for i, a in enumerate(as_list(X))]
        found = arrays[0].shape
        wide = "float32" if all(a.dtype == np.float32 for a in arrays) else "float64"
        steps = _sequences._from_list(
            "X", arrays, (found[1] if len(found) > 1 else 1,),
            dtype if isinstance(dtype, str) else wide,
        ).steps  # fmt: skip
        steps = validation.validate_data(estimator, steps, **options)
        return np.split(steps, np.cumsum([len(a) for a in arrays])[:-1])
    try:
        shape = np.asarray(X).shape
    except ValueError:
        raise ValueError(
            "X is a nested list whose parts differ in length, expected a list of arrays: "
            "[np.asarray(a) for a in X]"
        ) from None
    if len(shape) == 3:
        steps = np.reshape(X, (math.prod(shape[:2]), shape[2]))
        return validation.validate_data(estimator, steps, **options).reshape(shape)
    table = validation.validate_data(estimator, X, **options)
    if features is not None and features != 1:
        raise ValueError(
            f"X has shape {table.shape}, expected 3 axes, (N, T, I) with I = {features}, or a list "
            f"of arrays: pass [X] for one sequence of {len(table)} steps"
        )
    return table[..., np.newaxis]


def _refuse_labelled(X: Any) -> None:
    """Tell who has a label for each axis which of them is which here."""
    if type(X).__module__.partition(".")[0] == "xarray":
        raise TypeError(
            f"X is an xarray.{type(X).__name__} with the dimensions {tuple(X.dims)}, expected an "
            f"array: pass X.transpose(sequence, step, feature).to_numpy(), with its names of these"
        )
    columns = getattr(X, "columns", None)
    if columns is None or is_list_of_arrays(X):
        return
    why, names = "", [*columns]
    if type(getattr(X, "index", None)).__name__ in TIME_INDEXES:
        why = "whose rows are times"
    elif len(names) == 1:
        why = f"with the one column {names[0]!r}"
    elif len({re.sub(r"\d+", "", name) for name in names if isinstance(name, str)}) > 1:
        why = f"whose columns are {names[0]!r}, {names[1]!r}{' …' if len(names) > 2 else ''}"
    if why:
        raise ValueError(
            f"X is a data frame {why}, expected a row for each sequence and a column for each of "
            f"its steps: pass [X] for one sequence of {len(X)} steps, windows of it by "
            f"fastbptt.datasets.windows, or X.to_numpy() if each row is a series"
        )


def refuse_steps(y: Any) -> None:
    """Tell who has a target for each step that there is a parameter for this."""
    try:
        axes = np.asarray(y).ndim
        has = f"{axes} axes"
    except ValueError:
        axes, has = 3, "parts of unequal lengths"
    if axes > 2 or (is_list_of_arrays(y) and not isinstance(y, (list, tuple))):
        raise ValueError(
            f"y has {has if axes > 2 else 'arrays'}, expected a target for each sequence, (N,) or "
            f"for regression (N, O); with output='all' one for each step"
        )


def has_steps(a: Any) -> bool:
    """Whether what may be given for sequences or for their steps is for steps."""
    if isinstance(a, (list, tuple)):
        return any(map(np.ndim, a))
    return is_list_of_arrays(a) or np.asarray(a).ndim > 1


def of_steps(name: str, y: Any, X: Any) -> Any:
    """What is given for each step, (N, T, ...) or a list of (T_i, ...), in the form of X."""
    each = [np.asarray(a) for a in as_list(y)]
    validation.check_consistent_length(X, each)
    for i, (a, its_X) in enumerate(zip(each, X, strict=True)):
        if a.ndim == 0:
            raise ValueError(
                f"{name} has one value for each sequence, expected one for each step, (N, T), with "
                f"output='all'"
            )
        expected = len(its_X), *each[0].shape[1:]
        if a.shape != expected or a.ndim > 2:
            raise ValueError(
                f"{name}[{i}] has shape {a.shape}, expected {expected[:2]}: a row for each of the "
                f"steps of X[{i}], as wide as {name}[0]"
            )
    return each if isinstance(X, list) else np.stack(each)


def rows(y: Any) -> np.ndarray:
    """What belongs to each step, (S, ...), from an array (N, T, ...) or a list of (T_i, ...)."""
    if isinstance(y, list):
        return np.concatenate(y)
    return y.reshape(math.prod(y.shape[:2]), *y.shape[2:])


def in_form_of(y: Any, found: np.ndarray) -> Any:
    """What was found for each step, (S, ...), in the form of y."""
    if isinstance(y, list):
        return np.split(found, np.cumsum([len(a) for a in y])[:-1])
    return found.reshape(*y.shape[:2], *found.shape[1:])


def each(f: Callable[[np.ndarray], np.ndarray], outputs: Any) -> Any:
    """f of the outputs, or of each sequence's in a list."""
    return [f(y) for y in outputs] if isinstance(outputs, list) else f(outputs)
