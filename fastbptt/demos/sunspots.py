"""``fastbptt demo``: recurrent networks learn to forecast the monthly sunspot number.

The noise of the numbers s_t grows with them, that of their roots g_t hardly does.  A linear model
of the last P months, AR(P), makes a forecast a_t of g_t, and a network forecasts what that leaves:

    g_t = sqrt(s_t + c)        h_t = tanh((g_{t-1}, a_t) W_x + h_{t-1} W_h + b)
                               forecast of g_t:  a_t + h_t W_y + b_y

It is trained on windows of the earlier years, in minibatches, by Adam with clipped gradients.  Each
window is scaled at random, since cycles to come may be stronger or weaker than any before.  The
mean of several networks, which differ by their seeds alone, makes the forecast.  What it has to
beat are autoregressions of the numbers and of their roots, fitted to the same years by least
squares.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any, NamedTuple

import numpy as np

from fastbptt._extras import MissingExtraError
from fastbptt.datasets import sunspots_monthly
from fastbptt.demos import linear
from fastbptt.demos.linear import rmse
from fastbptt.demos.show import new_figure, print_table, write_figure
from fastbptt.model import RNN
from fastbptt.optimizers import Adam
from fastbptt.plots import plot_forecast
from fastbptt.rnn import Backend, Seed, warmup
from fastbptt.training import History, fit

# These were chosen by five-fold cross-validation over blocks of the training years, where AR(28)
# has RMSE 15.0 and the networks 14.6; the number of epochs is fixed.  The order of the AR to beat
# is that of the least AIC over the training years.  One idea came from outside them: the scaling
# was tried since networks without it fell short in the cycle of 1957, the strongest of all.
# Cross-validation prefers it too, a little (a network alone: 14.73, without it 14.81); over the
# held-out years the networks lose without it (17.64).
P = 12  # months that the linear model within the network sees
C = 5.0  # c, in sunspot numbers
SCALING = 0.4  # windows are multiplied by exp(u), u uniform from -SCALING to SCALING
NETWORKS = 5
T = 96  # months in a window
SETTLE = 24  # months at a window's start that only fill the state; they have no loss
B = 32  # windows in a minibatch
HELD_OUT = 0.2  # of the years, the last ones
LEARNING_RATE = 3e-3  # at first; decays along a cosine
MAX_NORM = 1.0  # of the gradient
ORDERS = 12, 24  # of autoregressions to compare with, besides the best one by AIC
LARGEST_ORDER = 48


class Result(NamedTuple):
    """What :func:`run` returns.

    Attributes
    ----------
    losses : list of list of float
        For each network: mean squared error of each epoch, in units of the variance that the linear
        model leaves.
    rmse : float
        Error of the networks' mean forecast over the held-out months, in sunspot numbers.
    single_rmse : list of float
        The same for each network alone.
    linear_rmse : dict of str to float
        The same for autoregressions, by their names.
    naive_rmse : float
        The same for the forecast that next month will be like this one.
    interrupted : bool
        Whether Ctrl-C ended the training early.
    """

    losses: list[list[float]]
    rmse: float
    single_rmse: list[float]
    linear_rmse: dict[str, float]
    naive_rmse: float
    interrupted: bool


def run(
    *,
    hidden: int = 32,
    epochs: int = 10,
    seed: int = 0,
    backend: Backend = "numba",
    compare: bool = True,
    plot: str | os.PathLike[str] | None = None,
) -> Result:
    """Train on the first 80 % of the years, forecast the months of the rest, and print the results.

    Parameters
    ----------
    hidden : int
        H, the number of hidden units.
    epochs : int
        Passes of each network over all windows of the training years.
    seed : int
        Seeds the weights, the scaling of windows and the order of the minibatches.
    backend : {"numba", "numpy"}
        What trains and forecasts.
    compare : bool
        First run both backends on the same minibatches, to print how far their results differ and
        how long each takes.
    plot : path-like, optional
        PNG file to write: forecast and truth over the held-out years.

    Returns
    -------
    Result
    """
    year, sunspots = sunspots_monthly()
    cut = int((1 - HELD_OUT) * len(sunspots) / 12) * 12  # months to train on, in whole years
    print(
        f"Monthly sunspot numbers: train on {year[0]:.0f} to {int(year[cut - 1])}, "
        f"hold out {int(year[cut])} to {int(year[-1])} ({len(sunspots) - cut} months)"
    )
    inputs = Inputs(sunspots[:cut])
    # Made before the kernels are compiled, since it may need more memory than there is.
    rngs = [np.random.default_rng([seed, k]) for k in range(NETWORKS)]
    models = [new_model(hidden, rng, backend) for rng in rngs]
    if backend == "numba" or compare:
        print("Compiling the Numba kernels, or loading them from the disk: ", end="", flush=True)
        start = time.perf_counter()
        warmup("float32")
        print(f"{time.perf_counter() - start:.1f} s")
    if compare:
        print_comparison(*inputs(windows(sunspots[:cut])), hidden, seed)

    losses, forecasts, interrupted = [], [], False
    for model, rng in zip(models, rngs, strict=True):
        history = train(model, inputs, windows(sunspots[:cut]), epochs, rng)
        losses.append(history.loss)
        forecasts.append(forecast(model, inputs, sunspots, cut))
        interrupted = history.stopped == "interrupted"
        if interrupted:
            print(
                f"Stopped in epoch {len(history.loss) + 1}; of {NETWORKS} networks {len(losses)} "
                f"make the forecast, as they are so far"
            )
            break
    if ends := [(loss[0], loss[-1]) for loss in losses if loss]:
        first, last = np.mean(ends, axis=0)
        print(f"Loss, mean of the networks: {first:.4f} in the first epoch, {last:.4f} in the last")

    truth, this_month = sunspots[cut:], sunspots[cut - 1 : -1]
    found, baselines = np.mean(forecasts, axis=0), autoregressions(sunspots, cut)
    result = Result(
        losses, rmse(found, truth), [rmse(f, truth) for f in forecasts],
        {name: rmse(f, truth) for name, f in baselines.items()}, rmse(this_month, truth),
        interrupted,
    )  # fmt: skip
    print_errors(result)
    best = min(baselines, key=lambda name: result.linear_rmse[name])
    print_winner(result, best, (found - truth) ** 2 - (baselines[best] - truth) ** 2)
    if plot is not None:
        try:
            draw(plot, year[cut:], truth, found, result)
        except MissingExtraError as error:
            print(f"Not drawn: {error}")
    return result


class Inputs:
    """What the networks read and forecast, from sunspot numbers; fitted to the training years.

    Parameters
    ----------
    sunspots : ndarray, (months,)
        The training years' numbers.
    """

    mean: float
    std: float
    weights: np.ndarray  # of the linear model
    left: float  # standard deviation of what that leaves

    def __init__(self, sunspots: np.ndarray) -> None:
        roots = np.sqrt(sunspots + C)
        self.mean, self.std = float(roots.mean()), float(roots.std())
        self.weights = linear.least_squares(linear.lags(roots, P), roots[P:])
        self.left = float(np.std(roots[P:] - linear.predict(self.weights, linear.lags(roots, P))))

    def __call__(self, sunspots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Inputs x (..., T, 2) and targets y (..., T) from numbers (..., P + T).

        x_t is the month before, and the linear forecast of month t; y_t is what that leaves.
        """
        roots = np.sqrt(sunspots + C)
        ahead = self.linear(roots)
        x = (np.stack([roots[..., P - 1 : -1], ahead], axis=-1) - self.mean) / self.std
        y = (roots[..., P:] - ahead) / self.left
        return x.astype(np.float32), y.astype(np.float32)

    def linear(self, roots: np.ndarray) -> np.ndarray:
        """The linear model's forecasts, (..., T), of roots (..., P + T) but their first P."""
        return linear.predict(self.weights, linear.lags(roots, P))


