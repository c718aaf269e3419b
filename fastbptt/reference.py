"""The definition of what fastbptt computes: a layer and a readout, in NumPy alone.

Every other backend exports these four functions with these signatures and is held to their
results.  Arrays come checked and allocated from :mod:`fastbptt.rnn`; a backend only fills them.
"""

import numpy as np

# f(z), and f'(z) written in terms of h = f(z)
ACTIVATIONS = {
    "tanh": (np.tanh, lambda h: (1 - h) * (1 + h)),
    "relu": (lambda z: np.maximum(z, 0), lambda h: (h > 0).astype(h.dtype)),
    "identity": (lambda z: z, np.ones_like),
}


def forward(params, x, h, lengths, activation):
    """Fill ``h[1:]`` with the states that follow ``h[0]``.

    .. math:: h_t = f(x_t W_x + h_{t-1} W_h + b), \\qquad t = 1 \\dots T

    Parameters
    ----------
    params : (W_x, W_h, b)
        Weights of shapes (I, H), (H, H) and (H,).
    x : ndarray, (T, B, I)
        Inputs, time-major: ``x[t - 1]`` is the formula's :math:`x_t`.
    h : ndarray, (T + 1, B, H)
        ``h[0]`` holds the initial state; the rest is overwritten.
    lengths : ndarray of int, (B,), or None
        Steps that count for each sequence, 0 to T; past them its state stays as it is.
        None: all T count.
    activation : {"tanh", "relu", "identity"}
        The function f.
    """
    W_x, W_h, b = params
    f, _ = ACTIVATIONS[activation]
    for t in range(len(x)):
        live = _live(t, lengths)
        h[t + 1] = h[t]
        h[t + 1, live] = f(x[t, live] @ W_x + h[t, live] @ W_h + b)


def backward(params, x, h, dh, dparams, dx, dh0, lengths, activation):
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
        At steps past a sequence's length it counts for nothing.
    dparams : (dW_x, dW_h, db)
        Overwritten; shapes as in ``params``.
    dx : ndarray, (T, B, I), or None
        Overwritten, with 0 past a sequence's length; None where it is not wanted.
    dh0 : ndarray, (B, H)
        Overwritten.
    """
    W_x, W_h, _ = params
    dW_x, dW_h, db = dparams
    _, df = ACTIVATIONS[activation]
    for gradient in (dW_x, dW_h, db) if dx is None else (dW_x, dW_h, db, dx):
        gradient[...] = 0
    at_every_step = dh.ndim == 3
    g = dh0  # carries g_t from the last step down to the initial state
    g[...] = 0 if at_every_step else dh
    for t in reversed(range(len(x))):
        live = _live(t, lengths)
        if at_every_step:
            g[live] += dh[t, live]
        dz = g[live] * df(h[t + 1, live])
        dW_x += x[t, live].T @ dz
        dW_h += h[t, live].T @ dz
        db += dz.sum(axis=0)
        g[live] = dz @ W_h.T
        if dx is not None:
            dx[t, live] = dz @ W_x.T


def readout(W_y, b_y, h, y):
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


def readout_backward(W_y, h, dy, dW_y, db_y, dh):
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
        Overwritten; None where it is not wanted.
    """
    dW_y[...] = h.T @ dy
    db_y[...] = dy.sum(axis=0)
    if dh is not None:
        dh[...] = dy @ W_y.T


def _live(t, lengths):
    """Index of the sequences for which step t counts."""
    return slice(None) if lengths is None else np.flatnonzero(t < lengths)
