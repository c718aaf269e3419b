"""Compiled kernels on disk: kept from process to process, and compiled anew after any edit.

Every process here runs a copy of the package with a cache of its own.
"""

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
    from fastbptt.kernels import team
    assert folder in pathlib.Path(team.__file__).parents, team.__file__
    return team.SOURCE

found = {"": digest()}
for path in sorted(folder.rglob("kernels/*.py")):
    text = path.read_text()
    path.write_text(text + "# edited\\n")
    found[path.name] = digest()
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
        env={**clean, "PYTHONPATH": str(package.parent), **environment},
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
    path = package / "kernels" / "activation.py"
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
    files = {path.name for path in (PACKAGE / "kernels").glob("*.py")}
    assert digests.keys() == files | {""}
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
