"""What holds in every test: memory that was never written is NaN.  And a fixture for several."""

import contextlib
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis

# The reference's products are small: a second thread only spins.  Read when NumPy is imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import pytest

# Before numpy.empty is replaced: Numba registers its own version under the original.
with contextlib.suppress(ImportError):
    import numba  # noqa: F401

hypothesis.settings.register_profile("fastbptt", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fastbptt")
_COMPILER = pytest.StashKey[subprocess.Popen[bytes]]()


def pytest_sessionstart(session):
    """Fill the cache of kernels from another process, while tests are collected and run.

    A test that comes first compiles by itself, as without that process.
    """
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    session.config.stash[_COMPILER] = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("precompile.py")],
        env={**os.environ, "PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # out of reach of a Ctrl-C that a test sends
    )


def pytest_sessionfinish(session):
    compiler = session.config.stash[_COMPILER]
    compiler.kill()
    compiler.wait()


def _poisoned(allocate):
    @functools.wraps(allocate)
    def wrapper(*args, **kwargs):
        a = allocate(*args, **kwargs)
        if a.dtype.kind in "fc":
            a.fill(np.nan)
        elif a.dtype.kind in "iu":
            a.fill(np.iinfo(a.dtype).max)
        return a

    return wrapper


@pytest.fixture(autouse=True, scope="session")
def poison():
    """Outputs and workspaces come from np.empty: whatever is read before it is written is NaN."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("empty", "empty_like"):
            patch.setattr(np, name, _poisoned(getattr(np, name)))
        with contextlib.suppress(ImportError):
            patch.setattr("fastbptt.kernels._drivers.KEPT", 0)  # a new workspace for every call
        yield


@pytest.fixture
def ctrl_c():
    """Ctrl-C interrupts, even if the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def torch_on_one_thread():
    """PyTorch, if it is there; its number of threads, which ours follows, is put back."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch
    torch.set_num_threads(before)
