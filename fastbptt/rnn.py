"""The front door: what users call.  It checks, allocates, and hands over to a backend.

A backend is a module that exports the functions of :mod:`fastbptt.reference`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from fastbptt import _checks
from fastbptt._draws import draw_orthogonal, draw_uniform
from fastbptt._leak import Leak
from fastbptt._noise import Noise, check_noise
from fastbptt._uninterrupted import import_whole

Activation = Literal["tanh", "relu", "identity", "sigmoid", "softplus", "rectified_tanh"]
Backend = Literal["numba", "numpy"]
FloatDtype = Literal["float32", "float64"] | type[np.float32 | np.float64] | np.dtype[Any]
Seed = int | np.random.Generator | None

BACKENDS = {"numba": "fastbptt.kernels", "numpy": "fastbptt.reference"}

# An array of zeros with fewer elements than this takes no longer to make than an empty one.
FEW = 1024
_loaded: dict[str, Any] = {}


class Params(NamedTuple):
    """Weights of one layer, or their gradients.

    Attributes
    ----------
    W_x : ndarray, (I, H)
        Input weights.
    W_h : ndarray, (H, H)
        Recurrent weights.
    b : ndarray, (H,)
        Bias.
    """

    W_x: np.ndarray
    W_h: np.ndarray
    b: np.ndarray


class Gradients(NamedTuple):
    """What :func:`backward` returns.

    Attributes
    ----------
    params : Params
        Gradients of ``W_x``, ``W_h`` and ``b``.
    x : ndarray, (T, B, I), or None
        Gradient of the inputs; None with ``need_dx=False``.
    h0 : ndarray, (B, H)
        Gradient of the initial state.
    """

    params: Params
    x: np.ndarray | None
    h0: np.ndarray


def init_params(
    input_size: int, hidden_size: int, *, dtype: FloatDtype = "float32", seed: Seed = None
) -> Params:
    """Draw the weights of one layer.

    ``W_x`` is uniform within ``sqrt(6 / (I + H))`` of zero (Glorot and Bengio 2010), ``W_h`` a
    random orthogonal matrix (Saxe, McClelland and Ganguli 2014), ``b`` zero.  A seed gives the same
    bits on every CPU.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H, at least 1.
    dtype : {"float32", "float64"}
    seed : None, int or numpy.random.Generator
        As for :func:`numpy.random.default_rng`.

    Returns
    -------
    Params

    Examples
    --------
    >>> import fastbptt
    >>> params = fastbptt.init_params(3, 5, seed=0)
    >>> params.W_x.shape, params.W_h.shape, params.b.shape
    ((3, 5), (5, 5), (5,))
    """
    I, H = _checks.integer("input_size", input_size), _checks.integer("hidden_size", hidden_size)
    dtype = _checks.float_dtype("dtype", dtype)
    rng = np.random.default_rng(seed)
    W_x = draw_uniform(rng, np.sqrt(6 / (I + H)), (I, H))
    W_h = draw_orthogonal(rng, H)
    return Params(W_x.astype(dtype), W_h.astype(dtype), np.zeros(H, dtype))


def forward(
    params: Params,
    x: np.ndarray,
    h0: np.ndarray | None = None,
    *,
    lengths: ArrayLike | None = None,
    activation: Activation = "tanh",
    leak: Leak | None = None,
    noise: np.ndarray | Noise | None = None,
    backend: Backend = "numba",
    out: np.ndarray | None = None,
    v: np.ndarray | None = None,
) -> np.ndarray:
    """States of a recurrent layer at every step.

    ``h[t] = f(x[t - 1] @ W_x + h[t - 1] @ W_h + b)`` for t = 1 … T, unless it leaks.

    Parameters
    ----------
    params : Params
        ``W_x`` (I, H), ``W_h`` (H, H), ``b`` (H,), all float32 or all float64.
    x : ndarray, (T, B, I)
        Inputs, time-major, of the same dtype, with any strides.  For a batch-major array pass
        ``x.transpose(1, 0, 2)``: if its last axis is contiguous, nothing is copied.
        Or tokens, integers (T, B) from 0 to I - 1: in place of ``x[t - 1] @ W_x`` come rows of W_x,
        ``W_x[x[t - 1]]``, as if x were one-hot.
    h0 : ndarray, (B, H), optional
        Initial state; zero by default.  With a leak of potentials it is that of these, and
        ``h[0] = f(h0)``.
    lengths : array of int, (B,), optional
        Steps that count for each sequence, 0 to T.  After its last step a sequence's state stays
        as it is, so that ``h[-1]`` holds every sequence's last state.  All T by default.
    activation : str, default "tanh"
        The function f: "tanh", "relu", "identity" (z), "sigmoid" (1 / (1 + exp(-z))), "softplus"
        (log(1 + exp(z))) or "rectified_tanh" (max(tanh(z), 0)).
    leak : Leak, optional
        How slowly units follow their inputs, see :class:`fastbptt.Leak`.
    noise : ndarray, (T, B, H), or Noise, optional
        What is added to that which f is applied to: of the same dtype, with any strides, or drawn
        where it is added, see :class:`fastbptt.Noise`.  :func:`backward` does not need it.
    backend : {"numba", "numpy"}, default "numba"
        Compiled kernels, or the NumPy reference.
    out : ndarray, (T + 1, B, H), optional
        Array to fill and return: C-contiguous, of the same dtype, sharing no memory with an input.
    v : ndarray, (B, H) or (T + 1, B, H), optional
        With a leak of potentials, an array to fill with these: the last ones, which the next piece
        of a longer sequence takes as its h0, or all.  As `out`.

    Returns
    -------
    h : ndarray, (T + 1, B, H)
        ``h[0]`` is the initial state, ``h[1:]`` are the outputs, ``h[-1]`` the last states.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value; nothing is written then.

    Notes
    -----
    With the backend "numba", a sequence's states are the same to the bit whatever else is in the
    batch.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> params = fastbptt.init_params(3, 5, seed=0)
    >>> x = np.ones((7, 2, 3), np.float32)
    >>> fastbptt.forward(params, x).shape
    (8, 2, 5)
    """
    T, B, I, H, dtype = _checks.layer(params, x, activation)
    if h0 is not None:
        _checks.array("h0", h0, dtype, (B, H), "(B, H)")
    if lengths is not None:
        lengths = _checks.lengths(lengths, T, B)
    if x.ndim == 2:
        _checks.tokens("x", x, I, lengths)
    run = find_backend(backend).forward
    if leak is not None or noise is not None or v is not None:
        return _forward_cell(run, params, x, h0, lengths, activation, leak, noise, out, v)
    cleared = out is None and h0 is None and T * B * H < FEW
    if out is not None:
        _checks.output("out", out, dtype, (T + 1, B, H), "(T + 1, B, H)", (*params, x, h0, lengths))
    else:
        out = (np.zeros if cleared else np.empty)((T + 1, B, H), dtype)
    if not cleared:
        out[0] = 0 if h0 is None else h0
    run(params, x, out, lengths, activation)
    return out


def _forward_cell(
    run: Any,
    params: Params,
    x: np.ndarray,
    h0: np.ndarray | None,
    lengths: np.ndarray | None,
    activation: Activation,
    leak: Leak | None,
    noise: np.ndarray | Noise | None,
    out: np.ndarray | None,
    v: np.ndarray | None,
) -> np.ndarray:
    """:func:`forward` of a cell that leaks or is noisy."""
    (T, B, *_), H, dtype = x.shape, len(params[2]), params[2].dtype
    leaking = leaks(leak, H, dtype)
    of_potential = leaking is not None and leaking[1] == "potential"
    inputs = (*params, x, h0, lengths)
    if isinstance(noise, Noise):
        check_noise(noise, T, B, H, dtype)
    elif noise is not None:
        if not isinstance(noise, np.ndarray):
            raise TypeError(
                f"noise is a {type(noise).__name__}, expected a numpy.ndarray or a fastbptt.Noise"
            )
        _checks.array("noise", noise, dtype, (T, B, H), "(T, B, H)")
        inputs = (*inputs, noise)
    if out is not None:
        _checks.output("out", out, dtype, (T + 1, B, H), "(T + 1, B, H)", inputs)
    if v is not None:
        if not of_potential:
            raise ValueError("v is given, expected None without a leak of potentials")
        shape = (B, H) if getattr(v, "ndim", 0) == 2 else (T + 1, B, H)
        _checks.output("v", v, dtype, shape, "(B, H) or (T + 1, B, H)", (*inputs, out))
    if out is None:
        out = np.empty((T + 1, B, H), dtype)
    if of_potential and v is None:
        v = np.empty((B, H), dtype)
    initial = out[0] if v is None else v if v.ndim == 2 else v[0]
    initial[...] = 0 if h0 is None else h0
    run(params, x, out, lengths, activation, leaking, noise, v)
    return out


def leaks(leak: Leak | None, H: int, dtype: np.dtype) -> tuple[np.ndarray, str] | None:
    """A leak as backends take it."""
    if leak is None:
        return None
    if not isinstance(leak, Leak):
        raise TypeError(f"leak is {leak!r}, expected a fastbptt.Leak")
    return leak.of_units(H, dtype)


def backward(
    params: Params,
    x: np.ndarray,
    h: np.ndarray,
    dh: np.ndarray,
    *,
    lengths: ArrayLike | None = None,
    activation: Activation = "tanh",
    leak: Leak | None = None,
    need_dx: bool = True,
    backend: Backend = "numba",
    out: tuple[Params, np.ndarray | None, np.ndarray] | None = None,
    dv: np.ndarray | None = None,
) -> Gradients:
    """Gradients of a loss with respect to the weights, the inputs and the initial state.

    Parameters
    ----------
    params, x, lengths, activation, leak, backend
        As given to :func:`forward`.
    h : ndarray, (T + 1, B, H)
        What :func:`forward` returned.
    dh : ndarray, (T, B, H) or (B, H)
        The loss's own gradient at every state ``h[1:]``, or at ``h[-1]`` if only the last states
        enter the loss.  At steps past a sequence's length it is ignored.
    need_dx : bool, default True
        False saves the cost of the gradient of the inputs.  Tokens have none.
    out : (Params, dx, dh0), optional
        Arrays to fill and return, ``dx`` None with ``need_dx=False``: C-contiguous, of the same
        dtype, sharing no memory with an input or each other.
    dv : ndarray, (B, H), optional
        With a leak of potentials, the loss's own gradient at the last ones, which the next piece of
        a longer sequence found as that of its h0; zero by default.

    Returns
    -------
    Gradients
        ``(params, x, h0)``: the gradients of ``params`` as a `Params`, of ``x`` (zero past a
        sequence's length; None with ``need_dx=False`` and of tokens), and of the initial state:
        with a leak of potentials, of theirs.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value; nothing is written then.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> params = fastbptt.init_params(3, 5, seed=0)
    >>> x = np.ones((7, 2, 3), np.float32)
    >>> h = fastbptt.forward(params, x)
    >>> dparams, dx, dh0 = fastbptt.backward(params, x, h, dh=h[-1])  # loss = sum(h[-1]**2) / 2
    >>> dparams.W_h.shape, dx.shape, dh0.shape
    ((5, 5), (7, 2, 3), (2, 5))
    """
    T, B, I, H, dtype = _checks.layer(params, x, activation)
    plain = type(h) is type(dh) is np.ndarray and h.dtype is dh.dtype is dtype
    if not (plain and h.shape == (T + 1, B, H) and dh.shape == (T, B, H)):
        _checks.array("h", h, dtype, (T + 1, B, H), "(T + 1, B, H)")
        _checks.dh(dh, dtype, T, B, H)
    if lengths is not None:
        lengths = _checks.lengths(lengths, T, B)
    if x.ndim == 2:
        _checks.tokens("x", x, I, lengths)
        need_dx = False
    run = find_backend(backend).backward
    more = ()
    if leak is not None or dv is not None:
        more = leaks(leak, H, dtype), dv
        _check_dv(dv, leak, dtype, B, H)
    if out is None:
        dparams = Params(np.empty((I, H), dtype), np.empty((H, H), dtype), np.empty(H, dtype))
        dx = np.empty((T, B, I), dtype) if need_dx else None
        dh0 = np.empty((B, H), dtype)
    else:
        inputs = (*params, x, h, dh, lengths, dv)
        dparams, dx, dh0 = _check_gradients(out, dtype, T, B, I, H, need_dx, inputs)
    run(params, x, h, dh, dparams, dx, dh0, lengths, activation, *more)
    return Gradients(dparams, dx, dh0)


def _check_dv(dv: Any, leak: Leak | None, dtype: np.dtype, B: int, H: int) -> None:
    if dv is None:
        return
    if leak is None or leak.of != "potential":
        raise ValueError("dv is given, expected None without a leak of potentials")
    _checks.array("dv", dv, dtype, (B, H), "(B, H)")


def readout(
    W_y: np.ndarray, b_y: np.ndarray, h: np.ndarray, *, backend: Backend = "numba"
) -> np.ndarray:
    """Read outputs out of states: ``y = h @ W_y + b_y``.

    Parameters
    ----------
    W_y, b_y : ndarray, (H, O), (O,)
        Weights, all float32 or all float64.
    h : ndarray, (..., H)
        States of the same dtype: those of every step, ``h[1:]``, or the last ones, ``h[-1]``.
    backend : {"numba", "numpy"}, default "numba"

    Returns
    -------
    y : ndarray, (..., O)

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Notes
    -----
    With the backend "numba", a row of ``y`` is the same to the bit whatever the others hold.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> fastbptt.readout(np.ones((5, 2)), np.zeros(2), np.ones((8, 3, 5))).shape
    (8, 3, 2)
    """
    H, O, dtype = _checks.readout(W_y, h)
    _checks.array("b_y", b_y, dtype, (O,), "(O,), O as in W_y (H, O)", "h")
    y = np.empty((*h.shape[:-1], O), dtype)
    find_backend(backend).readout(W_y, b_y, h.reshape(-1, H), y.reshape(-1, O))
    return y


def readout_backward(
    W_y: np.ndarray,
    h: np.ndarray,
    dy: np.ndarray,
    *,
    need_dh: bool = True,
    backend: Backend = "numba",
    out: tuple[np.ndarray, np.ndarray, np.ndarray | None] | None = None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Gradients of a loss with respect to a readout's weights and to the states it reads.

    Parameters
    ----------
    W_y, h, backend
        As given to :func:`readout`.
    dy : ndarray, (..., O)
        The loss's gradient at every output.
    need_dh : bool, default True
        False saves the cost of the gradient of the states.
    out : (dW_y, db_y, dh), optional
        Arrays to fill and return, ``dh`` None with ``need_dh=False``: C-contiguous, of the same
        dtype, no part of an input or of each other.

    Returns
    -------
    dW_y, db_y : ndarray, (H, O), (O,)
    dh : ndarray, (..., H), or None
        None with ``need_dh=False``.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> W_y, b_y, h = np.ones((5, 2)), np.zeros(2), np.ones((3, 5))
    >>> y = fastbptt.readout(W_y, b_y, h)
    >>> dW_y, db_y, dh = fastbptt.readout_backward(W_y, h, dy=y)  # loss = sum(y**2) / 2
    >>> dW_y.shape, db_y, dh.shape
    ((5, 2), array([15., 15.]), (3, 5))
    """
    H, O, dtype = _checks.readout(W_y, h)
    _checks.array("dy", dy, dtype, (*h.shape[:-1], O), "(..., O), as h (..., H)", "h")
    if out is None:
        dW_y, db_y = np.empty((H, O), dtype), np.empty(O, dtype)
        dh = np.empty(h.shape, dtype) if need_dh else None
    else:
        dW_y, db_y, dh = _check_readout_gradients(out, W_y, h, dy, need_dh)
    rows = None if dh is None else dh.reshape(-1, H)
    run = find_backend(backend).readout_backward
    run(W_y, h.reshape(-1, H), dy.reshape(-1, O), dW_y, db_y, rows)
    return dW_y, db_y, dh


def warmup(dtype: FloatDtype = "float32") -> None:
    """Compile the kernels for `dtype` now, or load them from the cache on disk.

    Otherwise the first call does so.

    Parameters
    ----------
    dtype : {"float32", "float64"}
    """
    find_backend("numba").warmup(_checks.float_dtype("dtype", dtype))


def find_backend(name: str) -> Any:
    try:
        return _loaded[name]
    except (KeyError, TypeError):
        pass
    _checks.one_of("backend", name, BACKENDS)
    return _loaded.setdefault(name, import_whole(BACKENDS[name]))


def _check_gradients(
    out: Any,
    dtype: np.dtype,
    T: int,
    B: int,
    I: int,
    H: int,
    need_dx: bool,
    inputs: tuple[Any, ...],
) -> tuple[Params, np.ndarray | None, np.ndarray]:
    try:
        (dW_x, dW_h, db), dx, dh0 = out
    except (TypeError, ValueError):
        raise TypeError(
            f"out is a {type(out).__name__}, expected (Params(dW_x, dW_h, db), dx, dh0)"
        ) from None
    if not need_dx and dx is not None:
        raise ValueError("out holds an array for dx, expected None with need_dx=False")
    taken = inputs
    for name, a, shape, meaning in (
        ("W_x", dW_x, (I, H), "(I, H)"),
        ("W_h", dW_h, (H, H), "(H, H)"),
        ("b", db, (H,), "(H,)"),
        ("x", dx, (T, B, I), "(T, B, I)"),
        ("h0", dh0, (B, H), "(B, H)"),
    ):
        if a is not None or name != "x" or need_dx:
            _checks.output(f"out's gradient of {name}", a, dtype, shape, meaning, taken)
            taken = (*taken, a)
    return Params(dW_x, dW_h, db), dx, dh0


def _check_readout_gradients(
    out: Any, W_y: np.ndarray, h: np.ndarray, dy: np.ndarray, need_dh: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    try:
        dW_y, db_y, dh = out
    except (TypeError, ValueError):
        raise TypeError(f"out is a {type(out).__name__}, expected (dW_y, db_y, dh)") from None
    if not need_dh and dh is not None:
        raise ValueError("out holds an array for dh, expected None with need_dh=False")
    taken = W_y, h, dy
    for name, a, shape, meaning in (
        ("W_y", dW_y, W_y.shape, "(H, O)"),
        ("b_y", db_y, W_y.shape[1:], "(O,)"),
        ("h", dh, h.shape, "(..., H)"),
    ):
        if a is not None or name != "h" or need_dh:
            _checks.output(f"out's gradient of {name}", a, h.dtype, shape, meaning, taken)
            taken = (*taken, a)
    return dW_y, db_y, dh
