"""Ctrl-C, wherever it comes, leaves a model that can be used and a training that goes on."""

import collections
import functools
import json
import math
import os
import signal
import sys
import time
from typing import Any

import numpy as np
import pytest
from trainings import (
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

from fastbptt import SGD, Adam, losses, training


def assert_usable(model, history, data):
    """Check what an interrupted training has left."""
    assert history.stopped == "interrupted"
    assert len(history.loss) == len(history.seconds)
    assert len(history.validation_loss) in (0, len(history.loss))
    assert np.isfinite(model.network.vector).all()
    assert math.isfinite(model.evaluate(*data))


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
    assert history.best_epoch == int(np.argmin(history.validation_loss)) + 1 < 30
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


# A with statement's line runs again at its end, before __exit__: to raise there leaves the closing
# of a file to Python's count of references, which warns.  No signal is ever handled at that point.
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
@pytest.mark.parametrize(
    ("files", "stride"), [(training.__file__, 1), (os.path.dirname(training.__file__), 41)]
)
def test_interrupt_at_any_line(files, stride, tmp_path, monkeypatch):
    """From the first loss to the last epoch's callback; and training goes on to the same bits."""
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
            assert model.evaluate(*data) == history.validation_loss[history.best_epoch - 1]
        stops[epochs] += 1
        model, history = train(path)
        assert_same_course(history, expected)
        assert bits(model) == expected_bits
    assert set(stops) >= {0, 1, 2}
    assert stops.total() > 30


INTERRUPTED = """
import json, signal, test_interrupts, trainings

signal.signal(signal.SIGINT, signal.default_int_handler)
model, data, validation = trainings.noisy(trainings.RAGGED * 40)
def callback(model, history):
    if len(history.loss) == 2:
        print("ready", flush=True)
history = trainings.fit(
    model, data, validation=validation, epochs=10**9, batch_size=8, callback=callback, progress=True
)
test_interrupts.assert_usable(model, history, data)
print(json.dumps([history.stopped, len(history.loss)]))
"""


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
