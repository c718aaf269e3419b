"""How the demos show what they found: tables, and pictures drawn without a display."""

import io

from fastbptt._extras import import_extra
from fastbptt._storage import replace


def print_by_hand(title, by_hand, got):
    """Print numbers worked by hand, each (name, number), beside those that the package computes.

    Where several numbers belong together, both sides give them as one string.
    """
    rows = [
        (name, _text(expected, ".7g"), _text(number, ".4f"))
        for (name, expected), number in zip(by_hand, got, strict=True)
    ]
    print_table(title, ("by hand", "fastbptt"), rows)


def _text(number, form):
    return number if isinstance(number, str) else format(number, form)


def print_table(title, columns, rows):
    """Print rows of strings: a name, and what stands right-aligned below each of the columns."""
    table = [(title, *columns), *((f"  {name}", *values) for name, *values in rows)]
    first, *widths = (max(map(len, column)) for column in zip(*table, strict=True))
    for name, *values in table:
        aligned = (f"   {value:>{width}}" for value, width in zip(values, widths, strict=True))
        print(f"{name:{first}}{''.join(aligned)}")
    print()


def new_figure(width, height):
    """An empty matplotlib.figure.Figure, its sizes in inches."""
    matplotlib = import_extra("matplotlib.figure", "plots", "a plot")
    return matplotlib.Figure(figsize=(width, height), layout="constrained")


def write_figure(figure, path):
    """Write a PNG, whole or not at all, and say so."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    replace(path, image.getvalue())
    print(f"Picture: {path}")
