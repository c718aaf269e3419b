"""Training against loops written out, differences and PyTorch; how it ends, and how it goes on."""

import collections
import doctest
import functools
import hashlib
import json
import math
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest
from measure import peak
from test_threads import run

import fastbptt
from fastbptt import (
    RNN,
    SGD,
    Adam,
    History,
    RMSprop,
    clip_by_global_norm,
    losses,
    storage,
    training,
)
from fastbptt.extras import MissingExtraError

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


def build(dtype="float64", hidden_size=H, **options):
    return RNN(I, hidden_size, O, dtype=dtype, seed=0, **options)


def draw(model, counts, seed=0) -> Any:
    """Sequences of so many steps and targets for them."""
    rng = np.random.default_rng(seed)
    x = [rng.standard_normal((n, I)) for n in counts]
    if model.output == "last":
        return x, rng.standard_normal((len(counts), O))
    return x, [rng.standard_normal((n, O)) for n in counts]


def take(y, index):
    return y[index] if isinstance(y, np.ndarray) else [y[i] for i in index]


def fit(model, data, **options) -> History:
    return fastbptt.fit(model, *data, **{"progress": False, "seed": 7, **options})


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


def flat(arrays):
    return np.concatenate([a.ravel() for a in arrays.values()])


# The loop


def loop(model, data, optimizer, epochs, batch_size, clip_norm, loss):
    """What fit does, from public parts; the mean loss of each epoch."""
    (x, y), rng, means = data, np.random.default_rng(7), []
    weights = {"weights": flat(model.parameters())}
    for _ in range(epochs):
        order, total, rows = rng.permutation(len(x)), 0.0, 0
        for start in range(0, len(x), batch_size):
            index = order[start : start + batch_size]
            minibatch = [x[i] for i in index]
            value, grads = model.loss_and_grads(minibatch, take(y, index), loss=loss, rng=rng)
            gradient = {"weights": flat(grads)}
            clip_by_global_norm(gradient, clip_norm)
            optimizer.step(weights, gradient)
            at = 0
            for a in model.parameters().values():
                a[...] = weights["weights"][at : at + a.size].reshape(a.shape)
                at += a.size
            seen = len(index) if model.output == "last" else sum(map(len, minibatch))
            total += value if loss == "ssr" else value * seen
            rows += seen
        means.append(total if loss == "ssr" else total / rows)
    return means


@OPTIMIZER
@LENGTHS
@OUTPUT
@pytest.mark.parametrize(
    ("kind", "loss"),
    [
        ({}, "mse"),
        ({"num_layers": 3, "dropout": 0.3, "dtype": "float32"}, "ssr"),
        ({"bidirectional": True, "num_layers": 2, "backend": "numpy"}, "mse"),
    ],
    ids=["one", "dropout", "both"],
)
def test_is_the_loop(kind, loss, output, counts, optimizer):
    model, by_hand = (build(output=output, **kind) for _ in range(2))
    data = draw(model, counts)
    expected = loop(by_hand, data, optimizer(), 3, 4, 0.5, loss)
    history = fit(
        model, data, loss=loss, optimizer=optimizer(), epochs=3, batch_size=4, clip_norm=0.5
    )
    assert history.loss == expected
    assert bits(model) == bits(by_hand)
    assert_same_course(history, History(loss=expected))


def test_by_default_adam_and_batches_of_32():
    model, by_hand = build(), build()
    data = draw(model, RAGGED * 4)
    expected = loop(by_hand, data, Adam(), 2, 32, math.inf, "mse")
    assert fit(model, data, epochs=2).loss == expected
    assert bits(model) == bits(by_hand)


def test_arrays_with_lengths_and_lists_give_the_same_bits():
    by_list, by_array = build(), build()
    x, y = draw(by_list, RAGGED)
    padded = np.full((len(x), 9, I), np.nan)
    for row, a in zip(padded, x, strict=True):
        row[: len(a)] = a
    expected = fit(by_list, (x, y), epochs=2, batch_size=4, validation=(x, y))
    validation = padded, y, RAGGED
    got = fit(by_array, (padded, y), lengths=RAGGED, epochs=2, batch_size=4, validation=validation)
    assert_same_course(got, expected)
    assert bits(by_array) == bits(by_list)


def torch_losses(torch, model, data, optimizer, batches, clip_norm):
    """The loss of each minibatch in PyTorch, from the model's weights, step by step."""
    leaves = {name: torch.tensor(a, requires_grad=True) for name, a in model.parameters().items()}
    optimizer, (x, y), values = optimizer(leaves.values()), data, []
    for index in batches:
        outputs = []
        for i in index:
            h = [torch.zeros(H, dtype=torch.float64)] * model.num_layers
            for step in torch.tensor(x[i]):
                for l in range(model.num_layers):
                    W_x, W_h, b = (leaves[f"layers.{l}.{name}"] for name in ("W_x", "W_h", "b"))
                    h[l] = step = torch.tanh(step @ W_x + h[l] @ W_h + b)
                if model.output == "all":
                    outputs.append(h[-1] @ leaves["W_y"] + leaves["b_y"])
            if model.output == "last":
                outputs.append(h[-1] @ leaves["W_y"] + leaves["b_y"])
        target = np.concatenate([np.atleast_2d(y[i]) for i in index])
        loss = torch.nn.functional.mse_loss(torch.stack(outputs), torch.tensor(target))
        optimizer.zero_grad()
        loss.backward()
        norm = math.sqrt(sum(leaf.grad.square().sum().item() for leaf in leaves.values()))
        if clip_norm is not None and norm > clip_norm:
            for leaf in leaves.values():
                leaf.grad *= clip_norm / norm
        optimizer.step()
        values.append(loss.item())
    return values


