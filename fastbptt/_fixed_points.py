"""Fixed points: where a network's state stays if its input does."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastbptt import _checks, _sequences
from fastbptt._leak import slopes
from fastbptt._stack import Pass, Stack
from fastbptt.model import RNN, model_of

# Steps that random states are left to go, if no states are given.
SETTLING = 64
# An eigenvalue is on the unit circle if it is as near to it as this.
MARGIN = 1e-6
# Levenberg-Marquardt: steps at most, and elements of the Jacobians of states polished together.
POLISHING, TOGETHER = 30, 1 << 23


@dataclass(repr=False)
class FixedPoints:
    """What :func:`fixed_points` returns; prints as a table.

    The points are in the order of their unstable directions, the fewest first.  D is H times the
    number of layers.

    Attributes
    ----------
    points : ndarray, (n, D)
        States, those of several layers side by side; with a leak of potentials these.
    q : ndarray, (n,)
        Half the squared distance that the network moves from there in a step.
    jacobian : ndarray, (n, D, D)
        ``jacobian[i, j, k]`` is the derivative of unit j's next state by unit k's, at point i.
    eigenvalues : ndarray of complex, (n, D)
        Of the Jacobian, the largest magnitude first.
    """

    points: np.ndarray
    q: np.ndarray
    jacobian: np.ndarray
    eigenvalues: np.ndarray

    @property
    def unstable(self) -> np.ndarray:
        """Of each point the number of unstable directions: eigenvalues beyond the unit circle."""
        return (np.abs(self.eigenvalues) > 1 + MARGIN).sum(axis=1)

    @property
    def stable(self) -> np.ndarray:
        """Of each point whether all eigenvalues are within the unit circle.

        A point of a line attractor is not, nor is it unstable: an eigenvalue is 1.
        """
        return (np.abs(self.eigenvalues) >= 1 - MARGIN).sum(axis=1) == 0

    def __len__(self) -> int:
        return len(self.points)

    def __repr__(self) -> str:
        n = len(self)
        lines = [f"{n} fixed point{'s' * (n != 1)}"]
        if n:
            lines.append("point        q  |eigenvalue|")
        for i, (unstable, stable) in enumerate(zip(self.unstable, self.stable, strict=True)):
            if 20 <= i < n - 1:
                lines += ["    …"] * (i == 20)
                continue
            what = f"{unstable} unstable direction{'s' * bool(unstable != 1)}"
            what = what if unstable else "stable" if stable else "marginal"
            largest = np.abs(self.eigenvalues[i, 0])
            lines.append(f"{i:5} {self.q[i]:8.1e}  {largest:12.4f}  {what}")
        return "\n".join(lines)


def fixed_points(
    model: RNN,
    x: npt.ArrayLike,
    states: npt.ArrayLike | None = None,
    *,
    samples: int = 256,
    noise: float = 0.1,
    steps: int = 500,
    tolerance: float = 1e-12,
    distance: float = 1e-3,
    seed: int | np.random.Generator | None = 0,
) -> FixedPoints:
    """Where a network's state stays, or hardly moves, while its input is constant.

    With F(s) for the state that follows s, it looks for minima of the speed

    .. math:: q(s) = |F(s) - s|^2 / 2

    from many states at once, and tells by the eigenvalues of dF/ds whether the network comes back
    to a point that it finds, or leaves it (Sussillo and Barak 2013).

    Parameters
    ----------
    model : RNN
        In one direction.  Nothing is dropped out, and no noise is added.
    x : array_like, (I,)
        The constant input; a number if I is 1.
    states : array_like, (..., D), optional
        Where to begin: states that the network goes through, D = H of them times the number of
        layers, such as ``model.states(trials)[0]``; those of several layers side by side.  With a
        leak of potentials these: ``model.states(trials, of="potential")[0]``.  By default those on
        the ways from normally distributed states.
    samples : int, default 256
        How many of the states to begin with, drawn at random.
    noise : float, default 0.1
        Standard deviation of the normal numbers added to each, in units of the root mean square of
        `states`.
    steps : int, default 500
        Steps of the descent before the last ones.
    tolerance : float, default 1e-12
        The largest q of a point that is returned.  A larger one, such as 1e-4, gives slow points
        too: minima of q where the network lingers.
    distance : float, default 1e-3
        Points that are nearer to each other are one.
    seed : None, int or numpy.random.Generator, default 0
        Draws the states to begin with.

    Returns
    -------
    FixedPoints
        Those found.  There may be others: more `samples`, more `noise` or other `states` may find
        them.  On a line attractor, each state that the search has come to is a point.

    Raises
    ------
    TypeError, ValueError
        If an argument has the wrong type, dtype, shape or value.

    See Also
    --------
    fastbptt.plots.plot_trajectories : draws them beside the network's ways.

    Notes
    -----
    The gradient of q is (dF/ds - 1)^T (F(s) - s), which is what a backward pass of one step makes
    of the residual F(s) - s.  Adam descends along it, in the model's dtype.  Steps of Levenberg and
    Marquardt in float64 follow, with the damping |F(s) - s|^2, by which they converge quadratically
    to isolated points and to those of a line alike (Yamashita and Fukushima 2001).  These take
    O(samples D^3) operations each.

    Examples
    --------
    One unit that excites itself keeps one of two values; 0 lies between them.

    >>> import numpy as np, fastbptt
    >>> from fastbptt.diagnostics import fixed_points
    >>> model = fastbptt.RNN(1, 1, 1, seed=0)
    >>> model.set_parameters({"layers.0.W_h": [[1.5]]})
    >>> found = fixed_points(model, 0.0)
    >>> found.points[:2].round(4)
    array([[-0.8586],
           [ 0.8586]])
    >>> found.stable
    array([ True,  True, False])
    """
    if not isinstance(model, RNN):
        raise TypeError(f"model is a {type(model).__name__}, expected an RNN")
    if model.bidirectional:
        raise ValueError("the model is bidirectional, expected one direction")
    x = _sequences.real("x", x)
    x = x.reshape(1) if x.ndim == 0 else x
    if x.shape != (model.input_size,):
        raise ValueError(f"x has shape {x.shape}, expected {(model.input_size,)}: (I,)")
    if not np.isfinite(x).all():
        raise ValueError("x holds NaN or infinity, expected finite numbers")
    samples, steps = _checks.integer("samples", samples), _checks.integer("steps", steps, 0)
    noise, tolerance = _checks.number("noise", noise), _checks.number("tolerance", tolerance)
    distance = _checks.number("distance", distance)
    rng = np.random.default_rng(seed)
    stack = model.network.stack
    if states is None:
        found = _ways(stack, x, samples, rng)
    else:
        D = stack.num_layers * stack.hidden_size
        found = _sequences.real("states", states).astype(np.float64)
        if found.ndim == 0 or found.shape[-1] != D or not found.size:
            raise ValueError(f"states has shape {found.shape}, expected (..., {D})")
        found = found.reshape(-1, D)
        found = found[np.isfinite(found).all(axis=1)]
        if not len(found):
            raise ValueError("states holds NaN or infinity in every state, expected finite numbers")
        found = found[rng.choice(len(found), samples, replace=len(found) < samples)]
    found = found + noise * np.sqrt(np.mean(found**2)) * rng.standard_normal(found.shape)
    found = _descend(stack, x, found, steps)

    memory = model.network.memory.astype(np.float64)
    twin = model_of({**model.config(), "dtype": "float64", "backend": "numpy"}, memory)
    stack = twin.network.stack
    chunk = max(TOGETHER // found.shape[1] ** 2, 1)
    parts = [_polish(stack, x, found[i : i + chunk]) for i in range(0, len(found), chunk)]
    points = np.concatenate([s[q <= tolerance] for s, q in parts])
    return _described(stack, x, points, distance)


def _split(s: np.ndarray, stack: Stack) -> list[np.ndarray]:
    """The states of each layer, (N, H), in those of all, (N, D)."""
    dtype = stack.layers[0].b.dtype
    return [a.astype(dtype) for a in np.split(s, stack.num_layers, axis=1)]


def _step(stack: Stack, x: np.ndarray, s: np.ndarray, T: int = 1) -> Pass:
    """A pass with constant input from states (N, D)."""
    constant = np.broadcast_to(x.astype(stack.layers[0].b.dtype), (T, len(s), len(x)))
    return stack.forward(constant, _split(s, stack), keep_v=T > 1)


def _after(passed: Pass) -> np.ndarray:
    return np.concatenate(passed.last, axis=1).astype(np.float64)


def _ways(stack: Stack, x: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """States after a random number of steps from normal ones, (samples, D)."""
    s = rng.standard_normal((samples, stack.num_layers * stack.hidden_size))
    passed = _step(stack, x, s, SETTLING)
    ways = [h if v is None else v for h, v in zip(passed.h, passed.v, strict=True)]
    at = ((SETTLING + 1) ** rng.random(samples)).astype(int) - 1  # more of the first steps
    s = np.concatenate([a[at, np.arange(samples)] for a in ways], axis=1).astype(np.float64)
    finite = np.isfinite(s).all(axis=1)
    return s[finite] if finite.any() else np.zeros_like(s[:1])


def _descend(stack: Stack, x: np.ndarray, s: np.ndarray, steps: int) -> np.ndarray:
    """Minimise q by Adam from each of the states (N, D)."""
    first, second = np.zeros_like(s), np.zeros_like(s)
    scale = np.sqrt(np.mean(s**2, axis=1, keepdims=True))
    scale = np.maximum(scale, np.median(scale))
    for step in range(steps):
        passed = _step(stack, x, s)
        residual = _after(passed) - s
        back = stack.backward(passed, dstate=_split(residual, stack), need_dx=False)
        gradient = np.concatenate(back.h0, axis=1) - residual
        first += 0.1 * (gradient - first)
        second += 0.01 * (gradient**2 - second)
        rate = 0.05 * scale * (1 - step / steps)
        mean, square = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.99 ** (step + 1))
        s = s - rate * mean / (np.sqrt(square) + 1e-30)
    return s


def _polish(stack: Stack, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Minimise q by steps of Levenberg and Marquardt: states (N, D), and their q."""
    s = s.copy()
    r, A = _residual(stack, x, s)
    q, damping, eye = _half_square(r), np.full(len(s), 0.01), np.eye(s.shape[1])
    for _ in range(POLISHING):
        # Not where rounding alone keeps q from 0, or no step makes it less.
        active = np.flatnonzero((q > 1e-31 * (1 + _half_square(s))) & (damping < 1e9))
        if not len(active):
            break
        back = A[active].swapaxes(1, 2)
        square, downhill = back @ A[active], back @ r[active][..., None]
        least = 1e-15 * np.trace(square, axis1=1, axis2=2) / len(eye) + 1e-300
        added = np.maximum(damping[active] * 2 * q[active], least)
        moved = s[active] - np.linalg.solve(square + added[:, None, None] * eye, downhill)[..., 0]
        its_r, its_A = _residual(stack, x, moved)
        its_q = _half_square(its_r)
        better = its_q < q[active]
        damping[active] *= np.where(better, 0.1, 10)
        for a, found in ((s, moved), (q, its_q), (r, its_r), (A, its_A)):
            a[active[better]] = found[better]
    return s, q


