"""Calls from threads, signal handlers and finalizers at once, each compared with the call alone.

    python tests/hammer.py SEED SECONDS [threads] [handlers] [raising]

threads: eight Python threads call.  handlers: so do signal handlers, one within another, and the
finalizers of garbage.  raising: half of the handlers raise, and another call follows.
"""

import faulthandler
import functools
import gc
import random
import signal
import sys
import threading
import time
from collections import Counter

import numba
import numpy as np
from test_threads import always_launch, digest, draw, draw_readout, train, train_readout

import fastbptt
from fastbptt.kernels import _threads

THREADS = 8
DEPTH = 3  # handlers within handlers
HANG = 60  # seconds without an end


class Raised(Exception):
    """Raised by a handler, whatever it interrupts."""


def checkpointed(params, x, dh, options):
    states = fastbptt.forward_checkpointed(params, x, **options)
    gradients = fastbptt.backward_checkpointed(params, x, states, dh, **options)
    return [states.h, *gradients.params, *gradients[1:]]


def predict(model, x):
    return [model.predict(x)]


def fit(x, y):
    model = fastbptt.RNN(2, 8, 1, seed=0)
    history = fastbptt.fit(model, x, y, epochs=2, batch_size=8, seed=0, progress=False)
    return [model.network.vector, np.array(history.loss)]


def draw_calls(rng):
    """Functions that return arrays: short calls, on one thread and on more, and long ones."""
    short, long = [], []
    for _ in range(12):
        T, B, I, H = (rng.randint(1, most) for most in (30, 40, 20, 70))
        arguments = draw((T, B, I, H), rng.choice(["float32", "float64"]), rng.random() < 0.5)
        short.append(functools.partial(rng.choice([train, train, checkpointed]), *arguments))
        N, H, O = (rng.randint(1, most) for most in (2000, 64, 64))
        short.append(functools.partial(train_readout, *draw_readout((N, H, O))))
    data = np.random.default_rng(rng.randrange(2**32))
    x = data.standard_normal((40, 15, 2))
    short += [functools.partial(predict, fastbptt.RNN(2, H, 1, seed=0), x) for H in (5, 64)]
    long.append(functools.partial(fit, x, x.sum(axis=(1, 2))))
    for shape in [(100, 64, 20, 100), (40, 300, 17, 48)]:
        long.append(functools.partial(train, *draw(shape, some=rng.random() < 0.5)))
    return short, long


class Hammer:
    """Random calls, and what came of them."""

    def __init__(self, seed, ways):
        self.rng, self.ways = random.Random(f"{seed} {ways}"), ways
        self.short, self.long = draw_calls(self.rng)
        self.alone = {call: digest(call()) for call in self.short + self.long}
        self.done, self.wrong = Counter(), []
        self.depth, self.may_raise = 0, False

    def call(self, calls, who):
        """Make one of these calls, and compare it with what it gives alone."""
        call = self.rng.choice(calls)
        try:
            right = digest(call()) == self.alone[call]
        except Raised:
            raise
        except BaseException as error:
            self.wrong.append(f"{who}, {call.func.__name__}: {error!r}")
            return
        self.done[who] += 1
        if not right:
            self.wrong.append(f"{who}, {call.func.__name__}: other bits than alone")

    def on_alarm(self, signum, frame):
        signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(0.0005, 0.005))
        if self.may_raise and self.rng.random() < 0.5:
            self.may_raise = False
            raise Raised
        if self.depth < DEPTH:
            self.depth += 1
            try:
                self.call(self.short, f"handler in {self.depth - 1} others")
            finally:
                self.depth -= 1

    def attempt(self):
        """A call in the main thread, which a handler may break off."""
        try:
            self.depth = 0
            self.may_raise = "raising" in self.ways
            self.call(self.short + self.long, "main thread")
            self.may_raise = False
        except Raised:
            self.done["broken off"] += 1

    def keep_calling(self, end):
        while time.monotonic() < end and not self.wrong:
            self.call(self.short + self.long, "thread")
            Garbage(self)

    def run(self, seconds):
        end = time.monotonic() + seconds
        threads = []
        if "threads" in self.ways:
            for _ in range(THREADS):
                threads.append(threading.Thread(target=self.keep_calling, args=(end,)))
        for thread in threads:
            thread.start()
        if "handlers" in self.ways or "raising" in self.ways:
            gc.set_threshold(200)
            signal.signal(signal.SIGALRM, self.on_alarm)
            signal.setitimer(signal.ITIMER_REAL, 0.001)
        while time.monotonic() < end and not self.wrong:
            self.attempt()
            Garbage(self)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for thread in threads:
            thread.join()


class Garbage:
    """Garbage that makes a call when it is collected, by whichever thread allocates then."""

    def __init__(self, hammer):
        self.hammer, self.itself = hammer, self

    def __del__(self):
        if "threads" not in self.hammer.ways or self.hammer.rng.random() < 0.1:
            self.hammer.call(self.hammer.short, "finalizer")


def launches():
    """Whether a long call still gets Numba's threads: nobody has kept its claim to them."""
    found, original = [], _threads.launch

    def launch(function, task, threads):
        found.append(threads)
        original(function, task, threads)

    _threads.launch = launch
    train(*draw((100, 64, 20, 100)))
    _threads.launch = original
    return found == [2, 2]


def main(seed, seconds, *ways):
    faulthandler.enable()
    faulthandler.dump_traceback_later(float(seconds) + HANG, exit=True)
    always_launch()
    for dtype in ("float32", "float64"):
        fastbptt.warmup(dtype)
    numba.set_num_threads(2)
    hammer = Hammer(seed, ways)
    # What a handler raises within a finalizer arrives nowhere else.
    sys.unraisablehook = lambda it: (
        None if it.exc_type is Raised else hammer.wrong.append(f"unraisable: {it.exc_value!r}")
    )
    hammer.run(float(seconds))
    print(dict(hammer.done), flush=True)
    assert not hammer.wrong, hammer.wrong[:5]
    assert launches(), "calls no longer use threads"
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
