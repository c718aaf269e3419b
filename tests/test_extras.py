"""Optional dependencies: what is said if one is missing, and that the package works without."""

import ast
import json
import os
import pathlib
import re
import subprocess
import sys
import tomllib

import pytest

import fastbptt
from fastbptt._extras import PIP_NAMES, MissingExtraError, import_extra

PACKAGE = pathlib.Path(fastbptt.__file__).parent
# As `import` knows them, and as pip does
OPTIONAL = {
    "jax": "jax",
    "matplotlib": "matplotlib",
    "mpi4py": "mpi4py",
    "onnx": "onnx",
    "sklearn": "scikit-learn",
    "torch": "torch",
    "tqdm": "tqdm",
}


def test_imports():
    assert import_extra("json", "plots", "a test") is json
    assert import_extra("os.path", "plots", "a test") is os.path


@pytest.mark.parametrize("module", ["nowhere", "nowhere.at.all"])
def test_missing(module):
    with pytest.raises(MissingExtraError) as caught:
        import_extra(module, "plots", "a picture")
    assert str(caught.value) == (
        "a picture needs nowhere: pip install nowhere (fastbptt's extra 'plots')"
    )
    assert isinstance(caught.value, ImportError)
    assert caught.value.name == "nowhere"
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_an_error_of_the_module_is_its_own(tmp_path, monkeypatch):
    (tmp_path / "broken_extra.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        import_extra("broken_extra", "plots", "a test")


def test_training_without_any(tmp_path):
    """Training, its progress bar left out, and files of models and runs."""
    program = f"""
import sys
for name in {[*OPTIONAL]}:
    sys.modules[name] = None
import fastbptt
model = fastbptt.RNN(1, 2, 1, seed=0, backend="numpy")
data = [[1, 2], [3, 4, 5]], [3, 12]
history = fastbptt.fit(
    model, *data, epochs=2, patience=1, validation=data, checkpoint=sys.argv[1]
)
fastbptt.save(fastbptt.load(sys.argv[1]), sys.argv[2])
print(len(history.loss))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "run"), str(tmp_path / "model")],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "2\n", "")
    assert sorted(os.listdir(tmp_path)) == ["model", "run"]


def used():
    """The module and the extra in each call of import_extra in the package."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "import_extra":
                module, extra = (argument.value for argument in node.args[:2])  # type: ignore
                yield module.partition(".")[0], extra


def test_the_extras_install_what_they_are_named_for():
    project = PACKAGE.parent / "pyproject.toml"
    if not project.exists():
        pytest.skip("an installed package: no pyproject.toml")
    extras = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    found = set(used())
    assert found == {
        ("jax", "jax"), ("matplotlib", "plots"), ("mpi4py", "mpi"), ("onnx", "onnx"),
        ("sklearn", "sklearn"), ("torch", "torch"), ("tqdm", "progress"),
    }  # fmt: skip
    for module, extra in found:
        names = [re.split("[<>=~;[ ]", requirement)[0] for requirement in extras.get(extra, ())]
        assert OPTIONAL[module] in names, f"{module} is not in the extra {extra!r}"
        assert PIP_NAMES.get(module, module) == OPTIONAL[module]
