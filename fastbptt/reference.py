"""The definition of what fastbptt computes: a layer and a readout, in NumPy alone.

Every other backend exports these four functions with these signatures and is held to their
results.  Arrays come checked and allocated from :mod:`fastbptt.rnn`; a backend only fills them.

Steps count from 1 to T, as in the formulas.  Arrays count from 0: ``h[0]`` is the initial state, so
that ``h[t]`` is :math:`h_t`, but :math:`x_t` is ``x[t - 1]``, and likewise for ``dh`` and ``dx``.
"""

import numpy as np

Weights = tuple[np.ndarray, np.ndarray, np.ndarray]  # (W_x, W_h, b), or their gradients

# f(z), and f'(z) written in terms of h = f(z)
_FUNCTIONS = {
    "tanh": (np.tanh, lambda h: (1 - h) * (1 + h)),
    "relu": (lambda z: np.maximum(z, 0), lambda h: (h > 0).astype(h.dtype)),
    "identity": (lambda z: z, np.ones_like),
}
ACTIVATIONS: tuple[str, ...] = tuple(_FUNCTIONS)


def forward(
    params: Weights, x: np.ndarray, h: np.ndarray, lengths: np.ndarray | None, activation: str
) -> None:
    """Fill ``h[1:]`` with the states that follow ``h[0]``.

    .. math:: h_t = f(x_t W_x + h_{t-1} W_h + b), \\qquad t = 1 \\dots T

    Parameters
    ----------
    params : (W_x, W_h, b)
        Weights of shapes (I, H), (H, H) and (H,).
    x : ndarray, (T, B, I)
        Inputs, time-major.
    h : ndarray, (T + 1, B, H)
        ``h[0]`` holds the initial state; the rest is overwritten.
    lengths : ndarray of int, (B,), or None
        Steps that count for each sequence, 0 to T; past them its state stays as it is.
        None: all T count.
    activation : {"tanh", "relu", "identity"}
        The function f.
    """
    W_x, W_h, b = params
    f, _ = _FUNCTIONS[activation]
    for t in range(1, len(x) + 1):
        live = _live(t, lengths)
        x_t, h_before = x[t - 1, live], h[t - 1, live]
        h[t] = h[t - 1]
        h[t, live] = f(x_t @ W_x + h_before @ W_h + b)


def backward(
    params: Weights, x: np.ndarray, h: np.ndarray, dh: np.ndarray, dparams: Weights,
    dx: np.ndarray | None, dh0: np.ndarray, lengths: np.ndarray | None, activation: str,
) -> None:  # fmt: skip
    """Fill ``dparams``, ``dx`` and ``dh0`` by backpropagation through time.

    From t = T down to 1, with :math:`dz_{T+1} = 0`,

    .. math::
        g_t = dh_t + dz_{t+1} W_h^T \\qquad dz_t = g_t f'(z_t)

        dW_x = \\sum_t x_t^T dz_t \\quad dW_h = \\sum_t h_{t-1}^T dz_t \\quad db = \\sum_{t,b} dz_t

        dx_t = dz_t W_x^T \\qquad dh_0 = dz_1 W_h^T

    Parameters
    ----------
    params, x, lengths, activation
        As given to :func:`forward`.
    h : ndarray, (T + 1, B, H)
        The states that :func:`forward` computed.
    dh : ndarray, (T, B, H) or (B, H)
        The loss's own gradient at every state ``h[1:]``, or at the last state ``h[-1]`` alone.
        At steps past a sequence's length it is ignored.
    dparams : (dW_x, dW_h, db)
        Overwritten; shapes as in ``params``.
    dx : ndarray, (T, B, I), or None
        Overwritten, with 0 past a sequence's length; None if it is not wanted.
    dh0 : ndarray, (B, H)
        Overwritten.
    """
    W_x, W_h, _ = params
    dW_x, dW_h, db = dparams
    _, df = _FUNCTIONS[activation]
    for gradient in (dW_x, dW_h, db) if dx is None else (dW_x, dW_h, db, dx):
        gradient[...] = 0
    at_every_step = dh.ndim == 3
    carried = dh0  # dz_{t+1} W_h^T at step t, and so dh_0 in the end
    carried[...] = 0 if at_every_step else dh
    for t in range(len(x), 0, -1):
        live = _live(t, lengths)
        x_t, h_t, h_before = x[t - 1, live], h[t, live], h[t - 1, live]
        g_t = dh[t - 1, live] + carried[live] if at_every_step else carried[live]
        dz_t = g_t * df(h_t)
        dW_x += x_t.T @ dz_t
        dW_h += h_before.T @ dz_t
        db += dz_t.sum(axis=0)
        if dx is not None:
            dx[t - 1, live] = dz_t @ W_x.T
        carried[live] = dz_t @ W_h.T


def readout(W_y: np.ndarray, b_y: np.ndarray, h: np.ndarray, y: np.ndarray) -> None:
    """Fill ``y`` with what is read out of states: :math:`y = h W_y + b_y`.

    Parameters
    ----------
    W_y, b_y : ndarray, (H, O), (O,)
        Weights.
    h : ndarray, (N, H)
        States, of N steps and sequences.
    y : ndarray, (N, O)
        Overwritten.
    """
    y[...] = h @ W_y + b_y


def readout_backward(
    W_y: np.ndarray, h: np.ndarray, dy: np.ndarray,
    dW_y: np.ndarray, db_y: np.ndarray, dh: np.ndarray | None,
) -> None:  # fmt: skip
    """Fill the gradients of a readout.

    .. math:: dW_y = h^T dy \\qquad db_y = \\sum dy \\qquad dh = dy W_y^T

    Parameters
    ----------
    W_y, h
        As given to :func:`readout`.
    dy : ndarray, (N, O)
        The loss's gradient at every y.
    dW_y, db_y : ndarray, (H, O), (O,)
        Overwritten.
    dh : ndarray, (N, H), or None
        Overwritten; None if it is not wanted.
    """
    dW_y[...] = h.T @ dy
    db_y[...] = dy.sum(axis=0)
    if dh is not None:
        dh[...] = dy @ W_y.T


def _live(t: int, lengths: np.ndarray | None) -> slice | np.ndarray:
    """Index of the sequences for which step t counts."""
    return slice(None) if lengths is None else np.flatnonzero(t <= lengths)
