"""The progress bar."""

import re
import sys

import numpy as np
import pytest
from trainings import bits, fit, interrupting, noisy

from fastbptt import _notice


@pytest.fixture
def bars(monkeypatch):
    """The progress bars shown."""
    auto, found = pytest.importorskip("tqdm.auto"), []

    class Bar(auto.tqdm):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            found.append(self)

    monkeypatch.setattr(auto, "tqdm", Bar)
    return found


def test_progress(bars, capsys):
    model, data, validation = noisy()
    history = fit(model, data, validation=validation, epochs=3, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    last = err.rstrip("\n").split("\r")[-1]
    assert "33/33" in last
    assert re.search(r"[\d.]+sequence/s", last)
    assert f"loss={history.loss[-1]:.4g}, validation={history.validation_loss[-1]:.4g}" in last
    assert err.endswith("\n")
    assert [bar.disable for bar in bars] == [True]  # closed


def test_progress_without_validation_and_from_a_checkpoint(bars, capsys, tmp_path):
    model, data, _ = noisy()
    fit(model, data, epochs=2, checkpoint=tmp_path / "run")
    assert capsys.readouterr() == ("", "")
    history = fit(model, data, epochs=3, checkpoint=tmp_path / "run", progress=True)
    shown = capsys.readouterr().err
    assert "22/33" in shown.split("\r")[1]  # where it goes on
    assert f"epoch=3, loss={history.loss[-1]:.4g}]" in shown
    assert "validation" not in shown


@pytest.mark.parametrize("end", ["interrupt", "error", "callback"])
@pytest.mark.usefixtures("ctrl_c")
def test_the_bar_is_closed(end, bars, capsys):
    model, data, _ = noisy()
    if end == "interrupt":
        fit(model, data, loss=interrupting(2), batch_size=4, progress=True)
    elif end == "error":
        data[0][0][...] = np.nan
        with pytest.raises(FloatingPointError):
            fit(model, data, batch_size=4, progress=True)
    else:
        fit(model, data, callback=lambda model, history: True, progress=True)
    assert [bar.disable for bar in bars] == [True]
    assert capsys.readouterr().err.endswith("\n")


@pytest.fixture
def no_tqdm(monkeypatch):
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setattr(_notice, "_told", set())


def test_without_tqdm(no_tqdm, capsys):
    """Training goes the same way; to a pipe nothing is said."""
    (model, data, _), (other, _, _) = noisy(), noisy()
    fit(model, data, epochs=2, progress=True)
    assert capsys.readouterr() == ("", "")
    fit(other, data, epochs=2, progress=False)
    assert bits(model) == bits(other)


def test_without_tqdm_on_a_terminal(no_tqdm, monkeypatch, capsys):
    """One line says how to get a bar, once in a process."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    model, data, _ = noisy()
    fit(model, data, epochs=1, progress=False)
    assert capsys.readouterr() == ("", "")
    for _ in range(2):
        fit(model, data, epochs=2, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "fastbptt: a progress bar needs tqdm: pip install tqdm (fastbptt's extra 'progress')\n"
    )
