"""The package as users meet it: what its names are, and what importing it does not import."""

import importlib.util
import inspect
import json
import os
import pathlib
import pkgutil
import subprocess
import sys

import pytest

import fastbptt

FOLDER = pathlib.Path(fastbptt.__file__).parents[1]
MODULES = (
    "datasets", "diagnostics", "estimators", "jax", "losses", "onnx", "optimizers", "plots",
    "tasks", "testing", "torch",
)  # fmt: skip
# Each imports a library of its name, which need not be installed.
WORLDS = {"jax", "onnx", "torch"}


def printed(program):
    """What a program prints, as JSON, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys\n{program}"],
        env={**os.environ, "PYTHONPATH": str(FOLDER)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_completion_shows_what_is_meant_for_users():
    assert dir(fastbptt) == sorted([*fastbptt.__all__, *MODULES, "__version__"])


def test_every_name_in_all_is_there():
    found = {name: getattr(fastbptt, name) for name in fastbptt.__all__}
    assert not [name for name, what in found.items() if inspect.ismodule(what)]
    assert issubclass(found["MissingExtraError"], ImportError)


def test_modules_need_no_import_of_their_own():
    here = [name for name in MODULES if name not in WORLDS or importlib.util.find_spec(name)]
    program = f"import fastbptt\nprint(json.dumps([getattr(fastbptt, m).__name__ for m in {here}]))"
    assert printed(program) == [f"fastbptt.{name}" for name in here]


def test_importing_the_package_imports_no_more_than_training_takes():
    loaded = set(printed("import fastbptt\nprint(json.dumps([*sys.modules]))"))
    lazy = {"datasets", "diagnostics", "estimators", "plots", "tasks", "testing", *WORLDS}
    assert not loaded & {f"fastbptt.{name}" for name in lazy}
    assert not loaded & WORLDS
    assert not loaded & {"numba", "llvmlite", "matplotlib", "sklearn", "tqdm"}


@pytest.mark.parametrize("name", ["foward", "nonexistent", "_nothing"])
def test_other_names_are_errors(name):
    with pytest.raises(AttributeError, match=f"module 'fastbptt' has no attribute '{name}'"):
        getattr(fastbptt, name)


def test_a_module_whose_extra_is_missing_says_so():
    program = """
sys.modules["sklearn"] = None
import fastbptt
try:
    fastbptt.estimators
except fastbptt.MissingExtraError as error:
    print(json.dumps(str(error)))
"""
    assert "pip install scikit-learn" in printed(program)


def test_names_of_submodules():
    """Those that are not meant for users begin with an underscore."""
    found = {info.name for info in pkgutil.iter_modules(fastbptt.__path__)}
    public = {name for name in found if not name.startswith("_")}
    assert public == {
        *MODULES,
        "checkpointed", "cli", "demos", "kernels", "model", "reference", "rnn", "training",
    }  # fmt: skip
