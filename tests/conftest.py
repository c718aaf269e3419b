"""What holds in every test: memory that was never written is NaN.  And a fixture for several."""

import contextlib
import functools
import signal

import hypothesis
import numpy as np
import pytest

# Before numpy.empty is replaced: Numba registers its own version under the original.
with contextlib.suppress(ImportError):
    import numba  # noqa: F401

hypothesis.settings.register_profile("fastbptt", derandomize=True, deadline=None)
hypothesis.settings.load_profile("fastbptt")


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
