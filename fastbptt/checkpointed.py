"""Long sequences: gradients from about sqrt(T) states in memory instead of T.

States are kept at the starts of about sqrt(T) windows of time; on the way back those between them
are computed a second time, one window after another (Chen et al. 2016, "Training deep nets with
sublinear memory cost").  This takes a second forward: 4/3 of the time of a forward and a backward.

What goes through the windows is a stack; a layer alone is a stack of one.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fastbptt import _checks
from fastbptt._leak import Leak
from fastbptt._noise import Noise, check_noise, check_type
from fastbptt._stack import Pass, SomeStates, Stack, StackGradients, States
from fastbptt.rnn import Activation, Backend, Gradients, Params


class Checkpoints(NamedTuple):
    """What :func:`forward_checkpointed` returns.

    Attributes
    ----------
    h : ndarray, (C + 1, B, H)
        States before the first step of each of C windows, and the last states: ``h[-1]``.  With a
        leak of potentials it is these.
    steps : int
        Steps of a window; the last one may have fewer.

    See Also
    --------
    backward_checkpointed : Takes them.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> params = fastbptt.init_params(1, 4, seed=0)
    >>> checkpoints = fastbptt.forward_checkpointed(params, np.ones((100, 2, 1), np.float32))
    >>> checkpoints.h.shape, checkpoints.steps
    ((11, 2, 4), 10)
    """

    h: np.ndarray
    steps: int


def forward_checkpointed(
    params: Params,
    x: np.ndarray,
    h0: np.ndarray | None = None,
    *,
    lengths: npt.ArrayLike | None = None,
    activation: Activation = "tanh",
    leak: Leak | None = None,
    noise: Noise | None = None,
    backend: Backend = "numba",
) -> Checkpoints:
    """States at the starts of about sqrt(T) windows of time, and the last ones.

    Parameters
    ----------
    params, x, h0, lengths, activation, leak, backend
        As for :func:`fastbptt.forward`.
    noise : Noise, optional
        As for :func:`fastbptt.forward`, but no array, which would take as much memory as states.

    Returns
    -------
    Checkpoints

    Raises
    ------
    TypeError, ValueError
        As :func:`fastbptt.forward`.

    See Also
    --------
    backward_checkpointed : The way back.
    forward : Keeps every state.
    fit : Does this with ``memory="checkpointed"``.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> params = fastbptt.init_params(1, 4, seed=0)
    >>> x = np.ones((100, 2, 1), np.float32)
    >>> last = fastbptt.forward_checkpointed(params, x).h[-1]
    >>> bool((last == fastbptt.forward(params, x)[-1]).all())
    True
    """
    T, B, _, H, dtype = _checks.layer(params, x, activation)
    if lengths is not None:
        lengths = _checks.lengths(lengths, T, B)
    _check(noise, T, B, H, dtype)
    stack = Stack([Params(*params)], activation=activation, leak=leak, backend=backend)
    steps, last = window_size(T), []
    starts: list[Start] = []
    for passed in forward_windows(
        stack, x, None if h0 is None else [h0], lengths=lengths, noise=noise, steps=steps,
        starts=starts,
    ):  # fmt: skip
        last = passed.last
    kept = [np.zeros((B, H), dtype) if s.h0 is None else s.h0[0] for s in starts]
    return Checkpoints(np.stack([*kept, *last]), steps)


def backward_checkpointed(
    params: Params,
    x: np.ndarray,
    checkpoints: Checkpoints,
    dh: np.ndarray | Callable[[int, np.ndarray], np.ndarray],
    *,
    lengths: npt.ArrayLike | None = None,
    activation: Activation = "tanh",
    leak: Leak | None = None,
    noise: Noise | None = None,
    need_dx: bool = True,
    backend: Backend = "numba",
) -> Gradients:
    """Gradients as :func:`fastbptt.backward` gives, within rounding, from few states.

    Parameters
    ----------
    params, x, lengths, activation, leak, need_dx, backend
        As for :func:`fastbptt.backward`.
    checkpoints : Checkpoints
        What :func:`forward_checkpointed` returned.
    noise : Noise, optional
        What :func:`forward_checkpointed` was given: it is drawn a second time.
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

    See Also
    --------
    forward_checkpointed : The way there.
    backward : Takes every state.

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
    T, B, _, H, dtype = _checks.layer(params, x, activation)
    if lengths is not None:
        lengths = _checks.lengths(lengths, T, B)
    if not isinstance(checkpoints, Checkpoints):
        raise TypeError(f"checkpoints is a {type(checkpoints).__name__}, expected Checkpoints")
    kept = len(range(0, max(T, 1), checkpoints.steps)) + 1, B, H
    _checks.array("checkpoints.h", checkpoints.h, dtype, kept, f"(C + 1, B, H) for x's {T} steps")
    last_only = not callable(dh) and _checks.dh(dh, dtype, T, B, H)

    def of_window(t: int, h: np.ndarray) -> np.ndarray:
        found: Any = dh(t, h) if callable(dh) else dh[t : t + len(h)]
        _checks.array("dh", found, dtype, h.shape, "(n, B, H), as h has")
        return found

    stack = Stack([Params(*params)], activation=activation, leak=leak, backend=backend)
    _check(noise, T, B, H, dtype)
    starts = [
        Start([h], noise=noise and noise.at(step=c * checkpoints.steps))
        for c, h in enumerate(checkpoints.h[:-1])
    ]
    at_last: Any = [dh] if last_only else None
    layers, dx, [dh0] = backward_windows(
        stack, x, starts, None if last_only else of_window, at_last, lengths=lengths,
        steps=checkpoints.steps, need_dx=need_dx,
    )  # fmt: skip
    return Gradients(layers[0], dx, dh0)


