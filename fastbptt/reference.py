"""The definition of what fastbptt computes: a layer and a readout, in NumPy alone.

Every other backend exports these four functions with these signatures and is held to their
results.  Arrays come checked and allocated from :mod:`fastbptt.rnn`; a backend only fills them.

Steps count from 1 to T, as in the formulas.  Arrays count from 0: ``h[0]`` is the initial state, so
that ``h[t]`` is :math:`h_t`, but :math:`x_t` is ``x[t - 1]``, and likewise for ``dh`` and ``dx``.
"""

from typing import Any

import numpy as np

Weights = tuple[np.ndarray, np.ndarray, np.ndarray]  # (W_x, W_h, b), or their gradients
Leaking = tuple[np.ndarray, str]  # alpha (H,) within (0, 1], and of what: "rate", "potential"


def _sigmoid(z: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(z))
    return np.where(z < 0, e, 1) / (1 + e)


# f(z); f'(z) written in terms of h = f(z); the bounds of f
_FUNCTIONS = {
    "tanh": (np.tanh, lambda h: (1 - h) * (1 + h), -1, 1),
    "relu": (lambda z: np.maximum(z, 0), lambda h: (h > 0).astype(h.dtype), 0, np.inf),
    "identity": (lambda z: z, np.ones_like, -np.inf, np.inf),
    "sigmoid": (_sigmoid, lambda h: h * (1 - h), 0, 1),
    "softplus": (
        lambda z: np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z))), lambda h: -np.expm1(-h),
        0, np.inf,
    ),
    "rectified_tanh": (
        lambda z: np.maximum(np.tanh(z), 0), lambda h: np.where(h > 0, (1 - h) * (1 + h), 0), 0, 1
    ),
}  # fmt: skip
ACTIVATIONS: tuple[str, ...] = tuple(_FUNCTIONS)


