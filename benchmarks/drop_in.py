"""A training step in PyTorch, with `fastbptt.torch.RNN` and with `torch.nn.RNN`.

    python -m benchmarks.drop_in [--rounds 3] [--threads 2] [--alone fastbptt|torch] [case ...]

Prints the README's table: both by turns in one process, and each in processes of its own, the least
times of several rounds.  With --alone it prints the seconds of one library for each case on a line.
"""

import argparse
import subprocess
import sys

from .suite.common import take_turns
from .suite.drop_in import CASES, KINDS, step

TURNS = 5


def alone(kind, cases, threads):
    """Seconds of a library for each case, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.drop_in", "--alone", kind, *cases]
    if threads:
        command += ["--threads", str(threads)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return [float(line) for line in done.stdout.split()]


def main():
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--rounds", type=int, default=3)
    cli.add_argument("--threads", type=int, help="torch's, by default as many as it takes itself")
    cli.add_argument("--alone", choices=KINDS)
    cli.add_argument("cases", nargs="*", default=CASES, metavar="case")
    args = cli.parse_args()
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    if args.alone:
        for case in args.cases:
            print(*take_turns((step(args.alone, case),), TURNS), flush=True)
        return

    best = {kind: [float("inf")] * len(args.cases) for kind in KINDS}
    for _ in range(args.rounds):
        for kind in KINDS:
            seconds = alone(kind, args.cases, args.threads)
            best[kind] = list(map(min, best[kind], seconds))
    print("| T B I H O reads | torch.nn.RNN, ms | fastbptt.torch.RNN, ms | ratio | by turns |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for case, ours, theirs in zip(args.cases, *best.values(), strict=True):
        turns = take_turns([step(kind, case) for kind in KINDS], TURNS * args.rounds)
        cells = f"{theirs * 1e3:.2f} | {ours * 1e3:.2f} | {theirs / ours:.1f}"
        print(f"| {case} | {cells} | {turns[1] / turns[0]:.1f} |", flush=True)


if __name__ == "__main__":
    main()
