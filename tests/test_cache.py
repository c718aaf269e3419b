"""Compiled kernels on disk: kept from process to process, and compiled anew after any edit.

Every process here runs a copy of the package with a cache of its own.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastbptt

PACKAGE = Path(fastbptt.__file__).parent

# Runs kernels on small inputs; prints as JSON what Numba compiled meanwhile, the RuntimeWarnings,
# and how far off the results are.  A compiler pass is the event that no compilation goes without.
PROGRAM = """
import json, sys, warnings
import numpy as np
from numba.core import event
import fastbptt

listener = event.RecordingListener()
event.register("numba:run_pass", listener)
params = fastbptt.init_params(3, 5, seed=0)
x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    if "warmup" in sys.argv:
        fastbptt.warmup()
    got = [fastbptt.forward(params, x)]
    expected = [fastbptt.forward(params, x, backend="numpy")]
    if "backward" in sys.argv:
        for backend, results in (("numba", got), ("numpy", expected)):
            dparams, dx, dh0 = fastbptt.backward(params, x, got[0], x[:, :, :1] + got[0][1:],
                                                 backend=backend)
            results += [*dparams, dx, dh0]
print(json.dumps({
    "package": fastbptt.__file__,
    "compiled": sorted({e.data["qualname"] for _, e in listener.buffer}),
    "warnings": [str(w.message) for w in caught if w.category is RuntimeWarning],
    "error": float(max(np.abs(g - e).max() for g, e in zip(got, expected, strict=True))),
}))
"""

# Prints the digest of the kernels' sources, one for the package as it is and one after appending a
# line to each file, every time imported anew.
DIGESTS = """
import json, pathlib, sys

folder = pathlib.Path(sys.argv[1])

def digest():
    for name in [name for name in sys.modules if name.split(".")[0] == "fastbptt"]:
        del sys.modules[name]
    from fastbptt.kernels import _compiling
    assert folder in pathlib.Path(_compiling.__file__).parents, _compiling.__file__
    return _compiling.SOURCE

found = {"": digest()}
for path in (*sorted(folder.rglob("kernels/*.py")), folder / "_noise.py"):
    text = path.read_text()
    path.write_text(text + "# edited\\n")
    found[str(path.relative_to(folder))] = digest()
    path.write_text(text)
assert digest() == found[""]
print(json.dumps(found))
"""


def copy_package(folder):
    to = folder / "fastbptt"
    shutil.copytree(PACKAGE, to, ignore=shutil.ignore_patterns("__pycache__"))
    return to


def run(program, package, *args, **environment):
    """What a program on this copy of the package prints."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_")}
    done = subprocess.run(
        [sys.executable, "-c", program, *args],
        cwd=package.parent,
        # one thread, for which fewer kernels are compiled
        env={**clean, "NUMBA_NUM_THREADS": "1", "PYTHONPATH": str(package.parent), **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A copy of the package, its cache, and what the first process that ran it printed."""
    folder = tmp_path_factory.mktemp("package")
    package, cache = copy_package(folder), str(folder / "cache")
    first = run(PROGRAM, package, "warmup", "backward", NUMBA_CACHE_DIR=cache)
    return package, cache, first


def test_the_first_process_compiles(cached):
    package, _, first = cached
    assert Path(first["package"]).parent == package
    assert any("forward" in name for name in first["compiled"])
    assert any("backward" in name for name in first["compiled"])
    assert any("launch" in name for name in first["compiled"])
    assert first["warnings"] == []
    assert first["error"] < 1e-5


def test_the_second_process_compiles_nothing(cached):
    package, cache, first = cached
    second = run(PROGRAM, package, "warmup", "backward", NUMBA_CACHE_DIR=cache)
    assert second["compiled"] == []
    assert second["warnings"] == []
    assert second["error"] == first["error"]


def test_an_edit_of_an_emitter_recompiles_and_undone_it_does_not(cached):
    package, cache, first = cached
    path = package / "kernels" / "_activation.py"
    text = path.read_text()
    # An edit that shows: relu, and nothing but relu, for every activation.
    path.write_text(text + "\ntanh = relu\n")
    try:
        edited = run(PROGRAM, package, NUMBA_CACHE_DIR=cache)
    finally:
        path.write_text(text)
    assert any("forward" in name for name in edited["compiled"])
    assert edited["error"] > 0.1
    again = run(PROGRAM, package, "backward", NUMBA_CACHE_DIR=cache)
    assert again["compiled"] == []
    assert again["error"] == first["error"]


def test_every_file_counts(tmp_path):
    package = copy_package(tmp_path)
    digests = run(DIGESTS, package, str(package))
    files = {f"kernels/{path.name}" for path in (PACKAGE / "kernels").glob("*.py")}
    assert digests.keys() == files | {"_noise.py", ""}
    assert len(set(digests.values())) == len(digests)


def test_an_unwritable_cache_costs_one_warning(tmp_path):
    package = copy_package(tmp_path)
    # Beneath a regular file not even root can create a directory: neither where NUMBA_CACHE_DIR
    # says, nor beside the kernels, nor in the user's cache directory.
    file = tmp_path / "file"
    file.touch()
    (package / "kernels" / "__pycache__").touch()
    beneath = str(file / "cache")
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"), beneath)
    found = run(PROGRAM, package, **places, NUMBA_CACHE_DIR=beneath)
    assert len(found["warnings"]) == 1
    assert "NUMBA_CACHE_DIR" in found["warnings"][0]
    assert any("forward" in name for name in found["compiled"])
    assert found["error"] < 1e-5


# Files that are not as they were written


def kernels_of(cache):
    return sorted(Path(cache).rglob("*.kernel"))


def launcher_of(cache):
    """The parallel loop's file: it takes the least time to compile."""
    (path,) = [path for path in kernels_of(cache) if "launch" in path.name]
    return path


@pytest.fixture
def copied(cached, tmp_path):
    """The package, a copy of its cache to do harm to, and what the first process printed."""
    package, cache, first = cached
    copy = tmp_path / "cache"
    shutil.copytree(cache, copy)
    return package, copy, first


def flip_a_bit(content):
    return content[:-5000] + bytes([content[-5000] ^ 4]) + content[-4999:]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: content[:-1],
        flip_a_bit,
        lambda content: bytes([content[0] ^ 1]) + content[1:],
    ],
    ids=["empty", "half", "cut", "bit", "digest"],
)
def test_a_damaged_file_costs_one_warning_and_is_replaced(damage, copied):
    package, cache, first = copied
    path = launcher_of(cache)
    path.write_bytes(damage(path.read_bytes()))
    found = run(PROGRAM, package, "warmup", "backward", NUMBA_CACHE_DIR=str(cache))
    assert found["warnings"] == [
        f"fastbptt compiles what it cannot keep on disk or read from there: {path} is damaged"
    ]
    assert found["compiled"]
    assert all(name.startswith(("_parallel_loop", "__numba_parfor")) for name in found["compiled"])
    assert found["error"] == first["error"]
    content = path.read_bytes()
    assert content[:32] == hashlib.sha256(b"%d " % len(content[32:]) + content[32:]).digest()
    if damage is flip_a_bit:
        again = run(PROGRAM, package, "warmup", "backward", NUMBA_CACHE_DIR=str(cache))
        assert (again["compiled"], again["warnings"]) == ([], [])