@pytest.mark.parametrize("clip_norm", [None, 0.1])
@OUTPUT
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_the_first_20_steps_agree_with_torch(name, output, clip_norm):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    ours, theirs = {
        "SGD": (SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        "Adam": (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
    }[name]
    model, rng, values = build(num_layers=2, output=output), np.random.default_rng(7), []
    data = draw(model, RAGGED[:8])
    orders = [rng.permutation(8) for _ in range(10)]
    batches = [index for order in orders for index in (order[:5], order[5:])]
    expected = torch_losses(torch, model, data, theirs, batches, clip_norm)

    def mse(y, target, mask):
        value, dy = losses.mse(y, target, mask)
        values.append(value)
        return value, dy

    fit(model, data, loss=mse, optimizer=ours, epochs=10, batch_size=5, clip_norm=clip_norm)
    assert len(values) == 20
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-10)
    assert values[-1] < 0.9 * values[0] or clip_norm


@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_learns(backend):
    x = np.random.default_rng(0).integers(0, 2, (96, 8))
    model = RNN(1, 8, 1, seed=0, backend=backend)
    history = fit(model, (x, x.sum(axis=1)), epochs=60, optimizer=Adam(0.01))
    assert history.loss[-1] < 0.1 < 10 < history.loss[0]
    assert abs(model.predict([[0, 1, 1, 0, 1, 0, 0, 1]]).item() - 4) < 0.5


def test_learns_classes():
    x = np.random.default_rng(0).standard_normal((64, 6, I))
    model = RNN(I, 8, 2, seed=0)
    y = (x[:, -1, 0] > 0).astype(int)
    history = fit(model, (x, y), loss="cross_entropy", epochs=60, optimizer=Adam(0.01))
    assert history.loss[-1] < 0.1
    assert (model.predict(x).argmax(axis=1) == y).mean() > 0.95


# Seeds and threads


def test_seed():
    options = {"num_layers": 2, "dropout": 0.2}
    data = draw(build(), RAGGED)
    found = []
    for seed in (7, 7, np.random.default_rng(7), 8, None, None):
        model = build(**options)
        history = fit(model, data, seed=seed, epochs=2, batch_size=4)
        found.append((history.loss, bits(model)))
    assert found[0] == found[1] == found[2]
    assert len({weights for _, weights in found}) == 4


def trained():
    """Of trainings with work for several threads: the losses, and a digest of the weights."""
    counts = np.random.default_rng(0).integers(5, 40, 96)
    found = []
    for output, options in (
        ("all", {}),
        ("last", {"truncate": 20}),
        ("all", {"truncate": 20}),
        ("last", {"memory": "checkpointed"}),
    ):
        model = build("float32", 40, num_layers=2, dropout=0.1, output=output)
        data = draw(model, counts)
        history = fit(
            model, data, epochs=2, batch_size=48, clip_norm=0.1, validation=data, **options
        )
        found.append(
            [history.loss, history.validation_loss, hashlib.sha256(bits(model)).hexdigest()]
        )
    return found


def test_one_thread_to_four(tmp_path):
    program = """
import json, numba, test_threads, test_training
from fastbptt.kernels import team

test_threads.always_launch()
launched, original, found = [], team.launch, []
def launch(function, task, threads):
    launched.append(threads)
    original(function, task, threads)
team.launch = launch
for threads in (1, 2, 3, 4):
    numba.set_num_threads(threads)
    found.append(test_training.trained())
print(json.dumps([found, sorted(set(launched))]))
"""
    found, launched = run(program, tmp_path, NUMBA_NUM_THREADS="4")
    assert found == [trained()] * 4
    assert launched == [2, 3, 4]


# Truncated backpropagation


def plain(named, x, state):
    """The top layer's state after each step of a sequence (T, I), and each layer's last state."""
    h, tops = list(state), []
    for step in x:
        for l in range(len(h)):
            W_x, W_h, b = (named[f"layers.{l}.{name}"] for name in ("W_x", "W_h", "b"))
            h[l] = step = np.tanh(step @ W_x + h[l] @ W_h + b)
        tops.append(h[-1])
    return tops, h


def plain_loss(model, vector, pieces, targets, states):
    """Mean squared error over the pieces of sequences, from these states."""
    named, rows = model.network.named(vector), []
    for x, y, state in zip(pieces, targets, states, strict=True):
        tops, h = plain(named, x, state)
        read = [h[-1]] if model.output == "last" else tops
        wanted = [y] if model.output == "last" else y
        for top, target in zip(read, wanted, strict=True):
            rows.append(top @ named["W_y"] + named["b_y"] - target)
    return np.square(rows).mean()


def differences(f, vector, step=1e-6):
    """The gradient of f by central differences."""
    shifts = step * np.eye(len(vector))
    return np.array([(f(vector + shift) - f(vector - shift)) / (2 * step) for shift in shifts])


TRUNCATED = pytest.mark.parametrize(
    ("counts", "num_layers", "truncate"),
    [(RAGGED, 2, 3), (RAGGED, 1, 1), (EQUAL, 2, 2), ((7, 0, 3), 1, 2)],
    ids=["ragged", "1 step", "equal", "no steps"],
)


@TRUNCATED
def test_windows(counts, num_layers, truncate):
    """States go on from window to window, gradients end at its start; a step for each."""
    model, recorder = build(num_layers=num_layers, output="all"), Recorder(0.1)
    x, y = draw(model, counts)
    history = fit(
        model, (x, y), truncate=truncate, optimizer=recorder, epochs=1, batch_size=len(counts)
    )
    states = [[np.zeros(H)] * num_layers for _ in counts]
    assert len(recorder.steps_taken) == math.ceil(max(counts) / truncate)
    total = 0.0
    for i, (weights, got) in enumerate(recorder.steps_taken):
        window = slice(i * truncate, (i + 1) * truncate)
        pieces = [a[window] for a in x], [a[window] for a in y], states
        loss = functools.partial(
            plain_loss, model, pieces=pieces[0], targets=pieces[1], states=states
        )
        np.testing.assert_allclose(got, differences(loss, weights), rtol=0, atol=1e-8)
        total += loss(weights) * sum(map(len, pieces[0]))
        named = model.network.named(weights)
        states = [plain(named, piece, state)[1] for piece, _, state in zip(*pieces, strict=True)]
    np.testing.assert_allclose(history.loss, total / sum(counts), rtol=1e-12)


@TRUNCATED
def test_last_steps(counts, num_layers, truncate):
    """Gradients reach back so many steps from each sequence's end, not to the states before."""
    model, recorder = build(num_layers=num_layers), Recorder(0.1)
    x, y = draw(model, counts)
    full = build(num_layers=num_layers).loss_and_grads(x, y)
    order, size = np.random.default_rng(7).permutation(len(x)), len(x) // 2 + 1
    fit(model, (x, y), truncate=truncate, optimizer=recorder, epochs=1, batch_size=size)
    batches = order[:size], order[size:]
    for (weights, got), index in zip(recorder.steps_taken, batches, strict=True):
        named, zero = model.network.named(weights), [np.zeros(H)] * num_layers
        starts = [max(counts[i] - truncate, 0) for i in index]
        states = [plain(named, x[i][:n], zero)[1] for i, n in zip(index, starts, strict=True)]
        tails = [x[i][n:] for i, n in zip(index, starts, strict=True)]
        loss = functools.partial(plain_loss, model, pieces=tails, targets=y[index], states=states)
        np.testing.assert_allclose(got, differences(loss, weights), rtol=0, atol=1e-8)
    history = fit(build(num_layers=num_layers), (x, y), truncate=truncate, epochs=1)
    np.testing.assert_allclose(history.loss, full[0], rtol=1e-12)  # forwards nothing is left out


@OUTPUT
@LENGTHS
@pytest.mark.parametrize("more", [0, 1, 100])
def test_truncate_of_all_steps_is_none(more, counts, output):
    found = []
    for truncate in (None, max(counts) + more):
        model = build(output=output, num_layers=2, dropout=0.3)
        history = fit(model, draw(model, counts), truncate=truncate, epochs=2, batch_size=4)
        found.append((history.loss, bits(model)))
    assert found[0] == found[1]


@OUTPUT
def test_truncate_drops_out_as_without(output):
    """Equal lengths: step by step the same draws, in the windows and before the last steps."""
    found = []
    for truncate in (None, 2):
        model = build(output=output, num_layers=3, dropout=0.4)
        optimizer = SGD(0.0)
        history = fit(model, draw(model, EQUAL), truncate=truncate, optimizer=optimizer, epochs=1)
        found.append(history.loss)
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)