def windows(sunspots: np.ndarray) -> np.ndarray:
    """All windows of P + T months, (N, P + T)."""
    return np.lib.stride_tricks.sliding_window_view(sunspots, P + T)


def new_model(hidden: int, seed: Seed, backend: Backend) -> RNN:
    """A network that forecasts at every step.

    Its W_h is half an orthogonal matrix: memory that fades suits a noisy series.  Its readout is
    small, so that it begins near the linear forecast.
    """
    model = RNN(2, hidden, 1, output="all", seed=seed, backend=backend)
    model.parameters()["layers.0.W_h"][...] /= 2
    model.parameters()["W_y"][...] /= 10
    return model


def train(
    model: RNN, inputs: Inputs, months: np.ndarray, epochs: int, rng: np.random.Generator
) -> History:
    """Train on windows (N, P + T), each multiplied by a random factor of its own."""
    optimizer = Adam(LEARNING_RATE)

    def decay(_: RNN, history: History) -> None:
        done = len(history.loss)
        optimizer.learning_rate = LEARNING_RATE * (1 + math.cos(math.pi * done / epochs)) / 2

    x, y = inputs(months * np.exp(rng.uniform(-SCALING, SCALING, (len(months), 1))))
    return fit(
        model, x, y, sample_weight=settled(len(x)), optimizer=optimizer, epochs=epochs,
        batch_size=B, clip_norm=MAX_NORM, seed=rng, callback=decay,
    )  # fmt: skip


