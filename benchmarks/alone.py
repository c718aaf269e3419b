"""Times of one library in a process of its own, for `report`.

    python -m benchmarks.alone [--dtype float64] fastbptt epoch "10 32 3 16" "1000 1 8 64"
    python -m benchmarks.alone --installed

Prints the seconds for each case on a line, the least of several turns: for one forward and backward
at a shape T B I H, or for an epoch of training.  Or the libraries that this Python has, with their
versions.
"""

import argparse

from .suite import epoch, rivals
from .suite.common import take_turns

TURNS = 3


def main():
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    cli.add_argument("--installed", action="store_true")
    cli.add_argument("library", nargs="?", choices=list(rivals.LIBRARIES))
    cli.add_argument("cases", nargs="*", metavar="case")
    args = cli.parse_args()
    if args.installed:
        for library in rivals.LIBRARIES:
            if "." not in library and rivals.version(library):
                print(library, rivals.version(library))
        return
    if args.library is None:
        cli.error("expected a library")
    for case in args.cases:
        if case == "epoch":
            call = epoch.run(args.library)
        else:
            call = rivals.step(args.library, case, args.dtype)
        print(*take_turns((call,), TURNS), flush=True)


if __name__ == "__main__":
    main()
