"""Truncated backpropagation against differences of plain loops."""

import functools
import math

import numpy as np
import pytest
from trainings import (
    EQUAL,
    LENGTHS,
    OUTPUT,
    RAGGED,
    H,
    Recorder,
    bits,
    build,
    draw,
    fit,
    order_and_dropout,
)

from fastbptt import SGD


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
    order, size = order_and_dropout()[0].permutation(len(x)), len(x) // 2 + 1
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
