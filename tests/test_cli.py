"""The command line: which demo runs with which options, what it prints and writes, how it ends."""

import importlib
import inspect
import os
import re
import subprocess
import sys
import threading
from fractions import Fraction
from pathlib import Path

import pytest
from tqdm.auto import tqdm

import fastbptt
from fastbptt import cli, demos
from fastbptt.demos import sunspots
from fastbptt.optimizers import SGD, Adam

QUICK = ["demo", "--backend", "numpy", "--no-compare", "--hidden", "4", "--epochs", "1"]


# Ctrl-C


def test_ctrl_c_while_training_forecasts_with_the_model_so_far(monkeypatch, capsys):
    class Interrupted(tqdm):
        def update(self, n=1):
            if self.n == 7 * sunspots.B:
                raise KeyboardInterrupt
            return super().update(n)

    monkeypatch.setattr("tqdm.auto.tqdm", Interrupted)
    assert cli.main([*QUICK, "--no-plot"]) == 130
    out = capsys.readouterr().out
    assert "Stopped in epoch 1;" in out
    assert "RMSE" in out


def test_ctrl_c_at_any_other_time_leaves_quietly(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(sunspots, "sunspots_monthly", interrupt)
    assert cli.main([*QUICK, "--no-plot"]) == 130
    assert capsys.readouterr().err == "\nInterrupted\n"


@pytest.mark.parametrize(
    ("name", "optimizer"), [("sum", SGD), ("sentiment", SGD), ("many-to-many", Adam)]
)
def test_ctrl_c_while_another_demo_trains(name, optimizer, monkeypatch, capsys):
    def interrupt(self, parameters, gradients):
        raise KeyboardInterrupt

    monkeypatch.setattr(optimizer, "step", interrupt)
    assert cli.main(["demo", name]) == 130
    captured = capsys.readouterr()
    assert captured.err == "\nInterrupted\n"
    assert "by hand" in captured.out


def test_ctrl_c_while_the_decision_is_learned(monkeypatch, capsys):
    def interrupt(self, parameters, gradients):
        raise KeyboardInterrupt

    monkeypatch.setattr(Adam, "step", interrupt)
    assert cli.main(["demo", "decision", "--no-plot"]) == 130
    assert "\nInterrupted\n" in capsys.readouterr().err


# Names


def test_every_demo_has_a_name():
    package = Path(demos.__file__).parent
    modules = {path.stem for path in package.glob("*.py") if "\ndef run(" in path.read_text()}
    assert modules == {name.replace("-", "_") for name in cli.DEMOS}


def test_help_lists_the_names(capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["demo", "--help"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert all(f"\n    {name}" in out for name in cli.DEMOS)


@pytest.mark.parametrize(
    ("arguments", "name", "expected"),
    [
        ([], "sunspots", {"plot": Path("sunspots.png"), "compare": True, "backend": "numba"}),
        (["--seed", "3"], "sunspots", {"seed": 3, "hidden": 32, "epochs": 10}),
        (["sunspots", "--no-plot", "--hidden", "5"], "sunspots", {"plot": None, "hidden": 5}),
        (["sum", "--seed", "3"], "sum", {"seed": 3}),
        (["tomorrow"], "tomorrow", {"plot": None}),
        (["tomorrow", "--plot", "p.png"], "tomorrow", {"plot": Path("p.png")}),
        (["sentiment"], "sentiment", {"seed": 0}),
        (["many-to-many", "--epochs", "2"], "many_to_many", {"epochs": 2, "hidden": 192}),
        (["gradient-flow", "--plot", "p.png"], "gradient_flow", {"plot": Path("p.png"), "seed": 0}),
        (["decision"], "decision", {"plot": Path("decision.png"), "seed": 0, "epochs": 12}),
        (["decision", "--no-plot", "--seed", "3"], "decision", {"plot": None, "seed": 3}),
    ],
)
def test_a_name_and_its_options(arguments, name, expected, monkeypatch):
    def run(**options):
        got.update(options)
        inspect.signature(original).bind(**options)

    got, module = {}, importlib.import_module(f"fastbptt.demos.{name}")
    original = module.run
    monkeypatch.setattr(module, "run", run)
    assert cli.main(["demo", *arguments]) == 0
    assert expected.items() <= got.items()
    defaults = {name: p.default for name, p in inspect.signature(original).parameters.items()}
    assert got.keys() == defaults.keys()
    if not arguments:
        assert got == {**defaults, "plot": Path("sunspots.png")}


@pytest.mark.parametrize("name", ["sum", "tomorrow", "sentiment", "gradient-flow"])
def test_prints_what_is_worked_by_hand_beside_what_is_computed(name, capsys):
    assert cli.main(["demo", name]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    lines, tables = iter(captured.out.splitlines()), 0
    for line in lines:
        if re.search(r"   (by hand|w2\^n) +fastbptt$", line):
            tables += 1
            while row := next(lines):
                by_hand, got = re.split(r"   +", row.strip())[-2:]
                for expected, number in zip(by_hand.split(), got.split(), strict=True):
                    assert agree(expected, number), row
    assert tables == {"tomorrow": 2, "sum": 3}.get(name, 1)


def agree(expected, number):
    """Whether a number equals the one beside it, perhaps in fewer digits or as a fraction."""
    decimals = min(len(expected.partition(".")[2]) or 2, 4)
    near = abs(float(number) - Fraction(expected)) <= 0.6 * 10**-decimals
    return number == expected if "e" in expected else near


@pytest.mark.parametrize("name", ["tomorrow", "gradient-flow"])
def test_draws_where_asked_to(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", name, "--plot", "p.png"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "Picture: p.png" in capsys.readouterr().out


# What the sunspot demo prints and writes


def test_prints_errors_and_a_falling_loss(capsys):
    assert cli.main([*QUICK, "--no-plot", "--epochs", "2"]) == 0
    captured = capsys.readouterr()
    rows = dict(re.findall(r"^ *(\S.*\S) {2,}(\d\d\.\d\d)$", captured.out, re.MULTILINE))
    assert rows["naive (as this month)"] == "19.52"
    assert rows["AR(12)"] == "17.76"
    assert rows["AR(24)"] == "17.39"
    assert "mean of 5 networks" in rows
    assert len(re.findall(r"^The (networks win|linear model wins): ", captured.out, re.M)) == 1
    first, last = re.findall(r"(\d\.\d+) in the", captured.out)
    assert float(last) < float(first)
    assert captured.err.count("4778/4778") >= 5  # a progress bar for each network
    assert "loss=" in captured.err


def test_compares_the_backends(capsys):
    assert cli.main(["demo", "--hidden", "8", "--epochs", "1", "--no-plot"]) == 0
    out = capsys.readouterr().out
    differences = dict(re.findall(r"(y|dW_x|dW_h|db|dW_y|db_y) (\d\.\de[-+]\d\d)", out))
    assert list(differences) == ["y", "dW_x", "dW_h", "db", "dW_y", "db_y"]
    assert all(float(difference) < 1e-5 for difference in differences.values())
    [row] = re.findall(r"numpy (\S+) ms/step  numba (\S+) ms/step  ratio (\S+)", out)
    numpy_ms, numba_ms, ratio = map(float, row)
    assert ratio == pytest.approx(numpy_ms / numba_ms, rel=0.02, abs=0.02)  # all three are rounded


def test_writes_the_plot_and_nothing_else(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(QUICK) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["sunspots.png"]
    assert (tmp_path / "sunspots.png").read_bytes().startswith(b"\x89PNG")
    assert "sunspots.png" in capsys.readouterr().out


def test_replaces_an_older_plot(tmp_path):
    path = tmp_path / "p.png"
    path.write_text("old")
    assert cli.main([*QUICK, "--plot", str(path)]) == 0
    assert path.read_bytes().startswith(b"\x89PNG")


def test_an_unfinished_plot_leaves_the_older_one(tmp_path, monkeypatch, capsys):
    def full(file):
        raise OSError("no space left")

    path = tmp_path / "p.png"
    path.write_text("old")
    monkeypatch.setattr("os.fsync", full)
    assert cli.main([*QUICK, "--plot", str(path)]) == 1
    assert "error: no space left" in capsys.readouterr().err
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_no_plot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*QUICK, "--no-plot"]) == 0
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs")
def test_a_plot_into_a_device_or_a_fifo(tmp_path, capsys, monkeypatch):
    for module, name in ((os, "rename"), (os, "replace"), (Path, "rename"), (Path, "replace")):
        monkeypatch.setattr(module, name, lambda *args: pytest.fail("replaced"))
    fifo, content = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = threading.Thread(target=lambda: content.append(fifo.read_bytes()), daemon=True)
    reader.start()
    for path in ("/dev/null", str(fifo)):
        assert cli.main(["demo", "tomorrow", "--plot", path]) == 0
        assert f"Picture: {path}" in capsys.readouterr().out
    reader.join(10)
    assert [image[:4] for image in content] == [b"\x89PNG"]
    assert Path("/dev/null").is_char_device()
    assert fifo.is_fifo()
    assert list(tmp_path.iterdir()) == [fifo]


# What is missing, what is wrong


@pytest.mark.parametrize("hidden", [10**9, 10**11, 10**400], ids=["1e9", "1e11", "1e400"])
@pytest.mark.parametrize("name", ["sunspots", "many-to-many"])
def test_more_hidden_units_than_memory_holds(name, hidden, capsys, monkeypatch):
    """One line, before anything is compiled."""
    monkeypatch.setattr(sunspots, "warmup", lambda dtype: pytest.fail("compiled"))
    assert cli.main(["demo", name, "--hidden", str(hidden)]) == 1
    err = capsys.readouterr().err
    assert re.fullmatch(r"fastbptt demo: error: .*(memory|allocate).*\n", err)


def test_out_of_memory_without_words(monkeypatch, capsys):
    def fail(**options):
        raise MemoryError

    monkeypatch.setattr(sunspots, "run", fail)
    assert cli.main(["demo"]) == 1
    assert capsys.readouterr().err == "fastbptt demo: error: out of memory\n"


def test_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    assert cli.main([*QUICK, "--no-plot"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "RMSE" in captured.out


@pytest.fixture
def no_matplotlib(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)


def test_without_matplotlib(tmp_path, monkeypatch, capsys, no_matplotlib):
    monkeypatch.chdir(tmp_path)
    assert cli.main(QUICK) == 0
    out = capsys.readouterr().out
    assert "\nNot drawn: a plot needs matplotlib: pip install matplotlib (" in out
    assert "RMSE" in out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["tomorrow", "gradient-flow"])
def test_a_plot_asked_for_without_matplotlib(name, tmp_path, capsys, no_matplotlib):
    assert cli.main(["demo", name, "--plot", str(tmp_path / "p.png")]) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        "fastbptt demo: error: a plot needs matplotlib: pip install matplotlib "
        "(fastbptt's extra 'plots')\n"
    )
    assert captured.out == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "required: COMMAND"),
        (["train"], "invalid choice: 'train'"),
        (["demo", "--hidden", "0"], "argument --hidden: '0' is not an integer of at least 1"),
        (["demo", "--hidden", "1.5"], "argument --hidden: '1.5' is not an integer of at least 1"),
        (["demo", "--epochs", "-1"], "argument --epochs: '-1' is not an integer of at least 1"),
        (["demo", "--seed", "-1"], "argument --seed: '-1' is not an integer of at least 0"),
        (["demo", "--backend", "torch"], "argument --backend: invalid choice: 'torch'"),
        (["demo", "--plot", "no/such/p.png"], "argument --plot: there is no directory 'no/such'"),
        (["demo", "--plot", "."], "argument --plot: '.' is not the name of a file"),
        (["demo", "--plot", ""], "argument --plot: '' is not the name of a file"),
        (["demo", "--plot", "p" * 300], "argument --plot: cannot write to 'ppp"),
        (["demo", "--plot", f"{'d' * 300}/p.png"], "argument --plot: cannot write to 'ddd"),
        (["demo", "--plot", "p.png", "--no-plot"], "not allowed with argument"),
        (["demo", "--fast"], "unrecognized arguments: --fast"),
        (["demo", "product"], "argument NAME: invalid choice: 'product'"),
        (["demo", "--hidden", "4", "sum"], "unrecognized arguments: sum"),
        (["demo", "sum", "--hidden", "4"], "unrecognized arguments: --hidden 4"),
        (["demo", "sum", "--seed", "x"], "argument --seed: 'x' is not an integer of at least 0"),
        (["demo", "tomorrow", "--plot", "."], "argument --plot: '.' is not the name of a file"),
    ],
)
def test_bad_options(options, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(options)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.out == ""


def test_python_m():
    done = subprocess.run(
        [sys.executable, "-m", "fastbptt", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"fastbptt {fastbptt.__version__}\n"


# Several processes


def test_without_mpi_one_process_is_shown(monkeypatch, capsys):
    monkeypatch.setattr("fastbptt.demos.distributed.find_mpiexec", lambda: None)
    assert cli.main(["demo", "distributed", "--seed", "1"]) == 0
    out = capsys.readouterr().out
    assert "pip install mpi4py" in out
    assert "this one" in out
    assert "agree" not in out


def test_a_launcher_that_fails_is_an_error(monkeypatch, capsys):
    monkeypatch.setattr("fastbptt.demos.distributed.find_mpiexec", lambda: "/bin/false")
    monkeypatch.setattr("fastbptt.demos.distributed.find_spec", lambda name: True)
    assert cli.main(["demo", "distributed"]) == 1
    assert "/bin/false ended with status 1" in capsys.readouterr().err
