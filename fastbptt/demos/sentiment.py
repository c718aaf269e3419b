"""``fastbptt demo sentiment``: whether a sentence is favourable, from its words one by one.

x_t is the one-hot vector of a word.  Sentences differ in length, and the last state h_T gives the
probability p that the label y is 1:

    h_t = tanh(x_t w_i + h_{t-1} w_h + b)        p = sigmoid(h_T w_o + b_o)
    L = -y log p - (1 - y) log(1 - p)            dL/dw_o = h_T^T (p - y)        dL/db_o = p - y

By the chain rule, back through the words from dz_T = (p - y) w_o^T (1 - h_T^2):

    dz_t = dz_{t+1} w_h^T (1 - h_t^2)
    dL/dw_i = sum_t x_t^T dz_t        dL/dw_h = sum_t h_{t-1}^T dz_t        dL/db = sum_t dz_t

Training is gradient descent by the plain rule, w <- w - eta dL/dw, on all sentences at once.
"""

from typing import NamedTuple

import numpy as np

from fastbptt.datasets import sentiment_example
from fastbptt.demos import linear
from fastbptt.demos.show import print_by_hand
from fastbptt.model import RNN
from fastbptt.optimizers import SGD
from fastbptt.training import History, fit

# Worked by hand: "cat mat rat" with label 1, one hidden unit,
# w_i = 1/2 for cat, -1/2 for mat, 1 for rat, w_h = 1/2, w_o = 1, no biases
WEIGHTS: dict[str, list[list[float]]] = {
    "layers.0.W_x": [[0.5], [-0.5], [1.0]],
    "layers.0.W_h": [[0.5]],
    "W_y": [[1.0]],
}
BY_HAND: list[tuple[str, float]] = [
    ("h_1 = tanh(.5)", 0.462),
    ("h_2 = tanh(-.5 + .462/2)", -0.263),
    ("h_3 = tanh(1 - .263/2)", 0.701),
    ("p = sigmoid(.701)", 0.668),
    ("L = -log(.668)", 0.403),
    ("dL/dw_i of rat = dz_3 = (p - 1) (1 - .701^2)", -0.169),
    ("dL/dw_i of mat = dz_2 = dz_3/2 (1 - .263^2)", -0.079),
    ("dL/dw_i of cat = dz_1 = dz_2/2 (1 - .462^2)", -0.031),
    ("dL/dw_h = dz_2 h_1 + dz_3 h_2", 0.008),
    ("dL/db = dz_1 + dz_2 + dz_3", -0.278),
    ("dL/dw_o = (p - 1) h_3", -0.232),
    ("dL/db_o = p - 1", -0.332),
]
HIDDEN = 4
EPOCHS = 300
ETA = 0.5


class Result(NamedTuple):
    """What :func:`run` returns.

    Attributes
    ----------
    example : list of float
        The numbers worked by hand, in the same order.
    accuracy : dict of str to float
        For each set of sentences: the share with p on the right side of 1/2 after training.
    losses : dict of str to list of float
        For each set: the loss before each step.
    by_counts : dict of str to float
        For each set: the share that least squares on the counts of words has right.
    """

    example: list[float]
    accuracy: dict[str, float]
    losses: dict[str, list[float]]
    by_counts: dict[str, float]


def run(*, seed: int = 0) -> Result:
    """Follow one sentence by hand, then train on both sets.

    Parameters
    ----------
    seed : int
        Seeds the initial weights.

    Returns
    -------
    Result
    """
    got = example()
    print_by_hand('"cat mat rat", favourable', BY_HAND, got)

    accuracy, losses, by_counts = {}, {}, {}
    for name in ("mat", "movie"):
        x, y, words = sentiment_example(name)
        model, history = train(x, y, seed)
        p = probabilities(model, x)
        accuracy[name], losses[name] = float(((p > 0.5) == y).mean()), history.loss
        print(
            f"{HIDDEN} hidden units, {EPOCHS} steps with eta = {ETA}: "
            f"loss {history.loss[0]:.3f} -> {history.loss[-1]:.3f}, {accuracy[name]:.0%} right"
        )
        for sentence, label, its_p in zip(x, y, p, strict=True):
            text = " ".join(words[k] for k in sentence.argmax(axis=1))
            print(f"  {text:20} label {label.item():.0f}   p = {its_p.item():.3f}")
        by_counts[name], majority = counts_accuracy(x, y), max(y.mean(), 1 - y.mean())
        print(
            f"  {by_counts[name]:.0%} right by least squares on how often each word occurs, "
            f"{majority:.0%} by the more frequent label\n"
        )
    return Result(got, accuracy, losses, by_counts)


def example() -> list[float]:
    """What the network computes for the sentence worked by hand: a number for each row there."""
    x, y, words = sentiment_example("mat")
    model = RNN(len(words), 1, 1, dtype="float64")
    for name, array in model.parameters().items():
        array[...] = WEIGHTS.get(name, 0.0)
    # With the weight w_o = 1 and no bias, outputs are the states themselves.
    states = [model.predict([x[0][:t]]).item() for t in (1, 2, 3)]
    loss, d = model.loss_and_grads(x[:1], y[:1], loss="bce")
    by_word = dict(zip(words, d["layers.0.W_x"][:, 0].tolist(), strict=True))
    return [
        *states, probabilities(model, x[:1]).item(), loss,
        by_word["rat"], by_word["mat"], by_word["cat"],
        *(d[name].item() for name in ("layers.0.W_h", "layers.0.b", "W_y", "b_y")),
    ]  # fmt: skip


def train(x: list[np.ndarray], y: np.ndarray, seed: int) -> tuple[RNN, History]:
    """A trained model and its history."""
    model = RNN(x[0].shape[1], HIDDEN, 1, dtype="float64", seed=seed)
    history = fit(
        model, x, y, loss="bce", optimizer=SGD(ETA), batch_size=len(x), epochs=EPOCHS,
        progress=False, seed=seed,
    )  # fmt: skip
    if history.stopped == "interrupted":
        raise KeyboardInterrupt
    return model, history


def counts_accuracy(x: list[np.ndarray], y: np.ndarray) -> float:
    """The share that a linear model of the counts of words, which has no order, has right."""
    counts = np.array([sentence.sum(axis=0) for sentence in x], np.float64)
    fitted = linear.predict(linear.least_squares(counts, y[:, 0]), counts)
    return float(((fitted > 0.5) == y[:, 0]).mean())


def probabilities(model: RNN, x: list[np.ndarray]) -> np.ndarray:
    """p for each sentence, (N, 1)."""
    return 1 / (1 + np.exp(-model.predict(x)))
