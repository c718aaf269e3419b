"""What a second process of MPI gains, what exchanges cost, and what more processes would gain.

    mpiexec -n 2 python -m mpi4py -m benchmarks.ranks [--latency 2e-6] [--bandwidth 12.5e9]

Measured, in turns within one job: steps of training by 2 ranks of a thread each, beside one rank
with a thread and with two, which has the same minibatch to itself; and the exchange of a gradient
by its size.

Modelled: what exchanges would cost on 2 to 1,024 ranks in a network of the latency (s) and the
bandwidth (bytes/s) given, by default those of a 100 Gbit/s InfiniBand.  A step has three exchanges:
whether all are well, each rank's segment of all pieces' gradients, and the sums.  Each takes
log2(R) latencies at least, as for collectives by doubling (Thakur, Rabenseifner and Gropp 2005),
and the gradient passes twice:

    exchange = 3 log2(R) latency + 2 (R - 1) / R P bytes / bandwidth + P / rate of the additions

A rank that is late, and a network that others use, are not in it.
"""

import argparse
import math
import os
import time

import numpy as np
from mpi4py import MPI

import fastbptt
from fastbptt._shares import Ranks

SHAPES = "100 64 32 64", "100 64 64 128", "50 64 128 256", "50 64 256 512"  # T B I H
SIZES = [10**k for k in range(2, 8)]
MODELS = (32, 128), (128, 512), (512, 2048)  # I, H
STEPS, LENGTH = 10, 50
COUNTS = [2**k for k in range(1, 11)]
WORLD = MPI.COMM_WORLD


def main() -> None:
    parser = argparse.ArgumentParser(description="What more processes gain, and what they cost.")
    parser.add_argument("--turns", type=int, default=20, help="best of so many (20)")
    parser.add_argument("--latency", type=float, default=2e-6, help="of a network, s (2e-6)")
    parser.add_argument("--bandwidth", type=float, default=12.5e9, help="bytes/s (12.5e9)")
    options = parser.parse_args()
    if WORLD.Get_size() != 2:
        raise SystemExit("start it with: mpiexec -n 2 python -m mpi4py -m benchmarks.ranks")
    import numba

    os.environ["NUMBA_NUM_THREADS"] = str(numba.config.NUMBA_NUM_THREADS)  # threads are set here
    say(f"{os.cpu_count()} cores, {MPI.Get_library_version().splitlines()[0].strip()}")
    say("\nTraining: ms a step, best of turns; gains over one thread, of 2 at most")
    say("T B I H           1 rank x 1   1 rank x 2    2 ranks x 1    gain x 2   gain 2 ranks")
    for shape in SHAPES:
        one, two, ranks = training(tuple(map(int, shape.split())), options.turns)
        times = f"{1e3 * one:12.2f} {1e3 * two:12.2f} {1e3 * ranks:14.2f}"
        say(f"{shape:14}{times} {one / two:11.2f} {one / ranks:14.2f}")
    say("\nExchange of a gradient between 2 ranks of this machine, best of turns")
    say("float32 numbers        us     GB/s")
    times = [exchange(size, options.turns) for size in SIZES]
    for size, seconds in zip(SIZES, times, strict=True):
        say(f"{size:15,} {1e6 * seconds:9.1f} {4 * size / seconds / 1e9:8.2f}")
    model(times, options.latency, options.bandwidth)


def training(shape: tuple[int, int, int, int], turns: int) -> tuple[float, float, float]:
    """Seconds of a step: on one rank with a thread, with two, and on two ranks with one each."""
    import numba

    T, B, I, H = shape
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((B, T, I), np.float32), rng.standard_normal((B, 1))
    model = fastbptt.RNN(I, H, 1, seed=0)
    best = [math.inf] * 3

    def epoch(comm: MPI.Intracomm | None, threads: int) -> float:
        numba.set_num_threads(threads)
        history = fastbptt.fit(
            model, x, y, epochs=STEPS, batch_size=B, shares=2 if comm else None, comm=comm,
            progress=False, seed=0,
        )  # fmt: skip
        return min(history.seconds)

    for _ in range(turns):
        if WORLD.Get_rank() == 0:
            best[0] = min(best[0], epoch(None, 1))
            best[1] = min(best[1], epoch(None, 2))
        wait_quietly()
        best[2] = min(best[2], epoch(WORLD, 1))
    return best[0], best[1], best[2]


