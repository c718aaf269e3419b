"""``fastbptt demo many-to-many``: an output at every step, and a network that learns to write.

    h_t = f(x_t W_x + h_{t-1} W_h + b)        y_t = h_t W_y + b_y

Every step has a loss of its own, so its gradient dy_t is added to the one that comes back through
time:

    dz_t = (dy_t W_y^T + dz_{t+1} W_h^T) f'(z_t)
    dW_x = sum_t x_t^T dz_t        dW_h = sum_t h_{t-1}^T dz_t        db = sum_t dz_t
    dW_y = sum_t h_t^T dy_t        db_y = sum_t dy_t

The last tenth of the text is held out, to compare with what counting gives: the probability of a
character c after the k before it, u, with n(u) occurrences, of which n(uc) go on with c, and d(u)
different characters that do so (Witten and Bell 1991),

    p_k(c | u) = (n(uc) + d(u) p_{k-1}(c | u without its first)) / (n(u) + d(u))

A model of text reads characters, and at each step gives the probabilities of the next one, the
softmax of y_t.  To write, it draws a character from them, reads that one next, and so on.  Each
character is an integer, a token: x_t W_x is a row of W_x, as if x_t were one-hot.
"""

import math
import textwrap
from typing import NamedTuple

import numpy as np

from fastbptt.datasets import decode, encode, genesis
from fastbptt.demos.show import print_by_hand
from fastbptt.losses import cross_entropy
from fastbptt.model import RNN
from fastbptt.optimizers import Adam
from fastbptt.training import History, fit

# Worked by hand: x = 1 2 3 with the targets 1 2 3, one hidden unit, f = identity,
# w_x = w_h = 1/2, w_y = 2, no biases, squared errors
WEIGHTS: dict[str, float] = {"layers.0.W_x": 0.5, "layers.0.W_h": 0.5, "W_y": 2.0}
BY_HAND: list[tuple[str, float | str]] = [
    ("y = 2h, h = 1/2 5/4 17/8", "1 2.5 4.25"),
    ("L = 0 + .5^2 + 1.25^2", 1.8125),
    ("dW_x = 2.25 (1) + 4.5 (2) + 5 (3)", 26.25),
    ("dW_h = 4.5 (1/2) + 5 (5/4)", 8.5),
    ("db = 2.25 + 4.5 + 5", 11.75),
    ("dW_y = 1 (5/4) + 2.5 (17/8)", 6.5625),
    ("db_y = 1 + 2.5", 3.5),
]
PIECES = 32  # of the text, read side by side
T = 32  # steps that gradients reach back; the state goes on
LEARNING_RATE = 5e-3  # at first; decays along a cosine
MAX_NORM = 1.0  # of the gradient
SHOWN = 1, 2, 5, 10  # epochs after which the model writes, as it does after the last
HELD_OUT = 0.1  # of the text, its end
TOGETHER = 2, 3, 4, 5, 6  # characters that are counted together
TEMPERATURE = 0.5  # below 1: likely characters are drawn more often than their probability


class Result(NamedTuple):
    """What :func:`run` returns.

    Attributes
    ----------
    outputs : list of float
        y of the example worked by hand.
    loss : float
        Its loss.
    gradients : dict of str to float
        Its gradients, by the names of :meth:`fastbptt.RNN.parameters`.
    entropy : float
        Entropy of the text's characters by their frequency alone, in nats: the loss of a model
        without memory.
    held_out : float
        Loss over the held-out text after training, in nats per character.
    counted : dict of int to float
        The same for characters counted together by two, three and so on.
    losses : list of float
        Loss in each epoch, in nats per character.
    samples : list of str
        What the model wrote.
    """

    outputs: list[float]
    loss: float
    gradients: dict[str, float]
    entropy: float
    held_out: float
    counted: dict[int, float]
    losses: list[float]
    samples: list[str]


