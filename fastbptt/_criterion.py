"""A loss as a training step calls it: on time-major arrays, whoever wrote it."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastbptt import _checks
from fastbptt.losses import IGNORED, LOSSES, attribute, cross_entropy, reduction
from fastbptt.rnn import Backend, find_backend

OPTIONAL = "mask", "weight"


class Criterion:
    """One of :data:`fastbptt.losses.LOSSES`, or a function as :func:`fastbptt.fit` describes it.

    Parameters
    ----------
    loss : str or callable
    backend : {"numba", "numpy"}, default "numpy"
        "numba" has some losses compiled, for minibatches without padding.

    Attributes
    ----------
    name : str
    compute : callable
        ``compute(y, target, mask=None, weight=None) -> (value, dy)`` with y (B, O) or (T, B, O),
        target and weight as y or without the axis O, and mask (T, B).
    reduction : {"mean", "sum"}
    takes_classes : bool or None
        Whether targets may be integers without the axis O; None if they may where O is above 1.
    takes_weights : bool
    of_rows : bool
        Whether these are of rows alone, not of elements.
    ignored : int or None
        The class that does not count.  Whoever calls gives it weight 0.
    """

    name: str
    compute: Callable[..., tuple[float, np.ndarray]]
    reduction: str
    takes_classes: bool | None
    takes_weights: bool
    of_rows: bool
    ignored: int | None

    def __init__(self, loss: str | Callable[..., Any], backend: Backend = "numpy") -> None:
        if not callable(loss):
            loss = LOSSES[_checks.one_of("loss", loss, LOSSES)]
        inner, settings = loss, {}
        while isinstance(inner, functools.partial):
            inner, settings = inner.func, {**inner.keywords, **settings}
        self._function, ours = loss, inner in LOSSES.values()
        self.compute = loss if ours else self._own
        self.name = attribute(loss, "__name__", type(loss).__name__)
        if ours and settings:
            self.name += f"({', '.join(f'{name}={value!r}' for name, value in settings.items())})"
        self.reduction = reduction(loss)
        self.takes_classes = attribute(loss, "takes_classes", False if ours else None)
        self._given = OPTIONAL if ours else _wanted(loss, self.name)
        self.takes_weights = "weight" in self._given
        self.of_rows = inner is cross_entropy
        self.ignored = settings.get("ignored", IGNORED) if self.of_rows else None
        if self.ignored is not None:
            self.ignored = _checks.integer("ignored", self.ignored, -(2**63))
        if self.of_rows:  # what it ignores has weight 0 already
            self.compute = functools.partial(loss, ignored=None)
        if ours and settings.keys() <= {"ignored"}:
            compiled = getattr(find_backend(backend), inner.__name__, None)
            if compiled is not None:
                self.compute = _with_compiled(compiled, self.compute)

    def _own(
        self,
        y: np.ndarray,
        target: np.ndarray,
        mask: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> tuple[float, np.ndarray]:
        """Call a user's function: batch-major, and padding is left out."""
        of_steps = y.ndim == 3

        def turned(a: np.ndarray) -> np.ndarray:
            return a.swapaxes(0, 1) if of_steps else a

        counted = np.ones(turned(y).shape[:-1], bool) if mask is None else turned(mask).copy()
        if weight is not None:
            counted &= turned(weight if weight.ndim < y.ndim else weight.max(axis=-1)) > 0
        if not counted.any():
            return 0.0, np.zeros(y.shape, y.dtype)
        given: dict[str, np.ndarray] = {}
        if self.takes_weights:
            given["weight"] = turned(np.ones(y.shape[:-1], y.dtype) if weight is None else weight)
        if "mask" in self._given:
            found = self._function(turned(y), turned(target), mask=counted, **given)
            value, dy = self._checked(found, turned(y))
            return value, turned(dy)
        rows, its = turned(y)[counted], {name: a[counted] for name, a in given.items()}
        value, its_dy = self._checked(self._function(rows, turned(target)[counted], **its), rows)
        dy = np.zeros(y.shape, y.dtype)
        turned(dy)[counted] = its_dy
        return value, dy

    def _checked(self, found: Any, y: np.ndarray) -> tuple[float, np.ndarray]:
        """What the function returned for y."""
        if not isinstance(found, tuple) or len(found) != 2:
            raise TypeError(
                f"loss {self.name} returned a {type(found).__name__}, expected (value, dy)"
            )
        value, dy = found
        number = np.asarray(value)
        if number.shape != () or number.dtype.kind not in "fiub":
            raise TypeError(f"value of loss {self.name} is {value!r}, expected a number")
        _checks.array(f"dy of loss {self.name}", dy, y.dtype, y.shape, "as y has", "y")
        return float(number), dy


def _with_compiled(compiled: Callable[..., Any], plain: Callable[..., Any]) -> Callable[..., Any]:
    """A loss that a compiled one computes where it does, with no mask."""

    def compute(
        y: np.ndarray,
        target: np.ndarray,
        mask: np.ndarray | None = None,
        weight: np.ndarray | None = None,
    ) -> tuple[float, np.ndarray]:
        found = compiled(y, target, weight) if mask is None else None
        return plain(y, target, mask, weight) if found is None else found

    return compute


def _wanted(loss: Callable[..., Any], name: str) -> tuple[str, ...]:
    """Which of mask and weight a function has as parameters."""
    try:
        signature = inspect.signature(loss, follow_wrapped=False)
    except (TypeError, ValueError):  # of some builtins
        return ()
    known = _named(signature.parameters, loss)
    found = tuple(word for word in OPTIONAL if word in known)
    try:
        signature.bind(None, None, **dict.fromkeys(found))
    except TypeError as error:
        raise TypeError(
            f"loss {name}{signature} cannot be called as (y, target), with mask and weight by name "
            f"where it has them: {error}"
        ) from None
    return found


def _named(parameters: Mapping[str, inspect.Parameter], loss: Any) -> set[str]:
    """The parameters that can be given by name, also to what a decorator hands them on."""
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    found = {name for name, each in parameters.items() if each.kind in kinds}
    hands_on = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    if hands_on and hasattr(loss, "__wrapped__"):
        found |= {*inspect.signature(loss).parameters}
    return found
