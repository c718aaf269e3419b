"""Pictures of a training, of the gradient's way back through time, and of a forecast.

They need matplotlib: ``pip install "fastbptt[plots]"``.  Each draws into the axes it is given, or
into those of a new pyplot figure, and returns them.  What is drawn is told apart without colour.
"""

import numpy as np

from fastbptt._extras import import_extra


def plot_history(history, ax=None):
    """Draw the loss after each epoch, on a logarithmic axis where it is positive throughout.

    Parameters
    ----------
    history : History
        What :func:`fastbptt.fit` returned: anything with ``loss`` and ``validation_loss``, lists of
        a value for each epoch, the second one possibly empty.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    fastbptt._extras.MissingExtraError
        Where `ax` is not given and matplotlib is not installed.
    """
    ax = _axes(ax)
    marker = "o" if len(history.loss) == 1 else None  # a line takes two points
    epoch = np.arange(len(history.loss)) + 1
    ax.plot(epoch, history.loss, color="black", linewidth=1.2, marker=marker, label="training")
    if history.validation_loss:
        ax.plot(
            epoch, history.validation_loss, color="0.5", linewidth=2.2, linestyle="--",
            marker=marker, label="validation",
        )  # fmt: skip
    if all(loss > 0 for loss in (*history.loss, *history.validation_loss)):
        ax.set_yscale("log")
    ax.update_datalim([(0, 1)], updatey=False)  # from the start: room for ticks at whole epochs
    ax.autoscale_view()
    ax.locator_params(axis="x", integer=True)
    ax.set_xlabel("epoch")
    ax.set_ylabel("loss")
    ax.legend(frameon=False)
    return ax


def plot_gradient_flow(flow, ax=None):
    """Draw the norms of the gradient and of the Jacobian at every state, on a logarithmic axis.

    Lines that fall to the left show a gradient that vanishes on its way back, lines that rise to
    the left one that explodes.  What is exactly 0 is not drawn.

    Parameters
    ----------
    flow : GradientFlow
        What :func:`fastbptt.diagnostics.gradient_flow` returned, for one sequence at least.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
        Its y axis is linear in the logarithm, with powers of ten at the ticks: the norms may lie
        outside the range of floating-point numbers.

    Raises
    ------
    ValueError
        Where `flow` is that of an empty batch.
    fastbptt._extras.MissingExtraError
        Where `ax` is not given and matplotlib is not installed.
    """
    log10_gradient, log10_jacobian = flow
    if not log10_jacobian.shape[1]:
        raise ValueError("flow is that of an empty batch, expected at least one sequence")
    ax = _axes(ax)
    t = np.arange(len(log10_gradient))
    ax.axhline(0, color="0.3", linewidth=0.8, linestyle=":")
    ax.fill_between(
        t, log10_jacobian.min(axis=1), log10_jacobian.max(axis=1), color="0.85", linewidth=0,
        label="Jacobian, smallest to largest",
    )  # fmt: skip
    ax.plot(
        t, np.median(log10_jacobian, axis=1), color="0.45", linewidth=2.5, linestyle="--",
        label=r"Jacobian $\|dh_T/dh_t\|$, median of the sequences",
    )  # fmt: skip
    ax.plot(t, log10_gradient, color="black", linewidth=1.2, label=r"gradient $\|dL/dh_t\|$")
    ax.update_datalim([(0, -1), (0, 1)])  # a power of ten above and below 1, however flat the lines
    ax.autoscale_view()
    ax.locator_params(axis="both", integer=True)
    ax.yaxis.set_major_formatter(lambda exponent, _: f"$10^{{{exponent:g}}}$")
    ax.set_xlabel("time step t")
    ax.set_ylabel("norm")
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(handles[::-1], labels[::-1], frameon=False)  # what is on top comes first
    return ax


def plot_forecast(truth, forecast, ax=None, *, x=None):
    """Draw a forecast, thin and black, over the truth, wide and light.

    Parameters
    ----------
    truth, forecast : array_like, (T,)
        NaN leaves a gap, as where a forecast begins later than the truth.
    ax : matplotlib.axes.Axes, optional
    x : array_like, (T,), optional
        Where the values stand along the horizontal axis; at 0, 1, 2 … by default.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    ValueError
        Where the shapes do not fit.
    fastbptt._extras.MissingExtraError
        Where `ax` is not given and matplotlib is not installed.
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
    ax.plot(at, truth, color="0.7", linewidth=3.5, label="truth")
    ax.plot(at, forecast, color="black", linewidth=0.9, label="forecast")
    ax.margins(x=0)
    ax.set_xlabel("time step" if x is None else "time")
    ax.set_ylabel("value")
    ax.legend(frameon=False)
    return ax


def _axes(ax):
    if ax is not None:
        return ax
    pyplot = import_extra("matplotlib.pyplot", "plots", "a plot")
    return pyplot.subplots(layout="constrained")[1]
