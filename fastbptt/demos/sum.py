"""``fastbptt demo sum``: a network of one unit learns to add up the zeros and ones that it reads.

With scalar weights, no bias and h_0 = 0, the answer is the last state, and the loss is the mean
over N sequences:

    h_t = f(x_t w_x + h_{t-1} w_h)        L = 1/N sum (h_T - y)^2

By the chain rule, step by step from the last one back: with g_T = dL/dh_T = 2/N (h_T - y),

    step t adds  sum g_t f'(z_t) x_t      to dL/dw_x
                 sum g_t f'(z_t) h_{t-1}  to dL/dw_h        g_{t-1} = g_t f'(z_t) w_h

With f = identity and both weights 1 the sum is exact for any length: h_t = h_{t-1} + x_t.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fastbptt.datasets import sum_example, zeros_and_ones
from fastbptt.demos import linear
from fastbptt.demos.show import print_by_hand
from fastbptt.losses import mse
from fastbptt.model import RNN
from fastbptt.optimizers import SGD
from fastbptt.rnn import Params, backward, forward
from fastbptt.training import History, fit

# Worked by hand for 1 0 0, 0 1 1 and 1 1 1 with the sums 1, 2 and 3.
# Weights 1, tanh: the states, and the mean squared error of the last ones
STATES: np.ndarray = np.array([[0.76, 0.64, 0.57], [0, 0.76, 0.94], [0.76, 0.94, 0.96]])
LOSS = 1.82
# What each step adds to dL/dw_x and dL/dw_h, from those rounded states and with f' = 1.  In step 3
# both sequences that end in 1 count for w_x: 1 1 1 alone would give -1.36.
BY_STEP: list[tuple[str, float]] = [
    ("step 1, w_x: 2/3 [(.57-1) 1 + (.96-3) 1]", -1.65),
    ("step 2, w_x: 2/3 [(.94-2) 1 + (.96-3) 1]", -2.07),
    ("step 3, w_x: 2/3 [(.94-2) 1 + (.96-3) 1]", -2.07),
    ("step 1, w_h: h_0 = 0", 0.0),
    ("step 2, w_h: 2/3 [(.57-1) .76 + (.96-3) .76]", -1.25),
    ("step 3, w_h: 2/3 [(.57-1) .64 + (.94-2) .76 + (.96-3) .94]", -2.00),
]
# Weights 1/2, identity: h_3 = (x_1/4 + x_2/2 + x_3)/2
LINEAR: list[tuple[str, float | str]] = [
    ("h_3 of 1 0 0, 0 1 1, 1 1 1", "1/8 3/4 7/8"),
    ("dL/dw_x = sum 2/3 (h_3 - y) (x_1/4 + x_2/2 + x_3)", -3.875),
    ("dL/dw_h = sum 2/3 (h_3 - y) (x_1 + x_2)/2", -2.125),
]

TRAINED_LENGTHS: range = range(1, 11)
LONGEST: int = TRAINED_LENGTHS[-1]
OTHER_LENGTHS = (20, 50, 100)


class Result(NamedTuple):
    """What :func:`run` returns.

    Attributes
    ----------
    states : ndarray, (3, 3)
        States of each sequence (row) at each step, with tanh.
    loss : float
        Mean squared error of the last of them.
    by_step : ndarray, (2, 3)
        What each step adds to dL/dw_x and dL/dw_h, from the rounded states.
    linear : Params
        Gradients of the identity's loss at weights of 1/2.
    model : RNN
        The trained network.
    right : dict of int to float
        For lengths not trained on: the share of sequences whose rounded output is their sum.
    baseline : dict of int to float
        The same for least squares on the last inputs, as many as the longest training sequence has.
    """

    states: np.ndarray
    loss: float
    by_step: np.ndarray
    linear: Params
    model: RNN
    right: dict[int, float]
    baseline: dict[int, float]


def run(*, seed: int = 0) -> Result:
    """Follow the example by hand, then train.

    Parameters
    ----------
    seed : int
        Seeds the weights, the sequences and their order.

    Returns
    -------
    Result
    """
    x, y = (a.astype(np.float64) for a in sum_example())
    x = x.transpose(1, 0, 2)  # (T, B, 1)
    one, half = (Params(np.full((1, 1), w), np.full((1, 1), w), np.zeros(1)) for w in (1.0, 0.5))

    states = forward(one, x)[1:, :, 0].T
    loss, _ = mse(states[:, -1:], y)
    rows = zip(("1 0 0", "0 1 1", "1 1 1"), map(_row, STATES), strict=True)
    by_hand = [*rows, ("mean squared error", LOSS)]
    print_by_hand("tanh, weights 1: states", by_hand, [*map(_row, states), loss])

    rounded = np.zeros((4, 3, 1))
    rounded[1:, :, 0] = STATES.T
    by_step = gradients_by_step(one, x, rounded, mse(rounded[-1], y)[1])
    print_by_hand("What each step adds to the gradient, f' taken as 1", BY_STEP, by_step.flat)

    h = forward(half, x, activation="identity")
    at_half, _, _ = backward(half, x, h, mse(h[-1], y)[1], activation="identity")
    last = " ".join(f"{state:g}" for state in h[-1, :, 0])
    print_by_hand("identity, weights 1/2", LINEAR, [last, at_half.W_x.item(), at_half.W_h.item()])

    model, history = train(seed)
    weights = model.parameters()
    print(
        f"One unit with f = identity, trained on {TRAINED_LENGTHS[0]} to {TRAINED_LENGTHS[-1]} "
        f"zeros and ones: loss {history.loss[0]:.2g} -> {history.loss[-1]:.2g}"
    )
    print(
        f"  learned w_x w_y = {(weights['layers.0.W_x'] @ weights['W_y']).item():.6f}, "
        f"w_h = {weights['layers.0.W_h'].item():.6f}"
    )
    right, baseline = {}, {}
    fitted = least_squares(seed)
    for length in OTHER_LENGTHS:
        x, y = zeros_and_ones(200, length, seed=seed + 1)
        sums = model.predict(x)
        right[length] = float((np.rint(sums) == y).mean())
        by_last = linear.predict(fitted, last_inputs(x))[:, np.newaxis]
        baseline[length] = float((np.rint(by_last) == y).mean())
        print(
            f"  200 sequences of {length}: {right[length]:.0%} right, "
            f"largest error before rounding {np.abs(sums - y).max():.1g}; least squares on the "
            f"last {LONGEST} inputs {baseline[length]:.0%} right"
        )
    print(
        f"  least squares is as good on what it was fitted to, up to {LONGEST} inputs: its weights "
        f"are {fitted[:-1].min():.6f} to {fitted[:-1].max():.6f}"
    )
    return Result(states, loss, by_step, at_half, model, right, baseline)


def gradients_by_step(params: Params, x: np.ndarray, h: np.ndarray, dh: np.ndarray) -> np.ndarray:
    """What each step adds to the gradients of w_x and w_h, (2, T), with f' taken as 1.

    One step at a time: the gradient at the state before a step is the `dh` of the step before it.
    """
    steps = np.empty((2, len(x)))
    for t in reversed(range(len(x))):
        at, states = x[t : t + 1], h[t : t + 2]
        dparams, _, dh = backward(params, at, states, dh, activation="identity")
        steps[:, t] = dparams.W_x.item(), dparams.W_h.item()
    return steps


def training_data(seed: int) -> tuple[list[np.ndarray], np.ndarray]:
    """40 sequences of each length, and their sums."""
    rng = np.random.default_rng(seed)
    drawn = [zeros_and_ones(40, length, seed=rng) for length in TRAINED_LENGTHS]
    x = [sequence for sequences, _ in drawn for sequence in sequences]
    return x, np.concatenate([sums for _, sums in drawn])


def least_squares(seed: int) -> np.ndarray:
    """Weights for the last inputs, and an intercept, from the same sequences as the network."""
    x, y = training_data(seed)
    return linear.least_squares(last_inputs(x), y[:, 0])


def last_inputs(x: Sequence[np.ndarray] | np.ndarray) -> np.ndarray:
    """The last LONGEST inputs of each sequence (T, 1), after zeros if it is shorter."""
    padded = [np.r_[np.zeros(LONGEST), sequence[:, 0]][-LONGEST:] for sequence in x]
    return np.array(padded)


def train(seed: int) -> tuple[RNN, History]:
    """Train one unit, whose memory fades at first, on sequences of several lengths."""
    x, y = training_data(seed)
    model = RNN(1, 1, 1, activation="identity", dtype="float64", seed=seed)
    model.parameters()["layers.0.W_h"][...] = 0.5
    history = fit(
        model, x, y, optimizer=SGD(0.003, momentum=0.9), clip_norm=1.0, batch_size=20, epochs=100,
        progress=False, seed=seed,
    )  # fmt: skip
    if history.stopped == "interrupted":
        raise KeyboardInterrupt
    return model, history


def _row(states: np.ndarray) -> str:
    return " ".join(f"{state:.2f}" for state in states)
