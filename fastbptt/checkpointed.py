"""Long sequences: gradients from about sqrt(T) states in memory instead of T.

States are kept at the starts of about sqrt(T) windows of time; on the way back those between them
are computed a second time, one window after another (Chen et al. 2016, "Training deep nets with
sublinear memory cost").  This takes a second forward: 4/3 of the time of a forward and a backward.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastbptt import _checks
from fastbptt.rnn import Gradients, backward, forward


class Checkpoints(NamedTuple):
    """What :func:`forward_checkpointed` returns.

    Attributes
    ----------
    h : ndarray, (C + 1, B, H)
        States before the first step of each of C windows, and the last states: ``h[-1]``.
    steps : int
        Steps of a window; the last one may have fewer.
    """

    h: np.ndarray
    steps: int


def forward_checkpointed(
    params, x, h0=None, *, lengths=None, activation="tanh", backend="numba"
) -> Checkpoints:
    """States at the starts of about sqrt(T) windows of time, and the last ones.

    Parameters
    ----------
    params, x, h0, lengths, activation, backend
        As for :func:`fastbptt.forward`.

    Returns
    -------
    Checkpoints

    Raises
    ------
    TypeError, ValueError
        As :func:`fastbptt.forward`.
    """
    T, B, _, H, dtype = _checks.layer(params, x, activation)
    if lengths is not None:
        lengths = _checks.lengths(lengths, T, B)
    steps = window_size(T)
    space = np.empty((steps + 1, B, H), dtype)  # for each window: new memory costs time
    kept = []
    state: Any = h0
    for window, its_lengths in windows(x, lengths, steps):
        h = forward(
            params, window, state, lengths=its_lengths, activation=activation, backend=backend,
            out=space[: len(window) + 1],
        )  # fmt: skip
        kept.append(h[0].copy())
        state = h[-1].copy()
    return Checkpoints(np.stack([*kept, state]), steps)


def backward_checkpointed(
    params,
    x,
    checkpoints,
    dh,
    *,
    lengths=None,
    activation="tanh",
    need_dx=True,
    backend="numba",
) -> Gradients:
    """Gradients as :func:`fastbptt.backward` gives, within rounding, from few states.

    Parameters
    ----------
    params, x, lengths, activation, need_dx, backend
        As for :func:`fastbptt.backward`.
    checkpoints : Checkpoints
        What :func:`forward_checkpointed` returned.
    dh : ndarray, (T, B, H) or (B, H), or callable
        The loss's own gradient at every state or at the last ones.  Or ``dh(t, h)``, which is given
        a window's first step t, counted from 0, and its states h (n, B, H) after the steps t to
        t + n - 1, and returns the gradient at these, (n, B, H); it is called from the last window
        to the first, and h is written over after each.  So no array of T states is needed for a
        loss at every step.

    Returns
    -------
    Gradients

    Raises
    ------
    TypeError, ValueError
        As :func:`fastbptt.backward`.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> params = fastbptt.init_params(1, 4, seed=0)
    >>> x = np.ones((10_000, 2, 1), np.float32)
    >>> checkpoints = fastbptt.forward_checkpointed(params, x)
    >>> checkpoints.h.shape
    (101, 2, 4)
    >>> dparams, dx, dh0 = fastbptt.backward_checkpointed(
    ...     params, x, checkpoints, dh=lambda t, h: h  # loss = sum(h[1:]**2) / 2
    ... )
    """
    options = {"activation": activation, "backend": backend}
    T, B, _, H, dtype = _checks.layer(params, x, activation)
    if lengths is not None:
        lengths = _checks.lengths(lengths, T, B)
    if not isinstance(checkpoints, Checkpoints):
        raise TypeError(f"checkpoints is a {type(checkpoints).__name__}, expected Checkpoints")
    steps = checkpoints.steps
    starts = range(0, max(T, 1), steps)
    kept = len(starts) + 1, B, H
    _checks.array("checkpoints.h", checkpoints.h, dtype, kept, f"(C + 1, B, H) for x's {T} steps")
    last_only = not callable(dh) and _checks.dh(dh, dtype, T, B, H)
    space = np.empty((steps + 1, B, H), dtype)
    dxs = []
    total: Any = None
    carried: Any = dh if last_only else None
    pieces = zip(starts, windows(x, lengths, steps), checkpoints.h[:-1], strict=True)
    for t, (window, its_lengths), h0 in reversed(list(pieces)):
        h = forward(
            params, window, h0, lengths=its_lengths, out=space[: len(window) + 1], **options
        )
        if last_only:
            here = carried
        else:
            here: Any = dh(t, h[1:]) if callable(dh) else dh[t : t + steps]
            if carried is not None:  # from the steps that come after
                here = here.copy()
                here[-1] += carried
        dparams, dx, carried = backward(
            params, window, h, here, lengths=its_lengths, need_dx=need_dx, **options
        )
        dxs.append(dx)
        if total is None:
            total = dparams
        else:
            for a, part in zip(total, dparams, strict=True):
                a += part
    dx = np.concatenate(dxs[::-1]) if need_dx else None
    return Gradients(total, dx, carried)


def window_size(T):
    """Steps of a window: the least integer of at least sqrt(T), and 1 at least."""
    return math.isqrt(max(T - 1, 0)) + 1


def windows(x, lengths, steps):
    """Cut sequences into windows of so many steps; yield each one's inputs and lengths."""
    for start in range(0, max(len(x), 1), steps):
        window = x[start : start + steps]
        clipped = None if lengths is None else np.clip(lengths - start, 0, len(window))
        yield window, clipped
