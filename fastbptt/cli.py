"""The command line: ``fastbptt demo``."""

import argparse
import importlib
import os
import stat
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import fastbptt
from fastbptt._extras import MissingExtraError
from fastbptt.rnn import BACKENDS

# Names and what they show; each is a module of fastbptt.demos.
DEMOS: dict[str, str] = {
    "sunspots": "forecast the next month's sunspot number; runs if no NAME is given",
    "sum": "add up zeros and ones, with every number worked by hand",
    "tomorrow": "forecast a value from three others by two weights, against closed forms",
    "sentiment": "tell favourable sentences from others, word by word",
    "many-to-many": "an output at every step: learn to write, character by character",
    "gradient-flow": "gradients that vanish or explode, and what clipping does",
    "decision": "excitatory and inhibitory units learn to weigh noisy evidence",
    "distributed": "train on several processes of MPI, with the same bits as on one",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : list of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        Exit status: 0, 1 after an error, 130 after Ctrl-C.  Invalid options exit with 2.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    if argv == ["demo"] or (argv[:1] == ["demo"] and _is_option(argv[1])):
        argv.insert(1, "sunspots")
    options = vars(_parser().parse_args(argv))
    try:
        return _demo(options.pop("name"), options)
    except KeyboardInterrupt:
        print("\nInterrupted", file=sys.stderr)
        return 130


def _demo(name: str, options: dict[str, Any]) -> int:
    demo = importlib.import_module(f"fastbptt.demos.{name.replace('-', '_')}")
    try:
        result = demo.run(**options)
    except (MissingExtraError, OSError, MemoryError) as error:
        print(f"fastbptt demo: error: {str(error) or 'out of memory'}", file=sys.stderr)
        return 1
    return 130 if getattr(result, "interrupted", False) else 0


def _is_option(argument: str) -> bool:
    """Whether it is an option of the demo, rather than a demo's name or a request for help."""
    return argument.startswith("-") and argument not in ("-h", "--help")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fastbptt", description="Train vanilla recurrent networks on a CPU, fast."
    )
    parser.add_argument("--version", action="version", version=f"fastbptt {fastbptt.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    demo = commands.add_parser(
        "demo",
        help="networks to watch while they learn",
        description="Train a small network and show what it does.",
        epilog="fastbptt demo NAME --help lists a demo's options.",
    )
    names = demo.add_subparsers(title="demos", metavar="NAME", dest="name", required=True)
    parsers = {
        name: names.add_parser(name, help=summary, description=summary)
        for name, summary in DEMOS.items()
    }
    _add_sunspots_options(parsers["sunspots"])
    for name in ("sum", "sentiment", "many-to-many", "gradient-flow", "decision", "distributed"):
        _add_seed(parsers[name])
    parsers["distributed"].add_argument(
        "--ranks", type=_at_least(1), default=2, metavar="R", help="processes at most (2)"
    )
    _add_size(parsers["many-to-many"], hidden=192, epochs=20)
    _add_epochs(parsers["decision"], 12)
    _add_plot(parsers["decision"], "decision.png")
    for name in ("tomorrow", "gradient-flow"):
        parsers[name].add_argument(
            "--plot", type=_writable_file, metavar="PATH", help="PNG to write (none)"
        )
    return parser


def _add_sunspots_options(parser: argparse.ArgumentParser) -> None:
    _add_size(parser, hidden=32, epochs=10)
    _add_seed(parser)
    add = parser.add_argument
    add("--backend", choices=BACKENDS, default="numba", help="what trains and forecasts (numba)")
    add(
        "--no-compare",
        dest="compare",
        action="store_false",
        help="skip the comparison of the two backends",
    )
    _add_plot(parser, "sunspots.png")


def _add_plot(parser: argparse.ArgumentParser, name: str) -> None:
    plot = parser.add_mutually_exclusive_group()
    plot.add_argument(
        "--plot", type=_writable_file, default=name, metavar="PATH", help=f"PNG to write ({name})"
    )
    plot.add_argument(
        "--no-plot", dest="plot", action="store_const", const=None, help="write no PNG"
    )


def _add_size(parser: argparse.ArgumentParser, hidden: int, epochs: int) -> None:
    parser.add_argument(
        "--hidden", type=_at_least(1), default=hidden, metavar="H", help=f"hidden units ({hidden})"
    )
    _add_epochs(parser, epochs)


def _add_epochs(parser: argparse.ArgumentParser, epochs: int) -> None:
    parser.add_argument(
        "--epochs",
        type=_at_least(1),
        default=epochs,
        metavar="N",
        help=f"passes over the data ({epochs})",
    )


def _add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seed", type=_at_least(0), default=0, help="seed of everything drawn at random (0)"
    )


def _at_least(least: int) -> Callable[[str], int]:
    def integer(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = None
        if number is None or number < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not an integer of at least {least}")
        return number

    return integer


def _writable_file(text: str) -> Path:
    path = Path(text)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = stat.S_IFREG
    except OSError as error:
        raise argparse.ArgumentTypeError(f"cannot write to {text!r}: {error.strerror}") from None
    if not text or stat.S_ISDIR(mode):
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a file")
    if not stat.S_ISREG(mode):  # a device is written to, not replaced
        if not os.access(path, os.W_OK):
            raise argparse.ArgumentTypeError(f"cannot write to {text!r}")
        return path
    directory = Path(os.path.realpath(path) if path.is_symlink() else path).parent
    if not directory.is_dir():
        raise argparse.ArgumentTypeError(f"there is no directory {str(directory)!r}")
    if not os.access(directory, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write to the directory {str(directory)!r}")
    return path