def forecast(model: RNN, inputs: Inputs, sunspots: np.ndarray, cut: int) -> np.ndarray:
    """Forecasts of sunspots[cut:], each from the months before it; the state runs through all."""
    roots, (x, _) = np.sqrt(sunspots + C), inputs(sunspots)
    left = inputs.left * model.predict(x[np.newaxis])[0, :, 0]
    return squared(inputs.linear(roots) + left, roots, cut)


def squared(ahead: np.ndarray, roots: np.ndarray, cut: int) -> np.ndarray:
    """Forecasts of the numbers from `cut` on, from those of the last len(ahead) roots.

    E[g^2] = E[g]^2 + Var[g]; the variance is that of the errors in the training years.
    """
    first = len(roots) - len(ahead)
    variance = np.mean((roots[first:] - ahead)[SETTLE : cut - first] ** 2)
    return np.maximum(np.maximum(ahead[cut - first :], 0) ** 2 + variance - C, 0)


def autoregressions(sunspots: np.ndarray, cut: int) -> dict[str, np.ndarray]:
    """Forecasts of sunspots[cut:] by linear models of the numbers, and of their roots."""
    found, roots = {}, np.sqrt(sunspots + C)
    for order in (*ORDERS, linear.order_by_aic(sunspots[:cut], LARGEST_ORDER)):
        ahead = linear.autoregression(sunspots, order, cut)
        found[f"AR({order})"] = np.maximum(ahead, 0)[cut - order :]
    order = linear.order_by_aic(roots[:cut], LARGEST_ORDER)
    ahead = linear.autoregression(roots, order, cut)
    return {**found, f"AR({order}) of the roots": squared(ahead, roots, cut)}


def settled(windows: int) -> np.ndarray:
    """What each month counts in training, (windows, T): the first SETTLE ones nothing."""
    return np.tile(np.arange(T) >= SETTLE, (windows, 1))


