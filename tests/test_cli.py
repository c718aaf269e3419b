"""The command line and the demo behind it, at sizes that take a moment."""

import re
import subprocess
import sys

import numpy as np
import pytest
from tqdm import tqdm

import fastbptt
from fastbptt import cli, demo
from fastbptt.datasets import sunspots_monthly

QUICK = ["demo", "--backend", "numpy", "--no-compare", "--hidden", "4", "--epochs", "1"]


def run(*, epochs=1, hidden=4, **options):
    return demo.run(hidden=hidden, epochs=epochs, backend="numpy", compare=False, **options)


# The forecast


def test_beats_the_naive_forecast_on_held_out_years():
    result = demo.run(backend="numpy", compare=False)  # the size that `fastbptt demo` trains
    assert result.rmse < 0.95 * result.naive_rmse
    assert np.mean(result.losses[-50:]) < 0.7 * np.mean(result.losses[:50])


def test_same_seed_same_result():
    assert run(seed=3) == run(seed=3)
    assert run(seed=3).losses != run(seed=4).losses


def test_training_sees_nothing_of_the_held_out_years(monkeypatch):
    expected = run()
    year, sunspots = sunspots_monthly()
    changed = np.where(year < 1957, sunspots, 100.0)
    monkeypatch.setattr(demo, "sunspots_monthly", lambda: (year, changed))
    got = run()
    assert got.losses == expected.losses
    assert got.rmse != expected.rmse


def test_a_forecast_sees_the_months_before_it_only():
    rng = np.random.default_rng(0)
    model = demo.Model(*(rng.normal(size=w.shape) for w in demo._init_model(5, rng)))
    series = rng.normal(size=40)
    changed = series.copy()
    changed[20:] += 1
    got, expected = (demo._forecast(model, s, "numpy") for s in (changed, series))
    # forecast[k] is that of month k + 1
    np.testing.assert_array_equal(got[:20], expected[:20])
    assert (got[20:] != expected[20:]).all()


def test_gradient_of_the_loss():
    """The derivative along a random direction against a central difference, in float64."""
    rng = np.random.default_rng(0)
    model, direction = (
        demo.Model(*(rng.normal(size=w.shape) / 2 for w in demo._init_model(5, rng)))
        for _ in range(2)
    )
    x, target = rng.normal(size=(2, 30, 3, 1))

    def loss(eps):
        moved = demo.Model(*(w + eps * d for w, d in zip(model, direction, strict=True)))
        return demo._loss_and_gradient(moved, x, target, "numpy")[0]

    _, gradient = demo._loss_and_gradient(model, x, target, "numpy")
    got = sum(np.sum(g * d) for g, d in zip(gradient, direction, strict=True))
    assert got == pytest.approx((loss(1e-6) - loss(-1e-6)) / 2e-6, rel=1e-6)


def test_ctrl_c_while_training_forecasts_with_the_model_so_far(monkeypatch, capsys):
    class Interrupted(tqdm):
        def update(self, n=1):
            if self.n == 7:
                raise KeyboardInterrupt
            return super().update(n)

    monkeypatch.setattr(demo, "_import_tqdm", lambda: Interrupted)
    assert cli.main([*QUICK, "--no-plot"]) == 130
    out = capsys.readouterr().out
    assert "Stopped after 8 minibatches" in out
    assert "RMSE" in out


def test_ctrl_c_at_any_other_time_leaves_quietly(monkeypatch, capsys):
    def interrupt():
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "sunspots_monthly", interrupt)
    assert cli.main([*QUICK, "--no-plot"]) == 130
    assert capsys.readouterr().err == "\nInterrupted\n"


# What it prints and writes


def test_prints_errors_and_a_falling_loss(capsys):
    assert cli.main([*QUICK, "--no-plot"]) == 0
    captured = capsys.readouterr()
    assert re.search(r"network \d+\.\d+, naive \(as this month\) 19\.52", captured.out)
    first, last = re.findall(r"(\d\.\d+) over the", captured.out)
    assert float(last) < float(first)
    assert "75/75" in captured.err  # the progress bar
    assert "loss=" in captured.err


def test_compares_the_backends(capsys):
    assert cli.main(["demo", "--hidden", "8", "--epochs", "1", "--no-plot"]) == 0
    out = capsys.readouterr().out
    differences = dict(re.findall(r"(h|dW_x|dW_h|db|dx|dh0) (\d\.\de[-+]\d\d)", out))
    assert list(differences) == ["h", "dW_x", "dW_h", "db", "dx", "dh0"]
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
    def full(self, data):
        self.touch()
        raise OSError("no space left")

    path = tmp_path / "p.png"
    path.write_text("old")
    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert cli.main([*QUICK, "--plot", str(path)]) == 1
    assert "error: no space left" in capsys.readouterr().err
    assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_no_plot(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main([*QUICK, "--no-plot"]) == 0
    assert not list(tmp_path.iterdir())


# What is missing, what is wrong


def test_without_tqdm(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert cli.main([*QUICK, "--no-plot"]) == 1
    captured = capsys.readouterr()
    assert captured.err == (
        'fastbptt demo: error: the demo needs tqdm: pip install "fastbptt[demo]"\n'
    )
    assert captured.out == ""


def test_without_matplotlib(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("matplotlib", "matplotlib.figure", "matplotlib.backends.backend_agg"):
        monkeypatch.setitem(sys.modules, name, None)
    assert cli.main(QUICK) == 0
    out = capsys.readouterr().out
    assert 'No plot: it needs matplotlib: pip install "fastbptt[plots]"' in out
    assert "RMSE" in out
    assert not list(tmp_path.iterdir())


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
        (["demo", "--plot", "p.png", "--no-plot"], "not allowed with argument"),
        (["demo", "--fast"], "unrecognized arguments: --fast"),
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