def run(*, hidden: int = 192, epochs: int = 20, seed: int = 0) -> Result:
    """Follow three steps by hand, then learn to write from the Book of Genesis.

    Parameters
    ----------
    hidden : int
        H, the number of hidden units.
    epochs : int
        Passes over the text.
    seed : int
        Seeds the weights, the order of training and what the model writes.

    Returns
    -------
    Result
    """
    outputs, loss, gradients = example()
    got = [" ".join(f"{y:g}" for y in outputs), loss, *gradients.values()]
    print_by_hand("1 2 3 with targets 1 2 3, dy = 0 1 2.5", BY_HAND, got)

    text = genesis()
    codes, alphabet = encode(text)
    share = np.bincount(codes) / len(codes)
    entropy = float(-share @ np.log(share))
    print(
        f"{len(codes)} characters, {len(alphabet)} different ones; by their frequency alone "
        f"{entropy:.3f} nats a character"
    )
    model = RNN(len(alphabet), hidden, len(alphabet), output="all", seed=seed)
    optimizer, samples = Adam(LEARNING_RATE), []

    def after_epoch(model: RNN, history: History) -> None:
        done = len(history.loss)
        optimizer.learning_rate = LEARNING_RATE * (1 + math.cos(math.pi * done / epochs)) / 2
        if done in SHOWN or done == epochs:
            samples.append(write(model, alphabet, 300, seed))
            print(f"\nEpoch {done} of {epochs}: {history.loss[-1]:.3f} nats; the model writes")
            for line in samples[-1].splitlines():
                print(textwrap.fill(line, 100, initial_indent="  ", subsequent_indent="  "))

    cut = int((1 - HELD_OUT) * len(codes))
    x, y = pieces(codes[:cut])
    history = fit(
        model, x, y, loss="cross_entropy", optimizer=optimizer, epochs=epochs, batch_size=PIECES,
        clip_norm=MAX_NORM, truncate=T, progress=False, seed=seed, callback=after_epoch,
    )  # fmt: skip
    if history.stopped == "interrupted":
        raise KeyboardInterrupt
    held_out, counted = held_out_loss(model, codes, cut), count(codes, cut)
    best = min(counted, key=lambda n: counted[n])
    print(
        f"\nThe last {len(codes) - cut} characters, held out: network {held_out:.3f} nats a "
        f"character; by counting pairs {counted[2]:.3f}, {best} together {counted[best]:.3f}: "
        f"{'counting' if counted[best] < held_out else 'the network'} wins"
    )
    return Result(outputs, loss, gradients, entropy, held_out, counted, history.loss, samples)


def example() -> tuple[list[float], float, dict[str, float]]:
    """Outputs, loss and gradients of the network in the example worked by hand."""
    model = RNN(1, 1, 1, activation="identity", output="all")
    for name, array in model.parameters().items():
        array[...] = WEIGHTS.get(name, 0.0)
    x = np.array([[1.0, 2.0, 3.0]])
    loss, gradients = model.loss_and_grads(x, x, loss="ssr")
    outputs = model.predict(x).ravel().tolist()
    return outputs, loss, {name: d.item() for name, d in gradients.items()}


def pieces(codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The text in equal pieces: tokens x (N, T), and the next ones, y (N, T)."""
    length = (len(codes) - 1) // PIECES
    end = PIECES * length
    return codes[:end].reshape(PIECES, -1), codes[1 : end + 1].reshape(PIECES, -1)


def held_out_loss(model: RNN, codes: np.ndarray, cut: int) -> float:
    """Mean cross-entropy of codes[cut:], in nats, by a model that has read what comes before."""
    state, total, piece = None, 0.0, 1000
    for start in range(0, len(codes) - 1, piece):
        end = min(start + piece, len(codes) - 1)
        y, state = model.predict(codes[np.newaxis, start:end], state=state, return_state=True)
        first = max(cut - 1 - start, 0)  # the character after it is the first one held out
        if first < end - start:
            y, target = y[:, first:], codes[np.newaxis, start + first + 1 : end + 1]
            total += cross_entropy(y, target)[0] * target.size
    return total / (len(codes) - cut)


def count(codes: np.ndarray, cut: int) -> dict[int, float]:
    """For each of TOGETHER: mean cross-entropy of codes[cut:] by counts of codes[:cut], in nats."""
    size = int(codes.max()) + 1
    p, found = np.full(len(codes) - cut, 1 / size), {}
    for n in range(1, max(TOGETHER) + 1):
        # Each sequence of n characters as one number, the last one its last digit
        number = np.lib.stride_tricks.sliding_window_view(codes, n) @ size ** np.arange(n)[::-1]
        seen, times = np.unique(number[: cut - n + 1], return_counts=True)
        before, group = np.unique(seen // size, return_inverse=True)
        total, different = np.bincount(group, times), np.bincount(group)
        held_out = number[cut - n + 1 :]
        n_uc = look_up(seen, times, held_out)
        n_u, d_u = (look_up(before, a, held_out // size) for a in (total, different))
        p = np.where(n_u > 0, (n_uc + d_u * p) / np.maximum(n_u + d_u, 1), p)
        if n in TOGETHER:
            found[n] = float(-np.log(p).mean())
    return found


def look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The values of the wanted keys, 0 where they are not among the keys, which are sorted."""
    at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[at] == wanted, values[at], 0)


def write(model: RNN, alphabet: str, length: int, seed: int) -> str:
    """A text that the model makes up, from the start of a line."""
    prompt, _ = encode("\n", alphabet)
    codes = model.generate(prompt, length, temperature=TEMPERATURE, seed=seed)
    return decode(codes, alphabet)