# Memory


@OUTPUT
@LENGTHS
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float64", 1e-13)])
def test_checkpointed_memory(dtype, tolerance, counts, output):
    found = []
    for memory in training.MEMORY:
        model, recorder = build(dtype, output=output, num_layers=2, dropout=0.3), Recorder()
        data = draw(model, counts)
        history = fit(model, data, memory=memory, optimizer=recorder, epochs=1)
        found.append((history.loss, recorder.steps_taken[0][1]))
    (expected_loss, expected), (loss, got) = found
    assert loss == expected_loss
    np.testing.assert_allclose(got, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@OUTPUT
def test_memory(output):
    T, N, width = 20_000, 2, 64
    model = RNN(1, width, 1, output=output, seed=0)
    x = np.ones((N, T, 1), np.float32)
    data = x, np.ones((N, T, 1) if output == "all" else (N, 1), np.float32)
    states = T * N * width * 4
    assert peak(lambda: fit(model, data, epochs=1)) > states
    assert peak(lambda: fit(model, data, epochs=1, memory="checkpointed")) < states / 4


# The end


def noisy(counts=RAGGED):
    """A model and data on which the loss rises again soon: the targets are noise."""
    model = build(hidden_size=16)
    return model, draw(model, counts), draw(model, counts, seed=1)


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_patience(patience):
    model, data, validation = noisy()
    history = fit(
        model, data, validation=validation, patience=patience, optimizer=Adam(0.05), epochs=200
    )
    found = history.validation_loss
    assert history.stopped == "early"
    best = int(np.argmin(found))
    assert history.best_epoch == best == len(found) - 1 - patience
    for epoch in range(best):  # it has not waited longer anywhere
        assert min(found[epoch + 1 : epoch + 1 + patience]) < min(found[: epoch + 1])
    assert model.evaluate(*validation) == min(found)
    alone = build(hidden_size=16)
    fit(alone, data, optimizer=Adam(0.05), epochs=best + 1)
    assert bits(alone) == bits(model)


def test_the_best_weights_where_epochs_end_first():
    model, data, validation = noisy()
    history = fit(model, data, validation=validation, patience=50, optimizer=Adam(0.05), epochs=40)
    assert (history.stopped, len(history.loss)) == ("finished", 40)
    assert history.best_epoch == int(np.argmin(history.validation_loss)) < 39
    assert model.evaluate(*validation) == min(history.validation_loss)


def test_patience_without_validation():
    model, data, _ = noisy()
    history = fit(model, data, patience=2, optimizer=SGD(3.0), batch_size=3, epochs=200)
    assert history.stopped == "early"
    assert history.validation_loss == []
    best = int(np.argmin(history.loss))
    assert history.best_epoch == best == len(history.loss) - 3
    alone = noisy()[0]
    fit(alone, data, optimizer=SGD(3.0), batch_size=3, epochs=best + 1)
    assert bits(alone) == bits(model)


def test_without_patience_the_last_weights():
    model, data, validation = noisy()
    history = fit(model, data, validation=validation, optimizer=Adam(0.05), epochs=40)
    assert history.best_epoch is None
    assert model.evaluate(*validation) == history.validation_loss[-1] > min(history.validation_loss)


def test_callback():
    model, data, validation = noisy()
    seen = []

    def callback(given, history):
        assert given is model
        seen.append((list(history.loss), model.evaluate(*validation), len(history.seconds)))
        return len(seen) == 4

    history = fit(model, data, validation=validation, callback=callback, epochs=10)
    assert (history.stopped, len(history.loss)) == ("callback", 4)
    for epoch, (loss, value, seconds) in enumerate(seen):
        assert loss == history.loss[: epoch + 1]
        assert value == history.validation_loss[epoch]  # it is called after the epoch
        assert seconds == epoch + 1
    assert all(s > 0 for s in history.seconds)


def test_callback_sees_the_epoch_that_is_one_too_many():
    """And may end the training there: it is at its end."""
    options = {"patience": 2, "epochs": 200}
    model, data, validation = noisy()
    expected = fit(model, data, validation=validation, optimizer=Adam(0.05), **options)
    epochs, seen = len(expected.loss), []

    def callback(model, history):
        seen.append(len(history.loss))
        return len(seen) == epochs

    history = fit(
        noisy()[0], data, validation=validation, optimizer=Adam(0.05), callback=callback, **options
    )
    assert_same_course(history, expected)
    assert history.stopped == "early"
    assert seen == list(range(1, epochs + 1))


@pytest.mark.parametrize("progress", [True, False])
def test_no_epochs(progress):
    model, data, validation = noisy()
    before = bits(model)
    history = fit(model, data, epochs=0, validation=validation, patience=1, progress=progress)
    assert history == History()
    assert bits(model) == before


# Ctrl-C


@pytest.fixture
def ctrl_c():
    """Also where the tests run in the background of a shell, which ignores it there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def assert_usable(model, history, data):
    """Check what an interrupted training has left."""
    assert history.stopped == "interrupted"
    assert len(history.loss) == len(history.seconds)
    assert len(history.validation_loss) in (0, len(history.loss))
    assert np.isfinite(model.network.vector).all()
    assert math.isfinite(model.evaluate(*data))


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


@pytest.mark.parametrize("at", range(1, 13))
@pytest.mark.usefixtures("ctrl_c")
def test_interrupt_in_the_loss(at):
    """An epoch has three minibatches and a validation."""
    model, data, validation = noisy()
    expected = fit(build(hidden_size=16), data, validation=validation, epochs=3, batch_size=4)
    history = fit(
        model, data, validation=validation, epochs=99, batch_size=4, loss=interrupting(at)
    )
    assert_usable(model, history, data)
    epochs = (at - 1) // 4
    assert history.loss == expected.loss[:epochs]
    assert history.validation_loss == expected.validation_loss[:epochs]


@pytest.mark.usefixtures("ctrl_c")
def test_interrupt_in_a_callback_gives_the_best_weights():
    model, data, validation = noisy()

    def callback(model, history):
        if len(history.loss) == 30:
            signal.raise_signal(signal.SIGINT)

    history = fit(
        model, data, validation=validation, patience=50, optimizer=Adam(0.05), callback=callback
    )
    assert_usable(model, history, data)
    assert len(history.loss) == 30
    assert history.best_epoch == int(np.argmin(history.validation_loss)) < 29
    assert model.evaluate(*validation) == min(history.validation_loss)


def test_interrupt_after_weights_that_are_not_finite():
    class Wild(SGD):
        def step(self, parameters, gradients):
            parameters["weights"][...] = np.inf
            raise KeyboardInterrupt

    model, data, _ = noisy()
    before = bits(model)
    assert_usable(model, fit(model, data, optimizer=Wild()), data)
    assert bits(model) == before


class AtLine:
    """Ctrl-C at one line of the files below a path: the `at`-th that runs while this is armed."""

    def __init__(self, path, at):
        self.path, self.at, self.lines, self.armed = path, at, 0, False

    def __call__(self, frame, event, arg):
        if not frame.f_code.co_filename.startswith(self.path):
            return None
        if event == "line" and self.armed:
            self.lines += 1
            if self.lines == self.at:
                raise KeyboardInterrupt
        return self


@pytest.mark.parametrize(
    ("files", "stride"), [(training.__file__, 1), (os.path.dirname(training.__file__), 41)]
)
def test_interrupt_at_any_line(files, stride, tmp_path, monkeypatch):
    """From the first loss to the last epoch's callback; and training goes on to the same bits."""
    pytest.importorskip("safetensors")
    monkeypatch.setattr(os, "fsync", lambda file: None)  # there are hundreds of files
    data = draw(build(), RAGGED[:4])
    trace: Any = None

    @functools.wraps(losses.mse)
    def mse(y, target, mask):
        if trace is not None:
            trace.armed = True
        return losses.mse(y, target, mask)

    def callback(model, history):
        if trace is not None and len(history.loss) == 3:
            trace.armed = False

    def train(checkpoint):
        model = build()
        options = {"loss": mse, "optimizer": SGD(0.1, momentum=0.9), "callback": callback}
        history = fit(model, data, epochs=3, batch_size=2, validation=data, patience=9,
                      checkpoint=checkpoint, **options)  # fmt: skip
        return model, history

    model, expected = train(tmp_path / "whole")
    expected_bits, before, stops = bits(model), sys.gettrace(), collections.Counter()
    for at in range(1, 100_000, stride):
        path = tmp_path / str(at)
        trace = AtLine(files, at)
        sys.settrace(trace)
        try:
            model, history = train(path)
        finally:
            sys.settrace(before)
        reached, trace = trace.lines >= at, None
        if not reached:
            assert_same_course(history, expected)
            break
        assert_usable(model, history, data)
        epochs = len(history.loss)
        assert history.loss == expected.loss[:epochs]
        assert history.validation_loss == expected.validation_loss[:epochs]
        if history.best_epoch is not None:
            assert model.evaluate(*data) == history.validation_loss[history.best_epoch]
        stops[epochs] += 1
        model, history = train(path)
        assert_same_course(history, expected)
        assert bits(model) == expected_bits
    assert set(stops) >= {0, 1, 2}
    assert stops.total() > 30


INTERRUPTED = """
import json, signal, test_training

signal.signal(signal.SIGINT, signal.default_int_handler)
model, data, validation = test_training.noisy(test_training.RAGGED * 40)
def callback(model, history):
    if len(history.loss) == 2:
        print("ready", flush=True)
history = test_training.fit(
    model, data, validation=validation, epochs=10**9, batch_size=8, callback=callback, progress=True
)
test_training.assert_usable(model, history, data)
print(json.dumps([history.stopped, len(history.loss)]))
"""


def start(program, folder, *args):
    """A program that may import this file, in a process of its own; stdout is a pipe."""
    path = folder / "program.py"
    path.write_text(program)
    paths = pathlib.Path(__file__).parent, pathlib.Path(fastbptt.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, path, *map(str, args)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="signals to another process")
def test_interrupt_from_outside(tmp_path):
    pytest.importorskip("tqdm")
    with start(INTERRUPTED, tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    stopped, epochs = json.loads(out)
    assert stopped == "interrupted"
    assert epochs >= 2
    assert err.endswith("\n")  # of the progress bar


# Losses that are no numbers


def assert_still_good(model, data, before_last_step):
    assert np.isfinite(model.network.vector).all()
    assert math.isfinite(model.evaluate(*data))
    np.testing.assert_array_equal(model.network.vector, before_last_step)


@OUTPUT
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.filterwarnings("ignore:.*encountered in matmul:RuntimeWarning")  # NumPy's own
def test_nan_in_the_data(backend, value, output):
    model, recorder = build(output=output, activation="identity", backend=backend), Recorder(0.01)
    x, y = draw(model, RAGGED)
    clean = [a.copy() for a in x]
    x[5][2, 1] = value
    batch = np.flatnonzero(np.random.default_rng(7).permutation(len(x)) == 5)[0] // 2
    assert batch > 0
    with pytest.raises(FloatingPointError, match=f"in epoch 0, batch {batch};"):
        fit(model, (x, y), optimizer=recorder, batch_size=2)
    assert len(recorder.steps_taken) == batch
    assert_still_good(model, (clean, y), recorder.steps_taken[-1][0])


def test_nan_in_a_target():
    model, data, _ = noisy()
    data[1][3, 0] = np.nan
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 0, batch 0;"):
        fit(model, data)
    assert bits(model) == bits(noisy()[0])


@pytest.mark.parametrize("truncate", [None, 2])
@pytest.mark.parametrize("output", ["last", "all"])
def test_explosion(output, truncate):
    model, recorder = build("float32", output=output, activation="identity"), Recorder(0.001)
    data = draw(model, RAGGED)

    def callback(model, history):
        if len(history.loss) == 2:
            recorder.lr = 1e4

    with pytest.raises(FloatingPointError, match=r"epoch 2, batch \d+; the model keeps the last"):
        fit(model, data, optimizer=recorder, truncate=truncate, batch_size=2, callback=callback)
    assert np.isfinite(model.network.vector).all()
    assert any((model.network.vector == weights).all() for weights, _ in recorder.steps_taken[-2:])
    assert math.isfinite(model.evaluate(*data))


def test_weights_that_turn_infinite_while_the_loss_stays():
    """Saturated: at tanh(inf) = 1 the loss is a number, and would be for good."""
    model, recorder = build("float32"), Recorder(1e9)
    x, y = draw(model, EQUAL)
    x = [np.full_like(a, 1e35) for a in x]
    model.parameters()["layers.0.W_x"][...] = 1e-35
    model.parameters()["W_y"][...] *= 1e-3
    with pytest.raises(
        FloatingPointError, match="weights are infinite or NaN after epoch 0, batch 0;"
    ):
        fit(model, (x, y), optimizer=recorder, batch_size=4)
    assert_still_good(model, (x, y), recorder.steps_taken[-1][0])


def test_nan_in_the_validation():
    model, data, validation = noisy()
    recorder = Recorder(0.01)
    validation[0][2][0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="validation loss is nan after epoch 0;"):
        fit(model, data, validation=validation, optimizer=recorder, batch_size=4)
    assert len(recorder.steps_taken) == 3
    assert_still_good(model, data, recorder.steps_taken[-1][0])


@pytest.mark.parametrize("number", [np.float32, np.float64, np.asarray])
def test_a_loss_of_ones_own(number, tmp_path):
    """Its value may be a NumPy number; a callable object has no name."""
    pytest.importorskip("safetensors")

    class Loss:
        def __call__(self, y, target, mask):
            value, dy = losses.mse(y, target, mask)
            return number(value), dy

    model, data, validation = noisy()
    kept = []
    for epochs in (1, 2):
        kept.append(Loss())
        history = fit(model, data, loss=kept[-1], epochs=epochs, validation=validation,
                      checkpoint=tmp_path / "run")  # fmt: skip
    expected = fit(noisy()[0], data, epochs=2, validation=validation)
    np.testing.assert_allclose(history.loss, expected.loss, rtol=1e-6)
    assert {type(value) for value in history.loss + history.validation_loss} == {float}


@pytest.mark.parametrize("name", ["ssr", "cross_entropy"])
def test_a_partial_loss(name):
    """It is summed over minibatches, or takes classes, as that which it calls."""
    x, y = draw(build(), RAGGED)
    y = y.argmax(axis=1) if name == "cross_entropy" else y
    found = []
    for loss in (name, functools.partial(losses.LOSSES[name])):
        model = build()
        history = fit(model, (x, y), validation=(x, y), loss=loss, epochs=2, batch_size=4)
        found.append((history.loss, history.validation_loss, bits(model)))
    assert found[0] == found[1]


# The progress bar


@pytest.fixture
def bars(monkeypatch):
    """The progress bars shown."""
    auto, found = pytest.importorskip("tqdm.auto"), []

    class Bar(auto.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(auto, "tqdm", Bar)
    return found


def test_progress(bars, capsys):
    model, data, validation = noisy()
    history = fit(model, data, validation=validation, epochs=3, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip("\n").split("\r")[-1]
    assert "33/33" in last
    assert re.search(r"[\d.]+sequence/s", last)
    assert f"loss={history.loss[-1]:.4g}, validation={history.validation_loss[-1]:.4g}" in last
    assert err.endswith("\n")
    assert [bar.disable for bar in bars] == [True]  # closed


def test_progress_without_validation_and_from_a_checkpoint(bars, capsys, tmp_path):
    pytest.importorskip("safetensors")
    model, data, _ = noisy()
    fit(model, data, epochs=2, checkpoint=tmp_path / "run")
    assert capsys.readouterr() == ("", "")
    history = fit(model, data, epochs=3, checkpoint=tmp_path / "run", progress=True)
    shown = capsys.readouterr().err
    assert "22/33" in shown.split("\r")[1]  # where it goes on
    assert f"epoch=3, loss={history.loss[-1]:.4g}]" in shown
    assert "validation" not in shown


@pytest.mark.parametrize("end", ["interrupt", "error", "callback"])
@pytest.mark.usefixtures("ctrl_c")
def test_the_bar_is_closed(end, bars, capsys):
    model, data, _ = noisy()
    if end == "interrupt":
        fit(model, data, loss=interrupting(2), batch_size=4, progress=True)
    elif end == "error":
        data[0][0][...] = np.nan
        with pytest.raises(FloatingPointError):
            fit(model, data, batch_size=4, progress=True)
    else:
        fit(model, data, callback=lambda model, history: True, progress=True)
    assert [bar.disable for bar in bars] == [True]
    assert capsys.readouterr().err.endswith("\n")


def test_progress_without_tqdm(monkeypatch, tmp_path):
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    model, data, _ = noisy()
    before = bits(model)
    with pytest.raises(MissingExtraError, match=re.escape('pip install "fastbptt[train]"')):
        fit(model, data, progress=True, checkpoint=tmp_path / "run")
    assert bits(model) == before
    assert list(tmp_path.iterdir()) == []
    assert len(fit(model, data, epochs=2).loss) == 2


# What does not fit


def reduced_to(reduction):
    loss = functools.partial(losses.mse)
    vars(loss).update(reduction=reduction)
    return loss


def wrong_class(n=11):
    return np.where(np.arange(n) == 8, O, 0)


TURNED_AWAY = [
    ({"x": np.zeros((11, 5, 1))}, ValueError, r"x has shape \(11, 5, 1\), expected \(N, T, I\)"),
    ({"x": []}, ValueError, "x holds no sequence, expected at least one|y has shape"),
    ({"x": [], "y": np.zeros((0, O))}, ValueError, "x holds no sequence, expected at least one"),
    ({"y": np.zeros((3, O))}, ValueError, r"y has shape \(3, 3\), expected \(N, O\) with N = 11"),
    ({"y": np.full((11, O), "a")}, TypeError, "y has dtype <U1, expected real numbers"),
    ({"lengths": [5] * 11}, ValueError, "lengths is given with a list x"),
    ({"loss": "l1"}, ValueError, "loss is 'l1', expected one of 'mse'"),
    ({"loss": 3}, ValueError, "loss is 3, expected one of 'mse'"),
    ({"loss": reduced_to("none")}, ValueError, r"loss\.reduction is 'none', expected one of"),
    ({"optimizer": "adam"}, TypeError, "optimizer is 'adam', expected an SGD, RMSprop or Adam"),
    ({"optimizer": Adam}, TypeError, "optimizer is <class .*>, expected an SGD"),
    ({"epochs": -1}, ValueError, "epochs is -1, expected at least 0"),
    ({"epochs": 2.0}, TypeError, "epochs is 2.0, expected an integer"),
    ({"batch_size": 0}, ValueError, "batch_size is 0, expected at least 1"),
    ({"batch_size": None}, TypeError, "batch_size is None, expected an integer"),
    ({"clip_norm": 0}, ValueError, "clip_norm is 0.0, expected above 0"),
    ({"clip_norm": -1.5}, ValueError, "clip_norm is -1.5, expected above 0"),
    ({"clip_norm": np.nan}, ValueError, "clip_norm is nan, expected above 0"),
    ({"clip_norm": np.inf}, ValueError, "clip_norm is inf, expected above 0"),
    ({"clip_norm": "1"}, TypeError, "clip_norm is '1', expected a number"),
    ({"truncate": 0}, ValueError, "truncate is 0, expected at least 1"),
    ({"truncate": 1.5}, TypeError, "truncate is 1.5, expected an integer"),
    ({"truncate": 2, "memory": "checkpointed"}, ValueError, "truncate is given with memory="),
    ({"memory": "little"}, ValueError, "memory is 'little', expected 'full' or 'checkpointed'"),
    ({"memory": None}, ValueError, "memory is None, expected 'full' or 'checkpointed'"),
    ({"validation": np.zeros((2, 5, I))}, ValueError, r"validation is not \(x, y\)"),
    ({"validation": (1, 2, 3, 4)}, ValueError, r"validation is not \(x, y\)"),
    (
        {"validation": (np.zeros((3, 5, 1)), np.zeros((3, O)))},
        ValueError,
        r"validation: x has shape \(3, 5, 1\)",
    ),
    (
        {"validation": (np.zeros((3, 5, I)), np.zeros((3, O)), [1.5] * 3)},
        TypeError,
        "validation: lengths has dtype float64, expected integers",
    ),
    ({"validation": ([], np.zeros((0, O)))}, ValueError, "validation holds no sequence"),
    ({"patience": 0}, ValueError, "patience is 0, expected at least 1"),
    ({"patience": "3"}, TypeError, "patience is '3', expected an integer"),
    ({"seed": -1}, ValueError, "non-negative"),
    ({"seed": "a"}, TypeError, "SeedSequence"),
    ({"callback": 3}, TypeError, "callback is 3, expected a function"),
    ({"checkpoint": 3.5}, TypeError, "float"),
    # Found when the loss reads them, in a later minibatch
    ({"loss": "cross_entropy", "y": wrong_class()}, ValueError, "target has values from 0 to 3"),
    ({"loss": "bce", "y": np.eye(11, O) * 2}, ValueError, "target has values from 0.0 to 2.0"),
    (
        {"loss": "cross_entropy", "y": wrong_class() % O, "validation_y": wrong_class()},
        ValueError,
        "target has values from 0 to 3",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "error", "message"),
    TURNED_AWAY,
    ids=[f"{i}-{'-'.join(row[0])}" for i, row in enumerate(TURNED_AWAY)],
)
def test_turned_away(given, error, message):
    model = build()
    x, y = draw(model, RAGGED)
    before = bits(model)
    given = {"x": x, "y": y, "batch_size": 2, "seed": 7, "progress": False, **given}
    if "validation_y" in given:
        given["validation"] = x, given.pop("validation_y")
    with pytest.raises(error, match=message):
        fastbptt.fit(model, **given)
    assert bits(model) == before


@pytest.mark.parametrize("given", [{"truncate": 2}, {"memory": "checkpointed"}], ids=str)
def test_both_directions_read_all_steps(given):
    model = build(bidirectional=True)
    before = bits(model)
    with pytest.raises(ValueError, match=r"truncate or memory is given, expected .* one direction"):
        fit(model, draw(model, RAGGED), **given)
    assert bits(model) == before


@pytest.mark.parametrize("model", [None, "RNN", RNN], ids=str)
def test_another_model(model):
    with pytest.raises(TypeError, match=f"model is a {type(model).__name__}, expected an RNN"):
        fit(model, draw(build(), RAGGED))


def test_an_optimizer_of_another_model():
    optimizer, model = Adam(), build()
    data = draw(model, RAGGED)
    fit(build(hidden_size=5), data, optimizer=optimizer, epochs=1)
    before = bits(model)
    with pytest.raises(ValueError, match="as in the steps before"):
        fit(model, data, optimizer=optimizer)
    assert bits(model) == before


def test_an_error_of_the_callback_is_its_own():
    model, data, _ = noisy()
    before = bits(model)

    def callback(model, history):
        raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        fit(model, data, callback=callback)
    assert bits(model) != before  # the epoch stands


# Checkpoints


def decay(optimizer, interrupted_after=None, by="callback"):
    """A callback that changes the learning rate, and may end the training."""

    def callback(model, history):
        optimizer.lr *= 0.9
        if len(history.loss) == interrupted_after:
            if by == "callback":
                return True
            raise KeyboardInterrupt
        return False

    return callback


def train(optimizer, path=None, epochs=9, loss="mse", after=None, by="callback", patience=6):
    """A training with all that a checkpoint has to hold."""
    model, optimizer = build("float32", num_layers=2, dropout=0.2), optimizer()
    history = fit(
        model, draw(model, RAGGED), validation=draw(model, EQUAL, seed=1), epochs=epochs,
        batch_size=4, clip_norm=0.5, patience=patience, optimizer=optimizer, checkpoint=path,
        loss=loss, callback=decay(optimizer, after, by),
    )  # fmt: skip
    return model, history


@OPTIMIZER
@pytest.mark.parametrize("how", ["epochs", "callback", "in a callback", "in an epoch"])
@pytest.mark.usefixtures("ctrl_c")
def test_goes_on_from_a_checkpoint(how, optimizer, tmp_path):
    pytest.importorskip("safetensors")
    model, expected = train(optimizer)
    assert expected.best_epoch is not None
    path = tmp_path / "run"
    for epochs in (2, 3, 5):  # three times over
        options = {
            "epochs": {"epochs": epochs},
            "callback": {"after": epochs},
            "in a callback": {"after": epochs, "by": "interrupt"},
            "in an epoch": {"loss": interrupting(6)},
        }[how]
        _, history = train(optimizer, path, **options)
        assert len(history.loss) <= epochs
    assert 0 < len(history.loss) < 9
    resumed, history = train(optimizer, path)
    assert_same_course(history, expected)
    assert bits(resumed) == bits(model)


def test_goes_on_with_a_generator_of_any_kind(tmp_path):
    pytest.importorskip("safetensors")
    model, data, _ = noisy()

    def generator():
        return np.random.Generator(np.random.MT19937(3))

    expected = fit(model, data, epochs=4, batch_size=4, seed=generator())
    for epochs in (2, 4):
        resumed = noisy()[0]
        history = fit(resumed, data, epochs=epochs, batch_size=4, seed=generator(),
                      checkpoint=tmp_path / "run")  # fmt: skip
    assert_same_course(history, expected)
    assert bits(resumed) == bits(model)


KILLED = """
import sys, test_training

original = test_training.decay
def decay(*args):
    callback = original(*args)
    def loud(model, history):
        print(len(history.loss), flush=True)
        return callback(model, history)
    return loud
test_training.decay = decay
test_training.train(test_training.OPTIMIZERS["Adam"], sys.argv[1], 10**9, patience=10**9)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_goes_on_after_a_kill(tmp_path):
    pytest.importorskip("safetensors")
    path, rng, done = tmp_path / "run", random.Random(0), 0
    for epochs in (1, 3):
        with start(KILLED, tmp_path, path) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if int(line) >= done + epochs:
                    break
            time.sleep(rng.uniform(0, 0.003))
            process.kill()
            process.communicate()
        assert process.returncode == -signal.SIGKILL
        done = len(storage.load_training(path)[3]["history"]["loss"])
    model, expected = train(OPTIMIZERS["Adam"], None, done + 5, patience=10**9)
    resumed, history = train(OPTIMIZERS["Adam"], path, done + 5, patience=10**9)
    assert_same_course(history, expected)
    assert bits(resumed) == bits(model)


def test_a_training_that_is_done_returns_at_once(tmp_path):
    pytest.importorskip("safetensors")

    @functools.wraps(losses.mse)
    def mse(y, target, mask):
        raise AssertionError("training went on")

    for patience, stopped in ((2, "early"), (None, "finished")):
        model, data, validation = noisy()
        options = {
            "validation": validation, "patience": patience, "checkpoint": tmp_path / stopped,
            "epochs": 60,
        }  # fmt: skip
        expected = fit(model, data, optimizer=Adam(0.05), **options)
        assert expected.stopped == stopped
        content = (tmp_path / stopped).read_bytes()
        again = build(hidden_size=16)
        history = fit(again, data, optimizer=Adam(0.05), loss=mse, **options)
        assert history == expected
        assert bits(again) == bits(model) == bits(fastbptt.load(tmp_path / stopped))
        assert (tmp_path / stopped).read_bytes() == content


def test_more_epochs_than_at_first(tmp_path):
    pytest.importorskip("safetensors")
    model, data, _ = noisy()
    expected = fit(model, data, epochs=6)
    resumed = noisy()[0]
    for epochs, seed in ((3, 7), (6, 8), (2, 9)):  # only the first one's is used
        history = fit(resumed, data, epochs=epochs, seed=seed, checkpoint=tmp_path / "run")
    assert_same_course(history, expected)
    assert bits(resumed) == bits(model) == bits(fastbptt.load(tmp_path / "run"))


def test_divergence_after_going_on(tmp_path):
    pytest.importorskip("safetensors")
    model, data, _ = noisy()
    fit(model, data, epochs=2, checkpoint=tmp_path / "run")
    again = build(hidden_size=16)
    data[0][0][...] = np.nan
    with pytest.raises(FloatingPointError, match="in epoch 2, batch 0;"):
        fit(again, data, epochs=4, checkpoint=tmp_path / "run")
    assert bits(again) == bits(model)
    assert bits(again) == bits(fastbptt.load(tmp_path / "run"))


def test_a_checkpoint_from_the_start_and_after_each_epoch(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "run"
    model, data, _ = noisy()
    saved = []

    def callback(model, history):
        saved.append(bits(fastbptt.load(path)))  # the epoch before this one's
        weights.append(bits(model))

    weights = [bits(model)]
    fit(model, data, epochs=3, checkpoint=path, callback=callback)
    saved.append(bits(fastbptt.load(path)))
    assert saved == weights
    assert list(tmp_path.iterdir()) == [path]


OTHERS = [
    ({"hidden_size": 5}, {}, "hidden_size = 4, expected 5"),
    ({"output": "all"}, {}, "output = 'last', expected 'all'"),
    ({"dtype": "float32"}, {}, "dtype = 'float64', expected 'float32'"),
    ({}, {"optimizer": SGD(0.01)}, "optimizer = 'Adam', expected 'SGD'"),
    ({}, {"optimizer": Adam(0.5)}, "lr = 0.001, expected 0.5"),
    ({}, {"optimizer": Adam(beta1=0.5)}, "beta1 = 0.9, expected 0.5"),
    ({}, {"loss": "ssr"}, "loss = 'mse', expected 'ssr'"),
    ({}, {"loss": functools.partial(losses.bce)}, "loss = 'mse', expected 'bce'"),
    ({}, {"batch_size": 3}, "batch_size = 32, expected 3"),
    ({}, {"clip_norm": 2}, "clip_norm = None, expected 2.0"),
    ({}, {"truncate": 2}, "truncate = None, expected 2"),
    ({}, {"memory": "checkpointed"}, "memory = 'full', expected 'checkpointed'"),
    ({}, {"patience": 2}, "patience = None, expected 2"),
    ({}, {"validation": draw(build(), EQUAL)}, "validation = None, expected 11"),
]


@pytest.mark.parametrize(
    ("kind", "options", "message"), OTHERS, ids=[row[-1].split()[0] for row in OTHERS]
)
def test_a_checkpoint_of_another_training(kind, options, message, tmp_path):
    pytest.importorskip("safetensors")
    model, path = build(), tmp_path / "run"
    fit(model, draw(model, RAGGED), epochs=1, checkpoint=path)
    content = path.read_bytes()
    model = build(**kind)
    before, optimizer = bits(model), options.setdefault("optimizer", Adam())
    message = re.escape(f"{path} is of a training with {message}; remove the file")
    with pytest.raises(ValueError, match=message):
        fit(model, draw(model, RAGGED), checkpoint=path, **options)
    assert bits(model) == before
    assert optimizer.state() == {"steps": 0}
    assert path.read_bytes() == content


def test_a_checkpoint_of_other_data(tmp_path):
    pytest.importorskip("safetensors")
    model = build()
    fit(model, draw(model, RAGGED), epochs=1, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="sequences = 11, expected 3"):
        fit(model, draw(model, RAGGED[:3]), checkpoint=tmp_path / "run")


def test_another_backend_may_go_on(tmp_path):
    pytest.importorskip("safetensors")
    data, histories = draw(build(), RAGGED), []
    for backend in ("numba", "numpy"):
        path = tmp_path / backend
        fit(build(), data, epochs=2, checkpoint=path)
        histories.append(fit(build(backend=backend), data, epochs=4, checkpoint=path))
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-12)


def test_a_file_that_is_no_checkpoint(tmp_path):
    pytest.importorskip("safetensors")
    model, data, _ = noisy()
    path = tmp_path / "model"
    fastbptt.save(model, path)
    for content, message in (
        (path.read_bytes(), "holds a model alone, expected the checkpoint of a training run"),
        (b"hello", "is cut short or no safetensors file"),
        (b"", "is cut short or no safetensors file"),
    ):
        path.write_bytes(content)
        before = bits(model)
        with pytest.raises(ValueError, match=f"{re.escape(str(path))} {message}"):
            fit(model, data, checkpoint=path)
        assert bits(model) == before
        assert path.read_bytes() == content


def test_a_checkpoint_that_cannot_be_written(tmp_path, monkeypatch):
    """It is found out before the first epoch."""
    model, data, _ = noisy()
    before = bits(model)
    with pytest.raises((FileNotFoundError, ImportError)):
        fit(model, data, checkpoint=tmp_path / "nowhere" / "run")
    for name in ("safetensors", "safetensors.numpy"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=re.escape('pip install "fastbptt[train]"')):
        fit(model, data, checkpoint=tmp_path / "run")
    assert bits(model) == before
    assert list(tmp_path.iterdir()) == []


def test_docstring_examples():
    got = doctest.testmod(training)
    assert got.attempted
    assert not got.failed
