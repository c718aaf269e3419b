"""A noisy, leaky layer under Dale's law: fastbptt, a loop in PyTorch, a scan in JAX.

    python -m benchmarks.leaky [--rounds 3] [--alone KIND] [shape ...]

Checks that all compute the same gradients if they are given the same noise, then prints a table:
each of those installed in processes of its own, by turns, the least times of several rounds, and
our plain layer of the same size beside them.  With --alone it prints the seconds of one of them for
each shape T B I H on a line.
"""

import argparse
import importlib.util
import math
import subprocess
import sys

import numpy as np

from .suite.common import take_turns
from .suite.leaky import KINDS, SHAPES, gradients, step

TURNS = 5
NAMES = {
    "fastbptt": "fastbptt",
    "plain": "plain layer",
    "torch": "PyTorch loop",
    "torch.hoisted": "with care",
    "jax": "JAX scan",
}


def alone(*arguments):
    """What a process of its own prints."""
    command = [sys.executable, "-m", "benchmarks.leaky", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def apart(kind, shape):
    """The largest difference of a gradient from ours, relative to its largest number."""
    pairs = zip(gradients("fastbptt", shape), gradients(kind, shape), strict=True)
    return max(np.abs(ours - theirs).max() / np.abs(ours).max() for ours, theirs in pairs)


def main():
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--alone", choices=KINDS)
    cli.add_argument("shapes", nargs="*", default=SHAPES, metavar="'T B I H'")
    args = cli.parse_args()
    if args.alone:
        for shape in args.shapes:
            print(*take_turns((step(args.alone, shape),), TURNS), flush=True)
        return

    needed = {"plain": "fastbptt", "torch.hoisted": "torch"}
    kinds = [kind for kind in KINDS if importlib.util.find_spec(needed.get(kind, kind))]
    for kind in kinds[2:]:
        worst = max(apart(kind, shape) for shape in args.shapes)
        print(f"{NAMES[kind]}: gradients within {worst:.1e} of ours, given the same noise")
    best = {kind: [math.inf] * len(args.shapes) for kind in kinds}
    for _ in range(args.rounds):
        for kind in kinds:
            seconds = map(float, alone("--alone", kind, *args.shapes).split())
            best[kind] = list(map(min, best[kind], seconds))
    heads = [f"{NAMES[kind]}, ms" for kind in kinds]
    heads += [f"over {NAMES['plain']}", *(f"{NAMES[kind]} over it" for kind in kinds[2:])]
    print(f"\n| T B I H | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
    for i, shape in enumerate(args.shapes):
        times = {kind: best[kind][i] for kind in kinds}
        cells = [f"{1e3 * seconds:.2f}" for seconds in times.values()]
        cells.append(f"{times['fastbptt'] / times['plain']:.2f}")
        cells += [f"{times[kind] / times['fastbptt']:.1f}" for kind in kinds[2:]]
        print(f"| {shape} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
