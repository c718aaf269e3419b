"""The report shows what was measured, in one page that loads nothing else."""

import re

import pytest
from test_benchmarks import FOREIGN

from benchmarks.suite import common

pytest.importorskip("matplotlib")

from benchmarks import report


@pytest.fixture
def run():
    """As if measured: NumPy takes twice our time and JAX three times, torch is not installed."""
    shapes = {*common.SHAPES, *(shape for sweep in report.SWEEPS.values() for shape in sweep)}
    ours = {case: sum(common.operations(case)) / 1e11 for case in shapes} | {"epoch": 0.1}
    seconds = {"fastbptt": ours}
    seconds |= {name: {c: k * ours[c] for c in shapes} for name, k in (("numpy", 2), ("jax", 3))}
    return report.Run("float32", 2e11, seconds, {"Processor": "<one> & only", "Day": "today"})


def test_the_table(run):
    head, _, *rows = report.table(run).splitlines()
    assert head == "| T B I H | fastbptt | of peak | NumPy | JAX |"
    # 6 T B H (I + H) = 6 x 100 x 64 x 128 x 192 operations at 1e11 a second
    assert "| 100 64 64 128 | 9.4 ms | 50 % | 2.0× | 3.0× |" in rows
    assert rows[-1] == "| geometric mean | | | 2.0× | 3.0× |"
    assert len(rows) == len(common.SHAPES) + 1
    assert run.share("numpy", "100 64 64 128") == pytest.approx(25)


def test_the_page_is_one_file(run):
    page = report.page(run)
    assert not FOREIGN.search(page)
    assert not re.search(r"<(?:script|link|img|iframe|object)\b|@import", page)
    assert page.count("<svg") == len(report.PARTS)
    assert "&lt;one&gt; &amp; only" in page
    for shown in ("9.4 ms", "19 ms  2.0×", "100 ms", "3.0×", "fastbptt beside NumPy, JAX"):
        assert shown in page
    assert "PyTorch's time" not in page


def test_the_picture(run, tmp_path):
    report.picture(run, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
