"""What a rank does in tests/test_mpi.py: mpiexec -n 2 python -m mpi4py tests/on_mpi.py TASK PATH.

Rank 0 prints what the test reads.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI
from trainings import OPTIMIZERS, RAGGED, bits, build, draw

import fastbptt
from fastbptt import losses

SHARES = 4
WEIGHT = np.arange(len(RAGGED)) % 3
WORLD = MPI.COMM_WORLD
TRAININGS = (
    ({"output": "last", "num_layers": 2, "dropout": 0.3}, {"clip_norm": 0.1}),
    ({"output": "all", "num_layers": 2, "dropout": 0.3}, {"truncate": 3}),
    ({"output": "all", "noise": 0.2}, {"memory": "checkpointed", "optimizer": "RMSprop"}),
    ({"output": "all", "hidden_size": 70}, {"sample_weight": WEIGHT, "optimizer": "SGD"}),
)


def train(comm, kind, options, **more):
    """What came of a training, but for the time it took."""
    model = build("float32", **kind)
    data, held_out = draw(model, RAGGED), draw(model, RAGGED, seed=1)
    options = {"optimizer": "Adam", "epochs": 3, **options, **more}
    optimizer = OPTIMIZERS[options.pop("optimizer")]()
    history = fastbptt.fit(
        model, *data, optimizer=optimizer, validation=held_out, batch_size=8, shares=SHARES,
        seed=7, comm=comm, **options,
    )  # fmt: skip
    return [bits(model).hex(), history.loss, history.validation_loss, history.stopped]


def say(what):
    """Print what all ranks have alike."""
    found = WORLD.allgather(what)
    assert all(each == found[0] for each in found), found
    if WORLD.Get_rank() == 0:
        print(json.dumps({"said": what}), flush=True)


def all_bits(path):
    say([train(WORLD, *each, progress=False) for each in TRAININGS])


def go_on(path, callback=None, **options):
    """Train with a checkpoint, a hundred epochs or what is left of them."""
    kind, its = TRAININGS[0]
    options = {"epochs": 100, "progress": False, "checkpoint": path, **its, **options}
    say(train(WORLD, kind, options, callback=callback))


def be_killed(path):
    """Rank 1 vanishes after some epochs."""

    def callback(model, history):
        if WORLD.Get_rank() == 1 and len(history.loss) == 7:
            os.kill(os.getpid(), signal.SIGKILL)

    go_on(path, callback)


def be_interrupted(path):
    """Slowly, with a file that says when the training has begun."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it

    def callback(model, history):
        time.sleep(0.02)
        if len(history.loss) == 5:
            Path(f"{path}.begun").touch()

    go_on(path, callback)


def fail(path, how):
    """Rank 1 alone cannot go on."""
    calls = []

    def loss(y, target):
        calls.append(None)
        if WORLD.Get_rank() == 1 and len(calls) == 5:
            if how == "memory":
                np.empty(1 << 60, np.uint8)
            raise ZeroDivisionError("in a piece")
        return losses.mse(y, target)

    kind, options = TRAININGS[0]
    if how == "data" and WORLD.Get_rank() == 1:
        options = {**options, "truncate": 0}
    try:
        train(WORLD, kind, {**options, "loss": loss}, progress=False)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", flush=True)
        raise


def compile_apart(path):
    """Rank 1 has a cache of its own, which is empty."""
    if WORLD.Get_rank() == 1:
        os.environ["NUMBA_CACHE_DIR"] = path
    all_bits(path)


if __name__ == "__main__":
    task, path, *rest = sys.argv[1:]
    {
        "bits": all_bits, "go on": go_on, "killed": be_killed, "interrupted": be_interrupted,
        "fail": fail, "apart": compile_apart,
    }[task](path, *rest)  # fmt: skip
