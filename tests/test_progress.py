"""The progress bar."""

import re
import sys

import numpy as np
import pytest
from trainings import bits, fit, interrupting, noisy

from fastbptt import MissingExtraError


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
    pytest.importorskip("safetensors")
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


def test_progress_without_tqdm(monkeypatch, tmp_path):
    for name in ("tqdm", "tqdm.auto"):
        monkeypatch.setitem(sys.modules, name, None)
    model, data, _ = noisy()
    before = bits(model)
    with pytest.raises(MissingExtraError, match=re.escape('pip install "fastbptt[train]"')):
        fit(model, data, progress=True, checkpoint=tmp_path / "run")
    assert bits(model) == before
    assert list(tmp_path.iterdir()) == []
    assert len(fit(model, data, epochs=2).loss) == 2
