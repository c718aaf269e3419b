"""Leaks: how slowly a layer's units follow their inputs."""

from __future__ import annotations

import functools
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fastbptt import _checks
from fastbptt.reference import _FUNCTIONS, _recovered

Of = Literal["rate", "potential"]
FORMS = "rate", "potential"


class Leak:
    """A layer whose units leak: they keep a part of what they were at each step.

    Of rates, or of potentials v, with z_t what a plain layer applies f to,

    .. math::
        h_t = (1 - \\alpha) h_{t-1} + \\alpha f(z_t)

        v_t = (1 - \\alpha) v_{t-1} + \\alpha z_t \\qquad h_t = f(v_t)

    which are the Euler steps of :math:`\\tau \\dot h = -h + f(z)` and
    :math:`\\tau \\dot v = -v + z` with :math:`\\alpha = dt / \\tau`.

    Parameters
    ----------
    alpha : float or array_like, (H,)
        Above 0, at most 1; one number, or one for each unit.
    of : {"rate", "potential"}, default "rate"

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, shape or value.

    Notes
    -----
    Nothing but the states is kept for :func:`fastbptt.backward`.  It finds f(z_t) of rates as
    ``h[t - 1] + (h[t] - h[t - 1]) / alpha``, within the bounds of f, and whether it was 0, of relu
    and the like, exactly.  Rounded states cost some of its digits, but gradients hardly any: over
    200 steps in float32 their error relative to float64 was 0.2 to 2.5 millionths for alpha from 1
    to 0.001, at most 2.2 times that of potentials, where nothing is recovered.

    Examples
    --------
    >>> import fastbptt
    >>> fastbptt.Leak(0.2)
    Leak(0.2, of='rate')
    >>> fastbptt.Leak.from_tau(dt=20, tau=[100, 200], of="potential").alpha
    array([0.2, 0.1])
    """

    alpha: float | np.ndarray
    of: Of

    def __init__(self, alpha: npt.ArrayLike, of: Of = "rate") -> None:
        found = _real("alpha", alpha)
        if not ((found > 0) & (found <= 1)).all():
            wrong = found[~((found > 0) & (found <= 1))].flat[0]
            raise ValueError(f"alpha is {wrong}, expected above 0 and at most 1")
        found.flags.writeable = False
        of = _checks.one_of("of", of, FORMS)
        self.__dict__.update(alpha=found if found.ndim else float(found), of=of)

    @classmethod
    def from_tau(cls, dt: float, tau: npt.ArrayLike, of: Of = "rate") -> Leak:
        """The leak of units with time constants `tau`, for steps of `dt` in the same unit of time.

        Parameters
        ----------
        dt : float
            Above 0.
        tau : float or array_like, (H,)
            At least dt.
        of : {"rate", "potential"}, default "rate"

        Returns
        -------
        Leak
            With ``alpha = dt / tau``.
        """
        dt = _checks.number("dt", dt, zero=False)
        found = _real("tau", tau)
        if not ((found >= dt) & np.isfinite(found)).all():
            raise ValueError(f"tau is {tau}, expected finite and at least dt, {dt}")
        return cls(dt / found, of)

    @functools.lru_cache(maxsize=64)  # noqa: B019  a leak is small
    def of_units(self, H: int, dtype: np.dtype) -> tuple[np.ndarray, str] | None:
        """alpha of each unit, (H,), and the form; None if it is that of a plain layer."""
        alpha = np.asarray(self.alpha)
        if alpha.ndim and alpha.shape != (H,):
            raise ValueError(f"leak's alpha has shape {alpha.shape}, expected {(H,)}: (H,)")
        alpha = np.full(H, alpha, dtype)
        alpha.flags.writeable = False
        if not (alpha > 0).all():
            raise ValueError(f"leak's alpha is {alpha.min()} as {dtype}, expected above 0")
        return None if self.of == "rate" and (alpha == 1).all() else (alpha, self.of)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Leak stays as it is, make a new one: {name} cannot be set")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Leak):
            return NotImplemented
        return self.of == other.of and np.array_equal(self.alpha, other.alpha)

    def __hash__(self) -> int:
        return hash((self.of, np.asarray(self.alpha).tobytes()))

    def __repr__(self) -> str:
        alpha = np.asarray(self.alpha).tolist()
        return f"Leak({alpha!r}, of={self.of!r})"


def slopes(
    h: np.ndarray, activation: str, leak: Leak | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far a layer's state s_t, which is h_t or v_t, follows what it is computed from.

    .. math::
        p_t = ds_t/dz_t \\qquad q_t = dh_t/ds_t \\qquad k = 1 - \\alpha

        ds_t/ds_{t-1} = \\mathrm{diag}(k) + \\mathrm{diag}(p_t) W_h^T \\mathrm{diag}(q_{t-1})

    Parameters
    ----------
    h : ndarray, (T + 1, B, H)
        States, of rates or potentials.

    Returns
    -------
    p, q, k : ndarray, (T, B, H), (T + 1, B, H), (H,)
        ``p[0]`` is that of t = 1.
    """
    _, df, *bounds = _FUNCTIONS[activation]
    H = h.shape[-1]
    alpha, of = (leak and leak.of_units(H, h.dtype)) or (np.ones(H, h.dtype), None)
    if of == "potential":
        return np.broadcast_to(alpha, h[1:].shape), df(h), 1 - alpha
    f = _recovered(h[1:], h[:-1], alpha, *bounds) if of == "rate" else h[1:]
    return alpha * df(f), np.ones_like(h), 1 - alpha


def _real(name: str, value: npt.ArrayLike) -> np.ndarray:
    """A number or an array (H,), as float64: a copy."""
    try:
        found = np.array(value)
    except ValueError:
        found = np.array(None)
    if found.dtype.kind not in "iuf":
        raise TypeError(f"{name} is {value!r}, expected a number or an array of numbers, (H,)")
    if found.ndim > 1 or not found.size:
        raise ValueError(f"{name} has shape {found.shape}, expected one number, or (H,)")
    return found.astype(np.float64)
