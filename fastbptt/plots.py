"""Plots of training histories, gradients on their way back through time, and forecasts; and of what
networks in neuroscience do: choices, trajectories of states, and weights by sign.

They need matplotlib, which the extra "plots" installs.  Each draws into the axes it is given, or
into those of a new pyplot figure, and returns them.  Colours differ in brightness too, so that
lines can be told apart in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fastbptt._colors import BRIGHT, DARK, GREY, PALE
from fastbptt._extras import import_extra
from fastbptt.diagnostics import FixedPoints, GradientFlow
from fastbptt.training import History

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def plot_history(history: History, ax: Axes | None = None) -> Axes:
    """Draw the loss of each epoch, on a logarithmic axis if every loss is positive.

    A point marks the best epoch, if training has kept one.

    Parameters
    ----------
    history : History
        What :func:`fastbptt.fit` returned, or anything with ``loss`` and ``validation_loss``: lists
        with a value for each epoch; the second may be empty, and ``best_epoch`` be None
        or missing.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    fastbptt.MissingExtraError
        If `ax` is not given and matplotlib is not installed.
    """
    ax = _axes(ax)
    marker = "o" if len(history.loss) == 1 else None  # a line takes two points
    epoch = np.arange(len(history.loss)) + 1
    ax.plot(epoch, history.loss, color=DARK, linewidth=1.2, marker=marker, label="training")
    if history.validation_loss:
        ax.plot(
            epoch, history.validation_loss, color=BRIGHT, linewidth=2.4, linestyle="--",
            marker=marker, label="validation",
        )  # fmt: skip
    best = getattr(history, "best_epoch", None)
    if best is not None:
        value = (history.validation_loss or history.loss)[best - 1]
        ax.plot(
            best, value, color="black", marker="o", markersize=8, markerfacecolor="white",
            markeredgewidth=1.6, linestyle="none", label=f"best epoch: {best}",
        )  # fmt: skip
    if all(loss > 0 for loss in (*history.loss, *history.validation_loss)):
        ax.set_yscale("log")
    ax.update_datalim([(0, 1)], updatey=False)  # begin at 0: room for ticks at whole epochs
    ax.autoscale_view()
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    ax.legend(frameon=False)
    return ax


def plot_gradient_flow(flow: GradientFlow, ax: Axes | None = None) -> Axes:
    """Draw the norms of the gradient and of the Jacobian at every state, on a logarithmic axis.

    If the lines fall to the left, the gradient vanishes on its way back; if they rise to the left,
    it explodes.  Norms that are exactly 0 are not drawn.

    Parameters
    ----------
    flow : GradientFlow
        What :func:`fastbptt.diagnostics.layer_gradient_flow` returned for at least one sequence, or
        one of those that :func:`fastbptt.diagnostics.gradient_flow` did.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        The y axis is linear in the logarithm, with powers of ten at the ticks, since the norms may
        lie outside the range of floating-point numbers.

    Raises
    ------
    ValueError
        If `flow` is that of an empty batch.
    fastbptt.MissingExtraError
        If `ax` is not given and matplotlib is not installed.
    """
    log10_gradient, log10_jacobian = flow
    if not log10_jacobian.shape[1]:
        raise ValueError("flow is that of an empty batch, expected at least one sequence")
    ax = _axes(ax)
    t = np.arange(len(log10_gradient))
    ax.axhline(0, color="0.3", linewidth=0.8, linestyle=":")
    ax.fill_between(
        t, log10_jacobian.min(axis=1), log10_jacobian.max(axis=1), color=PALE, linewidth=0,
        label="Jacobian, smallest to largest",
    )  # fmt: skip
    ax.plot(
        t, np.median(log10_jacobian, axis=1), color=BRIGHT, linewidth=2.5, linestyle="--",
        label=r"Jacobian $\|dh_T/dh_t\|$, median of the sequences",
    )  # fmt: skip
    ax.plot(t, log10_gradient, color=DARK, linewidth=1.2, label=r"gradient $\|dL/dh_t\|$")
    ax.update_datalim([(0, -1), (0, 1)])  # at least a power of ten above and below 1
    ax.autoscale_view()
    ax.locator_params(axis="both", integer=True)
    ax.yaxis.set_major_formatter(lambda exponent, _: f"$10^{{{exponent:g}}}$")
    ax.set_xlabel("time step t")
    ax.set_ylabel("norm")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], frameon=False)  # the line on top comes first
    return ax


def plot_forecast(
    truth: ArrayLike, forecast: ArrayLike, ax: Axes | None = None, *, x: ArrayLike | None = None
) -> Axes:
    """Draw a forecast, thin and dark blue, over the truth, wide and light grey.

    Parameters
    ----------
    truth, forecast : array_like, (T,)
        NaN leaves a gap: a forecast may begin later than the truth.
    ax : matplotlib.axes.Axes, optional
    x : array_like, (T,), optional
        Positions along the horizontal axis; 0, 1, 2, … by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If an array has the wrong shape.
    fastbptt.MissingExtraError
        If `ax` is not given and matplotlib is not installed.
    """
    truth = np.asarray(truth)
    if truth.ndim != 1:
        raise ValueError(f"truth has shape {truth.shape}, expected (T,)")
    at = np.arange(len(truth)) if x is None else x
    for name, values in (("forecast", forecast), ("x", at)):
        if np.shape(values) != truth.shape:
            raise ValueError(
                f"{name} has shape {np.shape(values)}, expected {truth.shape}: (T,) as truth has"
            )
    ax = _axes(ax)
    ax.plot(at, truth, color=GREY, linewidth=3.5, label="truth")
    ax.plot(at, forecast, color=DARK, linewidth=1.1, label="forecast")
    ax.margins(x=0)
    ax.set_xlabel("time step" if x is None else "time")
    ax.set_ylabel("value")
    ax.legend(frameon=False)
    return ax


def plot_psychometric(
    strength: ArrayLike, chosen: ArrayLike, ax: Axes | None = None, *, label: str = "choices"
) -> Axes:
    """Draw how often an option is chosen against the strength of the evidence for it.

    Points are shares with their 95 % intervals (Wilson 1927); the line is a logistic function,
    fitted by the largest likelihood.

    Parameters
    ----------
    strength : array_like, (N,)
        Of each trial, such as the signed coherence in percent: above 0 for the option.
    chosen : array_like of bool, (N,)
        Whether it was chosen.
    ax : matplotlib.axes.Axes, optional
    label : str, default "choices"
        Of the points, in the legend.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If an array has the wrong shape, there are no trials, or a strength is infinite or NaN.
    fastbptt.MissingExtraError
        If `ax` is not given and matplotlib is not installed.

    Notes
    -----
    For the fit half a choice of each kind is added at each strength, since a line without these
    would be infinitely steep where choices are all right.
    """
    strength, chosen = np.asarray(strength, np.float64), np.asarray(chosen, bool)
    if strength.ndim != 1 or not strength.size:
        raise ValueError(f"strength has shape {strength.shape}, expected (N,) with N at least 1")
    if chosen.shape != strength.shape:
        raise ValueError(
            f"chosen has shape {chosen.shape}, expected {strength.shape}: (N,) as strength has"
        )
    if not np.isfinite(strength).all():
        raise ValueError("strength holds NaN or infinity, expected finite numbers")
    ax = _axes(ax)
    levels, which, n = np.unique(strength, return_inverse=True, return_counts=True)
    k = np.bincount(which, weights=chosen)
    share, (low, high) = k / n, _wilson(k, n)
    reach = 1.05 * np.abs(levels).max() or 1.0
    at = np.linspace(-reach, reach, 401)
    ax.axhline(0.5, color="0.3", linewidth=0.8, linestyle=":")
    ax.axvline(0, color="0.3", linewidth=0.8, linestyle=":")
    bias, slope = _logistic(levels, k + 0.5, n + 1.0)
    ax.plot(at, _sigmoid(bias + slope * at), color=BRIGHT, linewidth=2.5, label="logistic fit")
    ax.errorbar(
        levels, share, yerr=np.maximum([share - low, high - share], 0), color=DARK, marker="o",
        markersize=5, linestyle="none", elinewidth=1.2, capsize=2.5, label=label,
    )  # fmt: skip
    ax.set_xlim(-reach, reach)
    ax.set_ylim(-0.03, 1.03)
    ax.set_xlabel("strength of the evidence")
    ax.set_ylabel("share of choices")
    ax.legend(frameon=False, loc="upper left")
    return ax


def _wilson(k: np.ndarray, n: np.ndarray, z: float = 1.96) -> tuple[np.ndarray, np.ndarray]:
    """The interval of a share of which k of n were seen."""
    centre = (k + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * np.sqrt(k * (n - k) / n + z**2 / 4)
    return centre - half, centre + half


def _sigmoid(z: np.ndarray) -> np.ndarray:
    return (1 + np.tanh(z / 2)) / 2


def _logistic(x: np.ndarray, k: np.ndarray, n: np.ndarray) -> tuple[float, float]:
    """Intercept and slope with the largest likelihood that k of n are chosen at each x.

    By Newton's method with x brought to [-1, 1]; steps are halved as long as they lead downhill.
    """
    scale = np.abs(x).max() or 1.0
    columns, weights = np.stack([np.ones_like(x), x / scale]), np.zeros(2)

    def likelihood(weights: np.ndarray) -> float:
        z = weights @ columns
        return float((k * z - n * np.logaddexp(0, z)).sum())

    for _ in range(50):
        p = _sigmoid(weights @ columns)
        hessian = (columns * n * p * (1 - p)) @ columns.T + 1e-9 * np.eye(2)
        step = np.linalg.solve(hessian, columns @ (k - n * p))
        while (
            likelihood(weights + step) < likelihood(weights) - 1e-12 and np.abs(step).max() > 1e-9
        ):
            step = step / 2
        weights = weights + step
    return float(weights[0]), float(weights[1] / scale)


def plot_trajectories(
    states: np.ndarray | Sequence[ArrayLike],
    fixed_points: FixedPoints | None = None,
    ax: Axes | None = None,
    *,
    values: ArrayLike | None = None,
) -> Axes:
    """Draw trajectories of a network's states in the plane of their first principal components.

    Each begins at a small dot.  Fixed points are full circles if they are stable, empty ones if
    they are not, and diamonds if an eigenvalue is on the unit circle.

    Parameters
    ----------
    states : array_like, (N, T, D), or list of (T_i, D)
        Of each trial, such as ``model.states(x)[0]``; means over trials of a kind are often
        clearer.  The principal components are theirs.
    fixed_points : FixedPoints, optional
        What :func:`fastbptt.diagnostics.fixed_points` returned, of the same D.
    ax : matplotlib.axes.Axes, optional
    values : array_like, (N,), optional
        Numbers that set the colours, from dark for the least to bright for the largest, such
        as coherences.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        If an array has the wrong shape, there are fewer than two units or no states.
    fastbptt.MissingExtraError
        If `ax` is not given and matplotlib is not installed.
    """
    trajectories = [np.asarray(a, np.float64) for a in states]
    D = trajectories[0].shape[-1] if trajectories and trajectories[0].ndim == 2 else 0
    if D < 2 or any(a.ndim != 2 or a.shape[1] != D for a in trajectories):
        shapes = [a.shape for a in trajectories[:3]]
        raise ValueError(f"states holds {shapes}, expected (N, T, D) or (T_i, D), D at least 2")
    if not sum(map(len, trajectories)):
        raise ValueError("states holds no state, expected at least one")
    if fixed_points is not None and fixed_points.points.shape[1] != D:
        raise ValueError(
            f"fixed_points has {fixed_points.points.shape[1]} units, expected {D}, as states has"
        )
    if values is not None and np.shape(values) != (len(trajectories),):
        raise ValueError(
            f"values has shape {np.shape(values)}, expected {(len(trajectories),)}: (N,)"
        )
    ax = _axes(ax)
    every = np.concatenate(trajectories)
    mean = every.mean(axis=0)
    _, spread, axes = np.linalg.svd(every - mean, full_matrices=False)
    plane = np.zeros((2, D))
    plane[: len(axes)] = axes[:2]
    shades = _shades(values, len(trajectories))
    named = () if values is None else (int(np.argmin(values)), int(np.argmax(values)))
    for i, (states_of, color) in enumerate(zip(trajectories, shades, strict=True)):
        x, y = plane @ (states_of - mean).T
        label = f"{np.asarray(values)[i]:g}" if i in named else None
        ax.plot(x, y, color=color, linewidth=1.2, label=label)
        ax.plot(x[:1], y[:1], color=color, marker="o", markersize=3, linestyle="none")
    if fixed_points is not None:
        x, y = plane @ (fixed_points.points - mean).T
        stable, unstable = fixed_points.stable, fixed_points.unstable > 0
        for where, marker, face, label in (
            (~stable & ~unstable, "D", "0.6", "marginal point"),
            (unstable, "o", "white", "unstable point"),
            (stable, "o", "black", "stable point"),
        ):
            if where.any():
                ax.plot(
                    x[where], y[where], marker=marker, color="black", markerfacecolor=face,
                    markeredgewidth=1.4, markersize=7, linestyle="none", label=label, zorder=3,
                )  # fmt: skip
    shares = 100 * np.append(spread, 0)[:2] ** 2 / (np.sum(spread**2) or 1)
    if ax.get_legend_handles_labels()[1]:
        ax.legend(frameon=False)
    ax.set_xlabel(f"component 1 ({shares[0]:.0f} % of the variance)")
    ax.set_ylabel(f"component 2 ({shares[1]:.0f} %)")
    return ax


def _shades(values: ArrayLike | None, count: int) -> list[tuple[float, float, float]]:
    """A colour for each value, from dark blue by grey to orange."""
    if values is None:
        return [_mixed(0)] * count
    found = np.asarray(values, np.float64)
    span = np.ptp(found) or 1.0
    return [_mixed((value - found.min()) / span) for value in found]


def _mixed(share: float) -> tuple[float, float, float]:
    """Between DARK, at 0, and BRIGHT, at 1."""
    dark, bright = ([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in (DARK, BRIGHT))
    r, g, b = ((1 - share) * low + share * high for low, high in zip(dark, bright, strict=True))
    return r, g, b


def plot_weights(W_h: ArrayLike, ax: Axes | None = None) -> Axes:
    """Draw recurrent weights as a matrix, with units sorted by the sign of what they send out.

    Excitatory units, those without negative weights, come first, then those of both signs, then
    inhibitory ones; in each group the strongest first.  Rows and columns are in the same order.

    Parameters
    ----------
    W_h : array_like, (H, H)
        ``W_h[i, j]`` leads from unit i to unit j.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        Rows are the units that weights come from.  Orange is positive, blue negative, full colour
        the 99th percentile of the weights' magnitudes and above.

    Raises
    ------
    ValueError
        If `W_h` has the wrong shape or holds NaN or infinity.
    fastbptt.MissingExtraError
        If matplotlib is not installed.
    """
    W = np.asarray(W_h, np.float64)
    if W.ndim != 2 or W.shape[0] != W.shape[1] or not W.size:
        raise ValueError(f"W_h has shape {W.shape}, expected (H, H) with H at least 1")
    if not np.isfinite(W).all():
        raise ValueError("W_h holds NaN or infinity, expected finite numbers")
    colors = import_extra("matplotlib.colors", "plots", "a plot")
    ax = _axes(ax)
    sign = np.where((W >= 0).all(axis=1), 0, np.where((W <= 0).all(axis=1), 2, 1))
    order = np.lexsort((-np.abs(W).sum(axis=1), sign))
    most = np.quantile(np.abs(W[W != 0]), 0.99) if W.any() else 1.0
    image = ax.imshow(
        W[np.ix_(order, order)], vmin=-most, vmax=most, interpolation="nearest",
        cmap=colors.LinearSegmentedColormap.from_list("signs", [DARK, "white", BRIGHT]),
    )  # fmt: skip
    counts = np.bincount(sign, minlength=3)
    ends = np.cumsum(counts)
    for end in ends[:2]:
        if 0 < end < len(W):
            ax.axhline(end - 0.5, color="0.3", linewidth=0.8)
            ax.axvline(end - 0.5, color="0.3", linewidth=0.8)
    names = [
        (end - (count + 1) / 2, f"{count} {name}")
        for end, count, name in zip(
            ends, counts, ("excitatory", "of both signs", "inhibitory"), strict=True
        )
        if count
    ]
    ax.set_yticks([at for at, _ in names], [name for _, name in names], rotation=90, va="center")
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.set_xlabel("to unit")
    ax.set_ylabel("from unit")
    ax.figure.colorbar(image, ax=ax, label="weight", shrink=0.8)
    return ax


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    pyplot = import_extra("matplotlib.pyplot", "plots", "a plot")
    return pyplot.subplots(layout="constrained")[1]