def print_comparison(
    x: np.ndarray, y: np.ndarray, hidden: int, seed: int, rounds: int = 7, steps: int = 10
) -> None:
    """Run both backends on the same minibatches; print how far they differ and their times."""
    rng = np.random.default_rng(0)
    batches = [(x[i], y[i]) for i in rng.integers(0, len(x), (steps, B))]
    backends: tuple[Backend, ...] = "numpy", "numba"
    weight = settled(B)
    models = {backend: new_model(hidden, seed, backend) for backend in backends}

    results = []
    for model in models.values():
        _, gradients = model.loss_and_grads(*batches[0], sample_weight=weight)
        named = {"d" + name.split(".")[-1]: d for name, d in gradients.items()}
        results.append({"y": model.predict(batches[0][0]), **named})
    print("Numba against NumPy, float32, one minibatch: largest difference over largest magnitude")
    differences = (
        f"{name} {np.abs(got - expected).max() / np.abs(expected).max():.1e}"
        for (name, expected), got in zip(results[0].items(), results[1].values(), strict=True)
    )
    print("   ", "  ".join(differences))

    ms = {"numpy": math.inf, "numba": math.inf}
    for _ in range(rounds):  # they take turns, so that whatever slows the machine down hits both
        for backend, model in models.items():
            start = time.perf_counter()
            for batch in batches:
                model.loss_and_grads(*batch, sample_weight=weight)
            ms[backend] = min(ms[backend], 1e3 * (time.perf_counter() - start) / steps)
    print(
        f"One training step (forward, loss, backward; T={T} B={B} I=2 H={hidden}), "
        f"best of {rounds} rounds of {steps}:"
    )
    print(
        f"    numpy {ms['numpy']:.3g} ms/step  numba {ms['numba']:.3g} ms/step"
        f"  ratio {ms['numpy'] / ms['numba']:.2f}"
    )


def print_errors(result: Result) -> None:
    """Print the errors over the held-out years side by side."""
    single = result.single_rmse
    rows = [
        (f"mean of {len(single)} networks", result.rmse),
        ("  best of them alone", min(single)),
        ("  worst of them alone", max(single)),
        *result.linear_rmse.items(),
        ("naive (as this month)", result.naive_rmse),
    ]
    print_table(
        "Next month's sunspot number in the held-out years",
        ("RMSE",),
        [(name, f"{error:.2f}") for name, error in rows],
    )


def print_winner(result: Result, best: str, difference: np.ndarray) -> None:
    """Print what wins, the networks or the best linear model, and by how much.

    `difference` is that of their squared errors, (months,).
    """
    margin = 1 - result.rmse / result.linear_rmse[best]
    errors = abs(difference.mean()) / (difference.std() / np.sqrt(len(difference)))
    print(
        f"{'The networks win' if margin > 0 else 'The linear model wins'}: RMSE of the networks' "
        f"mean {abs(margin):.1%} {'below' if margin > 0 else 'above'} that of {best}.\n"
        f"The mean difference of squared errors is {errors:.1f} of its standard errors"
        f"{': other years may differ' if errors < 2 else ''}.\n"
        f"AR is fitted to the same years; the highest order has the least AIC there."
    )


def draw(
    path: str | os.PathLike[str],
    year: np.ndarray,
    truth: np.ndarray,
    forecast: np.ndarray,
    result: Result,
) -> None:
    """Draw the held-out years, and the last of them once more."""
    figure = new_figure(11, 7.5)
    grid: Any = figure.subplots(2, 1)
    whole, part = grid
    for axes in (whole, part):
        plot_forecast(truth, forecast, axes, x=year)
        axes.set_ylabel("monthly mean sunspot number")
        axes.set_ylim(bottom=0)
    whole.set_xlabel("")
    best, error = min(result.linear_rmse.items(), key=lambda item: item[1])
    whole.set_title(
        f"Sunspots a month ahead, held-out years: RMSE {result.rmse:.2f} "
        f"({best} {error:.2f}, as this month {result.naive_rmse:.2f})"
    )
    part.set_title("The last 15 years of them")
    shown = year >= year[-1] - 15
    part.set_xlim(year[-1] - 15, year[-1])
    part.set_ylim(0, 1.05 * max(truth[shown].max(), forecast[shown].max()))
    part.set_xlabel("year")
    part.get_legend().remove()
    write_figure(figure, path)
