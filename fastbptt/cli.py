"""The command line: ``fastbptt demo``."""

import argparse
import os
import sys
from pathlib import Path

import fastbptt
from fastbptt.rnn import BACKENDS


def main(argv=None):
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit status: 0, 1 after an error, 130 after Ctrl-C.  Options that do not fit exit with 2.
    """
    args = _parser().parse_args(argv)
    try:
        return _demo(args)
    except KeyboardInterrupt:
        print("\nInterrupted", file=sys.stderr)
        return 130


def _demo(args):
    from fastbptt import demo

    try:
        result = demo.run(
            hidden=args.hidden,
            epochs=args.epochs,
            seed=args.seed,
            backend=args.backend,
            compare=args.compare,
            plot=args.plot,
        )
    except (demo.MissingExtraError, OSError) as error:
        print(f"fastbptt demo: error: {error}", file=sys.stderr)
        return 1
    return 130 if result.interrupted else 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="fastbptt", description="Train vanilla recurrent networks on a CPU, fast."
    )
    parser.add_argument("--version", action="version", version=f"fastbptt {fastbptt.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="train on the monthly sunspot numbers and forecast held-out years",
        description="Train a recurrent network to forecast the next month's sunspot number; "
        "compare the Numba kernels with NumPy on the way.",
    )
    add = demo.add_argument
    add("--hidden", type=_at_least(1), default=32, metavar="H", help="hidden units (32)")
    add("--epochs", type=_at_least(1), default=10, metavar="N", help="passes over the data (10)")
    add("--seed", type=_at_least(0), default=0, help="seed of weights and minibatches (0)")
    add("--backend", choices=BACKENDS, default="numba", help="what trains and forecasts (numba)")
    add(
        "--no-compare",
        dest="compare",
        action="store_false",
        help="leave out the comparison of the two backends",
    )
    plot = demo.add_mutually_exclusive_group()
    plot.add_argument(
        "--plot",
        type=_writable_file,
        default="sunspots.png",
        metavar="PATH",
        help="PNG to write (sunspots.png)",
    )
    plot.add_argument(
        "--no-plot", dest="plot", action="store_const", const=None, help="write no PNG"
    )
    return parser


def _at_least(least):
    def integer(text):
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        return number

    return integer


def _writable_file(text):
    path = Path(text)
    if not text or path.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {str(path.parent)!r}")
    if not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write to the directory {str(path.parent)!r}")
    return path
