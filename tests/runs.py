"""Processes that are killed, that write and read one file, and that run for long.

python tests/runs.py train PATH SEED               a training run with a checkpoint
python tests/runs.py save PATH SECONDS NUMBER      threads that save models to one path
python tests/runs.py load PATH SECONDS             threads that load them
python tests/runs.py soak FOLDER SECONDS SEED      all that users do, in rotation
"""

import copy
import faulthandler
import gc
import itertools
import json
import os
import random
import resource
import signal
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
from test_threads import digest, draw, train

import fastbptt

THREADS = 3
WIDE = 30_000  # inputs of a model whose file is 120 KB
RSS = 8 << 20  # bytes: what the memory in use may differ from one third of a soak to the next
HANG = 240  # seconds: more than any but a soak takes


# Training


def draw_options(rng):
    """Of a training run of some seconds."""
    options = {
        "optimizer": rng.choice(["SGD", "RMSprop", "Adam"]),
        "output": rng.choice(["last", "all"]),
        "dtype": rng.choice(["float32", "float64"]),
        "dropout": rng.choice([0.0, 0.25]),
        "epochs": 300,
        "batch_size": rng.choice([7, 16]),
        "clip_norm": rng.choice([None, 1.0]),
        "patience": rng.choice([None, 1000]),
        "seed": rng.randrange(1000),
    }
    kind = rng.choice(["full", "checkpointed", "truncated"])
    options["memory"] = "checkpointed" if kind == "checkpointed" else "full"
    options["truncate"] = 4 if kind == "truncated" else None
    return options


def fit(path, optimizer, output, dtype, dropout, **options):
    """Train by such options, or go on; weights and history without times."""
    kind = {"output": output, "dtype": dtype, "dropout": dropout, "num_layers": 2}
    model = fastbptt.RNN(2, 6, 1, seed=0, **kind)
    optimizer = getattr(fastbptt, optimizer)(learning_rate=0.002)
    x = np.random.default_rng(0).standard_normal((40, 10, 2))
    y = x[:, :, :1].cumsum(axis=1) if output == "all" else x[:, :, 0].sum(axis=1)
    history = fastbptt.fit(
        model, x[:32], y[:32], validation=(x[32:], y[32:]), optimizer=optimizer,
        checkpoint=path, progress=False, **options,
    )  # fmt: skip
    weights = digest([model.network.vector])
    return [weights, history.loss, history.validation_loss, history.best_epoch, history.stopped]


def report_training(path, seed):
    options = draw_options(random.Random(seed))
    fastbptt.warmup(options["dtype"])
    print("begun", flush=True)
    print(json.dumps(fit(path, **options)), flush=True)


# One path


def in_threads(function):
    """Run function(number) in some threads; raise what one of them raised."""
    errors = []

    def run(number):
        try:
            function(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(n,)) for n in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def build_wide(value):
    """A model all of whose weights are this number."""
    model = fastbptt.RNN(WIDE, 1, 1, seed=0)
    model.network.vector[...] = value
    return model


def assert_whole(model):
    """Check that a model is as some saver had it."""
    assert model.config() == build_wide(0).config()
    values = np.unique(model.network.vector)
    assert len(values) == 1, f"weights of {len(values)} files"
    assert values[0] >= 1


def save(path, seconds, number):
    """Distinct models from every thread, until the time is over."""
    end = time.monotonic() + float(seconds)
    model = build_wide(1)
    fastbptt.save(model, path)
    print("begun", flush=True)

    def keep_saving(thread):
        own = copy.deepcopy(model)
        for count in itertools.count():
            if time.monotonic() > end:
                break
            own.network.vector[...] = 1 + thread + THREADS * (int(number) + count % 1000)
            fastbptt.save(own, path)

    in_threads(keep_saving)


def load(path, seconds):
    end = time.monotonic() + float(seconds)

    def keep_loading(thread):
        while time.monotonic() < end:
            assert_whole(fastbptt.load(path))

    in_threads(keep_loading)


# The soak


