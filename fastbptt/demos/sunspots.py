"""``fastbptt demo``: a recurrent network learns to forecast the monthly sunspot number.

The network reads the series month by month; y_t is its forecast of the next month,

    h_t = tanh(x_t W_x + h_{t-1} W_h + b)        y_t = h_t W_y + b_y

It is trained on windows of the earlier years, in minibatches, by Adam with clipped gradients.
"""

from __future__ import annotations

import math
import os
import time
from typing import Any, NamedTuple

import numpy as np

from fastbptt._extras import MissingExtraError, import_extra
from fastbptt.datasets import sunspots_monthly
from fastbptt.demos.show import new_figure, write_figure
from fastbptt.losses import mse
from fastbptt.model import RNN
from fastbptt.optimizers import Adam
from fastbptt.plots import plot_forecast
from fastbptt.rnn import Backend, warmup
from fastbptt.training import History, fit

T = 96  # months in a window
SETTLE = 24  # months at a window's start that only fill the state; they have no loss
B = 32  # windows in a minibatch
HELD_OUT = 0.2  # of the years, the last ones
LEARNING_RATE = 3e-3  # at first; decays along a cosine
MAX_NORM = 1.0  # of the gradient


class Result(NamedTuple):
    """What :func:`run` returns.

    Attributes
    ----------
    losses : list of float
        Mean squared error of each epoch, in units of the training years' variance.
    rmse : float
        The network's forecast error over the held-out months, in sunspot numbers.
    naive_rmse : float
        The same for the forecast that next month will be like this one.
    interrupted : bool
        Whether Ctrl-C ended the training early.
    """

    losses: list[float]
    rmse: float
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
        Passes over all windows of the training years.
    seed : int
        Seeds the weights and the order of the minibatches.
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

    Raises
    ------
    MissingExtraError
        If tqdm is not installed.
    """
    import_extra("tqdm.auto", "train", "the demo")
    year, sunspots = sunspots_monthly()
    cut = int((1 - HELD_OUT) * len(sunspots) / 12) * 12  # months to train on, in whole years
    mean, std = sunspots[:cut].mean(), sunspots[:cut].std()
    series = ((sunspots - mean) / std).astype(np.float32)
    print(
        f"Monthly sunspot numbers: train on {year[0]:.0f} to {int(year[cut - 1])}, "
        f"hold out {int(year[cut])} to {int(year[-1])} ({len(series) - cut} months)"
    )
    x, y = windows(series[:cut])
    # Made before the kernels are compiled, since it may need more memory than there is.
    model, optimizer = new_model(hidden, seed, backend), Adam(LEARNING_RATE)
    if backend == "numba" or compare:
        print("Compiling the Numba kernels, or loading them from the disk: ", end="", flush=True)
        start = time.perf_counter()
        warmup("float32")
        print(f"{time.perf_counter() - start:.1f} s")
    if compare:
        print_comparison(x, y, hidden, seed)

    def decay(_: RNN, history: History) -> None:
        optimizer.lr = LEARNING_RATE * (1 + math.cos(math.pi * len(history.loss) / epochs)) / 2

    history = fit(
        model, x, y, loss=settled_mse, optimizer=optimizer, epochs=epochs, batch_size=B,
        clip_norm=MAX_NORM, seed=seed, callback=decay,
    )  # fmt: skip
    interrupted = history.stopped == "interrupted"
    if interrupted:
        print(f"Stopped in epoch {len(history.loss) + 1}; the model so far makes the forecast")
    if history.loss:
        print(f"Loss: {history.loss[0]:.4f} in the first epoch, {history.loss[-1]:.4f} in the last")

    # The state runs through the whole series; a month's forecast sees only the months before it.
    forecast = model.predict(series[np.newaxis, :-1])[0, :, 0]
    forecast = np.maximum(forecast * std + mean, 0)[cut - 1 :]
    truth, this_month = sunspots[cut:], sunspots[cut - 1 : -1]
    rmse, naive_rmse = (float(np.sqrt(np.mean((f - truth) ** 2))) for f in (forecast, this_month))
    print(
        f"Forecast of the next month over the held-out years, RMSE in sunspot numbers: "
        f"network {rmse:.2f}, naive (as this month) {naive_rmse:.2f}: "
        f"{abs(1 - rmse / naive_rmse):.1%} {'lower' if rmse <= naive_rmse else 'higher'}"
    )
    if plot is not None:
        try:
            draw(plot, year[cut:], truth, forecast, rmse, naive_rmse)
        except MissingExtraError as error:
            print(f"Not drawn: {error}")
    return Result(history.loss, rmse, naive_rmse, interrupted)


def windows(series: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All windows of T months, x, and the month after each month, y; both (N, T)."""
    months = np.lib.stride_tricks.sliding_window_view(series, T + 1)
    return months[:, :-1], months[:, 1:]


def new_model(hidden: int, seed: int, backend: Backend) -> RNN:
    """A network that forecasts at every step.

    Its W_h is half an orthogonal matrix: memory that fades suits a noisy series.
    """
    model = RNN(1, hidden, 1, output="all", seed=seed, backend=backend)
    model.parameters()["layers.0.W_h"][...] /= 2
    return model


def settled_mse(
    y: np.ndarray, target: np.ndarray, mask: np.ndarray | None = None
) -> tuple[float, np.ndarray]:
    """Mean squared error of the forecasts after the first SETTLE months."""
    settled = np.zeros(y.shape[:2], bool)
    settled[SETTLE:] = True
    return mse(y, target, settled if mask is None else settled & mask)


def print_comparison(
    x: np.ndarray, y: np.ndarray, hidden: int, seed: int, rounds: int = 7, steps: int = 10
) -> None:
    """Run both backends on the same minibatches; print how far they differ and their times."""
    rng = np.random.default_rng(0)
    batches = [(x[i], y[i]) for i in rng.integers(0, len(x), (steps, B))]
    backends: tuple[Backend, ...] = "numpy", "numba"
    models = {backend: new_model(hidden, seed, backend) for backend in backends}

    results = []
    for model in models.values():
        _, gradients = model.loss_and_grads(*batches[0], loss=settled_mse)
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
                model.loss_and_grads(*batch, loss=settled_mse)
            ms[backend] = min(ms[backend], 1e3 * (time.perf_counter() - start) / steps)
    print(
        f"One training step (forward, loss, backward; T={T} B={B} I=1 H={hidden}), "
        f"best of {rounds} rounds of {steps}:"
    )
    print(
        f"    numpy {ms['numpy']:.3g} ms/step  numba {ms['numba']:.3g} ms/step"
        f"  ratio {ms['numpy'] / ms['numba']:.2f}"
    )


def draw(
    path: str | os.PathLike[str],
    year: np.ndarray,
    truth: np.ndarray,
    forecast: np.ndarray,
    rmse: float,
    naive_rmse: float,
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
    whole.set_title(
        f"Held-out years: RMSE {rmse:.1f}, naive forecast (as the month before) {naive_rmse:.1f}"
    )
    part.set_title("The last 15 years of them")
    part.set_xlim(year[-1] - 15, year[-1])
    part.set_xlabel("year")
    write_figure(figure, path)
