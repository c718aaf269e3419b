"""Plots of training histories, of gradients on their way back through time, and of forecasts.

They need matplotlib, which the extra "plots" installs.  Each draws into the axes it is given, or
into those of a new pyplot figure, and returns them.  Colours differ in brightness too, so that
lines can be told apart in grey.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from fastbptt._colors import BRIGHT, DARK, GREY, PALE
from fastbptt._extras import import_extra
from fastbptt.diagnostics import GradientFlow
from fastbptt.training import History

__all__ = ["plot_forecast", "plot_gradient_flow", "plot_history"]

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

    See Also
    --------
    fastbptt.fit : Returns a history.

    Examples
    --------
    >>> import fastbptt
    >>> history = fastbptt.History(loss=[1.5, 0.25, 0.5], best_epoch=2)
    >>> ax = fastbptt.plots.plot_history(history)
    >>> ax.get_yscale()
    'log'
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

    See Also
    --------
    fastbptt.diagnostics.gradient_flow : What is drawn.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> model = fastbptt.RNN(1, 4, 1, seed=0)
    >>> flow = fastbptt.diagnostics.gradient_flow(model, np.ones((3, 5, 1)), np.zeros((3, 1)))
    >>> ax = fastbptt.plots.plot_gradient_flow(flow["layers.0"])
    >>> ax.get_xlabel()
    'time step t'
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

    See Also
    --------
    fastbptt.estimators.RNNForecaster : Forecasts a series.

    Examples
    --------
    >>> import numpy as np, fastbptt
    >>> year, sunspots = fastbptt.datasets.sunspots_yearly()
    >>> yesterday = np.r_[np.nan, sunspots[:-1]]
    >>> ax = fastbptt.plots.plot_forecast(sunspots, yesterday, x=year)
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


def _axes(ax: Axes | None) -> Axes:
    if ax is not None:
        return ax
    pyplot = import_extra("matplotlib.pyplot", "plots", "a plot")
    return pyplot.subplots(layout="constrained")[1]
