"""Minibatches that are not cut out of arrays: a function of the step makes them, or an iterable.

NeuroGym's ``Dataset`` and PyTorch's ``DataLoader`` are iterables, and used as they come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeGuard

import numpy as np

from fastbptt import _checks
from fastbptt._sequences import real


def is_source(x: Any) -> TypeGuard[Callable[[int], Any] | Iterable[Any]]:
    """Whether x is a function or an iterable of minibatches, and no data."""
    if isinstance(x, (list, tuple, dict, set, str, bytes)) or hasattr(x, "__array__"):
        return False
    return callable(x) or hasattr(x, "__iter__")


class Source:
    """Minibatches without end.

    Parameters
    ----------
    source : callable or iterable
        As for :func:`fastbptt.fit`.
    steps_per_epoch : int, optional
        Its length by default.
    time_major : bool, optional
        The opposite of its attribute `batch_first` by default, if it has that, otherwise False.

    Attributes
    ----------
    steps : int
        Minibatches of an epoch.
    by_step : bool
        Whether a minibatch is a function of its number, so that any can be made again.
    time_major : bool
    """

    steps: int
    by_step: bool
    time_major: bool

    def __init__(
        self,
        source: Callable[[int], Any] | Iterable[Any],
        steps_per_epoch: int | None = None,
        time_major: bool | None = None,
    ) -> None:
        self._source: Any = source
        self._iterator: Iterator[Any] | None = None
        # NeuroGym's can be called, too, but not for the step that one likes.
        self.by_step = callable(source) and not hasattr(source, "__next__")
        if steps_per_epoch is None and hasattr(source, "__len__"):
            steps_per_epoch = len(self._source)
        if steps_per_epoch is None:
            raise ValueError(
                f"steps_per_epoch is None, expected a number: x, a {type(source).__name__}, has no "
                "length"
            )
        self.steps = _checks.integer("steps_per_epoch", steps_per_epoch)
        if time_major is None:
            time_major = not getattr(source, "batch_first", True)
        self.time_major = bool(time_major)

    def minibatch(self, step: int, of_steps: bool) -> tuple[Any, Any, Any]:
        """Inputs, targets and weights or None of a step, batch-major.

        Parameters
        ----------
        step : int
            From 0.  Those of an iterable come in its own order.
        of_steps : bool
            Whether targets are of each step, not of each sequence.
        """
        found = self._source(step) if self.by_step else self._next()
        if not isinstance(found, (tuple, list)) or len(found) not in (2, 3):
            size = f" of {len(found)}" if isinstance(found, (tuple, list)) else ""
            raise TypeError(
                f"the minibatch of step {step} is a {type(found).__name__}{size}, expected "
                "(inputs, targets) or (inputs, targets, weights)"
            )
        x, y, *rest = found
        weight = rest[0] if rest else None
        if not self.time_major:
            return x, y, weight
        x, y = real("inputs", x), real("targets", y)
        weight = None if weight is None else real("weights", weight)
        y = _exchanged("targets", y) if of_steps else y
        if weight is not None and weight.ndim > 1:
            weight = _exchanged("weights", weight)
        return _exchanged("inputs", x), y, weight

    def _next(self) -> Any:
        """The iterable's next minibatch; from its start again if it has ended."""
        for _ in range(2):
            if self._iterator is None:
                self._iterator = iter(self._source)
            try:
                return next(self._iterator)
            except StopIteration:
                self._iterator = None
        raise ValueError(
            f"x, a {type(self._source).__name__}, has ended and does not begin again, expected a "
            "minibatch for every step"
        )


def _exchanged(name: str, a: np.ndarray) -> np.ndarray:
    if a.ndim < 2:
        raise ValueError(f"{name} has shape {a.shape}, expected (T, B, ...): it is time-major")
    return a.swapaxes(0, 1)
