"""Checks of what users pass: clear errors, before anything is written.

The common case costs a comparison or two.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from numbers import Real
from typing import Any

import numpy as np

from fastbptt.reference import ACTIVATIONS

FLOATS = np.dtype(np.float32), np.dtype(np.float64)


def integer(name: str, value: Any, least: int = 1) -> int:
    """An integer of at least `least`."""
    try:
        found = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {value!r}, expected an integer") from None
    if found < least:
        raise ValueError(f"{name} is {found}, expected at least {least}")
    return found


def real(name: str, value: Any) -> float:
    """A number, as a float."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected a number")
    return float(value)


def number(name: str, value: Any, zero: bool = True, below: float = math.inf) -> float:
    """A number of at least 0, or above 0 if `zero` is false, as a float."""
    value = real(name, value)
    if not 0 <= value < below or (value == 0 and not zero):
        least = "at least 0" if zero else "above 0"
        raise ValueError(f"{name} is {value}, expected {least} and below {below}")
    return value


def one_of(name: str, value: Any, known: Iterable[str]) -> Any:
    """One of the words in `known`."""
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(map(repr, known))}")
    return value


def float_dtype(name: str, dtype: Any) -> np.dtype:
    """float32 or float64, as a numpy.dtype."""
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = np.dtype(object)
    if dtype is None or found not in FLOATS:
        raise TypeError(f"{name} is {dtype!r}, expected 'float32' or 'float64'")
    return found


def horizon(fh: Any) -> np.ndarray:
    """Steps ahead, each at least 1 and no two alike, as int64, (n,)."""
    try:
        found = np.atleast_1d(np.asarray(fh))
    except ValueError:
        found = np.empty(0, object)
    if found.dtype.kind not in "iu":
        raise TypeError(f"fh is {fh!r}, expected an integer or some of them")
    if found.ndim != 1 or not found.size or found.min() < 1 or len(np.unique(found)) < len(found):
        raise ValueError(f"fh is {fh!r}, expected steps ahead, each at least 1 and no two alike")
    return found.astype(np.int64)


def layer(params: Any, x: Any, activation: Any) -> tuple[int, int, int, int, np.dtype]:
    """A layer's weights, inputs and activation; return T, B, I, H and the dtype."""
    try:
        W_x, W_h, b = params
        (T, B, I), H, dtype = x.shape, len(b), x.dtype
        shapes = (W_x.shape, W_h.shape, b.shape) == ((I, H), (H, H), (H,))
        plain = type(x) is type(W_x) is type(W_h) is type(b) is np.ndarray
        floats = W_x.dtype is W_h.dtype is b.dtype is dtype in FLOATS
        word = type(activation) is str and activation in ACTIVATIONS
        if plain and shapes and floats and I and H and word:
            return T, B, I, H, dtype
    except (TypeError, ValueError, AttributeError):
        pass
    return _layer_in_detail(params, x, activation)


def _layer_in_detail(params: Any, x: Any, activation: Any) -> tuple[int, int, int, int, np.dtype]:
    """The same for what is not plain, with an error that says what is wrong."""
    try:
        W_x, W_h, b = params
    except (TypeError, ValueError):
        raise TypeError(
            f"params is a {type(params).__name__}, expected Params(W_x, W_h, b)"
        ) from None
    array_type("x", x)
    of_tokens = x.dtype.kind in "iu" and x.ndim == 2
    if x.dtype not in FLOATS and not of_tokens:
        raise TypeError(
            f"x has dtype {x.dtype}, expected float32 or float64 in native byte order, or integers "
            "(T, B), rows of W_x"
        )
    if x.ndim != 3 and not of_tokens:
        raise ValueError(f"x has shape {x.shape}, expected (T, B, I), or (T, B) of integers")
    T, B = x.shape[:2]
    array_type("W_x", W_x)
    if W_x.ndim != 2:
        raise ValueError(f"W_x has shape {W_x.shape}, expected (I, H)")
    I, H = W_x.shape if of_tokens else (x.shape[2], W_x.shape[1])
    dtype, given = (W_x.dtype, "W_x") if of_tokens else (x.dtype, "x")
    if I < 1 or H < 1:
        raise ValueError(f"x {x.shape} and W_x {W_x.shape}: I and H are expected to be at least 1")
    if dtype not in FLOATS:
        raise TypeError(f"W_x has dtype {dtype}, expected float32 or float64 in native byte order")
    array("W_x", W_x, dtype, (I, H), "(I, H), I as in x (T, B, I)")
    array("W_h", W_h, dtype, (H, H), "(H, H), H as in W_x (I, H)", given)
    array("b", b, dtype, (H,), "(H,), H as in W_x (I, H)", given)
    one_of("activation", activation, ACTIVATIONS)
    return T, B, I, H, dtype


