"""``fastbptt demo tomorrow``: forecast tomorrow's value from the last three, with two weights.

A recurrent network of one linear unit, h_t = x_t w1 + h_{t-1} w2 from h_0 = 0, unrolled over three
values:

    predicted = daybefore w1 w2^2 + yesterday w1 w2 + today w1

The loss is the sum of squared residuals, SSR = sum (observed - predicted)^2, and its gradient

    dSSR/dw1 = sum -2 (observed - predicted) (daybefore w2^2 + yesterday w2 + today)
    dSSR/dw2 = sum -2 (observed - predicted) (daybefore 2 w1 w2 + yesterday w1)

Over n steps dh_n/dh_0 = w2^n, which vanishes for abs(w2) < 1 and explodes for abs(w2) > 1.
"""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np

from fastbptt._colors import BRIGHT
from fastbptt.datasets import sunspots_yearly
from fastbptt.demos import linear
from fastbptt.demos.linear import rmse
from fastbptt.demos.show import new_figure, print_by_hand, print_table, write_figure
from fastbptt.losses import ssr
from fastbptt.plots import plot_forecast
from fastbptt.rnn import Params, backward, forward

# Worked by hand: daybefore 1, yesterday 2, today 3, observed 4, both weights 1/2
BY_HAND: list[tuple[str, float]] = [
    ("predicted = 1 (1/8) + 2 (1/4) + 3 (1/2)", 2.125),
    ("SSR = (4 - 2.125)^2", 3.515625),
    ("dSSR/dw1 = -2 (1.875) (1/4 + 2/2 + 3)", -15.9375),
    ("dSSR/dw2 = -2 (1.875) (1/2 + 2/2)", -5.625),
]
STEPS = 500
LEARNING_RATE = 1e-3
HELD_OUT = 0.2  # of the years, the last ones


class Result(NamedTuple):
    """What :func:`run` returns.

    Attributes
    ----------
    example : tuple of float
        Prediction, SSR, dSSR/dw1 and dSSR/dw2 of the example worked by hand.
    losses : list of float
        SSR over the training years before each step, in (100 sunspots)^2.
    weights : tuple of float
        Final w1 and w2.
    difference : float
        Largest relative difference of a gradient from the closed form during training.
    rmse : float
        Error over the held-out years, in sunspot numbers.
    ar_rmse : float
        The same for AR(2) with an intercept, by least squares.
    naive_rmse : float
        The same for the forecast that next year will be like this one.
    """

    example: tuple[float, float, float, float]
    losses: list[float]
    weights: tuple[float, float]
    difference: float
    rmse: float
    ar_rmse: float
    naive_rmse: float


