"""Trainings that go on from a checkpoint do so to the same bits, or say why they cannot."""

import functools
import random
import re
import signal
import time

import numpy as np
import pytest
from trainings import (
    EQUAL,
    OPTIMIZER,
    OPTIMIZERS,
    RAGGED,
    assert_same_course,
    bits,
    build,
    draw,
    fit,
    interrupting,
    noisy,
    start,
)

import fastbptt
from fastbptt import SGD, Adam, _storage, losses


def decay(optimizer, interrupted_after=None, by="callback"):
    """A callback that changes the learning rate, and may end the training."""

    def callback(model, history):
        optimizer.learning_rate *= 0.9
        if len(history.loss) == interrupted_after:
            if by == "callback":
                return True
            raise KeyboardInterrupt
        return False

    return callback


def train(optimizer, path=None, epochs=9, loss="mse", after=None, by="callback", patience=6):
    """A training with all that a checkpoint has to hold."""
    model, optimizer = build("float32", num_layers=2, dropout=0.2, output_dropout=0.1), optimizer()
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
import sys, test_continuing, trainings

original = test_continuing.decay
def decay(*args):
    callback = original(*args)
    def loud(model, history):
        print(len(history.loss), flush=True)
        return callback(model, history)
    return loud
test_continuing.decay = decay
test_continuing.train(trainings.OPTIMIZERS["Adam"], sys.argv[1], 10**9, patience=10**9)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL")
def test_goes_on_after_a_kill(tmp_path):
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
        done = len(_storage.load_training(path)[3]["history"]["loss"])
    model, expected = train(OPTIMIZERS["Adam"], None, done + 5, patience=10**9)
    resumed, history = train(OPTIMIZERS["Adam"], path, done + 5, patience=10**9)
    assert_same_course(history, expected)
    assert bits(resumed) == bits(model)


def test_a_training_that_is_done_returns_at_once(tmp_path):

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
    model, data, _ = noisy()
    expected = fit(model, data, epochs=6)
    resumed = noisy()[0]
    for epochs, seed in ((3, 7), (6, 8), (2, 9)):  # only the first one's is used
        history = fit(resumed, data, epochs=epochs, seed=seed, checkpoint=tmp_path / "run")
    assert_same_course(history, expected)
    assert bits(resumed) == bits(model) == bits(fastbptt.load(tmp_path / "run"))


def test_divergence_after_going_on(tmp_path):
    model, data, _ = noisy()
    fit(model, data, epochs=2, checkpoint=tmp_path / "run")
    again = build(hidden_size=16)
    data[0][0][...] = np.nan
    with pytest.raises(FloatingPointError, match="in epoch 3, batch 1;"):
        fit(again, data, epochs=4, checkpoint=tmp_path / "run")
    assert bits(again) == bits(model)
    assert bits(again) == bits(fastbptt.load(tmp_path / "run"))


def test_a_checkpoint_from_the_start_and_after_each_epoch(tmp_path):
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
    ({}, {"optimizer": Adam(0.5)}, "learning_rate = 0.001, expected 0.5"),
    ({}, {"optimizer": Adam(beta_1=0.5)}, "beta_1 = 0.9, expected 0.5"),
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
    model = build()
    fit(model, draw(model, RAGGED), epochs=1, checkpoint=tmp_path / "run")
    with pytest.raises(ValueError, match="sequences = 11, expected 3"):
        fit(model, draw(model, RAGGED[:3]), checkpoint=tmp_path / "run")


def test_another_backend_may_go_on(tmp_path):
    data, histories = draw(build(), RAGGED), []
    for backend in ("numba", "numpy"):
        path = tmp_path / backend
        fit(build(), data, epochs=2, checkpoint=path)
        histories.append(fit(build(backend=backend), data, epochs=4, checkpoint=path))
    np.testing.assert_allclose(histories[0].loss, histories[1].loss, rtol=1e-12)


def test_a_file_that_is_no_checkpoint(tmp_path):
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


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    """It is found out before the first epoch."""
    model, data, _ = noisy()
    before = bits(model)
    with pytest.raises(FileNotFoundError):
        fit(model, data, checkpoint=tmp_path / "nowhere" / "run")
    assert bits(model) == before
    assert list(tmp_path.iterdir()) == []
