"""The recipes of the pages run, and draw something."""

import re
import runpy
import sys
from pathlib import Path

import pytest

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("agg")
pyplot = pytest.importorskip("matplotlib.pyplot")

RECIPES = sorted((Path(__file__).parents[1] / ".docs" / "recipes").glob("*.py"))


def test_there_are_recipes():
    assert len(RECIPES) >= 8


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_recipe(path, monkeypatch, capsys):
    text = path.read_text("utf-8")
    for library in re.findall(
        r"^(?:import|from) (torch|sklearn|scipy|joblib)\b", text, re.MULTILINE
    ):
        pytest.importorskip(library)
    shown = []
    monkeypatch.setattr(pyplot, "show", lambda: shown.extend(pyplot.get_fignums()))
    monkeypatch.setitem(sys.modules, "mpi4py", None)  # whoever has it begins no MPI in a test
    runpy.run_path(str(path), run_name="__main__")
    pyplot.close("all")
    assert capsys.readouterr().out or shown
    assert shown or ".. image::" in text
