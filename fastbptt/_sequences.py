"""Data sets: sequences of equal or unequal length, as users have them, and minibatches of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike

from fastbptt import _checks
from fastbptt._criterion import Criterion

# Bytes of a sequence up to which one is copied as a whole.
MOST_BYTES = 8 << 10


class Sequences:
    """N sequences whose steps lie one after another in one array.

    Parameters
    ----------
    steps : ndarray, (S, ...)
        What belongs to each step.
    starts, lengths : ndarray of int64, (N,)
        First step and number of steps of each sequence.
    padded : int, optional
        T of the array that they come from; None if they come from a list.

    Notes
    -----
    ``sequences[index]`` is a minibatch, time-major: (T, B, ...), where T is the largest length.
    Past a sequence's length it holds whatever comes next in `steps`.
    """

    def __init__(
        self,
        steps: np.ndarray,
        starts: np.ndarray,
        lengths: np.ndarray,
        padded: int | None = None,
    ) -> None:
        self.steps: np.ndarray = steps
        self.starts: np.ndarray = starts
        self.lengths: np.ndarray = lengths
        self.padded: int | None = padded
        self._alike = len(lengths) == 0 or bool((lengths == lengths[0]).all())
        self._longest = int(lengths.max(initial=0))
        self._rows = _rows(steps, starts, self._longest) if self._alike else None

    def __len__(self) -> int:
        return len(self.lengths)

    def __getitem__(self, index: np.ndarray) -> np.ndarray:
        return self.window(index)

    def window(self, index: np.ndarray, first: int = 0, steps: int | None = None) -> np.ndarray:
        """Of some sequences so many steps from `first`, counted from 0, or as many as there are."""
        T = self.longest(index)
        last = T if steps is None else min(first + steps, T)
        t = np.arange(first, last if len(index) else first)[:, np.newaxis]
        return self.steps.take(self.starts[index] + t, axis=0, mode="clip")

    def inputs(self, index: np.ndarray, first: int = 0, steps: int | None = None) -> np.ndarray:
        """As :meth:`window`, in whatever memory layout costs least: kernels take any."""
        if self._rows is None or first or steps is not None or not len(index):
            return self.window(index, first, steps)
        return self._rows.take(index, axis=0).swapaxes(0, 1)

    def longest(self, index: np.ndarray) -> int:
        """The largest length of some sequences."""
        return self._longest if self._alike else int(self.lengths[index].max(initial=0))

    def contains(self, value: int) -> bool:
        """Whether a step that counts has this value."""
        return bool((self.counted() == value).any())

    def counted(self) -> np.ndarray:
        """The steps that count, (R, ...), sequence after sequence."""
        before = np.cumsum(self.lengths) - self.lengths
        at = np.repeat(self.starts - before, self.lengths) + np.arange(self.lengths.sum())
        return self.steps[at]

    def part(self, index: slice) -> Sequences:
        """Some of the sequences; they share the memory of their steps."""
        return Sequences(self.steps, self.starts[index], self.lengths[index], self.padded)

    def lengths_of(self, index: np.ndarray) -> np.ndarray | None:
        """Lengths of some sequences, (B,), or None if all are equal."""
        if self._alike:
            return None
        lengths = self.lengths[index]
        return None if (lengths == lengths[:1]).all() else lengths

    def empty_outputs(self, size: int, dtype: DTypeLike) -> Any:
        """Room for `size` numbers at every step, in the form that the sequences came in.

        An array (N, T, size), 0 where no step counts, or a list of (T_i, size).
        """
        if self.padded is None:
            return [np.empty((length, size), dtype) for length in self.lengths]
        return np.zeros((len(self), self.padded, size), dtype)

    def enter_outputs(self, outputs: Any, index: np.ndarray, found: np.ndarray) -> None:
        """Copy what was found for some sequences, (T, B, size), to their places."""
        for b, n in enumerate(index):
            outputs[n][: self.lengths[n]] = found[: self.lengths[n], b]


def _rows(steps: np.ndarray, starts: np.ndarray, T: int) -> np.ndarray | None:
    """Steps as an array (N, T, ...), if sequences of T steps lie close together and are short."""
    # Of longer ones, the rows of a step would lie in so many pages, and in few sets of a cache.
    short = 0 < T * steps[:1].nbytes <= MOST_BYTES
    if not short or not (starts == starts[0] + np.arange(len(starts)) * T).all():
        return None
    return steps[starts[0] :][: len(starts) * T].reshape(-1, T, *steps.shape[1:])


class OnDisk(Sequences):
    """Sequences that stay in their files: steps are read and converted when they are needed.

    Parameters
    ----------
    arrays : sequence of ndarray, (T_i, ...), or ndarray, (N, T, ...)
        Of any dtype; at least one.
    lengths : ndarray of int64, (N,)
    dtype : numpy.dtype
        What they are converted to.
    padded : int, optional
        T of an array.

    Notes
    -----
    A minibatch holds 0 past a sequence's length; `steps` has a shape and a dtype, but no steps.
    """

    def __init__(
        self,
        arrays: Sequence[np.ndarray] | np.ndarray,
        lengths: np.ndarray,
        dtype: DTypeLike,
        padded: int | None = None,
    ) -> None:
        none = np.empty((0, *arrays[0].shape[1:]), dtype)
        super().__init__(none, np.zeros_like(lengths), lengths, padded)
        self._arrays: Sequence[np.ndarray] | np.ndarray = arrays

    def window(self, index: np.ndarray, first: int = 0, steps: int | None = None) -> np.ndarray:
        T = int(self.lengths[index].max(initial=0))
        last = T if steps is None else min(first + steps, T)
        form = self.steps
        found = np.zeros((max(last - first, 0), len(index), *form.shape[1:]), form.dtype)
        for b, n in enumerate(index):
            its = self._arrays[n][first : min(last, self.lengths[n])]
            found[: len(its), b] = its
        return found

    def contains(self, value: int) -> bool:
        return any((self._arrays[n][:T] == value).any() for n, T in enumerate(self.lengths))

    def counted(self) -> np.ndarray:
        each = [self._arrays[n][:T] for n, T in enumerate(self.lengths)]
        return np.concatenate(each, dtype=self.steps.dtype, casting="unsafe")

    def part(self, index: slice) -> Sequences:
        return OnDisk(self._arrays[index], self.lengths[index], self.steps.dtype, self.padded)


def inputs(
    x: ArrayLike | Sequence[ArrayLike], lengths: ArrayLike | None, size: int, dtype: DTypeLike
) -> Sequences:
    """Sequences of a model's inputs.

    Parameters
    ----------
    x : array_like
        (N, T, I), (N, T) if I is 1, or a list of (T_i, I) or (T_i,) arrays.  If I is not 1,
        integers (N, T) or a list of (T_i,) are tokens.
    lengths : array_like of int, (N,), or None
        For an array x: the steps of each sequence that count.
    size : int
        I.
    dtype : numpy.dtype

    Returns
    -------
    Sequences
        Steps of shape (I,), or () if they are tokens.
    """
    if isinstance(x, (list, tuple)):
        if lengths is not None:
            raise ValueError(
                "lengths is given with a list x, whose arrays have lengths of their own"
            )
        each = [real(f"x[{i}]", a) for i, a in enumerate(x)]
        if size > 1 and _integers(each) and any(a.size for a in each):
            return tokens("x", x, None, size)
        return _from_list("x", x, (size,), dtype)
    given, x = x, real("x", x)
    if x.ndim == 2 and size == 1:
        x = x[..., np.newaxis]
    if x.ndim == 2 and x.dtype.kind in "iu":
        return tokens("x", given, lengths, size)
    if x.ndim != 3 or x.shape[2] != size:
        raise ValueError(
            f"x has shape {x.shape}, expected {_alternatives('(N, T, I)', '(N, T)', size)} "
            f"with I = {size}, {'' if size == 1 else '(N, T) of integers, '}or a list of arrays"
            f"{f': pass [x] for one sequence of {len(x)} steps' if x.shape[1:] == (size,) else ''}"
        )
    N, T = x.shape[:2]
    lengths = np.full(N, T) if lengths is None else _checks.lengths(lengths, T, N)
    return _from_padded(x, lengths, dtype, isinstance(given, np.memmap))


def tokens(
    name: str, x: ArrayLike | Sequence[ArrayLike], lengths: ArrayLike | None, size: int
) -> Sequences:
    """Sequences of integers from 0 to size - 1, which stand for rows of W_x.

    Parameters
    ----------
    name : str
        What errors call x.
    x : array_like of int, (N, T), or list of (T_i,)
    lengths, size
        As for :func:`inputs`.
    """
    if isinstance(x, (list, tuple)):
        arrays = [real(f"{name}[{i}]", a) for i, a in enumerate(x)]
        if not _integers(arrays):
            raise ValueError(f"{name} is a list of other arrays, expected integers (T_i,)")
        for i, a in enumerate(arrays):
            _checks.tokens(f"{name}[{i}]", a, size, None)
        return _from_list(name, x, (), np.int64)
    on_disk, x = isinstance(x, np.memmap), real(name, x)
    if x.ndim != 2 or x.dtype.kind not in "iu":
        raise ValueError(f"{name} holds {x.dtype} of shape {x.shape}, expected integers (N, T)")
    N, T = x.shape
    lengths = None if lengths is None else _checks.lengths(lengths, T, N)
    _checks.tokens(name, x, size, lengths, time=1)
    return _from_padded(x, np.full(N, T) if lengths is None else lengths, x.dtype, on_disk)


def targets(
    y: Any, x: Sequences, output: str, size: int, loss: Criterion, dtype: DTypeLike
) -> np.ndarray | Sequences:
    """What a model's outputs are compared with.

    Parameters
    ----------
    y : array_like
        For output "last" (N, O), or (N,) if O is 1.  For "all" (N, T, O), (N, T) if O is 1, or a
        list of (T_i, O) or (T_i,) arrays.  For a loss that takes classes, also integers without
        the axis O; one that does not say so takes them if O is above 1.
    x : Sequences
        The inputs.
    output : {"last", "all"}
    size : int
        O.
    loss : Criterion
    dtype : numpy.dtype

    Returns
    -------
    ndarray or Sequences
        Indexed by the sequences of a minibatch, it gives (B, O) or (T, B, O); classes have no axis
        O.
    """
    N, of_steps, or_classes = len(x), output == "all", loss.takes_classes
    if or_classes is None:
        or_classes = size > 1
    if of_steps and isinstance(y, (list, tuple)):
        each = [real(f"y[{i}]", a) for i, a in enumerate(y)]
        classes = or_classes and _integers(each)
        for a in each if classes else ():
            _check_int64(a, size)
        found = _from_list("y", y, () if classes else (size,), np.int64 if classes else dtype)
        check_same_lengths("y", found.lengths, x)
        return found
    on_disk, y = isinstance(y, np.memmap), real("y", y)
    given, axes = y.shape, 2 if of_steps else 1
    classes = or_classes and y.dtype.kind in "iu" and y.ndim == axes
    if not classes and y.ndim == axes and size == 1:
        y = y[..., np.newaxis]
    leading = "(N, T{})" if of_steps else "(N{})"
    wanted = _alternatives(leading.format(", O"), leading.format("" if of_steps else ","), size)
    if y.ndim != axes + (not classes) or len(y) != N or (not classes and y.shape[-1] != size):
        also = ", or integer classes without the last axis" if or_classes else ""
        raise ValueError(
            f"y has shape {given}, expected {wanted} with N = {N}, as in x, and O = {size}{also}"
        )
    dtype = np.int64 if classes else dtype
    if not of_steps:
        if classes:
            _check_int64(y, size)
        return y.astype(dtype, copy=False)
    check_steps("y", given, x)
    if classes and y.dtype.kind == "u" and y.dtype.itemsize == 8:
        _check_int64(y[np.arange(y.shape[1]) < x.lengths[:, np.newaxis]], size)
    return _from_padded(y, x.lengths, dtype, on_disk)


def _integers(arrays: Sequence[np.ndarray]) -> bool:
    """Whether all are (T_i,) of integers, or empty."""
    return all(a.ndim == 1 and (a.dtype.kind in "iu" or a.size == 0) for a in arrays)


def check_same_lengths(name: str, lengths: ArrayLike, x: Sequences) -> None:
    """Check that a list's arrays are as long as the inputs."""
    found = np.asarray(lengths, np.int64)
    if not np.array_equal(found, x.lengths):
        raise ValueError(
            f"{name} has sequences of lengths {_some(found)}, expected x's {_some(x.lengths)}"
        )


