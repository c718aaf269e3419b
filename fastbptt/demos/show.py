"""How the demos show what they found: tables, and pictures drawn without a display."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from fastbptt._extras import import_extra
from fastbptt._storage import replace

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def print_by_hand(
    title: str, by_hand: Sequence[tuple[str, float | str]], got: Iterable[float | str]
) -> None:
    """Print numbers worked by hand, each (name, number), beside those that the package computes.

    If several numbers belong together, both sides give them as one string.
    """
    rows = [
        (name, _text(expected, ".7g"), _text(number, ".4f"))
        for (name, expected), number in zip(by_hand, got, strict=True)
    ]
    print_table(title, ("by hand", "fastbptt"), rows)


def _text(number: float | str, form: str) -> str:
    return number if isinstance(number, str) else format(number, form)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print rows of strings: a name, and a value for each column, aligned to the right."""
    table = [(title, *columns), *((f"  {name}", *values) for name, *values in rows)]
    first, *widths = (max(map(len, column)) for column in zip(*table, strict=True))
    for name, *values in table:
        aligned = (f"   {value:>{width}}" for value, width in zip(values, widths, strict=True))
        print(f"{name:{first}}{''.join(aligned)}")
    print()


def new_figure(width: float, height: float) -> Figure:
    """An empty matplotlib.figure.Figure of this size in inches."""
    matplotlib = import_extra("matplotlib.figure", "plots", "a plot")
    return matplotlib.Figure(figsize=(width, height), layout="constrained")


def write_figure(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write a PNG, whole or not at all, and say so."""
    image = io.BytesIO()
    figure.savefig(image, format="png", dpi=120)
    replace(path, image.getvalue())
    print(f"Picture: {path}")
