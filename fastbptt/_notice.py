"""Lines for whoever waits: on a terminal or in a notebook, and nothing in pipes and logs."""

import contextlib
import sys
from typing import Any

_told: set[str] = set()


def tell_once(notice: str) -> None:
    """Print a line on stderr, once in a process, if somebody watches that."""
    stream = sys.stderr
    if notice in _told or not _is_watched(stream):
        return
    _told.add(notice)
    bar: Any = getattr(sys.modules.get("tqdm"), "tqdm", None)
    with contextlib.suppress(OSError, ValueError):  # it was closed meanwhile
        if bar is None:
            print(notice, file=stream)
        else:
            bar.write(notice, file=stream)  # not into the middle of a progress bar
        stream.flush()


def _is_watched(stream: Any) -> bool:
    """Whether a stream is a terminal, or leads into a notebook: ipykernel's are no terminals."""
    notebook: Any = sys.modules.get("ipykernel.iostream")
    if notebook is not None and isinstance(stream, notebook.OutStream):
        return True
    try:
        return stream.isatty()
    except (AttributeError, ValueError):  # None, as without a console on Windows; or closed
        return False
