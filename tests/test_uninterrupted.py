"""The first call cut short, by Ctrl-C or for lack of memory, while it imports or compiles."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import fastbptt
from fastbptt._uninterrupted import computed_once, import_whole

# The first calls run into trouble: before the import of the module with a given number, or at a
# given event of the compiler.  The calls after them succeed.
PROGRAM = """
import json, signal, sys, threading
import numpy as np
import fastbptt

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it

def ctrl_c():
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

def no_memory():
    raise MemoryError("as if")

kind, *numbered = sys.argv[1:]
troubles = {int(at): name for name, at in (text.split("=") for text in numbered)}
counted, raised = 0, []

def count():
    global counted
    counted += 1
    if counted in troubles:
        globals()[troubles[counted]]()

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("numba", "llvmlite", "fastbptt.kernels")):
            count()

params = fastbptt.init_params(3, 5, seed=0)
x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
if kind == "import":
    sys.meta_path.insert(0, Finder())
else:
    from numba.core import event

    class Listener(event.Listener):
        def on_start(self, event):
            count()

        def on_end(self, event):
            pass

    event.register(kind, Listener())
for _ in troubles:
    try:
        fastbptt.forward(params, x)
    except (KeyboardInterrupt, MemoryError) as error:
        raised.append(type(error).__name__)
h = [fastbptt.forward(params, x, backend=backend) for backend in ("numba", "numba", "numpy")]
print(json.dumps([raised, float(np.abs(h[0] - h[2]).max()), bool((h[0] == h[1]).all())]))
"""


def run(*args, **environment):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *map(str, args)],
        env={**os.environ, "PYTHONPATH": str(Path(fastbptt.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


ERRORS = {"ctrl_c": "KeyboardInterrupt", "no_memory": "MemoryError"}
AT = 1, 40, 150, 240


@pytest.mark.parametrize(
    ("trouble", "number"),
    [
        pytest.param(trouble, number, marks=() if (n + k) % 2 else pytest.mark.slow)
        for k, trouble in enumerate(ERRORS)
        for n, number in enumerate(AT)
    ],
)
def test_while_importing(trouble, number):
    raised, off, same = run("import", f"{trouble}={number}")
    assert raised == [ERRORS[trouble]]
    assert off < 1e-6
    assert same


def test_while_compiling(tmp_path):
    troubles = "no_memory=30", "no_memory=200", "ctrl_c=400"
    raised, off, same = run("numba:run_pass", *troubles, NUMBA_CACHE_DIR=str(tmp_path))
    assert raised == ["MemoryError", "MemoryError", "KeyboardInterrupt"]
    assert off < 1e-6
    assert same


def test_computed_once():
    calls = []

    @computed_once
    def double(n):
        calls.append((n, threading.current_thread()))
        return 2 * n

    threads = [threading.Thread(target=double, args=(3,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (double(3), double(4)) == (6, 8)
    assert [n for n, _ in calls] == [3, 4]
    assert not {thread for _, thread in calls} & {threading.main_thread(), *threads}


def test_errors_are_the_callers_and_are_not_kept():
    outcomes = iter([KeyError("first"), OSError("second"), 7])

    @computed_once
    def next_outcome():
        outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with pytest.raises(KeyError, match="first"):
        next_outcome()
    with pytest.raises(OSError, match="second"):
        next_outcome()
    assert next_outcome() == next_outcome() == 7


def test_one_within_another():
    @computed_once
    def inner(n):
        return n + 1

    @computed_once
    def outer(n):
        return inner(n) + inner(n + 1)

    assert outer(1) == 5


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="no such signals")
def test_a_signal_handler_that_needs_the_same():
    """The handler's call waits for the work that the interrupted call waits for."""
    begun, found = threading.Event(), []

    @computed_once
    def slow():
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, signal.SIGUSR1)
        assert begun.wait(10)
        return "done"

    def handler(number, frame):
        begun.set()
        found.append(slow())

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        found.append(slow())
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert found == ["done", "done"]


def test_without_threads(monkeypatch):
    """As when the interpreter shuts down: the work is done all the same."""

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert computed_once(lambda: "done")() == "done"


def test_a_module_that_fails_leaves_none_of_its_parts(tmp_path, monkeypatch):
    package = tmp_path / "half_a_package"
    package.mkdir()
    (package / "__init__.py").write_text("import half_a_package.part\nimport half_a_package.bad\n")
    (package / "part.py").write_text("")
    (package / "bad.py").write_text("raise MemoryError\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MemoryError):
        import_whole("half_a_package")
    assert not [name for name in sys.modules if name.startswith("half_a_package")]
    (package / "bad.py").write_text("")
    module = import_whole("half_a_package")
    assert module.part.__name__ == "half_a_package.part"