def forward(
    params: Weights, x: np.ndarray, h: np.ndarray, lengths: np.ndarray | None, activation: str,
    leak: Leaking | None = None, noise: Any = None, v: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Fill ``h[1:]`` with the states that follow ``h[0]``, for t = 1 to T.

    .. math::
        z_t = x_t W_x + h_{t-1} W_h + b + noise_t \\qquad h_t = f(z_t)

    With a leak of rates, or of potentials v,

    .. math::
        h_t = \\alpha f(z_t) + (1 - \\alpha) h_{t-1}

        v_t = \\alpha z_t + (1 - \\alpha) v_{t-1} \\qquad h_t = f(v_t)

    Parameters
    ----------
    params : (W_x, W_h, b)
        Weights of shapes (I, H), (H, H) and (H,).
    x : ndarray, (T, B, I), or of integers, (T, B)
        Inputs, time-major.  Integers are tokens: the input of one is a row of W_x of its own,
        :math:`z_t = W_x[x_t] + ...`, as if it were one-hot.
    h : ndarray, (T + 1, B, H)
        ``h[0]`` holds the initial state; the rest is overwritten.  With potentials all is.
    lengths : ndarray of int, (B,), or None
        Steps that count for each sequence, 0 to T; past them its state stays as it is.
        None: all T count.
    activation : str
        The function f, one of `ACTIVATIONS`.
    leak : (alpha, of), optional
    noise : ndarray, (T, B, H), or fastbptt.Noise, optional
    v : ndarray, (T + 1, B, H) or (B, H)
        Potentials: ``v[0]`` holds the initial ones, the rest is overwritten; or the last ones in
        place of the initial ones.  None if the leak is not of potentials.
    """
    W_x, W_h, b = params
    f, *_ = _FUNCTIONS[activation]
    alpha, of = leak or (np.ones(0), None)
    vs = [] if v is None else v if v.ndim == 3 else [v] * len(h)  # by steps
    if of == "potential":
        h[0] = f(vs[0])
    for t in range(1, len(x) + 1):
        live = _live(t, lengths)
        h_before = h[t - 1, live]
        x_t = x[t - 1, live]
        z_t = (W_x[x_t] if x.ndim == 2 else x_t @ W_x) + h_before @ W_h + b
        z_t = z_t if noise is None else z_t + _noise(noise, t, h)[live]
        h[t] = h[t - 1]
        if of == "rate":
            h[t, live] = alpha * f(z_t) + (1 - alpha) * h_before
        elif of == "potential":
            v_t = alpha * z_t + (1 - alpha) * vs[t - 1][live]
            vs[t][...] = vs[t - 1]
            vs[t][live] = v_t
            h[t, live] = f(v_t)
        else:
            h[t, live] = f(z_t)


def backward(
    params: Weights, x: np.ndarray, h: np.ndarray, dh: np.ndarray, dparams: Weights,
    dx: np.ndarray | None, dh0: np.ndarray, lengths: np.ndarray | None, activation: str,
    leak: Leaking | None = None, dv: np.ndarray | None = None,
) -> None:  # fmt: skip
    """Fill ``dparams``, ``dx`` and ``dh0`` by backpropagation through time.

    From t = T down to 1, with :math:`dz_{T+1} = 0`,

    .. math::
        g_t = dh_t + dz_{t+1} W_h^T \\qquad dz_t = g_t f'(z_t)

        dW_x = \\sum_t x_t^T dz_t \\quad dW_h = \\sum_t h_{t-1}^T dz_t \\quad db = \\sum_{t,b} dz_t

        dx_t = dz_t W_x^T \\qquad dh_0 = dz_1 W_h^T

    Of tokens, each dz_t is added to the row of dW_x that the token is.

    With a leak of rates, or of potentials v,

    .. math::
        g_t = dh_t + (1 - \\alpha) g_{t+1} + dz_{t+1} W_h^T \\qquad dz_t = \\alpha f'(z_t) g_t

        dv_t = f'(v_t) (dh_t + dz_{t+1} W_h^T) + (1 - \\alpha) dv_{t+1} \\qquad dz_t = \\alpha dv_t

    and of potentials ``dh0`` is :math:`dv_0`, and `dv` stands for :math:`(1 - \\alpha) dv_{T+1}`.

    Parameters
    ----------
    params, x, lengths, activation, leak
        As given to :func:`forward`.
    h : ndarray, (T + 1, B, H)
        The states that :func:`forward` computed.
    dh : ndarray, (T, B, H) or (B, H)
        The loss's own gradient at every state ``h[1:]``, or at the last state ``h[-1]`` alone.
        At steps past a sequence's length it is ignored.
    dparams : (dW_x, dW_h, db)
        Overwritten; shapes as in ``params``.
    dx : ndarray, (T, B, I), or None
        Overwritten, with 0 past a sequence's length; None if it is not wanted, and of tokens.
    dh0 : ndarray, (B, H)
        Overwritten.
    dv : ndarray, (B, H), optional
        The loss's own gradient at the last potentials, ``v[-1]``; 0 by default.
    """
    W_x, W_h, _ = params
    dW_x, dW_h, db = dparams
    _, df, *bounds = _FUNCTIONS[activation]
    alpha, of = leak or (np.ones(0), None)
    for gradient in (dW_x, dW_h, db) if dx is None else (dW_x, dW_h, db, dx):
        gradient[...] = 0
    at_every_step = dh.ndim == 3
    carried = dh0  # at step t what g_t has from later steps, and so dh_0 in the end
    carried[...] = 0 if at_every_step else dh
    leaked = np.zeros_like(dh0) if dv is None else np.array(dv)  # (1 - alpha) dv_{t+1}
    for t in range(len(x), 0, -1):
        live = _live(t, lengths)
        x_t, h_t, h_before = x[t - 1, live], h[t, live], h[t - 1, live]
        g_t = dh[t - 1, live] + carried[live] if at_every_step else carried[live]
        if of == "rate":
            dz_t = alpha * df(_recovered(h_t, h_before, alpha, *bounds)) * g_t
        elif of == "potential":
            dv_t = df(h_t) * g_t + leaked[live]
            leaked[live] = (1 - alpha) * dv_t
            dz_t = alpha * dv_t
        else:
            dz_t = g_t * df(h_t)
        if x.ndim == 2:
            np.add.at(dW_x, x_t, dz_t)
        else:
            dW_x += x_t.T @ dz_t
        dW_h += h_before.T @ dz_t
        db += dz_t.sum(axis=0)
        if dx is not None:
            dx[t - 1, live] = dz_t @ W_x.T
        back = dz_t @ W_h.T
        carried[live] = back + (1 - alpha) * g_t if of == "rate" else back
    if of == "potential":
        dh0[...] = df(h[0]) * carried + leaked


def _recovered(
    h_t: np.ndarray, h_before: np.ndarray, alpha: np.ndarray, low: float, high: float
) -> np.ndarray:
    """f(z_t) from rates.

    Of a function that is not negative, :math:`f(z_t) > 0` where
    :math:`h_t > (1 - \\alpha) h_{t-1}`, exactly: that product was rounded before f was added.
    """
    f_t = np.clip(h_before + (h_t - h_before) / alpha, low, high)
    if low < 0:
        return f_t
    return np.where(h_t <= (1 - alpha) * h_before, 0, np.maximum(f_t, np.finfo(f_t.dtype).tiny))


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


def _noise(noise: Any, t: int, h: np.ndarray) -> np.ndarray:
    """noise_t, (B, H)."""
    if isinstance(noise, np.ndarray):
        return noise[t - 1]
    return noise.at(step=t - 1).draw(1, *h.shape[1:], h.dtype)[0]


def _live(t: int, lengths: np.ndarray | None) -> slice | np.ndarray:
    """Index of the sequences for which step t counts."""
    return slice(None) if lengths is None else np.flatnonzero(t <= lengths)