def exchange(size: int, turns: int) -> float:
    """Seconds of the sum of two arrays, one of each rank."""
    array, best = np.ones(size, np.float32), math.inf
    with Ranks(WORLD) as ranks:
        for _ in range(10 * turns):
            WORLD.Barrier()
            started = time.perf_counter()
            ranks.sum(2, lambda k: 0.0, array)
            best = min(best, time.perf_counter() - started)
    return WORLD.bcast(best)


def model(measured: list[float], latency: float, bandwidth: float) -> None:
    """Print what training would cost on many ranks."""
    slope = (measured[-1] - measured[-2]) / (SIZES[-1] - SIZES[-2])
    say(
        f"\nHere, exchange = {1e6 * measured[0]:.0f} us + {1e9 * slope / 4:.2f} ns a byte.  "
        f"Modelled: latency {1e6 * latency:g} us, {bandwidth / 1e9:g} GB/s"
    )
    add = additions()
    for I, H in MODELS:
        network = fastbptt.RNN(I, H, 1, seed=0)
        numbers = network.vector.size
        batches = [1, 4, 16, 64]
        steps = [compute(network, batch) for batch in batches]
        say(
            f"\nI = {I}, H = {H}: {numbers:,} weights, {4 * numbers / 1e6:.1f} MB; "
            f"a step of {LENGTH} time steps on one thread: {1e3 * steps[0]:.1f} ms for a sequence, "
            f"{1e3 * steps[-1]:.0f} ms for {batches[-1]}"
        )
        say("   ranks  exchange, ms   share of it: 64 sequences a rank   1,024 sequences in all")
        half = dict.fromkeys(("each", "all"), 0)
        for R in COUNTS:
            cost = 3 * math.log2(R) * latency
            cost += 2 * (R - 1) / R * 4 * numbers / bandwidth + numbers * add
            each = cost / (cost + steps[-1])
            its = 1024 / R
            alone = steps[-1] * its / 64
            if its < 64:
                alone = float(np.interp(its, batches, steps))
            whole = cost / (cost + alone)
            for name, share in (("each", each), ("all", whole)):
                if share >= 0.5 and not half[name]:
                    half[name] = R
            say(f"{R:8,} {1e3 * cost:13.3f} {each:18.1%} {whole:26.1%}")
        for name, what in (("each", "64 sequences a rank"), ("all", "1,024 sequences in all")):
            found = f"from {half[name]:,} ranks on" if half[name] else "not up to 1,024 ranks"
            say(f"   Exchanges take half, with {what}: {found}")


def compute(network: fastbptt.RNN, batch: int) -> float:
    """Seconds of a gradient of so many sequences, on one thread."""
    import numba

    best = math.inf
    if WORLD.Get_rank() == 0:
        numba.set_num_threads(1)
        x = np.ones((batch, LENGTH, network.input_size), np.float32)
        for _ in range(3):
            started = time.perf_counter()
            network.loss_and_grads(x, np.ones((batch, 1)))
            best = min(best, time.perf_counter() - started)
    wait_quietly()
    return WORLD.bcast(best)


def additions() -> float:
    """Seconds that it takes to add a number to another one."""
    a, b = np.ones(1 << 20, np.float32), np.ones(1 << 20, np.float32)
    best = math.inf
    for _ in range(20):
        started = time.perf_counter()
        a += b
        best = min(best, time.perf_counter() - started)
    return WORLD.bcast(best) / a.size


def wait_quietly() -> None:
    """Wait for the other rank without taking a core from it, as MPI's own waiting does."""
    request = WORLD.Ibarrier()
    while not request.Test():
        time.sleep(0.001)


def say(line: str) -> None:
    if WORLD.Get_rank() == 0:
        print(line, flush=True)


if __name__ == "__main__":
    main()
