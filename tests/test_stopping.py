"""When training ends: after its epochs, early, by its callback, or at a loss that is no number."""

import math

import numpy as np
import pytest
from trainings import (
    EQUAL,
    OUTPUT,
    RAGGED,
    Recorder,
    assert_same_course,
    bits,
    build,
    draw,
    fit,
    noisy,
    order_and_dropout,
)

from fastbptt import SGD, Adam, History


@pytest.mark.parametrize("patience", [1, 2, 5])
def test_patience(patience):
    model, data, validation = noisy()
    history = fit(
        model, data, validation=validation, patience=patience, optimizer=Adam(0.05), epochs=200
    )
    found = history.validation_loss
    assert history.stopped == "early"
    best = int(np.argmin(found))
    assert history.best_epoch == best + 1 == len(found) - patience
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
    assert history.best_epoch == int(np.argmin(history.validation_loss)) + 1 < 40
    assert model.evaluate(*validation) == min(history.validation_loss)


def test_patience_without_validation():
    model, data, _ = noisy()
    history = fit(model, data, patience=2, optimizer=SGD(3.0), batch_size=3, epochs=200)
    assert history.stopped == "early"
    assert history.validation_loss == []
    best = int(np.argmin(history.loss))
    assert history.best_epoch == best + 1 == len(history.loss) - 2
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
    batch = np.flatnonzero(order_and_dropout()[0].permutation(len(x)) == 5)[0] // 2
    assert batch > 0
    with pytest.raises(FloatingPointError, match=f"in epoch 1, batch {batch + 1};"):
        fit(model, (x, y), optimizer=recorder, batch_size=2)
    assert len(recorder.steps_taken) == batch
    assert_still_good(model, (clean, y), recorder.steps_taken[-1][0])


def test_nan_in_a_target():
    model, data, _ = noisy()
    data[1][3, 0] = np.nan
    with pytest.raises(FloatingPointError, match="loss is nan in epoch 1, batch 1;"):
        fit(model, data)
    assert bits(model) == bits(noisy()[0])


@pytest.mark.parametrize("truncate", [None, 2])
@pytest.mark.parametrize("output", ["last", "all"])
def test_explosion(output, truncate):
    model, recorder = build("float32", output=output, activation="identity"), Recorder(0.001)
    data = draw(model, RAGGED)

    def callback(model, history):
        if len(history.loss) == 2:
            recorder.learning_rate = 1e4

    with pytest.raises(FloatingPointError, match=r"epoch 3, batch \d+; the model keeps the last"):
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
        FloatingPointError, match="weights are infinite or NaN after epoch 1, batch 1;"
    ):
        fit(model, (x, y), optimizer=recorder, batch_size=4)
    assert_still_good(model, (x, y), recorder.steps_taken[-1][0])


def test_nan_in_the_validation():
    model, data, validation = noisy()
    recorder = Recorder(0.01)
    validation[0][2][0, 0] = np.nan
    with pytest.raises(FloatingPointError, match="validation loss is nan after epoch 1;"):
        fit(model, data, validation=validation, optimizer=recorder, batch_size=4)
    assert len(recorder.steps_taken) == 3
    assert_still_good(model, data, recorder.steps_taken[-1][0])