def check_steps(name: str, shape: tuple[int, ...], x: Sequences) -> None:
    """Check T of an array (N, T, ...) that goes with the inputs."""
    longest = x.lengths.max(initial=0)
    if x.padded is not None and shape[1] != x.padded:
        raise ValueError(f"{name} has shape {shape}, expected T = {x.padded}, as in x")
    if shape[1] < longest:
        raise ValueError(f"{name} has shape {shape}, expected T of at least {longest}, x's longest")


def _check_int64(classes: np.ndarray, size: int) -> None:
    """Check that classes fit into int64, since a conversion would turn them into others."""
    if classes.dtype.kind == "u" and classes.max(initial=0) > np.iinfo(np.int64).max:
        raise ValueError(f"y has class {classes.max()}, expected 0 to {size - 1}: O is {size}")


def _from_padded(a: np.ndarray, lengths: np.ndarray, dtype: DTypeLike, on_disk: bool) -> Sequences:
    if on_disk and len(a):
        return OnDisk(a, lengths, dtype, a.shape[1])
    a = np.ascontiguousarray(a, dtype)
    N, T = a.shape[:2]
    return Sequences(a.reshape(N * T, *a.shape[2:]), np.arange(N) * T, lengths, T)


def _from_list(
    name: str, arrays: Sequence[ArrayLike], shape: tuple[int, ...], dtype: DTypeLike
) -> Sequences:
    """Sequences from a list of (T_i, *shape), or of (T_i,) if shape is (1,)."""
    on_disk = any(isinstance(a, np.memmap) for a in arrays)
    arrays = [real(f"{name}[{i}]", a) for i, a in enumerate(arrays)]
    for i, a in enumerate(arrays):
        if a.ndim == 1 and shape == (1,):
            arrays[i] = a[:, np.newaxis]
        elif a.shape[1:] != shape:
            wanted = ", ".join(["T", *map(str, shape)]) + ("" if shape else ",")
            raise ValueError(f"{name}[{i}] has shape {a.shape}, expected ({wanted})")
    lengths = np.array([len(a) for a in arrays], np.int64)
    if on_disk:
        return OnDisk(arrays, lengths, dtype)
    steps = np.concatenate([*arrays, np.zeros((0, *shape))], dtype=dtype, casting="unsafe")
    return Sequences(steps, np.cumsum(lengths) - lengths, lengths)


def real(name: str, a: Any) -> np.ndarray:
    """An array of real numbers."""
    if isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name} is a MaskedArray, expected an array or a list without a mask")
    try:
        found = np.asarray(a)
    except ValueError:
        raise ValueError(f"{name} is ragged, expected an array or a list of arrays") from None
    if found.dtype == object and found.ndim == 1 and any(getattr(a, "shape", ()) for a in found):
        raise TypeError(
            f"{name} is an array of objects, expected numbers, or a list: pass [*{name}]"
        )
    if found.dtype.kind not in "biuf":
        raise TypeError(f"{name} has dtype {found.dtype}, expected real numbers")
    return found


def _alternatives(full: str, short: str, size: int) -> str:
    return f"{full} or {short}" if size == 1 else full


def _some(lengths: np.ndarray) -> str:
    return f"{lengths[:5].tolist()}{' …' if len(lengths) > 5 else ''}"