def _check(noise: Any, T: int, B: int, H: int, dtype: np.dtype) -> None:
    if check_type(noise) is not None:
        check_noise(noise, T, B, H, dtype)


class Start(NamedTuple):
    """What a window of time begins with: initial states, its dropout's generator, its noise."""

    h0: States | None
    rng: np.random.Generator | None = None
    noise: Noise | None = None


def forward_windows(
    stack: Stack,
    x: np.ndarray,
    h0: States | None = None,
    *,
    lengths: np.ndarray | None = None,
    rng: np.random.Generator | None = None,
    noise: Noise | None = None,
    steps: int,
    starts: list[Start] | None = None,
) -> Iterator[Pass]:
    """Run a stack over windows of so many steps, each pass's states over those of the one before.

    Parameters
    ----------
    stack, x, h0, lengths, rng, noise
        As for :meth:`fastbptt._stack.Stack.forward`; in one direction only, but for one window.
    steps : int
        Of a window.
    starts : list, optional
        The start of each window is appended to it.

    Yields
    ------
    Pass
    """
    space = _space(stack, x, steps)
    for i, (window, its_lengths) in enumerate(windows(x, lengths, steps)):
        here = noise and noise.at(step=i * steps)
        if starts is not None:
            starts.append(Start(h0, copy.deepcopy(rng), here))
        passed = stack.forward(window, h0, lengths=its_lengths, rng=rng, noise=here, over=space)
        h0 = passed.last
        yield passed


def backward_windows(
    stack: Stack,
    x: np.ndarray,
    starts: Sequence[Start],
    doutputs: Callable[[int, np.ndarray], np.ndarray] | None = None,
    dlast: SomeStates | None = None,
    *,
    lengths: np.ndarray | None = None,
    steps: int,
    dstates: float = 0.0,
    need_dx: bool = True,
    out: Sequence[Params] | None = None,
) -> StackGradients:
    """Gradients as :meth:`fastbptt._stack.Stack.backward` gives, from the starts of windows.

    Parameters
    ----------
    stack, x, lengths, steps
        As for :func:`forward_windows`.
    starts : sequence of Start
        Those that :func:`forward_windows` appended.
    doutputs : callable, optional
        ``doutputs(t, h)``, the gradient at a window's outputs h (n, B, H), which follow the steps t
        to t + n - 1, counted from 0.
    dlast, dstates, need_dx, out
        As for :meth:`fastbptt._stack.Stack.backward`.

    Returns
    -------
    StackGradients
    """
    space = _space(stack, x, steps)
    total, part, dstate = None, None, None
    dxs: list[np.ndarray] = []
    dh0: list[np.ndarray] = []
    pieces = zip(range(0, max(len(x), 1), steps), windows(x, lengths, steps), starts, strict=True)
    for t, (window, its_lengths), (h0, rng, noise) in reversed([*pieces]):
        passed = stack.forward(window, h0, lengths=its_lengths, rng=rng, noise=noise, over=space)
        here = None if doutputs is None else doutputs(t, stack.outputs(passed))
        fill = out if total is None else part
        dlayers, dx, dh0 = stack.backward(
            passed, here, dlast, dstate=dstate, dstates=dstates, need_dx=need_dx, out=fill
        )
        dlast, dstate = None, dh0  # a window's initial states are the last ones of that before it
        if dx is not None:
            dxs.append(dx)
        if total is None:
            total = dlayers
            continue
        part = dlayers
        for a, its_a in zip(itertools.chain(*total), itertools.chain(*part), strict=True):
            a += its_a
    dx = np.concatenate(dxs[::-1]) if dxs else None
    return StackGradients(total or [], dx, dh0)


def window_size(T: int) -> int:
    """Steps of a window: the least integer of at least sqrt(T), and 1 at least."""
    return math.isqrt(max(T - 1, 0)) + 1


def windows(
    x: np.ndarray, lengths: np.ndarray | None, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Cut sequences into windows of so many steps; yield each one's inputs and lengths."""
    for start in range(0, max(len(x), 1), steps):
        window = x[start : start + steps]
        clipped = None if lengths is None else np.clip(lengths - start, 0, len(window))
        yield window, clipped


def _space(stack: Stack, x: np.ndarray, steps: int) -> list[np.ndarray]:
    """Memory for the states of a window, used for each: new memory costs time."""
    shape = min(steps, len(x)) + 1, x.shape[1], stack.hidden_size
    return [np.empty(shape, params.b.dtype) for params in stack.layers]