def test_every_file_damaged(copied):
    """No wrong number, and still one warning."""
    package, cache, _ = copied
    for path in kernels_of(cache):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    found = run(PROGRAM, package, NUMBA_CACHE_DIR=str(cache))
    assert len(found["warnings"]) == 1
    assert any("forward" in name for name in found["compiled"])
    assert found["error"] < 1e-5


def test_a_file_that_cannot_be_read(copied):
    package, cache, first = copied
    path = launcher_of(cache)
    path.unlink()
    path.mkdir()
    found = run(PROGRAM, package, "warmup", "backward", NUMBA_CACHE_DIR=str(cache))
    (warning,) = found["warnings"]
    assert f"{path} cannot be read" in warning
    assert "NUMBA_CACHE_DIR" not in warning
    assert found["error"] == first["error"]


# Writing to any file of the cache fails as on a full disk.
FULL = """
import builtins, errno, io, os

def full(path, mode="r", *args, _open=io.open, **kwargs):
    if "cache" in str(path) and "b" in mode and ("w" in mode or "x" in mode):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    return _open(path, mode, *args, **kwargs)

builtins.open = full
"""


def test_a_full_disk_costs_one_warning(copied):
    """Which names a file, and does not advise to set a directory."""
    package, cache, first = copied
    launcher_of(cache).unlink()
    before = kernels_of(cache)
    found = run(FULL + PROGRAM, package, "warmup", "backward", NUMBA_CACHE_DIR=str(cache))
    (warning,) = found["warnings"]
    assert "No space left on device" in warning
    assert str(cache) in warning
    assert "NUMBA_CACHE_DIR" not in warning
    assert found["error"] == first["error"]
    assert kernels_of(cache) == before
    assert not list(cache.rglob("*.part"))


def test_the_vectors_are_part_of_the_key(cached):
    """Also where nothing that Numba looks at tells of them, as where a hypervisor hides some."""
    package, cache, _ = cached
    program = """
import importlib, json
from fastbptt.kernels import _compiling, _machine

found = [_compiling.SOURCE]
width, fused = _machine.target()
for other in ((width, fused), (width // 2, fused), (width, not fused)):
    _machine.target = lambda: other
    found.append(importlib.reload(_compiling).SOURCE)
print(json.dumps(found))
"""
    found = run(program, package, NUMBA_CACHE_DIR=cache)
    assert found[0] == found[1]
    assert len(set(found)) == 3


def test_a_fork_while_another_thread_compiles(tmp_path):
    """The child does not wait for a thread it has not got: an error says so, and what to do."""
    program = """
import json, os, threading, time
import numpy as np, fastbptt
from numba.core import event

params = fastbptt.init_params(3, 5, seed=0)
x = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
found, compiling = [], threading.Event()

class Listener(event.Listener):
    def on_start(self, event):
        compiling.set()

    def on_end(self, event):
        pass

def in_a_child():
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            answer = fastbptt.forward(params, x).tobytes().hex()
        except RuntimeError as error:
            answer = str(error)
        os.write(write, answer.encode())
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), os.read(read, 1 << 16).decode()

event.register("numba:run_pass", Listener())
thread = threading.Thread(target=lambda: found.append(fastbptt.forward(params, x)))
thread.start()
compiling.wait()
during = in_a_child()
thread.join()
after = in_a_child()
print(json.dumps([during, after[0], after[1] == found[0].tobytes().hex()]))
"""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    package = copy_package(tmp_path)
    found = run(program, package, NUMBA_CACHE_DIR=str(tmp_path / "cache"))
    (status, message), *after = found
    assert status == 0
    assert "call fastbptt.warmup() before" in message
    assert after == [0, True]