def tokens(name: str, x: np.ndarray, size: int, lengths: np.ndarray | None, time: int = 0) -> None:
    """Integers from 0 to size - 1, where they count.

    x is (T, B), or (B, T) with `time` 1; `lengths` say how many steps of each sequence count.
    """
    if not x.size or (x.min() >= 0 and x.max() < size):
        return
    wrong = (x < 0) | (x >= size)
    if lengths is not None:
        steps = np.arange(x.shape[time])
        wrong &= steps[:, np.newaxis] < lengths if time == 0 else steps < lengths[:, np.newaxis]
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(f"{name}{[*at]} is {x[at]}, expected 0 to {size - 1}: a row of W_x")


def readout(W_y: Any, h: Any) -> tuple[int, int, np.dtype]:
    """A readout's weights and the states it reads; return H, O and the dtype."""
    array_type("h", h)
    if h.dtype not in FLOATS:
        raise TypeError(f"h has dtype {h.dtype}, expected float32 or float64 in native byte order")
    array_type("W_y", W_y)
    if W_y.ndim != 2 or h.ndim == 0:
        raise ValueError(f"W_y {W_y.shape}, h {h.shape}: expected (H, O) and (..., H)")
    H, O = h.shape[-1], W_y.shape[1]
    if H < 1 or O < 1:
        raise ValueError(f"h {h.shape} and W_y {W_y.shape}: expected H and O of at least 1")
    array("W_y", W_y, h.dtype, (H, O), "(H, O), H as in h (..., H)", "h")
    return H, O, h.dtype


def array_type(name: str, a: Any) -> None:
    """A numpy.ndarray, or one mapped from a file."""
    # Other subclasses may mean more than their numbers: a mask, another product.
    if type(a) is not np.ndarray and not isinstance(a, np.memmap):
        raise TypeError(f"{name} is a {type(a).__name__}, expected a numpy.ndarray")


def array(
    name: str, a: Any, dtype: np.dtype, shape: tuple[int, ...], meaning: str, other: str = "x"
) -> None:
    """An array of the dtype that `other` has, and of this shape, explained by `meaning`."""
    if type(a) is not np.ndarray:
        array_type(name, a)
    if a.shape != shape:
        raise ValueError(f"{name} has shape {a.shape}, expected {shape}: {meaning}")
    if a.dtype != dtype:
        raise TypeError(f"{name} has dtype {a.dtype}, expected {dtype} as {other} has")


def lengths(lengths: Any, T: int, B: int) -> np.ndarray:
    """Lengths of B sequences of T steps, as int64."""
    if isinstance(lengths, np.ma.MaskedArray):
        raise TypeError("lengths is a MaskedArray, expected an array or a list without a mask")
    try:
        found = np.asarray(lengths)
    except ValueError:
        raise ValueError(
            f"lengths is ragged, expected the shape {(B,)}: one for each sequence"
        ) from None
    if found.shape != (B,):
        raise ValueError(f"lengths has shape {found.shape}, expected {(B,)}: one for each sequence")
    if found.dtype.kind not in "iu" and found.size:
        raise TypeError(f"lengths has dtype {found.dtype}, expected integers")
    if found.size and (found.min() < 0 or found.max() > T):
        b = int(np.flatnonzero((found < 0) | (found > T))[0])
        raise ValueError(f"lengths[{b}] is {found[b]}, expected 0 to {T}: T of x")
    return found.astype(np.int64)


def dh(dh: Any, dtype: np.dtype, T: int, B: int, H: int) -> bool:
    """A loss's gradient at the states; return whether it is at the last ones alone."""
    last_only = isinstance(dh, np.ndarray) and dh.shape == (B, H)
    if last_only:
        array("dh", dh, dtype, (B, H), "(B, H)")
    else:
        meaning = f"(T, B, H), or {(B, H)}: (B, H) for the last state alone"
        array("dh", dh, dtype, (T, B, H), meaning)
    return last_only


def output(
    name: str, a: Any, dtype: np.dtype, shape: tuple[int, ...], meaning: str, others: Iterable[Any]
) -> None:
    """An array to write to, which shares no memory with others."""
    array(name, a, dtype, shape, meaning)
    if not a.flags.c_contiguous or not a.flags.aligned:
        raise ValueError(f"{name} has strides {a.strides}, expected a C-contiguous, aligned array")
    if not a.flags.writeable:
        raise ValueError(f"{name} is read-only, expected a writeable array")
    for other in others:
        if other is not None and np.shares_memory(a, other):
            raise ValueError(
                f"{name} {shape} shares memory with another argument, expected memory of its own"
            )