def run(*, plot: str | os.PathLike[str] | None = None) -> Result:
    """Follow one prediction by hand, then train on the yearly sunspot numbers.

    Parameters
    ----------
    plot : path-like, optional
        PNG file to write: forecasts and truth over the held-out years.

    Returns
    -------
    Result

    Raises
    ------
    MissingExtraError
        If a plot is wanted and matplotlib is not installed.
    """
    figure = None if plot is None else new_figure(9, 4)
    example = predict_and_differentiate(weights(0.5, 0.5), np.array([[1.0, 2.0, 3.0, 4.0]]))
    example = example[0].item(), *example[1:]
    print_by_hand("1 2 3 and then 4, weights 1/2", BY_HAND, example)
    print_table(
        "What is left of a gradient n steps back",
        ("w2^n", "fastbptt"),
        [
            (f"w2 = {w2}, n = {n}", f"{w2**n:.3g}", f"{carried(w2, n):.3g}")
            for w2 in (0.5, 1.0, 2.0)
            for n in (3, 50)
        ],
    )

    year, sunspots = sunspots_yearly()
    # (N, 4): day before, yesterday, today, and what was observed then; here the days are years.
    windows = np.lib.stride_tricks.sliding_window_view(sunspots / 100, 4)
    cut = int((1 - HELD_OUT) * len(windows))
    params, losses, difference = train(windows[:cut])
    w1, w2 = params.W_x.item(), params.W_h.item()
    print(
        f"Yearly sunspot numbers, {STEPS} steps of gradient descent on {int(year[3])} to "
        f"{int(year[cut + 2])}: SSR {losses[0]:.2f} -> {losses[-1]:.2f}, w1 = {w1:.4f}, "
        f"w2 = {w2:.4f}\n"
        f"  largest relative difference between the gradients and the closed form: {difference:.1g}"
    )

    predicted = predict_and_differentiate(params, windows[cut:])[0]
    forecast, truth, this_year = (100 * a for a in (predicted, windows[cut:, 3], windows[cut:, 2]))
    # AR(2) with an intercept, from the same years: its three weights are free.
    fitted = linear.least_squares(windows[:cut, 1:3], windows[:cut, 3])
    by_ar = 100 * linear.predict(fitted, windows[cut:, 1:3])
    error, ar_error, naive_error = (rmse(f, truth) for f in (forecast, by_ar, this_year))
    print(
        f"  forecast of {int(year[cut + 3])} to {int(year[-1])}, RMSE in sunspot numbers: "
        f"two weights {error:.1f}, AR(2) by least squares {ar_error:.1f}, naive (as this year) "
        f"{naive_error:.1f}"
    )
    if ar_error < error:
        print(
            "  AR(2) wins: its weights are free, and it has an intercept; the network's three are "
            "tied as\n  w1, w1 w2 and w1 w2^2, and its forecast of a quiet sun is 0"
        )
    if figure is not None and plot is not None:
        ax = plot_forecast(truth, forecast, figure.subplots(), x=year[cut + 3 :])
        ax.plot(year[cut + 3 :], by_ar, color=BRIGHT, linewidth=2, linestyle="--", label="AR(2)")
        ax.legend(["truth", "forecast by two weights", "AR(2)"], frameon=False)
        ax.set_title(
            f"A year ahead by two weights: RMSE {error:.1f} "
            f"(AR(2) {ar_error:.1f}, as this year {naive_error:.1f})"
        )
        ax.set_xlabel("year")
        ax.set_ylabel("yearly mean sunspot number")
        ax.set_ylim(bottom=0)
        write_figure(figure, plot)
    return Result(example, losses, (w1, w2), difference, error, ar_error, naive_error)


def weights(w1: float, w2: float) -> Params:
    """The network's weights; its bias stays 0."""
    return Params(np.array([[w1]]), np.array([[w2]]), np.zeros(1))


def predict_and_differentiate(
    params: Params, windows: np.ndarray
) -> tuple[np.ndarray, float, float, float]:
    """Predictions (N,), SSR, dSSR/dw1 and dSSR/dw2 by the network; windows are (N, n + 1)."""
    x = windows[:, :-1].T[..., np.newaxis]  # (n, N, 1)
    h = forward(params, x, activation="identity")
    value, dh = ssr(h[-1], windows[:, -1:])
    dparams, _, _ = backward(params, x, h, dh, activation="identity")
    return h[-1, :, 0], value, dparams.W_x.item(), dparams.W_h.item()


def closed_form(windows: np.ndarray, w1: float, w2: float) -> tuple[float, float]:
    """dSSR/dw1 and dSSR/dw2 by the formulas above; windows are (N, 4)."""
    daybefore, yesterday, today, observed = windows.T
    residual = observed - (daybefore * w1 * w2**2 + yesterday * w1 * w2 + today * w1)
    dw1 = np.sum(-2 * residual * (daybefore * w2**2 + yesterday * w2 + today))
    dw2 = np.sum(-2 * residual * (daybefore * 2 * w1 * w2 + yesterday * w1))
    return float(dw1), float(dw2)


def carried(w2: float, n: int) -> float:
    """dh_n/dh_0, by the network."""
    params, x = weights(1.0, w2), np.zeros((n, 1, 1))
    h = forward(params, x, activation="identity")
    return backward(params, x, h, np.ones((1, 1)), activation="identity").h0.item()


def train(windows: np.ndarray) -> tuple[Params, list[float], float]:
    """Run plain gradient descent from w1 = w2 = 1/2.

    Returns
    -------
    params : Params
    losses : list of float
        SSR before each step.
    difference : float
        Largest relative difference of the gradient from the closed form.
    """
    params, losses, difference = weights(0.5, 0.5), [], 0.0
    for _ in range(STEPS):
        _, value, *got = predict_and_differentiate(params, windows)
        expected = np.array(closed_form(windows, params.W_x.item(), params.W_h.item()))
        error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
        difference = max(difference, float(error))
        losses.append(value)
        params.W_x[...] -= LEARNING_RATE * got[0]
        params.W_h[...] -= LEARNING_RATE * got[1]
    return params, losses, difference
