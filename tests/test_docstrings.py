"""Public docstrings: each has an example that runs, and says what else to look at."""

import dataclasses
import doctest
import importlib
import importlib.util
import inspect
import tomllib
from pathlib import Path

import pytest
from test_package import MODULES, WORLDS

import fastbptt

HERE = [name for name in MODULES if name not in WORLDS or importlib.util.find_spec(name)]


def public():
    """Every public object by its name; by the first one, if it has two."""
    found = {getattr(fastbptt, name): f"fastbptt.{name}" for name in fastbptt.__all__}
    for module in HERE:
        for name in getattr(fastbptt, module).__all__:
            found.setdefault(getattr(getattr(fastbptt, module), name), f"fastbptt.{module}.{name}")
    return {name: what for what, name in found.items()}


PUBLIC = public()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_object_has_an_example_and_a_see_also(name):
    docstring = inspect.getdoc(PUBLIC[name]) or ""
    assert "\nExamples\n--------\n" in docstring
    assert "\nSee Also\n--------\n" in docstring


# Those of other modules are run beside what else tests these.
@pytest.mark.parametrize(
    "module", ["_constraints", "_extras", "_noise", "_storage", "plots", "tasks"]
)
def test_examples(module):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    got = doctest.testmod(importlib.import_module(f"fastbptt.{module}"))
    importlib.import_module("matplotlib.pyplot").close("all")
    assert got.attempted
    assert not got.failed


def rules():
    """numpydoc's rules that pyproject.toml leaves."""
    known = importlib.import_module("numpydoc.validate").ERROR_MSGS
    settings = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text("utf-8"))
    all_but = settings["tool"]["numpydoc_validation"]["checks"]
    assert all_but[0] == "all"
    assert known.keys() >= {*all_but[1:]}
    return known.keys() - {*all_but}


def errors(name, rules):
    found = importlib.import_module("numpydoc.validate").validate(name)["errors"]
    return [f"{name}: {code} {text}" for code, text in found if code in rules]


@pytest.mark.parametrize("name", PUBLIC)
def test_numpydoc_finds_nothing_wrong(name):
    pytest.importorskip("numpydoc")
    what, chosen = PUBLIC[name], rules()
    if dataclasses.is_dataclass(what) or hasattr(what, "_fields"):
        chosen -= {"PR01"}  # fields stand under Attributes
    if name == "fastbptt.torch.RNN":
        chosen -= {"PR01", "PR02"}  # its signature is torch's, which names no argument
    found = errors(name, chosen)
    if inspect.isclass(what):
        # A method may say that it takes and returns what another one does, and has no example.
        chosen -= {"EX01", "SA01", "PR01", "RT01", "YD01"}
        for method, function in inspect.getmembers(what, inspect.isroutine):
            ours = getattr(function, "__module__", None) or ""
            inherited = function.__doc__ is None and inspect.getdoc(function)
            if ours.startswith("fastbptt") and not method.startswith("_") and not inherited:
                found += errors(f"{name}.{method}", chosen)
    assert not found
