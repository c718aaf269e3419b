"""Models, data and trainings that several tests share."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import fastbptt
from fastbptt import RNN, SGD, Adam, History, RMSprop, losses

I, H, O = 2, 4, 3
RAGGED, EQUAL = (4, 1, 7, 3, 7, 5, 2, 6, 1, 4, 3), (5,) * 11
# Each is called for a new one.
OPTIMIZERS = {
    "SGD": lambda: SGD(0.05, momentum=0.9),
    "nesterov": lambda: SGD(0.05, momentum=0.9, nesterov=True),
    "RMSprop": lambda: RMSprop(0.01),
    "Adam": lambda: Adam(0.02, weight_decay=0.1),
}
OPTIMIZER = pytest.mark.parametrize("optimizer", list(OPTIMIZERS.values()), ids=list(OPTIMIZERS))
OUTPUT = pytest.mark.parametrize("output", ["last", "all"])
LENGTHS = pytest.mark.parametrize("counts", [RAGGED, EQUAL], ids=["ragged", "equal"])


def build(dtype="float64", hidden_size: int = H, **options: Any) -> RNN:
    return RNN(I, hidden_size, O, dtype=dtype, seed=0, **options)


def draw(model, counts, seed=0) -> Any:
    """Sequences of so many steps and targets for them."""
    rng = np.random.default_rng(seed)
    x = [rng.standard_normal((n, I)) for n in counts]
    if model.output == "last":
        return x, rng.standard_normal((len(counts), O))
    return x, [rng.standard_normal((n, O)) for n in counts]


def fit(model, data, **options) -> History:
    return fastbptt.fit(model, *data, **{"progress": False, "seed": 7, **options})


def order_and_dropout(seed=7):
    """The generators that a training with this seed draws from."""
    return np.random.default_rng(seed).spawn(2)


def bits(model):
    return model.network.vector.tobytes()


def assert_same_course(got, expected):
    """Check that two histories are the same, but for the time it took."""
    for name in ("loss", "validation_loss", "best_epoch", "stopped"):
        assert getattr(got, name) == getattr(expected, name), name
    assert len(got.seconds) == len(got.loss)


class Recorder(SGD):
    """SGD that keeps each step's weights, before it, and gradient."""

    def __init__(self, *args):
        super().__init__(*args)
        self.steps_taken = []

    def step(self, parameters, gradients):
        self.steps_taken.append((parameters["weights"].copy(), gradients["weights"].copy()))
        super().step(parameters, gradients)


def noisy(counts=RAGGED):
    """A model and data on which the loss rises again soon: the targets are noise."""
    model = build(hidden_size=16)
    return model, draw(model, counts), draw(model, counts, seed=1)


def interrupting(at, function=losses.mse):
    """A loss during whose call number `at` somebody presses Ctrl-C."""
    calls = []

    @functools.wraps(function)
    def loss(y, target, mask):
        calls.append(None)
        if len(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return function(y, target, mask)

    return loss


def start(program, folder, *args):
    """A program that may import the tests, in a process of its own; stdout is a pipe."""
    path = folder / "program.py"
    path.write_text(program)
    paths = pathlib.Path(__file__).parent, pathlib.Path(fastbptt.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, path, *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
