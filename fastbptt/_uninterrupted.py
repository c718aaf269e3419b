"""Work that must not be cut short, and is done once: imports and compilations.

Ctrl-C, and whatever else a signal handler raises, can arrive in the main thread between any two
instructions.  An import cut off there leaves half-filled modules behind for good: Python forgets
the package but not its parts, and no later import succeeds.  So such work runs in a thread of its
own while the caller waits.  An interrupt ends the waiting; the work continues, and the next call
finds it done.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, TypeVar

from fastbptt._notice import tell_once

Result = TypeVar("Result")

LONG = 1.0  # seconds; who waits longer is told why
COMPILING = (
    "fastbptt: compiling the kernels, which takes some seconds, once; "
    "fastbptt.warmup() does it ahead of time"
)

compiling = threading.Event()  # set once anything is compiled, rather than loaded from the disk
_told_otherwise = threading.local()  # `yes` in threads that know what they wait for
_one_at_a_time = threading.Lock()  # held by threads of `_aside`, where no signal handler runs
_at_work: set[threading.Thread] = set()  # these threads
_cut_short = False  # this process was forked in the middle of such work, which no one can finish


def computed_once(function: Callable[..., Result]) -> Callable[..., Result]:
    """`function` of hashable arguments, with each result computed once and without interruption."""
    results: dict[tuple[Any, ...], Result] = {}

    def compute(args: tuple[Any, ...]) -> None:
        if args not in results:
            results[args] = function(*args)

    @functools.wraps(function)
    def result(*args: Any) -> Result:
        if args not in results:
            _aside(compute, args)
        return results[args]

    return result


@contextlib.contextmanager
def without_notice() -> Iterator[None]:
    """Callers within know what they wait for."""
    before = getattr(_told_otherwise, "yes", False)
    _told_otherwise.yes = True
    try:
        yield
    finally:
        _told_otherwise.yes = before


@computed_once
def import_whole(name: str) -> ModuleType:
    """Import a module; if that fails, as for lack of memory, forget the parts left behind.

    The next import would take them for complete, and fail too.
    """
    before = set(sys.modules)
    try:
        return importlib.import_module(name)
    except BaseException:
        for left in sys.modules.keys() - before:
            if left.startswith((name, "numba", "llvmlite")):
                sys.modules.pop(left, None)
        raise


def _aside(function: Callable[[tuple[Any, ...]], None], args: tuple[Any, ...]) -> None:
    """`function(args)` in a thread of its own while this one waits; its error is raised here."""
    if threading.current_thread() in _at_work:
        function(args)
        return
    if _cut_short:
        raise RuntimeError(
            "this process was forked while another thread imported or compiled fastbptt's kernels, "
            "and can do neither: call fastbptt.warmup() before, or start processes with 'spawn'"
        )
    errors: list[BaseException] = []

    def work() -> None:
        with _one_at_a_time:
            me = threading.current_thread()
            _at_work.add(me)
            try:
                function(args)
            except BaseException as error:
                errors.append(error)
            finally:
                _at_work.discard(me)

    thread = threading.Thread(target=work, name="fastbptt")
    try:
        thread.start()
    except RuntimeError:  # no thread can start, as when the interpreter shuts down
        work()
    else:
        if not getattr(_told_otherwise, "yes", False):
            thread.join(LONG)
            while thread.is_alive() and not compiling.is_set():
                thread.join(LONG)
            if thread.is_alive():
                tell_once(COMPILING)
        thread.join()
    if errors:
        raise errors[0]


def _in_child() -> None:
    global _one_at_a_time, _cut_short
    _cut_short = _cut_short or bool(_at_work)
    _at_work.clear()
    _one_at_a_time = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)
