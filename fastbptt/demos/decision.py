"""``fastbptt demo decision``: excitatory and inhibitory units learn to weigh noisy evidence.

An animal watches moving dots, of which a share, the coherence, moves one way, and says which way
that is (Britten, Shadlen, Newsome and Movshon 1992).  The network reads two noisy inputs in its
place, and says which is the stronger one.  It is made as in Song, Yang and Wang 2016: rates that
leak, with noise of their own, and Dale's law, by which a unit excites all others or inhibits them,

    h_t = (1 - alpha) h_{t-1} + alpha max(x_t W_x + h_{t-1} W_h + b + noise_t, 0)
    alpha = dt / tau = 20 ms / 100 ms        W_h[i, j] >= 0 for i < 80, <= 0 for i >= 80

Stimulus and delay last a random time in training, so that it cannot rely on the clock, and a
penalty keeps its rates low.  Whoever adds up the difference of the inputs does as well as can be:
that is the baseline.

The fixed points of the network, while there is a stimulus without evidence, show how it does that.
Mostly there is a stable one for each choice, and between them are slow points in a row, along which
the evidence pushes the state.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbptt import tasks
from fastbptt._constraints import Constraints
from fastbptt._extras import MissingExtraError
from fastbptt._leak import Leak
from fastbptt._noise import Noise
from fastbptt.demos.show import new_figure, print_table, write_figure
from fastbptt.diagnostics import FixedPoints, fixed_points
from fastbptt.model import RNN
from fastbptt.optimizers import Adam
from fastbptt.plots import plot_psychometric, plot_trajectories, plot_weights
from fastbptt.training import History, fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

H, EXCITATORY = 100, 80
DT, TAU = 20.0, 100.0  # ms
NOISE = 0.1  # of the units
# The task: its noise, and ms in tests and at least and at most in training
EVIDENCE_NOISE = 2.0
STIMULUS, STIMULI = 1000.0, (500.0, 1000.0)
DELAY, DELAYS = 300.0, (0.0, 600.0)
B, STEPS = 64, 50  # trials in a minibatch, minibatches in an epoch
LEARNING_RATE, MAX_NORM, ACTIVITY_L2 = 0.01, 1.0, 0.01
SLOW, FIXED = 1e-4, 1e-12  # the largest q of a slow point, and of a fixed point
TESTED = 4000  # trials
NO_EVIDENCE = 1.0, 0.5, 0.5  # fixation, and two inputs that are equal


class Result(NamedTuple):
    """What :func:`run` returns.

    Attributes
    ----------
    losses : list of float
        Of each epoch.
    right : dict of float to tuple of float
        For each coherence in percent the shares of trials in which the network was right, the sum
        of the evidence, and those in which that sum is right on average.
    points : FixedPoints
        With a stimulus without evidence; slow ones too.
    """

    losses: list[float]
    right: dict[float, tuple[float, float, float]]
    points: FixedPoints


def run(*, epochs: int = 12, seed: int = 0, plot: str | os.PathLike[str] | None = None) -> Result:
    """Train, test on new trials, and look inside.

    Parameters
    ----------
    epochs : int
        Of 50 minibatches of 64 new trials each.
    seed : int
        Of weights, trials and noise.
    plot : path-like, optional
        PNG file to write: choices, rates in single trials, trajectories and weights.

    Returns
    -------
    Result
    """
    model = new_model(seed)
    start = time.perf_counter()
    history = train(model, epochs, seed)
    print(
        f"{EXCITATORY} excitatory and {H - EXCITATORY} inhibitory units, tau = {TAU:g} ms, dt = "
        f"{DT:g} ms: loss {history.loss[0]:.3g} -> {history.loss[-1]:.3g} in "
        f"{epochs * STEPS:,} minibatches, {time.perf_counter() - start:.1f} s with compiling"
    )
    test = tasks.perceptual_decision(
        TESTED, seed=[seed, 1], dt=DT, stimulus=STIMULUS, delay=DELAY, noise=EVIDENCE_NOISE
    )
    chosen, right = choices(model, test, seed), test.conditions["choice"]
    summed = np.where(evidence(test) > 0, 1, 2)
    by_coherence = shares_right(test, chosen, summed)
    print_table(
        f"Share of {TESTED:,} new trials that are right",
        ("network", "sum of the evidence", "on average"),
        [
            (f"coherence {c:g} %", *(f"{share:.1%}" for share in shares))
            for c, shares in by_coherence.items()
        ],
    )
    network, baseline = np.mean(chosen == right), np.mean(summed == right)
    print(
        f"{'The network' if network > baseline else 'The sum'} wins, {max(network, baseline):.1%} "
        f"to {min(network, baseline):.1%} of all trials; on average nobody does better than the sum"
    )
    [states] = model.states(test.x[:200])
    points = fixed_points(model, NO_EVIDENCE, states, samples=64, tolerance=SLOW, seed=seed)
    fixed = points.q < FIXED
    print(
        f"With a stimulus without evidence: {fixed.sum()} fixed points, of which "
        f"{(fixed & points.stable).sum()} stable, and {(~fixed).sum()} slow points"
    )
    if plot is not None:
        try:
            figure = new_figure(13, 8)
            draw(figure, model, test, chosen, points, seed)
            write_figure(figure, plot)
        except MissingExtraError as error:
            print(f"Not drawn: {error}")
    return Result(history.loss, by_coherence, points)


def new_model(seed: int) -> RNN:
    """A network that keeps to Dale's law, and of which excitatory units alone are read out."""
    read = np.repeat((np.arange(H) < EXCITATORY)[:, np.newaxis], 3, axis=1)
    constraints = Constraints(
        dale=EXCITATORY / H, self_connections=False, nonnegative=("W_x", "W_y"), mask={"W_y": read}
    )
    return RNN(
        3, H, 3, activation="relu", output="all", leak=Leak.from_tau(DT, TAU), noise=NOISE,
        constraints=constraints, spectral_radius=1.5, seed=seed,
    )  # fmt: skip


