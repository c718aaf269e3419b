"""``fastbptt demo``: a recurrent network learns to forecast the monthly sunspot number.

The network reads the series month by month; y_t is its forecast of the next month,

    h_t = tanh(x_t W_x + h_{t-1} W_h + b)        y_t = h_t W_y + b_y

A loop on top of :func:`fastbptt.forward` and :func:`fastbptt.backward` is all it takes: minibatches
of windows, gradients clipped by their norm, Adam.
"""

import io
import math
import os
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastbptt.datasets import sunspots_monthly
from fastbptt.rnn import Params, backward, forward, init_params, warmup

T = 96  # months in a window
SETTLE = 24  # months at a window's start that only fill the state: no loss there
B = 32  # windows in a minibatch
HELD_OUT = 0.2  # of the years, the last ones
LEARNING_RATE = 3e-3  # decays to 0 along a cosine
MAX_NORM = 1.0  # of the gradient


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message says how to install it."""


class Model(NamedTuple):
    """The layer's weights and the readout's; a gradient of the model is a `Model` too.

    Attributes
    ----------
    W_x, W_h, b : ndarray, (1, H), (H, H), (H,)
    W_y, b_y : ndarray, (H, 1), (1,)
    """

    W_x: np.ndarray
    W_h: np.ndarray
    b: np.ndarray
    W_y: np.ndarray
    b_y: np.ndarray


class Result(NamedTuple):
    """What :func:`run` returns.

    Attributes
    ----------
    losses : list of float
        Mean squared error of each minibatch, in units of the training years' variance.
    rmse : float
        The network's forecast error over the held-out months, in sunspot numbers.
    naive_rmse : float
        The same for the forecast that next month will be as this month.
    interrupted : bool
        Ctrl-C ended the training early.
    """

    losses: list[float]
    rmse: float
    naive_rmse: float
    interrupted: bool


def run(*, hidden=32, epochs=10, seed=0, backend="numba", compare=True, plot=None):
    """Train on the first 80 % of the years, forecast the months of the rest, print what came out.

    Parameters
    ----------
    hidden : int
        H, the number of hidden units.
    epochs : int
        Passes over all windows of the training years.
    seed : int
        Of the weights and of the minibatches' order.
    backend : {"numba", "numpy"}
        What trains and forecasts.
    compare : bool
        Whether to run both backends on the same minibatches first: how far their results differ,
        and how long each takes.
    plot : path-like, optional
        PNG file to write: forecast and truth over the held-out years.

    Returns
    -------
    Result

    Raises
    ------
    MissingExtraError
        Where tqdm is not installed.
    """
    tqdm = _import_tqdm()
    year, sunspots = sunspots_monthly()
    cut = int((1 - HELD_OUT) * len(sunspots) / 12) * 12  # months to train on, in whole years
    mean, std = sunspots[:cut].mean(), sunspots[:cut].std()
    series = ((sunspots - mean) / std).astype(np.float32)
    print(
        f"Monthly sunspot numbers: train on {year[0]:.0f} to {int(year[cut - 1])}, "
        f"hold out {int(year[cut])} to {int(year[-1])} ({len(series) - cut} months)"
    )
    rng = np.random.default_rng(seed)
    model = _init_model(hidden, rng)
    if backend == "numba" or compare:
        print("Compiling the Numba kernels, or loading them from the disk: ", end="", flush=True)
        start = time.perf_counter()
        warmup("float32")
        print(f"{time.perf_counter() - start:.1f} s")
    if compare:
        _print_comparison(model, series[:cut])
    model, losses, interrupted = _train(model, series[:cut], epochs, rng, backend, tqdm)
    if interrupted:
        print(f"Stopped after {len(losses)} minibatches; the model so far makes the forecast")
    if losses:
        k = min(50, (len(losses) + 1) // 2)
        print(
            f"Loss: {np.mean(losses[:k]):.4f} over the first {k} minibatches, "
            f"{np.mean(losses[-k:]):.4f} over the last {k}"
        )

    # The state runs through the whole series; a month's forecast sees the months before it only.
    forecast = np.maximum(_forecast(model, series, backend) * std + mean, 0)[cut - 1 :]
    truth, this_month = sunspots[cut:], sunspots[cut - 1 : -1]
    rmse, naive_rmse = _rmse(forecast, truth), _rmse(this_month, truth)
    print(
        f"Forecast of the next month over the held-out years, RMSE in sunspot numbers: "
        f"network {rmse:.2f}, naive (as this month) {naive_rmse:.2f}: "
        f"{abs(1 - rmse / naive_rmse):.1%} {'lower' if rmse <= naive_rmse else 'higher'}"
    )
    if plot is not None:
        try:
            _plot(Path(plot), year[cut:], truth, forecast, rmse, naive_rmse)
        except MissingExtraError as error:
            print(f"No plot: {error}")
        else:
            print(f"Forecast against truth: {plot}")
    return Result(losses, rmse, naive_rmse, interrupted)


def _init_model(hidden, rng):
    W_x, W_h, b = init_params(1, hidden, seed=rng)
    # Half an orthogonal matrix: memory that fades suits a noisy series.
    W_y = rng.standard_normal((hidden, 1), dtype=np.float32) / math.sqrt(hidden)
    return Model(W_x, W_h / 2, b, W_y, np.zeros(1, np.float32))


def _windows(series, starts):
    """Months x and the month after each, (T, B, 1) both, of the windows that begin at `starts`."""
    months = series[np.arange(T + 1)[:, np.newaxis] + starts][..., np.newaxis]
    return months[:-1], months[1:]


def _loss_and_gradient(model, x, target, backend):
    """Mean squared error of the forecasts past the first SETTLE months; its gradient."""
    params = Params(model.W_x, model.W_h, model.b)
    h = forward(params, x, backend=backend)
    error = h[1:] @ model.W_y + model.b_y - target
    error[:SETTLE] = 0
    count = error[SETTLE:].size
    loss = float(np.square(error).sum() / count)
    dy = error * (2 / count)
    dh = dy @ model.W_y.T
    dparams, _, _ = backward(params, x, h, dh, need_dx=False, backend=backend)
    dW_y = np.tensordot(h[1:], dy, axes=((0, 1), (0, 1)))
    return loss, Model(*dparams, dW_y, dy.sum(axis=(0, 1)))


def _clip(gradient, max_norm):
    norm = math.sqrt(sum(float(np.square(d).sum()) for d in gradient))
    return gradient if norm <= max_norm else Model(*(d * (max_norm / norm) for d in gradient))


def _train(model, series, epochs, rng, backend, tqdm):
    """Adam (Kingma and Ba 2015) over minibatches; the model so far where Ctrl-C ends it."""
    starts = np.arange(len(series) - T)
    per_epoch = len(starts) // B
    steps = epochs * per_epoch
    m = v = Model(*(np.zeros_like(w) for w in model))  # running means of d and of d**2
    losses = []
    try:
        with tqdm(total=steps, desc="training", unit="step") as bar:
            for step in range(steps):
                if step % per_epoch == 0:
                    rng.shuffle(starts)
                i = step % per_epoch * B
                x, target = _windows(series, starts[i : i + B])
                loss, gradient = _loss_and_gradient(model, x, target, backend)
                gradient = _clip(gradient, MAX_NORM)
                m = Model(*(0.9 * a + 0.1 * d for a, d in zip(m, gradient, strict=True)))
                v = Model(*(0.999 * a + 0.001 * d * d for a, d in zip(v, gradient, strict=True)))
                rate = LEARNING_RATE * (1 + math.cos(math.pi * step / steps)) / 2
                rate *= math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1))
                # One assignment: an interrupt finds the model before it or after it.
                model = Model(
                    *(
                        w - rate * a / (np.sqrt(s) + 1e-8)
                        for w, a, s in zip(model, m, v, strict=True)
                    )
                )
                losses.append(loss)
                bar.set_postfix(loss=f"{np.mean(losses[-50:]):.4f}", refresh=False)
                bar.update()
    except KeyboardInterrupt:
        return model, losses, True
    return model, losses, False


def _forecast(model, series, backend):
    """Forecast of ``series[1:]``, each value from those before it."""
    x = series[:-1, np.newaxis, np.newaxis]  # (T, 1, 1), T the length of the series
    h = forward(Params(model.W_x, model.W_h, model.b), x, backend=backend)
    return (h[1:] @ model.W_y + model.b_y)[:, 0, 0]


def _rmse(forecast, truth):
    return float(np.sqrt(np.mean(np.square(forecast - truth))))


def _print_comparison(model, series, rounds=7, steps=10):
    """Both backends on the same minibatches: how far their results differ, how long each takes."""
    rng = np.random.default_rng(0)  # its own: the training draws the same with and without this
    batches = [_windows(series, rng.integers(0, len(series) - T, B)) for _ in range(steps)]

    params, (x, _) = Params(model.W_x, model.W_h, model.b), batches[0]
    H = len(model.b)
    dh = rng.standard_normal((T, B, H), dtype=np.float32)
    results = {}
    for backend in ("numpy", "numba"):
        h = forward(params, x, backend=backend)
        (dW_x, dW_h, db), dx, dh0 = backward(params, x, h, dh, backend=backend)
        results[backend] = {"h": h, "dW_x": dW_x, "dW_h": dW_h, "db": db, "dx": dx, "dh0": dh0}
    print("Numba against NumPy, float32, one minibatch: largest difference over largest magnitude")
    differences = (
        f"{name} {np.abs(got - expected).max() / np.abs(expected).max():.1e}"
        for (name, expected), got in zip(
            results["numpy"].items(), results["numba"].values(), strict=True
        )
    )
    print("   ", "  ".join(differences))

    seconds = {"numpy": math.inf, "numba": math.inf}
    for _ in range(rounds):  # they take turns, so that what slows the machine down hits both
        for backend in seconds:
            start = time.perf_counter()
            for x, target in batches:
                _loss_and_gradient(model, x, target, backend)
            elapsed = (time.perf_counter() - start) / steps
            seconds[backend] = min(seconds[backend], elapsed)
    print(
        f"One training step (forward, loss, backward; T={T} B={B} I=1 H={H}), "
        f"best of {rounds} rounds of {steps}:"
    )
    ms = {backend: 1e3 * best for backend, best in seconds.items()}
    print(
        f"    numpy {ms['numpy']:.3g} ms/step  numba {ms['numba']:.3g} ms/step"
        f"  ratio {ms['numpy'] / ms['numba']:.2f}"
    )


def _plot(path, year, truth, forecast, rmse, naive_rmse):
    """Write the PNG, whole or not at all."""
    Figure, FigureCanvasAgg = _import_matplotlib()
    figure = Figure(figsize=(11, 7.5), layout="constrained")
    FigureCanvasAgg(figure)
    whole, part = figure.subplots(2, 1)
    for axes in (whole, part):
        # A wide light line under a thin black one: told apart without colour.
        axes.plot(year, truth, color="0.7", linewidth=3.5, label="truth")
        axes.plot(year, forecast, color="black", linewidth=0.9, label="forecast, one month ahead")
        axes.set_ylabel("monthly mean sunspot number")
        axes.margins(x=0)
        axes.set_ylim(bottom=0)
    whole.set_title(
        f"Held-out years: RMSE {rmse:.1f}, naive forecast (as the month before) {naive_rmse:.1f}"
    )
    whole.legend(frameon=False)
    part.set_xlim(year[-1] - 15, year[-1])
    part.set_title("The last 15 years of them")
    part.set_xlabel("year")
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        unfinished.write_bytes(image.getvalue())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def _import_tqdm():
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise MissingExtraError(
            'the demo needs tqdm: pip install "fastbptt[demo]"', name="tqdm"
        ) from error
    return tqdm


def _import_matplotlib():
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError(
            'it needs matplotlib: pip install "fastbptt[plots]"', name="matplotlib"
        ) from error
    return Figure, FigureCanvasAgg