def _half_square(r: np.ndarray) -> np.ndarray:
    return np.square(r).sum(axis=1) / 2


def _residual(stack: Stack, x: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F(s) - s, (N, D), and its derivative, (N, D, D)."""
    passed = _step(stack, x, s)
    H, D = stack.hidden_size, s.shape[1]
    J = np.zeros((len(s), D, D))
    shown = np.empty(0)  # the slopes of what the layer below shows now
    for l, (params, h) in enumerate(zip(stack.layers, passed.h, strict=True)):
        (p,), (q, q_after), k = slopes(h, stack.activation, stack.leak)
        its, below = (slice(i * H, (i + 1) * H) for i in (l, l - 1))
        if l > 0:
            J[:, its] = (p[..., None] * params.W_x.T * shown[:, None]) @ J[:, below]
        J[:, its, its] += p[..., None] * params.W_h.T * q[:, None] + np.diag(k)
        shown = q_after
    return _after(passed) - s, J - np.eye(D)


def _described(stack: Stack, x: np.ndarray, points: np.ndarray, distance: float) -> FixedPoints:
    """The points without those near to others."""
    r, A = _residual(stack, x, points)
    q = _half_square(r)
    kept: list[int] = []
    for i in np.argsort(q, kind="stable"):
        away = np.linalg.norm(points[kept] - points[i], axis=1)
        if (away >= distance).all():
            kept.append(i)
    jacobian = A[kept] + np.eye(points.shape[1])
    eigenvalues = np.linalg.eigvals(jacobian).astype(np.complex128)
    order = np.argsort(-np.abs(eigenvalues), axis=1, kind="stable")
    eigenvalues = np.take_along_axis(eigenvalues, order, axis=1)
    found = FixedPoints(points[kept], q[kept], jacobian, eigenvalues)
    order = np.lexsort((found.points[:, 0], found.unstable))
    return FixedPoints(*(a[order] for a in (found.points, found.q, jacobian, eigenvalues)))