def train(model: RNN, epochs: int, seed: int) -> History:
    """Train on trials that are drawn for every minibatch anew."""

    def source(step: int) -> Any:
        return tasks.perceptual_decision(
            B, seed=[seed, 0, step], dt=DT, stimulus=STIMULI, delay=DELAYS, noise=EVIDENCE_NOISE
        )[:3]

    optimizer = Adam(LEARNING_RATE)

    def decay(_: RNN, history: History) -> None:
        done = len(history.loss)
        optimizer.learning_rate = LEARNING_RATE * (1 + math.cos(math.pi * done / epochs)) / 2

    history = fit(
        model, source, loss="cross_entropy", optimizer=optimizer, epochs=epochs, callback=decay,
        steps_per_epoch=STEPS, clip_norm=MAX_NORM, activity_l2=ACTIVITY_L2, seed=seed,
    )  # fmt: skip
    if history.stopped == "interrupted":
        raise KeyboardInterrupt
    return history


def choices(model: RNN, trials: tasks.Trials, seed: int) -> np.ndarray:
    """What the network says at the end of each trial, 1 or 2, (n,)."""
    y = model.predict(trials.x, noise=Noise(NOISE, seed))
    return y[:, -1, 1:].argmax(axis=1) + 1


def evidence(trials: tasks.Trials) -> np.ndarray:
    """Of each trial the sum of the first input minus the second, (n,)."""
    return (trials.x[..., 1] - trials.x[..., 2]).sum(axis=1)


def shares_right(
    trials: tasks.Trials, chosen: np.ndarray, summed: np.ndarray
) -> dict[float, tuple[float, float, float]]:
    """As in :class:`Result`."""
    coherence, right = np.abs(trials.conditions["coherence"]), trials.conditions["choice"]
    found = {}
    for c in np.unique(coherence):
        at = coherence == c
        # Phi(z), z the mean of the sum in units of its standard deviation
        z = c / 100 * math.sqrt(STIMULUS / 2) / EVIDENCE_NOISE
        best = (1 + math.erf(z / math.sqrt(2))) / 2
        shares = (float(np.mean(a[at] == right[at])) for a in (chosen, summed))
        found[float(c)] = (*shares, best)
    return found


def draw(
    figure: Figure,
    model: RNN,
    test: tasks.Trials,
    chosen: np.ndarray,
    points: FixedPoints,
    seed: int,
) -> None:
    """Draw choices, rates in two trials, mean trajectories by coherence, and weights."""
    grid: Any = figure.subplot_mosaic([["curve", "one", "two"], ["states", "states", "weights"]])
    coherence = test.conditions["coherence"]
    ax = plot_psychometric(coherence, chosen == 1, grid["curve"], label="network")
    ax.set_xlabel("coherence, percent")
    ax.set_ylabel("share of choices of input 1")
    ax.set_title("Choices")

    [states] = model.states(test.x, noise=Noise(NOISE, seed))
    begin = int(test.conditions["decision"][0])
    preference = states[chosen == 1, begin - 1].mean(0) - states[chosen == 2, begin - 1].mean(0)
    order = np.lexsort((-preference, np.arange(H) >= EXCITATORY))
    trials = {
        name: states[np.flatnonzero((coherence == c) & (chosen == choice))[0]]
        for name, c, choice in (("one", 12.8, 1), ("two", -12.8, 2))
    }
    most = max(float(np.quantile(h, 0.99)) for h in trials.values())
    for name, h in trials.items():
        ax = grid[name]
        image = ax.imshow(
            h[:, order].T, aspect="auto", cmap="magma", vmin=0, vmax=most, interpolation="nearest",
            extent=(0, len(h) * DT, H, 0),
        )  # fmt: skip
        ax.axhline(EXCITATORY, color="white", linewidth=0.8)
        ax.set_xlabel("time, ms")
        ax.set_title(f"Rates in a trial: input {1 if name == 'one' else 2}, 12.8 %")
    grid["one"].set_ylabel("unit: excitatory, below inhibitory")
    figure.colorbar(image, ax=grid["two"], label="rate")

    each = np.unique(coherence)
    means = np.stack([states[coherence == c].mean(axis=0) for c in each])
    shown = means[:, : begin - round(DELAY / DT)]
    ax = plot_trajectories(shown, points, grid["states"], values=each)
    ax.set_title("Mean states until the stimulus ends, by coherence; points without evidence")
    plot_weights(model.parameters()["layers.0.W_h"], grid["weights"]).set_title("Recurrent weights")
