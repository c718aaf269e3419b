"""What is said to whoever waits: on a terminal or in a notebook, once, and nowhere else."""

import contextlib
import io
import os
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import pytest

import fastbptt
from fastbptt import _notice, _uninterrupted
from fastbptt._notice import tell_once
from fastbptt._uninterrupted import COMPILING, computed_once, without_notice


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """As in a process in which nothing has been said."""
    monkeypatch.setattr(_notice, "_told", set())
    monkeypatch.setattr(_uninterrupted, "compiling", threading.Event())


class Terminal(io.StringIO):
    def isatty(self):
        return True


def terminal():
    """A terminal to watch: ``with terminal() as shown``."""
    return contextlib.redirect_stderr(Terminal())


def test_once():
    with contextlib.redirect_stderr(io.StringIO()) as log:
        tell_once("early")
    assert log.getvalue() == ""
    with terminal() as shown:
        for notice in ("early", "late", "early", "late"):  # nobody has read the first
            tell_once(notice)
    assert shown.getvalue() == "early\nlate\n"


def test_a_notebook(monkeypatch):
    """Its streams are no terminals."""
    iostream = types.ModuleType("ipykernel.iostream")
    iostream.OutStream = type("OutStream", (io.StringIO,), {})  # type: ignore
    monkeypatch.setitem(sys.modules, "ipykernel.iostream", iostream)
    for stream, written in (io.StringIO(), ""), (iostream.OutStream(), "wait\n"):
        with contextlib.redirect_stderr(stream):
            tell_once("wait")
        assert stream.getvalue() == written


class Gone(Terminal):
    """One whose window was closed."""

    def write(self, text):
        raise BrokenPipeError


def test_nobody_there():
    closed = io.StringIO()
    closed.close()
    for stream in None, closed, Gone():
        with contextlib.redirect_stderr(stream):
            tell_once("wait")


def test_beside_a_progress_bar():
    """The line stands alone, and the bar is drawn again."""
    tqdm = pytest.importorskip("tqdm")
    with terminal() as shown, tqdm.tqdm(total=3, ascii=True) as bar:
        bar.update(1)
        tell_once("wait")
        bar.update(2)
    lines = [line.split("\r")[-1] for line in shown.getvalue().split("\n")]
    assert lines[0] == "wait"
    assert "3/3" in lines[1]


# Who waits for a compilation


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(_uninterrupted, "LONG", 0.02)


def compiles(seconds):
    """A function that does so for so long."""

    def work(*args):
        _uninterrupted.compiling.set()
        time.sleep(seconds)

    return computed_once(work)


def until_told():
    """What compiles until somebody has been told, for half a minute at most."""
    time.sleep(0.05)  # what comes before
    _uninterrupted.compiling.set()
    late = time.monotonic() + 30
    while not _notice._told and time.monotonic() < late:
        time.sleep(0.01)


def test_a_long_compilation(impatient):
    with terminal() as shown:
        computed_once(until_told)()
        compiles(0.1)()
    assert shown.getvalue() == f"{COMPILING}\n"
    assert "fastbptt.warmup()" in COMPILING


def test_a_short_one_and_loading(monkeypatch):
    with terminal() as shown:
        compiles(0)()
        monkeypatch.setattr(_uninterrupted, "compiling", threading.Event())
        monkeypatch.setattr(_uninterrupted, "LONG", 0.02)
        computed_once(lambda: time.sleep(0.1))()
    assert shown.getvalue() == ""


def test_callers_who_know(impatient):
    with terminal() as shown:
        with without_notice(), without_notice():
            compiles(0.1)()
        with pytest.raises(OSError, match="as if"), without_notice():
            raise OSError("as if")
        assert shown.getvalue() == ""
        with without_notice():  # another thread knows nothing of it
            thread = threading.Thread(target=computed_once(until_told))
            thread.start()
            thread.join()
        assert shown.getvalue() == f"{COMPILING}\n"


def test_the_error_is_still_the_callers(impatient):
    @computed_once
    def fail():
        _uninterrupted.compiling.set()
        time.sleep(0.1)
        raise OSError("as if")

    with terminal(), pytest.raises(OSError, match="as if"):
        fail()


def test_warmup_says_nothing(impatient, monkeypatch):
    from fastbptt.kernels import _drivers, _threads

    for module, name in (
        (_drivers, "_forward_entry_point"),
        (_drivers, "_forward_worker"),
        (_drivers, "_backward_entry_point"),
        (_drivers, "_backward_worker"),
        (_threads, "_compiled_loop"),
    ):
        monkeypatch.setattr(module, name, compiles(0.1))
    with terminal() as shown:
        fastbptt.warmup()
    assert shown.getvalue() == ""


# As users see it: a process on a terminal of its own, with an empty cache at first

FIRST_CALL = """
import sys
import numpy as np
import fastbptt
from fastbptt import _uninterrupted
_uninterrupted.LONG = float(sys.argv[1])
h = fastbptt.forward(fastbptt.init_params(1, 2), np.ones((1, 1, 1), np.float32))
print(h.shape)
"""


def run_on_terminal(long, cache):
    """What a process writes: to stderr, which is a terminal, and to stdout, a pipe."""
    ours, theirs = pytest.importorskip("pty").openpty()
    folder = Path(fastbptt.__file__).parents[1]
    process = subprocess.Popen(
        [sys.executable, "-c", FIRST_CALL, str(long)],
        env={**os.environ, "NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(folder)},
        stdout=subprocess.PIPE, stderr=theirs, text=True,
    )  # fmt: skip
    os.close(theirs)
    out, _ = process.communicate(timeout=120)
    err = b""
    with contextlib.suppress(OSError):  # how Linux ends what a closed terminal holds
        while piece := os.read(ours, 4096):
            err += piece
    os.close(ours)
    assert process.returncode == 0, err
    return out, err.decode().replace("\r\n", "\n")


def test_the_first_call_on_a_terminal(tmp_path):
    assert run_on_terminal(0.2, tmp_path) == ("(2, 1, 2)\n", f"{COMPILING}\n")
    assert run_on_terminal(0.001, tmp_path) == ("(2, 1, 2)\n", "")  # loaded