class Soak:
    """What users do, one after the other; each action leaves nothing behind."""

    def __init__(self, folder, seed):
        self.folder, self.rng = Path(folder), random.Random(seed)
        self.options = {**draw_options(self.rng), "epochs": 20}
        self.alone = fit(self.folder / "whole", **self.options)
        self.x = np.random.default_rng(0).standard_normal((50, 20, 2))
        self.model = fastbptt.RNN(2, 16, 1, seed=0)
        self.outputs = digest([self.model.predict(self.x)])
        self.arguments = draw((60, 40, 20, 50), some=True)
        self.gradients = digest(train(*self.arguments))

    def train(self):
        path = self.folder / "run"
        assert fit(path, **self.options) == self.alone
        path.unlink()

    def interrupt(self):
        """Ctrl-C at any time; the next run goes on from the file to the same bits."""
        path = self.folder / "run"
        try:
            signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(0.001, 0.1))
            fit(path, **self.options)
            signal.setitimer(signal.ITIMER_REAL, 0)
        except KeyboardInterrupt:
            pass
        self.train()

    def predict(self):
        for _ in range(20):
            assert digest([self.model.predict(self.x)]) == self.outputs
        self.model.evaluate(self.x, self.x.sum(axis=(1, 2)))

    def save_and_load(self):
        for _ in range(5):
            fastbptt.save(self.model, self.folder / "model")
            loaded = copy.deepcopy(fastbptt.load(self.folder / "model"))
            assert digest([loaded.predict(self.x)]) == self.outputs

    def call_from_threads(self):
        def call(thread):
            for _ in range(5):
                assert digest(train(*self.arguments)) == self.gradients

        in_threads(call)

    def be_refused(self):
        """A file that is none, and arguments that do not fit."""
        (self.folder / "none").write_bytes(b"\0" * 1000)
        for call in (
            lambda: fastbptt.load(self.folder / "none"),
            lambda: fastbptt.fit(self.model, self.x, self.x[:3], progress=False),
            lambda: self.model.predict(self.x[:, :, :1]),
        ):
            try:
                call()
            except ValueError:
                continue
            raise AssertionError("expected a ValueError")


def in_use():
    """Bytes of memory, threads and open files of this process."""
    gc.collect()
    if sys.platform != "linux":  # the most memory so far, no threads of libraries
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most, threading.active_count(), len(os.listdir("/dev/fd"))
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return (
        pages * resource.getpagesize(),
        len(os.listdir("/proc/self/task")),
        len(os.listdir("/proc/self/fd")),
    )


def soak(folder, seconds, seed):
    faulthandler.dump_traceback_later(float(seconds) + HANG, exit=True)
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    it, samples = Soak(folder, seed), []
    actions = [it.train, it.interrupt, it.predict, it.save_and_load, it.call_from_threads,
               it.be_refused]  # fmt: skip
    end = time.monotonic() + float(seconds)
    while time.monotonic() < end:
        for action in it.rng.sample(actions, len(actions)):
            action()
        samples.append(in_use())
    third = len(samples) // 3
    assert third > 1, f"{len(samples)} rotations in {seconds} seconds"
    middle, last = samples[third:-third], samples[-third:]
    memory = [int(statistics.median(s[0] for s in part)) for part in (middle, last)]
    most = [tuple(max(s[i] for s in part) for i in (1, 2)) for part in (middle, last)]
    print(f"{len(samples)} rotations; memory, middle and last third: {memory}")
    print(f"most threads and open files: {most}", flush=True)
    assert memory[1] - memory[0] <= RSS, "memory grows"
    assert most[1][0] <= most[0][0], "threads grow"
    # No Python code keeps a file that an interrupt finds just opened and not yet given a name:
    # a few of these may stay open, far from one in every rotation.
    assert most[1][1] - most[0][1] <= third // 20, "open files grow"
    left = sorted(os.listdir(folder))
    assert left == ["model", "none", "whole"], f"files left behind: {left}"
    print("done", flush=True)


if __name__ == "__main__":
    faulthandler.dump_traceback_later(HANG, exit=True)
    {"train": report_training, "save": save, "load": load, "soak": soak}[sys.argv[1]](*sys.argv[2:])
