"""``fastbptt demo gradient-flow``: why gradients vanish and explode, and what clipping does.

The gradient goes back from the last state to an early one by a product with a factor for each step,

    dh_T/dh_t = product over k = t+1 ... T of dh_k/dh_{k-1}        dh_k/dh_{k-1} = f'(z_k) w_h

for one unit.  tanh' is at most 1, so with |w_h| < 1 the product vanishes, at least as fast as
|w_h|^(T-t); with |w_h| > 1 it may explode.  With H units and a matrix W_h, its largest singular
value takes the place of |w_h|.  Here W_h is |w_h| times an orthogonal matrix, whose singular values
are all 1, and with f = identity the norm of the product is exactly |w_h|^(T-t).

One step of gradient descent along an exploding gradient throws the weights far away.  Clipping
keeps its direction and bounds its norm (Pascanu, Mikolov and Bengio 2013).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastbptt._colors import BRIGHT, DARK
from fastbptt.datasets import zeros_and_ones
from fastbptt.demos import linear
from fastbptt.demos.show import new_figure, print_by_hand, print_table, write_figure
from fastbptt.diagnostics import GradientFlow, layer_gradient_flow
from fastbptt.model import RNN
from fastbptt.optimizers import SGD, clip_by_global_norm
from fastbptt.plots import plot_gradient_flow
from fastbptt.rnn import Activation, Params, forward, init_params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Worked by hand: one unit, x = 1 0 0, w_x = 1, w_h = 1/2, tanh
BY_HAND: list[tuple[str, float]] = [
    ("dh_3/dh_2 = (1 - .180^2)/2", 0.484),
    ("dh_3/dh_1 = .484 (1 - .363^2)/2", 0.210),
    ("dh_3/dh_0 = .210 (1 - .762^2)/2", 0.044),
]
T, B, H = 50, 8, 32
SCALES: dict[str, float] = {"below": 0.8, "at": 1.0, "above": 1.25}  # |w_h|
LENGTH = 20  # of the sequences of zeros and ones that are summed
STEPS = 600
MAX_NORM = 1.0


class Descent(NamedTuple):
    """A training run that began with |w_h| above 1.

    Attributes
    ----------
    losses, norms : list of float
        Loss and norm of the gradient, unclipped, before each step, up to the first infinite or NaN
        loss.
    """

    losses: list[float]
    norms: list[float]


class Result(NamedTuple):
    """What :func:`run` returns.

    Attributes
    ----------
    example : list of float
        dh_3/dh_2, dh_3/dh_1 and dh_3/dh_0 of the example worked by hand.
    identity, tanh : dict of str to GradientFlow
        For each of :data:`SCALES`.
    unclipped, clipped : Descent
    baseline : float
        Loss of least squares on the inputs, for the sequences of those training runs.
    """

    example: list[float]
    identity: dict[str, GradientFlow]
    tanh: dict[str, GradientFlow]
    unclipped: Descent
    clipped: Descent
    baseline: float


def run(*, seed: int = 0, plot: str | os.PathLike[str] | None = None) -> Result:
    """Follow a product by hand, compute those of larger networks, and train with clipping.

    Parameters
    ----------
    seed : int
        Of weights and inputs.
    plot : path-like, optional
        PNG file to write: gradients on their way back, and the norms before and after clipping.

    Returns
    -------
    Result

    Raises
    ------
    MissingExtraError
        If a plot is wanted and matplotlib is not installed.
    """
    figure = None if plot is None else new_figure(11, 7.5)
    got = example()
    print_by_hand("1 0 0, tanh, w_x = 1, w_h = 1/2", BY_HAND, got)

    identity, tanh = (
        {name: flow(scale, activation, seed) for name, scale in SCALES.items()}
        for activation in ("identity", "tanh")
    )
    print_table(
        f"Norm of dh_T/dh_0, T = {T}, {H} units",
        ("|w_h|^T", "identity", "tanh"),
        [
            (f"|w_h| = {scale}", f"{scale**T:.3g}", _norm(identity[name]), _norm(tanh[name]))
            for name, scale in SCALES.items()
        ],
    )

    baseline = least_squares_loss(seed)
    unclipped, clipped = descend(seed, np.inf), descend(seed, MAX_NORM)
    print(
        f"Sums of {LENGTH} zeros and ones by one linear unit, from w_h = {SCALES['above']}, by "
        f"gradient descent:\n"
        f"  the first gradient has the norm {unclipped.norms[0]:.2g}\n"
        f"  without clipping: loss {_arrow(unclipped.losses)}\n"
        f"  clipped to the norm {MAX_NORM:g}: loss {_arrow(clipped.losses)}\n"
        f"  least squares on the {LENGTH} inputs: loss {baseline:.2g} without any descent; what is "
        f"shown here is the descent"
    )
    if figure is not None and plot is not None:
        draw(figure, tanh, clipped)
        write_figure(figure, plot)
    return Result(got, identity, tanh, unclipped, clipped, baseline)


def example() -> list[float]:
    """The products worked by hand, by :func:`fastbptt.diagnostics.layer_gradient_flow`."""
    params = Params(np.ones((1, 1)), np.full((1, 1), 0.5), np.zeros(1))
    x = np.array([1.0, 0.0, 0.0]).reshape(3, 1, 1)
    found = layer_gradient_flow(params, x, forward(params, x), np.ones((1, 1)))
    return (10 ** found.log10_jacobian[2::-1, 0]).tolist()


def flow(scale: float, activation: Activation, seed: int) -> GradientFlow:
    """The way back through a network whose W_h has all singular values equal to `scale`.

    Its inputs are small, so that tanh does not saturate.
    """
    rng = np.random.default_rng(seed)
    W_x, W_h, b = init_params(1, H, dtype="float64", seed=rng)
    params = Params(0.3 * W_x, scale * W_h, b)
    x = rng.integers(0, 2, (T, B, 1)).astype(np.float64)
    dh = rng.standard_normal((B, H))
    h = forward(params, x, activation=activation)
    return layer_gradient_flow(params, x, h, dh / np.linalg.norm(dh), activation=activation)


def descend(seed: int, max_norm: float) -> Descent:
    """Gradient descent with momentum, all sequences at once."""
    x, y = zeros_and_ones(100, LENGTH, seed=seed)
    model = RNN(1, 1, 1, activation="identity", dtype="float64", seed=seed)
    model.parameters()["layers.0.W_h"][...] = SCALES["above"]
    optimizer, losses, norms = SGD(0.003, momentum=0.9), [], []
    for _ in range(STEPS):
        loss, gradients = model.loss_and_grads(x, y)
        losses.append(loss)
        norms.append(clip_by_global_norm(gradients, max_norm))
        if not np.isfinite(loss):
            break
        optimizer.step(model.parameters(), gradients)
    return Descent(losses, norms)


def least_squares_loss(seed: int) -> float:
    """Mean squared error of a linear model of the inputs, on the sequences of :func:`descend`."""
    x, y = zeros_and_ones(100, LENGTH, seed=seed)
    x, y = x[..., 0].astype(np.float64), y[:, 0].astype(np.float64)
    return linear.rmse(linear.predict(linear.least_squares(x, y), x), y) ** 2


def draw(figure: Figure, flows: dict[str, GradientFlow], clipped: Descent) -> None:
    """Draw the three ways back on one scale, and the norms of the training run with clipping."""
    grid: Any = figure.subplots(2, 2)
    for ax, (name, found) in zip(grid.flat, flows.items(), strict=False):
        plot_gradient_flow(found, ax)
        if ax is not grid[0, 0]:
            ax.get_legend().remove()
        ax.set_ylim(-6, 5)
        ax.set_title(f"tanh, {name} the edge: |w_h| = {SCALES[name]}")
    ax = grid[1, 1]
    before = np.array(clipped.norms)
    ax.plot(before, color=BRIGHT, linewidth=1.1, label="before clipping")
    ax.plot(np.minimum(before, MAX_NORM), color=DARK, linewidth=2.4, label="after")
    ax.set_yscale("log")
    ax.set_title(f"Learning to sum, from w_h = {SCALES['above']}, with clipping")
    ax.set_xlabel("step")
    ax.set_ylabel("norm of the gradient")
    ax.legend(frameon=False)


def _norm(found: GradientFlow) -> str:
    """The norm of dh_T/dh_0, the median of the sequences."""
    return f"{10 ** np.median(found.log10_jacobian[0]):.3g}"


def _arrow(losses: list[float]) -> str:
    return f"{losses[0]:.2g} -> {losses[-1]:.2g} in {len(losses) - 1} steps"
